"""Which frames a step sees: those of one tile of the object, so that a step costs the tile and not the field.

On the Siemens star, at equal cost, windows of 128 px with corners within 100 px of each other did best: phase
correlation 0.976 after 200 steps, 0.956 with 52 px (320 steps), 0.971 with 172 px (115 steps; 2026-11-22).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REACH = 0.8
"""Extent of a tile's window corners, as a part of the window."""
LEAST_REACH_PX = 64.0


def reach_px(window: tuple[int, int]) -> NDArray[np.float64]:
    """Extent of a tile's window corners along each axis."""
    return np.maximum(REACH * np.array(window), LEAST_REACH_PX)


def draw_tile(
    corners_px: NDArray[np.float64], window: tuple[int, int], most: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Rows of the frames in a random tile, at most `most` of them.

    A tile is laid over a random frame at a random offset and pushed back over the scanned area, so that tiles at the
    rim hold as many frames as others.
    """
    reach = reach_px(window)
    first, last = corners_px.min(0), corners_px.max(0)
    lower = corners_px[random.integers(len(corners_px))] - random.uniform(0, reach)
    lower = np.clip(lower, first, np.maximum(last - reach, first))
    upper = lower + reach + 1e-6  # a tile that ends at the last frame holds it, however the sum is rounded
    inside = np.flatnonzero(((corners_px >= lower) & (corners_px <= upper)).all(1))
    if len(inside) > most:
        inside = np.sort(random.choice(inside, most, replace=False))
    return inside
