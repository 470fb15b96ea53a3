"""What the benchmarks share: simulated scans, runs on a clock, scores against the truth, rows of a table.

Data that may not be in the repository lie in the folder that the environment variable PTYINR_EXTRA_DATA names; without
it, what needs them says so and is skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from math import nan
from pathlib import Path

import numpy as np

import ptyinr
from ptyinr.metrics import object_fidelity, overlap, probe_fidelity
from ptyinr.optics import LaueLenses, ZonePlate, cropped, focused_probe
from ptyinr.phantoms import phantom
from ptyinr.registration import registered, without_ramp
from ptyinr.scans import jittered, overlap_step, raster
from ptyinr.simulate import Simulation, simulate

WINDOW = 32
SIDE = 96
"""Pixels of the objects of CPU size."""
PHOTONS = 6e6
GEOMETRY = ptyinr.ScanGeometry(
    wavelength_m=0.1239797e-9, distance_m=0.5, detector_pixel_m=55e-6, window=(WINDOW, WINDOW)
)


def extra(name: str) -> Path | None:
    """A file that is not in the repository, or None after a line that says so."""
    folder = os.environ.get("PTYINR_EXTRA_DATA")
    path = None if folder is None else Path(folder) / name
    if path is not None and path.is_file():
        return path
    why = "PTYINR_EXTRA_DATA is not set" if path is None else f"{path} is missing"
    print(f"SKIPPED what needs {name}: {why}", flush=True)
    return None


def probe_of(kind: str, geometry: ptyinr.ScanGeometry = GEOMETRY) -> np.ndarray:
    """(h, w) root photons.

    `defocused` fills some 19 of 32 pixels, so that windows that hardly overlap are lit to their rims; `near focus` is a
    spot with dim tails, `rectangular` the light of a pair of Laue lenses a little out of focus.
    """
    if kind == "rectangular":
        lens, defocus_m = LaueLenses((60e-6, 60e-6), (42e-3, 42e-3)), 2e-4
    else:
        lens, defocus_m = ZonePlate(100e-6, 87e-9, 30e-6), {"defocused": 4e-4, "near focus": 5e-5}[kind]
    return focused_probe(lens, geometry, defocus_m=defocus_m, photons=PHOTONS)


def tungsten(side: int) -> np.ndarray | None:
    """The middle of the paper's object, its largest amplitude 1; None where it is missing."""
    path = extra("hxn_simulation/tungsten_object_241.npy")
    if path is None:
        return None
    middle = cropped(np.load(path), (side, side))
    return (middle / np.abs(middle).max()).astype(np.complex64)


def hxn_probe(window: int) -> np.ndarray | None:
    """The middle of HXN's measured zone-plate probe; None where it is missing."""
    path = extra("hxn_simulation/probe_for_sim.npy")
    return None if path is None else cropped(np.load(path), (window, window))


def hxn_scan(side: int, window: int, step: int, jitter: float = 0.0) -> Simulation | None:
    """HXN's probe over the middle of the paper's object, no noise; None without the data.

    A raster of whole pixels, or one whose points lie up to `jitter` of a step beside it.
    """
    field, probe = tungsten(side), hxn_probe(window)
    if field is None or probe is None:
        return None
    geometry = replace(GEOMETRY, window=(window, window))
    corners = jittered((side - window, side - window), (step, step), np.random.default_rng(0), jitter)
    return simulate(geometry, field, probe, corners)


def object_of(name: str, seed: int) -> np.ndarray | None:
    """(SIDE, SIDE): `tungsten`, or a phantom drawn with the seed."""
    return tungsten(SIDE) if name == "tungsten" else phantom(name, (SIDE, SIDE), seed=seed)


def corners_of(side: int, window: int, share: float) -> np.ndarray:
    """(n, 2) a raster of whole pixels whose windows overlap by a share of their width."""
    step = overlap_step(window, share)
    return raster((side - window, side - window), (step, step))


def trainer_of(
    scan: Simulation, settings: ptyinr.TrainerSettings, probe: np.ndarray | None = None, device: str = "cpu"
) -> ptyinr.Trainer:
    """With all frames appended."""
    scan_range = ptyinr.ScanRange.of(scan.positions_m)
    trainer = ptyinr.Trainer(scan.geometry, scan_range, settings, probe=probe, device=device)
    trainer.append(scan.batch())
    return trainer


def timed(
    scan: Simulation,
    settings: ptyinr.TrainerSettings,
    seconds: float,
    probe: np.ndarray | None = None,
    device: str = "cpu",
) -> tuple[ptyinr.Trainer, ptyinr.Snapshot]:
    """Train for some seconds of the processor, everything from the frames on included."""
    began = time.process_time()
    trainer = trainer_of(scan, settings, probe, device)
    return trainer, ptyinr.train(trainer, lambda: (time.process_time() - began) / seconds)


@dataclass(frozen=True)
class Score:
    """Against the truth, over the central three quarters of the field that windows cover; PSNR in dB."""

    amplitude: float = nan
    phase: float = nan
    probe_amplitude: float = nan
    probe_phase: float = nan
    probe_overlap: float = nan

    def as_dict(self) -> dict[str, float]:
        """For a file."""
        return asdict(self)


def covered(scan: Simulation) -> np.ndarray:
    """The truth where windows lie; the first window's corner is at 0."""
    last = (scan.positions_px.max(0) + scan.geometry.window).astype(int)
    return scan.object[: last[0], : last[1]]


def score(field: np.ndarray, corners_px: np.ndarray, probe: np.ndarray, scan: Simulation, *, ramp: bool) -> Score:
    """Of an object, its window corners and its probe (modes, h, w); nan where they are not finite.

    With a known probe neither a phase `ramp` nor a shift is free.
    """
    if not (np.isfinite(field).all() and np.isfinite(probe).all() and np.abs(field).any() and np.abs(probe).any()):
        return Score()
    truth = covered(scan)
    there = registered(field, corners_px, truth, scan.positions_px, probe=probe, ramp=ramp, shift=ramp)
    objects = object_fidelity(there.object, truth, there.seen)
    probes = probe_fidelity(there.probe[0], scan.probe[0])
    return Score(
        objects.amplitude_psnr_db,
        objects.phase_psnr_db,
        probes.amplitude_psnr_db,
        probes.phase_psnr_db,
        overlap(there.probe[0], scan.probe[0]),
    )


def score_of(snapshot: ptyinr.Snapshot, scan: Simulation, *, ramp: bool) -> Score:
    """Of a snapshot."""
    return score(snapshot.object, snapshot.positions_px, snapshot.probe, scan, ramp=ramp)


def flat_score(scan: Simulation, *, ramp: bool) -> Score:
    """Of an object without anything in it: what any reconstruction has to surpass."""
    truth = covered(scan)
    flat = np.ones_like(truth)
    found = object_fidelity(without_ramp(flat, truth) if ramp else flat, truth)
    return Score(found.amplitude_psnr_db, found.phase_psnr_db)


def row(cells: Iterable[object]) -> None:
    """Print a row of a markdown table at once."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(cells: list[str]) -> None:
    """Print the head of a markdown table."""
    row(cells)
    print("|" + "---|" * len(cells), flush=True)
