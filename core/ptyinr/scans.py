"""Where a scan looks: window corners in an object, in pixels along rows and columns. Plain numpy.

`room` is how far a corner may go along each axis, the object's size less the window's. A step is in pixels along each
axis; corners begin at 0 and stay on the object.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
JITTER = 0.25
"""Of a step, to each side."""

Corners = NDArray[np.float64]


def overlap_step(window: int, overlap: float) -> int:
    """Whole pixels from window to window for an overlap of 1 - step / window.

    >>> [overlap_step(64, overlap) for overlap in (0.95, 0.5, 0.3)]
    [3, 32, 45]

    Raises:
        ValueError: the overlap is not in [0, 1), or leaves no whole pixel to step.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap is {overlap}: it must lie in [0, 1), 1 - step / window")
    step = round(window * (1 - overlap))
    if step < 1:
        raise ValueError(f"an overlap of {overlap} of {window} pixels steps by less than a pixel: give a smaller one")
    return step


def raster(room: tuple[int, int], step_px: tuple[float, float]) -> Corners:
    """(n, 2) row by row, every row from the same side."""
    rows, columns = np.meshgrid(*_lines(room, step_px), indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def snake(room: tuple[int, int], step_px: tuple[float, float]) -> Corners:
    """(n, 2) row by row, to and fro."""
    rows, columns = np.meshgrid(*_lines(room, step_px), indexing="ij")
    columns[1::2] = columns[1::2, ::-1]
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def jittered(
    room: tuple[int, int], step_px: tuple[float, float], random: np.random.Generator, jitter: float = JITTER
) -> Corners:
    """(n, 2) a raster whose points are moved by up to `jitter` of a step: subpixel, and free of the grid's symmetry."""
    corners = raster(room, step_px)
    return np.clip(corners + random.uniform(-jitter, jitter, corners.shape) * step_px, 0, room)


def spiral(room: tuple[int, int], step_px: tuple[float, float]) -> Corners:
    """(n, 2) Fermat's spiral from the middle outwards, one point to an area of step * step (Huang et al. 2014)."""
    step, reach = _positive(step_px), np.array(room) / 2
    turns = np.arange(int(np.pi * np.square(reach / step).sum()) + 2)
    radius, angle = np.sqrt(turns / np.pi), turns * GOLDEN_ANGLE
    offsets = radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1) * step
    return reach + offsets[(np.abs(offsets) <= reach).all(axis=1)]


def _lines(room: tuple[int, int], step_px: tuple[float, float]) -> list[NDArray[np.float64]]:
    # Ten times the number after 0.7 is more than 7.
    steps = zip(room, _positive(step_px), strict=True)
    return [np.minimum(np.arange(int(n / s + 1e-9) + 1) * s, n) for n, s in steps]


def _positive(step_px: tuple[float, float]) -> NDArray[np.float64]:
    step = np.array(step_px, dtype=np.float64)
    if not (np.isfinite(step).all() and step.min() > 0):
        raise ValueError(f"step is {step_px} pixels: it must be positive along both axes")
    return step
