"""Pixels that cannot be what they say: bright or dark in frame after frame, alone among their neighbours.

A pattern is oversampled: what a probe inside its window sends to one pixel it also sends to the next. So a pixel five
times as bright as the third brightest of its eight neighbours is hot, and one that never counts among neighbours that
do is dead. The third of them, since at the rim of a cone, where half of the neighbours are dark, three are bright; and
so that two or three hot pixels side by side are still found.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import rank_filter

RATIO = 5.0
LEAST_COUNTS = 20.0
"""In all frames together: fewer say nothing, neither of a hot pixel nor, around it, of a dead one."""

_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.bool_)


def faulty_pixels(
    level: NDArray[Any], trusted: NDArray[np.bool_], frames: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Find hot and dead pixels, both (rows, columns), among the trusted ones.

    Args:
        level: (rows, columns) typical counts of each pixel over many frames, so that one flash does not make it hot.
        trusted: (rows, columns); the others are neither found nor taken for neighbours.
        frames: how many.
    """
    values = np.where(trusted, level, 0).astype(np.float32)
    bright = rank_filter(values, -3, footprint=_NEIGHBOURS, mode="constant")
    least = LEAST_COUNTS / frames
    hot = trusted & (values > RATIO * bright + least)
    sound = trusted & ~hot
    dark = rank_filter(np.where(sound, values, np.inf), 2, footprint=_NEIGHBOURS, mode="constant", cval=np.inf)
    dead = sound & (values == 0) & np.isfinite(dark) & (dark > least)
    return hot, dead
