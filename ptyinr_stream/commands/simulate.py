"""`ptyinr-stream simulate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ptyinr_stream.commands import out, require_writable
from ptyinr_stream.errors import ConfigError

if TYPE_CHECKING:
    from ptyinr.simulate import Simulation
    from ptyinr.types import ScanGeometry

LENSES, SCANS = ("zone-plate", "laue"), ("raster", "snake", "jittered", "spiral")
WINDOW_PX, OBJECT_PX, OVERLAP, PHOTONS = 128, 384, 0.9, 1e6
MOST_BYTES = 8 * 2**30
"""Of expected counts, which are kept in memory."""
BYTES_A_PIXEL = 64
"""That drawing an object or a probe takes, what is needed in passing included."""


def _option(panel: str, text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def simulate(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The scan file to write.", show_default=False)],
    sample: Annotated[str, _option("Object", "star, maze, cells, or a .npy of complex (H, W).", "--object")] = "star",
    object_px: Annotated[str | None, _option("Object", f"Its size, H or HxW; default {OBJECT_PX}.")] = None,
    phase_rad: Annotated[float, _option("Object", "Phase of its thickest part.")] = 1.5,
    floor: Annotated[float, _option("Object", "Amplitude behind its thickest part.")] = 0.7,
    probe: Annotated[
        str, _option("Probe", "zone-plate, laue, or a file: .npy, or `probe` of an HDF5 file.")
    ] = "zone-plate",
    crop_probe: Annotated[
        bool, _option("Probe", "Take the middle of a file's probe, as large as the window.", "--crop-probe")
    ] = False,
    zone_plate_um: Annotated[float, _option("Probe", "Diameter of the zone plate.")] = 240.0,
    outermost_zone_nm: Annotated[float, _option("Probe", "Width of its outermost zone.")] = 30.0,
    stop_um: Annotated[float, _option("Probe", "Diameter of its central stop.")] = 60.0,
    laue_um: Annotated[str, _option("Probe", "Apertures of the Laue lenses along axis 0 x axis 1.")] = "43x53",
    laue_focus_mm: Annotated[str, _option("Probe", "Their focal lengths.")] = "5.2x5.2",
    defocus_um: Annotated[float, _option("Probe", "Of the sample, either sign.")] = 60.0,
    astigmatism_um: Annotated[float, _option("Probe", "Defocus along axis 0 less that along axis 1.")] = 0.0,
    energy_kev: Annotated[float, _option("Detector", "Of the photons.")] = 10.0,
    distance_m: Annotated[float, _option("Detector", "From the sample.")] = 0.5,
    detector_pixel_um: Annotated[float, _option("Detector", "Its pixel.")] = 55.0,
    window: Annotated[
        str | None, _option("Detector", f"Pixels of a pattern, h or hxw; default {WINDOW_PX}, or as the probe's file.")
    ] = None,
    dead: Annotated[float, _option("Detector", "Share of pixels that hold garbage.", min=0, max=0.9)] = 0.0,
    gap_px: Annotated[int, _option("Detector", "Columns of garbage, between two modules.", min=0)] = 0,
    noise: Annotated[
        str, _option("Detector", "photons, counted one by one; none; or the paper's poisson, gaussian, mixed.")
    ] = "photons",
    alpha: Annotated[float, _option("Detector", "poisson, mixed: photons in the brightest pixel.")] = 10.0,
    sigma: Annotated[float, _option("Detector", "gaussian, mixed: counts.")] = 100.0,
    photons: Annotated[
        float | None, _option("Detector", f"Of the mean frame; default {PHOTONS:.0e}, or as the probe's file.")
    ] = None,
    scan: Annotated[str, _option("Scan", ", ".join(SCANS) + ".")] = "raster",
    overlap: Annotated[
        float | None, _option("Scan", f"Of neighbouring windows, 1 - step / window; default {OVERLAP}.")
    ] = None,
    step_um: Annotated[str | None, _option("Scan", "Instead of the overlap: one, or axis 0 x axis 1.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
) -> None:
    """Measure an object that is known, and write a scan file with the truth inside.

    The light comes from a zone plate with a central stop or from two crossed multilayer Laue lenses, out of focus, or
    from a file. Every other command reads what this writes; `evaluate` compares a reconstruction with its truth.
    """
    from ptyinr import optics, simulate
    from ptyinr.types import HC_KEV_M, ScanGeometry
    from ptyinr_stream.formats import RecordedScan, Truth
    from ptyinr_stream.formats.ptyinr_h5 import write_scan

    require_writable(output, *(Path(name) for name in (sample, probe) if Path(name).suffix))
    random = np.random.default_rng([seed, 2])  # object and noise have streams of their own
    try:
        light = None if probe in LENSES else _probe_of(probe)
        shape = _pair(window or WINDOW_PX, "--window", int) if light is None or window else light.shape[-2:]
        _require_room("--window", shape)
        _require_positive("--energy-kev", energy_kev)
        geometry = ScanGeometry(HC_KEV_M / energy_kev, distance_m, 1e-6 * detector_pixel_um, shape)
        if light is None:
            apertures_um, focus_mm = _pair(laue_um, "--laue-um"), _pair(laue_focus_mm, "--laue-focus-mm")
            lens = (
                optics.LaueLenses(_times(1e-6, apertures_um), _times(1e-3, focus_mm))
                if probe == "laue"
                else optics.ZonePlate(1e-6 * zone_plate_um, 1e-9 * outermost_zone_nm, 1e-6 * stop_um)
            )
            light = optics.focused_probe(
                lens, geometry, defocus_m=1e-6 * defocus_um, astigmatism_m=1e-6 * astigmatism_um
            )
            photons = PHOTONS if photons is None else photons
        elif crop_probe:
            light = optics.cropped(light, shape)
        elif light.shape[-2:] != shape:
            raise ValueError(f"{probe} has {light.shape[-2:]} pixels, not {shape}: --crop-probe takes its middle")
        field = _field(sample, object_px, seed, phase_rad, floor)
        step_px = _step_px(geometry, overlap, step_um)
        corners = _corners(scan, field.shape, shape, step_px, random)
        trusted = simulate.faulty_detector(shape, random, dead=dead, gap_px=gap_px)
        simulation = simulate.simulate(
            geometry,
            field,
            light,
            corners,
            photons=photons,
            noise=simulate.SimulatedNoise(noise, alpha, sigma),
            mask=None if trusted.all() else trusted,
            seed=seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    truth = Truth(simulation.object, simulation.probe.astype(np.complex64), simulation.positions_px)
    recorded = RecordedScan(
        simulation.counts, simulation.positions_m, geometry, name=output.stem, mask=simulation.mask, truth=truth
    )
    write_scan(output, recorded)
    for line in (str(output), *_summary(simulation, step_px)):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _probe_of(file: str) -> NDArray[Any]:
    from ptyinr_stream.probe_file import read_probe

    if Path(file).suffix not in (".npy", ".h5", ".hdf5"):
        raise ValueError(f"--probe {file} is unknown; there are: {', '.join(LENSES)}, or a .npy or .h5 file")
    return read_probe(Path(file))


def _field(name: str, size: str | None, seed: int, phase_rad: float, floor: float) -> NDArray[Any]:
    """A phantom, or a file's object with its largest amplitude made 1."""
    from ptyinr.phantoms import PHANTOMS, phantom

    path = Path(name)
    if path.suffix != ".npy":
        if name not in PHANTOMS:
            raise ValueError(f"--object {name} is unknown; there are: {', '.join(PHANTOMS)}, or a .npy file")
        shape = _pair(size or OBJECT_PX, "--object-px", int)
        _require_room("--object-px", shape)
        return phantom(name, shape, seed=seed, phase_rad=phase_rad, floor=floor)
    try:
        field = np.load(path)  # refuses pickled objects
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as an object: {error}") from error
    if field.ndim != 2 or not np.iscomplexobj(field) or not np.isfinite(field).all() or not field.any():
        raise ValueError(f"{path}: holds {field.dtype} {field.shape}: finite complex numbers (H, W) are needed")
    if size is not None:
        raise ValueError(f"--object-px is for objects that are drawn; {path} has {field.shape} pixels")
    return field / np.abs(field).max()


