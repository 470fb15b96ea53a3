"""A small simulated scan in plain numpy: what the core should find is known, and none of its code made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from ptyinr import Batch, ScanGeometry, ScanRange
from ptyinr.settings import TrainerSettings
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import Trainer

WAVELENGTH_M, DISTANCE_M, DETECTOR_PIXEL_M = 1e-10, 1.0, 1e-4
DEFOCUS_M = 2.5e-4
APERTURE_PX = 9.0
"""Radius of the lit disc on the detector."""


SMALL = TrainerSettings(object=ObjectSettings(width=32), precision="float32", frames_per_step=16)
"""Of a trainer that learns these scans within some dozen steps of 10 ms."""


@dataclass(frozen=True)
class Scan:
    """A scan whose object is a sum of waves, known between the pixels too."""

    geometry: ScanGeometry
    scan_range: ScanRange
    probe: np.ndarray
    """(h, w) complex128, root photons."""
    defocus_m: float
    positions_m: np.ndarray
    counts: np.ndarray
    """(n, h, w), DC in the centre."""
    seed: int

    def batch(self, rows: slice | np.ndarray = slice(None), first: int = 0) -> Batch:
        """Frames of the scan, numbered from `first`."""
        indices = np.arange(len(self.counts))[rows] + first
        return Batch(indices, self.counts[rows], self.positions_m[rows])

    def truth(self, shape: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
        """The object on a canvas: pixel i lies (corner + i) pixels from the anchor.

        Which lies whole pixels from the lower end of the range, next to its centre.
        """
        lower, pixel = np.array(self.scan_range.lower_m), np.array(self.geometry.pixel_m)
        anchor = lower + pixel * np.round((np.array(self.scan_range.upper_m) - lower) / 2 / pixel)
        y, x = ((np.arange(n) + c) * p + m for n, c, p, m in zip(shape, corner, pixel, anchor, strict=True))
        return transmission(y, x, self.seed)


def transmission(y_m: np.ndarray, x_m: np.ndarray, seed: int) -> np.ndarray:
    """The object at rows `y_m` and columns `x_m`: detail down to 250 nm, phases of about +-1, amplitudes 0.6 to 1."""
    random = np.random.default_rng(seed)
    total = np.zeros((2, len(y_m), len(x_m)))
    for part in total:
        for _ in range(25):
            cycles = random.uniform(0.6e6, 4e6)
            turn, start = random.uniform(0, 2 * np.pi, 2)
            phase = 2 * np.pi * cycles * (np.cos(turn) * y_m[:, None] + np.sin(turn) * x_m[None, :])
            part[...] += np.cos(phase + start) / np.sqrt(12.5)
    return (0.8 + 0.2 * np.tanh(total[1])) * np.exp(0.45j * total[0])


def defocused_disc(geometry: ScanGeometry, photons: float, defocus_m: float) -> np.ndarray:
    """The probe: an evenly lit disc in the far field, out of focus, in the middle of the window."""
    nu = [np.fft.fftfreq(n, d=p) for n, p in zip(geometry.window, geometry.pixel_m, strict=True)]
    square = nu[0][:, None] ** 2 + nu[1][None, :] ** 2
    rim = APERTURE_PX * DETECTOR_PIXEL_M / (WAVELENGTH_M * DISTANCE_M)
    disc = np.clip((rim - np.sqrt(square)) / (0.1 * rim) + 0.5, 0, 1)
    probe = np.fft.fftshift(np.fft.ifft2(disc * np.exp(1j * np.pi * WAVELENGTH_M * defocus_m * square)))
    return probe * np.sqrt(photons / (np.abs(probe) ** 2).sum())


@cache
def simulated(
    window: tuple[int, int] = (32, 32),
    grid: tuple[int, int] = (10, 10),
    step_m: float = 2e-7,
    photons: float = 3e4,
    defocus_m: float = DEFOCUS_M,
    poisson: bool = True,
    seed: int = 0,
) -> Scan:
    """A raster scan, row by row, with encoder positions that are a little off the grid."""
    geometry = ScanGeometry(WAVELENGTH_M, DISTANCE_M, DETECTOR_PIXEL_M, window)
    random = np.random.default_rng(seed + 1)
    extent = [step_m * (n - 1) for n in grid]
    lower = (3e-6, -7e-6)  # the middle of a stage's travel is not where its zero is
    scan_range = ScanRange(lower, (lower[0] + extent[0], lower[1] + extent[1]))
    rows, columns = np.meshgrid(*(np.arange(n) * step_m for n in grid), indexing="ij")
    positions = np.stack([rows.ravel(), columns.ravel()], axis=1) + lower
    positions = positions + random.uniform(-0.2, 0.2, positions.shape) * step_m
    probe = defocused_disc(geometry, photons, defocus_m)
    pixel, (h, w) = geometry.pixel_m, window
    counts = []
    for y, x in positions:
        view = transmission(y + (np.arange(h) - h / 2) * pixel[0], x + (np.arange(w) - w / 2) * pixel[1], seed)
        counts.append(np.fft.fftshift(np.abs(np.fft.fft2(probe * view, norm="ortho")) ** 2))
    expected = np.array(counts)
    counted = random.poisson(expected).astype(np.uint16) if poisson else expected
    return Scan(geometry, scan_range, probe, defocus_m, positions, counted, seed)


@pytest.fixture(scope="session")
def simulate() -> Callable[..., Scan]:
    """The maker of scans; the same arguments give the same scan."""
    return simulated


@pytest.fixture(scope="session")
def scan() -> Scan:
    """A hundred frames of 32 x 32 pixels with photon noise."""
    return simulated()


@pytest.fixture(scope="session")
def trainer_of() -> Callable[..., Trainer]:
    """The maker of trainers of a scan: with its probe, unless it is to be found, and with all or some of its frames."""

    def make(
        scan: Scan,
        frames: Batch | slice | np.ndarray | None = slice(None),
        *,
        given: bool | np.ndarray = True,
        steps: int = 0,
        scan_range: ScanRange | None = None,
        **changes: Any,
    ) -> Trainer:
        probe = given if isinstance(given, np.ndarray) else scan.probe if given else None
        settings = replace(SMALL, **changes)
        trainer = Trainer(scan.geometry, scan_range or scan.scan_range, settings, uid="a scan", probe=probe)
        if frames is not None:
            trainer.append(frames if isinstance(frames, Batch) else scan.batch(frames))
        for _ in range(steps):
            trainer.step()
        return trainer

    return make
