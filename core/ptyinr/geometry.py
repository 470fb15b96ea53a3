"""Where things are: from metres to pixels of a frame of reference that never moves, and from there to arrays.

Anchored pixels count from the centre of the commanded range, in sample pixels along rows and columns: from the point
next to it for which a window at the lower end of the range begins on a whole pixel. So a raster of whole pixels needs
no interpolation; in the middle itself, half a pixel away where range and window are odd together, the maze of 65 px,
probe known, 250 steps, reached 30 / 36 dB instead of 73 / 78; the paper's own case blind, 241 px, 300 s of a core, 53 /
56 and 64 / 54 (2026-11-27). Everything that is learned is a function of anchored pixels; arrays are views of them
through a `Canvas`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .types import ScanGeometry, ScanRange

MOST_PIXELS = 2**28
"""Of a canvas: 3 GB for each snapshot. A range in nanometres or micrometres that is taken for metres asks for more."""
MOST_GROWN_PIXELS = 2**26
"""Of a canvas that grows: half a gigabyte. Beyond it lies a broken encoder, not a sample."""
MARGIN = 0.2
"""Of the commanded range, added to the canvas on each side: settling rows and overshoot stay on it."""

ROUNDED = 5
"""Decimals of a position in pixels."""


@dataclass(frozen=True)
class Canvas:
    """An array of the object: its shape and the anchored pixel of its first element.

    >>> geometry = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=1e-4, window=(100, 100))
    >>> canvas = Canvas.of(geometry, ScanRange(lower_m=(0.0, 0.0), upper_m=(1e-6, 2e-6)))  # 10 nm pixels
    >>> canvas.shape, canvas.corner
    ((242, 382), (-121, -191))
    """

    shape: tuple[int, int]
    corner: tuple[int, int]

    @classmethod
    def of(cls, geometry: ScanGeometry, scan_range: ScanRange) -> Canvas:
        """The commanded range, a window, and a margin on each side.

        Raises:
            ValueError: the canvas would not fit into memory.
        """
        half = [
            int(np.ceil((0.5 + MARGIN) * (upper - lower) / pixel + n / 2)) + 1
            for lower, upper, pixel, n in zip(
                scan_range.lower_m, scan_range.upper_m, geometry.pixel_m, geometry.window, strict=True
            )
        ]
        if 4 * half[0] * half[1] > MOST_PIXELS:
            raise ValueError(
                f"a range from {scan_range.lower_m} to {scan_range.upper_m} m needs an object of {2 * half[0]} x "
                f"{2 * half[1]} pixels: is it given in micrometres? give metres, and leave out frames whose encoders "
                f"failed"
            )
        return cls(shape=(2 * half[0], 2 * half[1]), corner=(-half[0], -half[1]))

    def including(self, corners_px: NDArray[np.float64], window: tuple[int, int]) -> Canvas:
        """This canvas if all windows lie on it, else one that is large enough, with room for as much again.

        Raises:
            ValueError: a window lies so far away that the canvas would not fit into memory.
        """
        if not len(corners_px):
            return self
        first, last = corners_px.min(0), corners_px.max(0) + window + 1
        lower, upper = np.array(self.corner), np.array(self.corner) + self.shape
        below, above = np.maximum(lower - first, 0), np.maximum(last - upper, 0)
        if not (below.any() or above.any()):
            return self
        size = upper - lower + np.ceil(2 * below) + np.ceil(2 * above)
        if size.prod() > max(MOST_GROWN_PIXELS, 2 * self.shape[0] * self.shape[1]):
            raise ValueError(
                f"windows at {first.tolist()} to {last.tolist()} px need a canvas of {size.tolist()} pixels, where "
                f"the commanded range has {self.shape}: check the encoders and the commanded range"
            )
        lower, upper = lower - np.ceil(2 * below).astype(int), upper + np.ceil(2 * above).astype(int)
        size = upper - lower
        return Canvas(shape=(int(size[0]), int(size[1])), corner=(int(lower[0]), int(lower[1])))

    def array_px(self, corners_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Anchored window corners as (row, column) in the array."""
        return corners_px - np.array(self.corner, dtype=np.float64)


def window_corners_px(
    positions_m: NDArray[np.float64], geometry: ScanGeometry, scan_range: ScanRange
) -> NDArray[np.float64]:
    """Positions (n, 2) in metres, the middle of each window, to its corner in anchored pixels, fractional."""
    corners = (positions_m - _anchor_m(geometry, scan_range)) / geometry.pixel_m - np.array(geometry.window) / 2
    # Without the rounding errors of the division, which make 7 a pixel of 6 and a shift by 0.99999: a shift wraps what
    # the probe has at its rim, and cost 13 dB on a probe that fills its window.
    return np.round(corners, ROUNDED)


def window_middles_m(
    corners_px: NDArray[np.float64], geometry: ScanGeometry, scan_range: ScanRange
) -> NDArray[np.float64]:
    """The inverse of `window_corners_px`: (n, 2) metres."""
    return (corners_px + np.array(geometry.window) / 2) * geometry.pixel_m + _anchor_m(geometry, scan_range)


def _anchor_m(geometry: ScanGeometry, scan_range: ScanRange) -> NDArray[np.float64]:
    """(2,) where anchored pixels count from, at most half a pixel from the centre of the range."""
    lower, upper, odd = np.array(scan_range.lower_m), np.array(scan_range.upper_m), np.array(geometry.window) % 2 / 2
    # Rounded first: where it is a half but for what the division leaves, all scans of that range take the same side.
    half = np.round((upper - lower) / 2 / geometry.pixel_m - odd, ROUNDED)
    return lower + (np.floor(half + 0.5) + odd) * geometry.pixel_m
