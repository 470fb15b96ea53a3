"""Reconstructions read back from HDF5: what `publishers.files.write_result` writes, and what looks like it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import ConfigError

SEEN = 0.01
"""Of the light at the brightest pixel: less counts as unseen."""


@dataclass(frozen=True)
class Result:
    """A reconstruction.

    Raises:
        ValueError: the arrays do not fit together, or hold numbers that are not finite.
    """

    name: str
    object: NDArray[np.complexfloating]
    """(H, W) transmission."""
    probe: NDArray[np.complexfloating]
    """(modes, h, w)."""
    positions_px: NDArray[np.float64]
    """(n, 2) row and column of each frame's window corner in `object`, fractional."""
    indices: NDArray[np.int64]
    """(n,) the frames, ascending."""
    coverage: NDArray[np.floating]
    """(H, W) the light that each pixel has received, 1 at the brightest."""
    pixel_m: tuple[float, float] | None = None
    """None where the file does not say."""
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.positions_px)
        shapes = {"object": self.object.ndim == 2, "probe": self.probe.ndim == 3}
        shapes |= {"positions_px": self.positions_px.shape == (n, 2) and n > 0, "indices": self.indices.shape == (n,)}
        shapes |= {"coverage": self.coverage.shape == self.object.shape}
        for name, right in shapes.items():
            array = getattr(self, name)
            if not right:
                raise ValueError(f"{name} has the shape {array.shape}, which does not fit {n} frames or the object")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        last = np.array(self.object.shape) - self.window
        if (self.positions_px < 0).any() or (self.positions_px > last).any():
            raise ValueError(
                f"positions_px reach from {self.positions_px.min(0).round(1)} to {self.positions_px.max(0).round(1)}: "
                f"windows of {self.window} leave the object of {self.object.shape}"
            )

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the probe."""
        return self.probe.shape[1], self.probe.shape[2]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(H, W) where enough light has fallen."""
        return self.coverage >= SEEN

    @property
    def main_probe(self) -> NDArray[np.complexfloating]:
        """(h, w) the mode with the most light."""
        return self.probe[int((np.abs(self.probe) ** 2).sum((1, 2)).argmax())]

    @property
    def holdout(self) -> int:
        """Frames with index % n == n // 2 were held out of training; 0 if none were, or if nobody says."""
        try:
            configuration = json.loads(self.attributes.get("configuration", "{}"))
            settings = configuration.get("settings") or configuration.get("training") or {}
            return int(settings.get("holdout", 0))
        except (AttributeError, TypeError, ValueError):
            return 0

    @property
    def pixel_holdout(self) -> int:
        """One in so many pixels of every frame was held out of training instead of frames; 0 if none was."""
        share = self.attributes.get("heldout_pixels")
        return round(1 / share) if isinstance(share, float) and 0 < share <= 0.5 else 0


def read_result(path: Path) -> Result:
    """Read `object`, `probe` and `positions_px`; `indices`, `coverage` and the attribute `pixel_m` where there are any.

    Without coverage it is the rectangle of the windows that counts as seen.

    Raises:
        ConfigError: the file is missing, not HDF5, or holds something else.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        with h5py.File(path) as file:
            found = {name: _array(file, name, path) for name in ("object", "probe", "positions_px")}
            rest = {name: _array(file, name, path) for name in ("indices", "coverage") if name in file}
            attributes = {name: _plain(value) for name, value in file.attrs.items()}
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: not a readable HDF5 file, or torn: {error}") from error
    field, probe, positions = found["object"], found["probe"], found["positions_px"]
    if not (np.iscomplexobj(field) and np.iscomplexobj(probe) and probe.ndim in (2, 3)):
        raise ConfigError(
            f"{path}: object {field.dtype} {field.shape} and probe {probe.dtype} {probe.shape} "
            f"must be complex, (H, W) and (modes, h, w)"
        )
    probe = probe.reshape(-1, *probe.shape[-2:])
    pixel = attributes.get("pixel_m")
    try:
        return Result(
            name=path.stem,
            object=field,
            probe=probe,
            positions_px=positions.astype(np.float64),
            indices=np.asarray(rest.get("indices", np.arange(len(positions))), np.int64),
            coverage=rest["coverage"] if "coverage" in rest else _under_windows(field.shape, positions, probe.shape),
            pixel_m=(float(pixel[0]), float(pixel[1])) if isinstance(pixel, list) and len(pixel) == 2 else None,
            attributes=attributes,
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _array(file: h5py.File, name: str, path: Path) -> NDArray[Any]:
    item = file.get(name)
    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "iufc":
        raise ConfigError(f"{path}: has no dataset {name} of numbers; a result has object, probe, positions_px, ...")
    return np.asarray(item[()])


def _plain(value: Any) -> Any:
    """An attribute as JSON knows it."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _under_windows(shape: tuple[int, ...], positions: NDArray[Any], probe: tuple[int, ...]) -> NDArray[np.floating]:
    """(H, W) 1 in the rectangle round all windows."""
    coverage = np.zeros(shape, np.float32)
    if len(positions) and positions.ndim == 2:
        first, last = np.floor(positions.min(0)).astype(int), np.ceil(positions.max(0)).astype(int) + probe[1:]
        coverage[max(first[0], 0) : last[0], max(first[1], 0) : last[1]] = 1
    return coverage