def _step_px(geometry: ScanGeometry, overlap: float | None, step_um: str | None) -> tuple[float, float]:
    from ptyinr.scans import overlap_step

    if step_um is None:
        y, x = (overlap_step(n, OVERLAP if overlap is None else overlap) for n in geometry.window)
        return y, x
    if overlap is not None:
        raise ValueError("--overlap and --step-um say the same thing twice: give one of them")
    steps_m = _times(1e-6, _pair(step_um, "--step-um"))
    _require_positive("--step-um", min(steps_m))
    return steps_m[0] / geometry.pixel_m[0], steps_m[1] / geometry.pixel_m[1]


def _corners(
    kind: str,
    shape: tuple[int, int],
    window: tuple[int, int],
    step_px: tuple[float, float],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    from ptyinr import scans

    room = shape[0] - window[0], shape[1] - window[1]
    if min(room) < 0:
        raise ValueError(f"the window of {window} pixels does not fit on the object of {shape}")
    frames = np.prod([n / s + 1 for n, s in zip(room, step_px, strict=True)])
    if frames * np.prod(window) * 8 > MOST_BYTES:
        raise ValueError(f"{frames:.0f} frames of {window} pixels are more than memory is for: give a larger step")
    if kind not in SCANS:
        raise ValueError(f"--scan {kind} is unknown; there are: {', '.join(SCANS)}")
    corners = scans.jittered(room, step_px, random) if kind == "jittered" else getattr(scans, kind)(room, step_px)
    if len(corners) < 2:
        raise ValueError(
            f"--scan {kind} takes one frame: the window has {room[0]} x {room[1]} pixels of room on the object, the "
            f"step is {step_px[0]:.4g} x {step_px[1]:.4g}: give a larger --object-px, a smaller --window or step, or "
            f"where there is room along one axis only --scan raster"
        )
    return corners


def _summary(simulation: Simulation, step_px: tuple[float, float]) -> Iterator[str]:
    """What was measured, and how much of it twice."""
    from ptyinr.optics import lit_diameter_m

    geometry, counts = simulation.geometry, simulation.counts
    trusted = counts if simulation.mask is None else counts[:, simulation.mask]
    (h, w), pixel_m = geometry.window, geometry.pixel_m
    yield (
        f"{len(counts)} frames of {h} x {w} pixels, object of {simulation.object.shape[0]} x "
        f"{simulation.object.shape[1]} pixels of {_by(1e9, pixel_m)} nm, {counts.dtype}"
    )
    yield (
        f"counts: {trusted.sum(dtype=np.float64) / len(counts):.4g} a frame, {trusted.mean(dtype=np.float64):.4g} a "
        f"pixel, at most {trusted.max():.6g}"
    )
    steps_m = step_px[0] * pixel_m[0], step_px[1] * pixel_m[1]
    windows = min(1 - s / n for s, n in zip(step_px, geometry.window, strict=True))
    diameter_m = lit_diameter_m(simulation.probe, pixel_m)
    lit = 1 - max(steps_m) / diameter_m
    yield (
        f"step {_by(1e9, steps_m)} nm: windows overlap by {windows:.1%}; the disc that holds 90 % of the light is "
        f"{1e9 * diameter_m:.4g} nm wide, " + (f"and overlaps by {lit:.1%}" if lit > 0 else "and does not overlap")
    )


def _pair(text: str | int, option: str, kind: Callable[[str], Any] = float) -> tuple[Any, Any]:
    """One number for both axes, or two with an x between."""
    try:
        numbers = [kind(part) for part in str(text).lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        example = "128 or 128x96" if kind is int else "0.1 or 0.1x0.05"
        raise ValueError(f"{option} is {text!r}: give one number, or axis 0 x axis 1, such as {example}")
    return numbers[0], numbers[-1]


def _times(unit: float, pair: tuple[float, float]) -> tuple[float, float]:
    return unit * pair[0], unit * pair[1]


def _by(unit: float, pair: tuple[float, float]) -> str:
    return " x ".join(f"{unit * value:.4g}" for value in dict.fromkeys(pair))


def _require_room(option: str, shape: tuple[int, int]) -> None:
    if (most := MOST_BYTES // BYTES_A_PIXEL) < shape[0] * shape[1]:
        side = math.isqrt(most)
        raise ValueError(f"{option} is {shape[0]} x {shape[1]}: more than memory is for: give up to {side} x {side}")


def _require_positive(name: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}: it must be positive")
