"""The scan file of HXN and of PtyINR, in HDF5.

| dataset | |
|---|---|
| `diffamp` | (n, h, w) float, the square root of the photon counts, **DC at [0, 0]** |
| `points` | (2, n) µm; `points[0]` along axis 0 and `points[1]` along axis 1, growing towards larger indices |
| `lambda_nm`, `z_m`, `ccd_pixel_um` | wavelength, distance from sample to detector, detector pixel |
| `angle` | rotation of the sample in degrees; 0 where it is missing |
| `mask` | (h, w) nonzero where a pixel may be trusted, **DC at [0, 0]**; all are where it is missing |
| `truth/object` | of a simulation: (H, W) complex, the transmission |
| `truth/probe` | (modes, h, w) or (h, w) complex, root photons, **its middle at [h // 2, w // 2]**, not at the corner |
| `truth/positions_px` | (n, 2) row and column of each frame's window corner in `truth/object`, fractional |

n need not be a square and h need not be w. The sample pixel is `lambda_nm * z_m / (h * ccd_pixel_um)` µm along axis 0,
and the same with w along axis 1. Beamline files may hold other datasets, which are ignored.

Counts are whole if every square of `diffamp` is an integer to within its rounding, else float32: a beamline may have
divided by the incident flux, and not every simulated noise is whole. A file written from float32 says so in the
attribute `counts` of `diffamp`, since faint counts may all look like zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyinr.types import ScanGeometry
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan, Truth

_CHUNK_BYTES = 2**20  # of amplitudes, packed together
_BLOCK_BYTES = 64 * 2**20  # of amplitudes, read and squared at a time
_MOST_COUNTS = 2**32 - 2  # the largest uint32 marks pixels that carry no measurement


def read_scan(path: Path) -> RecordedScan:
    """Read a scan file; whole counts come as uint16 if all are below 65535, else as uint32, others as float32.

    Raises:
        ScanFileError: the file is missing, is not HDF5 or torn, or a dataset is missing or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise ScanFileError(f"{path}: there is no such file")
    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except (OSError, RuntimeError) as error:
        raise ScanFileError(f"{path}: not a readable HDF5 file, or torn: {error}") from error


