"""Which frames a step sees: those of one tile of the object, so that a step costs the tile and not the field.

On the Siemens star, at equal cost, windows of 128 px with corners within 100 px of each other did best: phase
correlation 0.976 after 200 steps, 0.956 with 52 px (320 steps), 0.971 with 172 px (115 steps; 2026-11-22).

Where tiles are laid while the star's frames come at 10/s, one seed, one core's seconds as if there were two; phase
correlation at the last frame, 30 and 60 s later, at 75 % of the scan: over any frame 0.971, 0.988, 0.989, 0.978; over
frames seen least 0.963, 0.969, 0.969, 0.976; over those explained worst 0.979, 0.987, 0.986, 0.985 (2026-11-25).

The first steps, the whole star with the probe of another reconstruction, one seed, seconds (as above) until 0.95, and
steps; all 42 frames of a tile with a network of width 32: 2.8, 43. At most 28: 3.2, 40 (on a busier machine, where all
took 3.3); 16: 2.3 to 3.1, 49; 10: 3.5, 61. With 16 also: corners within 64 px 2.7, 65; frames explained worst 2.4, 49;
pixels' rate 0.1 instead of 0.06 2.2, 51, but 0.965 later; `ILLUMINATION_FLOOR` 0.2 2.3, 50; twice the network's rate
2.1, 52; its frequency 0.5 2.1, 49; averages of shorter memory 2.3, 49; a network of width 16 1.4, 49 (2026-11-26).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dataset import Dataset
from .light import extremes, within
from .settings import TrainerSettings

REACH = 0.8
"""Extent of a tile's window corners, as a part of the window."""
LEAST_REACH_PX = 64.0
FRAMES_PER_TILE, FRAMES_PER_TILE_WHERE_SMALL = 16, 5
"""Pixels of the frames in a step, in units of the pixels of their tile."""
PIXELS_ON_A_GPU = 2**24
"""Of the frames in a step, at least: a GPU computes them while it is told what to do. 2026-11-26, NVIDIA H200:

* The paper's scan (3,600 frames of 64 px, blind), eight programs sharing the card, bfloat16, 26 s; ms a step, object
  PSNR amplitude / phase: 64 frames 33, 34 / 25; 512 in a tile 26, 44 / 40; 1,024 from anywhere 23, 54 / 57; all of
  them 26, 63 / 58. Of the 11 ms that a step of 64 frames takes alone the card computes 0.9.
* The star, live at 10/s, at the last frame: 42 frames of a tile 0.991, all that are there 0.995.
"""
MOST_PIXELS_OF_A_TILE = 2**22
"""Where so many frames are drawn: a network remembers 400 to 1,600 bytes for each."""


class Sampler:
    """Draws the frames of each step, by the settings' `batch`, `frames_per_step` and `attention`."""

    def __init__(
        self,
        settings: TrainerSettings,
        window: tuple[int, int],
        random: np.random.Generator,
        least_pixels: int = 0,
    ) -> None:
        """`least_pixels`: that the frames of a step have together, where there are so many and no number is set."""
        self._settings, self._window, self._random = settings, window, random
        self._least = 0 if settings.frames_per_step else least_pixels // int(np.prod(window))
        self.seen: NDArray[np.float64] = np.empty(0)
        """(n,) by row: how often a frame was drawn, or its error when it last was; what `attention` is paid by."""

    @property
    def curious(self) -> bool:
        """Whether it wants to be told what became of a step."""
        return self._settings.attention != "all"

    def draw(self, dataset: Dataset, *, small: bool = False) -> NDArray[np.int64]:
        """Rows of the frames of a step."""
        rows = dataset.training
        most = self._settings.frames_per_step or max(self._least, self._frames_per_step(dataset, small))
        if self._settings.batch == "tile":
            corners = dataset.corners_px[rows]
            weights = self._weights(len(dataset))[rows] if self.curious else None
            return rows[draw_tile(corners, self._reach(corners), most, self._random, weights)]
        if self._settings.batch == "random" and len(rows) > most:
            return np.sort(self._random.choice(rows, most, replace=False))
        return rows

    def _reach(self, corners_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Extent of the next tile's corners; all of them where there are no more frames than a step has at least."""
        least = reach_px(self._window)
        if not self._least:
            return least
        first, last = extremes(corners_px)
        wanted = (last - first) * (self._least / len(corners_px)) ** 0.5
        if np.prod(np.minimum(wanted, last - first) + self._window) > MOST_PIXELS_OF_A_TILE:
            wanted = MOST_PIXELS_OF_A_TILE**0.5 - np.array(self._window)
        return np.maximum(least, wanted)

    def note(self, rows: NDArray[np.int64], errors: NDArray[np.floating]) -> None:
        """Take note of the frames of a step and of how badly they were explained."""
        self._weights(int(rows.max()) + 1)
        if self._settings.attention == "new":
            self.seen[rows] = np.nan_to_num(self.seen[rows]) + 1
        else:
            self.seen[rows] = errors

    def _weights(self, frames: int) -> NDArray[np.float64]:
        """(n,) the chance of each frame to lie in the middle of a tile, up to a factor; `seen` grows to `frames`."""
        self.seen = np.concatenate([self.seen, np.full(max(0, frames - len(self.seen)), np.nan)])
        if self._settings.attention == "new":
            return 1 / (1 + np.nan_to_num(self.seen)) ** 2
        known = self.seen[np.isfinite(self.seen)]
        return np.nan_to_num(self.seen, nan=float(known.max()) if len(known) else 1.0) ** 2

    def _frames_per_step(self, dataset: Dataset, small: bool) -> int:
        (first, last), window = extremes(dataset.corners_px), np.array(self._window)
        tile = np.minimum(last - first, reach_px(self._window)) + window
        times = FRAMES_PER_TILE_WHERE_SMALL if small else FRAMES_PER_TILE
        return max(16, int(times * tile.prod() / window.prod()))


def reach_px(window: tuple[int, int]) -> NDArray[np.float64]:
    """Extent of a tile's window corners along each axis."""
    return np.maximum(REACH * np.array(window), LEAST_REACH_PX)


def draw_tile(
    corners_px: NDArray[np.float64],
    reach: NDArray[np.float64],
    most: int,
    random: np.random.Generator,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Rows of the frames in a random tile whose corners extend over `reach` pixels, at most `most` of them.

    A tile is laid over a random frame, drawn by `weights` (n,) where they are given, at a random offset, and pushed
    back over the scanned area, so that tiles at the rim hold as many frames as others.
    """
    first, last = extremes(corners_px)
    if weights is None:
        middle = int(random.integers(len(corners_px)))
    else:
        middle = int(random.choice(len(corners_px), p=weights / weights.sum()))
    lower = corners_px[middle] - random.uniform(0, reach)
    lower = np.clip(lower, first, np.maximum(last - reach, first))
    upper = lower + reach + 1e-6  # a tile that ends at the last frame holds it, however the sum is rounded
    inside = np.flatnonzero(within(corners_px, lower, upper))
    if len(inside) > most:
        inside = np.sort(random.choice(inside, most, replace=False))
    return inside
