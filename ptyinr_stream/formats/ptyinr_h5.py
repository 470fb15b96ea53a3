"""The scan file of HXN and of PtyINR, in HDF5.

| dataset | |
|---|---|
| `diffamp` | (n, h, w) float, the square root of the photon counts, **DC at [0, 0]** |
| `points` | (2, n) µm; `points[0]` along axis 0 and `points[1]` along axis 1, growing towards larger indices |
| `lambda_nm`, `z_m`, `ccd_pixel_um` | wavelength, distance from sample to detector, detector pixel |
| `angle` | rotation of the sample in degrees; 0 where it is missing |

n need not be a square and h need not be w. The sample pixel is `lambda_nm * z_m / (h * ccd_pixel_um)` µm along axis 0,
and the same with w along axis 1. Beamline files may hold other datasets, which are ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyinr.types import ScanGeometry
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan

_CHUNK_BYTES = 2**20  # of amplitudes, packed together
_BLOCK_BYTES = 64 * 2**20  # of amplitudes, read and squared at a time
_MOST_COUNTS = 2**32 - 2  # the largest uint32 marks pixels that carry no measurement


def read_scan(path: Path) -> RecordedScan:
    """Read a scan file; counts come as uint16 if all are below 65535, else as uint32.

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
    """Write a scan so that `read_scan` gives the same counts back.

    Raises:
        ScanFileError: the file cannot be written.
    """
    frames, h, w = scan.counts.shape
    # Square roots are rounded to 1 / finest, far below their Poisson noise of 1 / 2, because they pack better for it:
    # an error of 1 / 8 of the largest root's reciprocal moves a count by at most a quarter.
    finest = 2.0 ** np.ceil(np.log2(4 * np.sqrt(max(1, scan.counts.max()))))
    dtype = np.float32 if scan.counts.max() < 2**20 else np.float64
    step = max(1, _CHUNK_BYTES // (4 * h * w))
    try:
        with h5py.File(path, "w") as file:
            packed = {"chunks": (min(step, frames), h, w), "compression": "gzip", "shuffle": True}
            diffamp = file.create_dataset("diffamp", scan.counts.shape, dtype, **packed)
            for start in range(0, frames, step):
                roots = np.sqrt(scan.counts[start : start + step], dtype=np.float64)
                diffamp[start : start + step] = np.fft.ifftshift(np.rint(finest * roots) / finest, axes=(1, 2))
            file["points"] = 1e6 * scan.positions_m.T
            file["lambda_nm"] = 1e9 * scan.geometry.wavelength_m
            file["z_m"] = scan.geometry.distance_m
            file["ccd_pixel_um"] = 1e6 * scan.geometry.detector_pixel_m
            file["angle"] = scan.angle_deg
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
    counts = _counts(diffamp, path)
    return RecordedScan(counts, np.ascontiguousarray(1e-6 * points_um.T), geometry, angle_deg, path.stem)


def _counts(diffamp: h5py.Dataset, path: Path) -> NDArray[Any]:
    """Squared amplitudes with DC in the centre."""
    frames, h, w = diffamp.shape
    counts: NDArray[Any] = np.empty((frames, h, w), np.uint16)
    step = max(1, _BLOCK_BYTES // (8 * h * w))
    for start in range(0, frames, step):
        amplitudes = diffamp.astype(np.float64)[start : start + step]
        if not (np.isfinite(amplitudes).all() and amplitudes.min() >= 0 and amplitudes.max() ** 2 <= _MOST_COUNTS):
            bad = ~((amplitudes >= 0) & (amplitudes**2 <= _MOST_COUNTS)).all(axis=(1, 2))
            index = start + int(np.flatnonzero(bad)[0])
            raise ScanFileError(
                f"{path}: diffamp of frame {index} is not the square root of photon counts: it must be finite, "
                f"not negative and below 65536"
            )
        if counts.dtype == np.uint16 and np.rint(amplitudes.max() ** 2) >= 65535:
            counts = counts.astype(np.uint32)
        counts[start : start + step] = np.fft.fftshift(np.rint(amplitudes**2), axes=(1, 2))
    return counts


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    item = file.get(name)
    if not isinstance(item, h5py.Dataset):
        raise ScanFileError(f"{path}: there is no dataset {name}; a scan file has diffamp, points, lambda_nm, z_m, ...")
    if item.dtype.kind not in "iuf" or item.shape is None:
        raise ScanFileError(f"{path}: {name} holds {item.dtype}: real numbers are needed")
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