def write_scan(path: Path, scan: RecordedScan) -> None:
    """Write a scan so that `read_scan` gives the same counts back, float32 ones to within their rounding.

    Raises:
        ScanFileError: the file cannot be written.
    """
    frames, h, w = scan.counts.shape
    largest = float(scan.counts.max(initial=1)) if scan.whole else 1.0
    # Square roots are rounded to 1 / finest, far below their Poisson noise of 1 / 2, because they pack better for it:
    # an error of 1 / 8 of the largest root's reciprocal moves a count by at most a quarter.
    finest = 2.0 ** np.ceil(np.log2(4 * np.sqrt(largest)))
    dtype = np.float32 if largest < 2**20 else np.float64
    step = max(1, _CHUNK_BYTES // (4 * h * w))
    try:
        with h5py.File(path, "w") as file:
            packed = {"chunks": (min(step, frames), h, w), "compression": "gzip", "shuffle": True}
            diffamp = file.create_dataset("diffamp", scan.counts.shape, dtype, **packed)
            for start in range(0, frames, step):
                block = scan.counts[start : start + step]
                roots = np.sqrt(np.maximum(block, 0), dtype=np.float64)  # a masked pixel may hold anything
                if scan.whole:
                    roots = np.rint(finest * roots) / finest
                diffamp[start : start + step] = np.fft.ifftshift(roots, axes=(1, 2))
            if not scan.whole:
                diffamp.attrs["counts"] = "float32"
            file["points"] = 1e6 * scan.positions_m.T
            file["lambda_nm"] = 1e9 * scan.geometry.wavelength_m
            file["z_m"] = scan.geometry.distance_m
            file["ccd_pixel_um"] = 1e6 * scan.geometry.detector_pixel_m
            file["angle"] = scan.angle_deg
            if scan.mask is not None:
                file["mask"] = np.fft.ifftshift(scan.mask).astype(np.uint8)
            if scan.truth is not None:
                for name in ("object", "probe", "positions_px"):
                    file[f"truth/{name}"] = getattr(scan.truth, name)
    except OSError as error:
        raise ScanFileError(f"{path}: cannot be written: {error}") from error


def _read(file: h5py.File, path: Path) -> RecordedScan:
    diffamp, points = _dataset(file, "diffamp", path), _dataset(file, "points", path)
    if diffamp.ndim != 3 or 0 in diffamp.shape:
        raise ScanFileError(f"{path}: diffamp has the shape {diffamp.shape}: (frames, rows, columns) is needed")
    frames, h, w = diffamp.shape
    if points.shape != (2, frames):
        raise ScanFileError(
            f"{path}: points has the shape {points.shape}: (2, {frames}) is needed for {frames} diffamp"
        )
    points_um = points.astype(np.float64)[()]
    lost = np.flatnonzero(~np.isfinite(points_um).all(axis=0))
    if len(lost):
        raise ScanFileError(f"{path}: points are not finite for frames {lost[:5].tolist()}: leave such frames out")
    lambda_nm, z_m, ccd_pixel_um = (_positive(file, name, path) for name in ("lambda_nm", "z_m", "ccd_pixel_um"))
    try:
        geometry = ScanGeometry(1e-9 * lambda_nm, z_m, 1e-6 * ccd_pixel_um, (h, w))
    except ValueError as error:
        raise ScanFileError(f"{path}: {error}") from error
    angle_deg = _scalar(file, "angle", path) if "angle" in file else 0.0
    positions_m = np.ascontiguousarray(1e-6 * points_um.T)
    mask = _mask(file, (h, w), path)
    counts = _counts(diffamp, mask, path)
    try:
        return RecordedScan(counts, positions_m, geometry, angle_deg, path.stem, mask, _truth(file, path))
    except ValueError as error:
        raise ScanFileError(f"{path}: {error}") from error


def _counts(diffamp: h5py.Dataset, mask: NDArray[np.bool_] | None, path: Path) -> NDArray[Any]:
    """Squared amplitudes with DC in the centre, whole if they can be."""
    if diffamp.attrs.get("counts") == "float32":
        return _floats(diffamp, mask, path)
    kind = diffamp.dtype if diffamp.dtype.kind == "f" else np.float32
    precision = max(np.finfo(kind).eps, np.finfo(np.float32).eps)  # many amplitudes have been float32 on their way
    counts: NDArray[Any] = np.empty(diffamp.shape, np.uint16)
    for rows, squares in _blocks(diffamp, mask, path):
        whole = np.rint(squares)
        # `write_scan` moves a count by at most a quarter, floating point by a share of it.
        wrong = np.abs(squares - whole) > 0.25 + 2 * precision * squares
        if (wrong if mask is None else wrong[:, mask]).any():
            return _floats(diffamp, mask, path)
        if counts.dtype == np.uint16 and whole.max() >= 65535:
            counts = counts.astype(np.uint32)
        counts[rows] = whole
    return counts


def _floats(diffamp: h5py.Dataset, mask: NDArray[np.bool_] | None, path: Path) -> NDArray[np.float32]:
    counts = np.empty(diffamp.shape, np.float32)
    for rows, squares in _blocks(diffamp, mask, path):
        counts[rows] = squares
    return counts


def _blocks(
    diffamp: h5py.Dataset, mask: NDArray[np.bool_] | None, path: Path
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Rows and their squared amplitudes with DC in the centre, checked where they are trusted."""
    frames, h, w = diffamp.shape
    step = max(1, _BLOCK_BYTES // (8 * h * w))
    for start in range(0, frames, step):
        rows = slice(start, min(start + step, frames))
        amplitudes = np.fft.fftshift(diffamp.astype(np.float64)[rows], axes=(1, 2))
        if mask is not None:
            amplitudes[:, ~mask] = np.nan_to_num(amplitudes[:, ~mask], nan=0).clip(0, np.sqrt(_MOST_COUNTS))
        if not (np.isfinite(amplitudes).all() and amplitudes.min() >= 0 and amplitudes.max() ** 2 <= _MOST_COUNTS):
            bad = ~((amplitudes >= 0) & (amplitudes**2 <= _MOST_COUNTS)).all(axis=(1, 2))
            index = start + int(np.flatnonzero(bad)[0])
            raise ScanFileError(
                f"{path}: diffamp of frame {index} is not the square root of photon counts: it must be finite, "
                f"not negative and below 65536"
            )
        yield rows, amplitudes**2


def _mask(file: h5py.File, window: tuple[int, int], path: Path) -> NDArray[np.bool_] | None:
    if "mask" not in file:
        return None
    mask = _dataset(file, "mask", path, kinds="biuf")
    if mask.shape != window:
        raise ScanFileError(f"{path}: mask has the shape {mask.shape}: {window} is needed, as diffamp has it")
    return np.fft.fftshift(mask[()] != 0)


def _truth(file: h5py.File, path: Path) -> Truth | None:
    if "truth" not in file:
        return None
    sample, probe = (_dataset(file, f"truth/{name}", path, kinds="c")[()] for name in ("object", "probe"))
    positions_px = _dataset(file, "truth/positions_px", path)[()].astype(np.float64)
    if probe.ndim == 2:
        probe = probe[None]
    return Truth(sample.astype(np.complex64), probe.astype(np.complex64), positions_px)


def _dataset(file: h5py.File, name: str, path: Path, kinds: str = "iuf") -> h5py.Dataset:
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise ScanFileError(f"{path}: there is no dataset {name}; a scan file has diffamp, points, lambda_nm, z_m, ...")
    if item.dtype.kind not in kinds or item.shape is None:
        wanted = "complex numbers" if kinds == "c" else "real numbers"
        raise ScanFileError(f"{path}: {name} holds {item.dtype}: {wanted} are needed")
    return item


def _scalar(file: h5py.File, name: str, path: Path) -> float:
    item = _dataset(file, name, path)
    if item.size != 1:
        raise ScanFileError(f"{path}: {name} has the shape {item.shape}: one number is needed")
    value = float(np.ravel(item[()])[0])
    if not np.isfinite(value):
        raise ScanFileError(f"{path}: {name} is {value}: a finite number is needed")
    return value


def _positive(file: h5py.File, name: str, path: Path) -> float:
    value = _scalar(file, name, path)
    if value <= 0:
        raise ScanFileError(f"{path}: {name} is {value}: it must be positive")
    return value
