"""Which frames were taken while the stages had not settled: they would smear the image. Pure, and slow to judge.

At HXN a scan's first frames may carry a slow encoder that still stands in the middle of its range, and its first rows
may overshoot the commanded range two or three times. So a frame is *suspect* whose position

* lies outside the commanded range by more than `margin` of its extent on either side (0.2: 1.4 times the range), or
* of a scan with several lines, is off the commanded line by as much along the slow axis.

Suspicion alone rejects nothing: commands may be described wrongly (repeats that return, spirals, an encoder's sign). A
suspect frame is held; the others pass at once, so that a good scan is never delayed. What is held is

* rejected when after it two lines' worth of frames without another suspect one have lain where they were commanded, and
  such frames make up three fifths of all so far;
* released, with every frame after it, when more than 16 lines or half of the scan are held: then it is the command that
  is not believed, and the gate is given up.

Decisions depend on positions alone, never on when a frame came.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.grids import ScanPlan

_LEAST_STEPS = 3
"""A position off by fewer steps is never suspect, however small the scan."""
_LEAST_SHARE = 0.05
"""Of the scan's larger extent, likewise: one line has no extent along the slow axis."""
_PROOF_LINES = 2
_PROOF_RATIO = 1.5
_MOST_HELD_LINES = 16


class PositionGate:
    """Judges the frames of one scan.

    Args:
        plan: the commanded grid.
        margin: by how much a position may leave the commanded range, as a part of its extent.
    """

    def __init__(self, plan: ScanPlan, margin: float) -> None:
        self._plan = plan
        lower, upper = np.array(plan.range.lower_m), np.array(plan.range.upper_m)
        extent = upper - lower
        least = np.maximum(_LEAST_STEPS * np.abs(plan.step_m), _LEAST_SHARE * extent.max())
        self._tolerance = np.maximum(margin * extent, least)
        self._lower, self._upper = lower - self._tolerance, upper + self._tolerance
        self._verdicts = np.zeros(plan.expected, np.int8)  # 1 normal, -1 suspect, 0 unknown
        self._normals = self._suspects = self._rejections = self._next_look = 0
        self._proven = -1  # suspect frames before it are rejected; -1 while nothing is proven
        self._held: NDArray[np.int64] = np.zeros(0, np.int64)
        self._proof = _PROOF_LINES * plan.line
        self._most_held = min(_MOST_HELD_LINES * plan.line, plan.expected // 2)
        self.given_up = False
        self.rejected = np.zeros(plan.expected, np.bool_)
        """(expected,) by frame number."""

    def judge(self, frames: NDArray[np.int64], positions_m: NDArray[np.float64]) -> NDArray[np.int64]:
        """Take frames whose position has become known; return those, ascending, that may be used from now on.

        Args:
            frames: (n,) numbers, ascending, each but once.
            positions_m: (n, 2) in the coordinates of the plan.
        """
        if self.given_up:
            return frames
        suspect = self._suspect(frames, positions_m)
        passed = frames[~suspect]
        self._verdicts[frames] = np.where(suspect, -1, 1)
        self._normals += len(passed)
        if suspect.any():
            self._suspects += int(suspect.sum())
            self._held = np.union1d(self._held, frames[suspect])
        if not len(self._held):
            return passed
        self._reject_proven()
        if len(self._held) <= self._most_held:
            return passed
        self.given_up = True
        return np.union1d(passed, self._release())

    def finish(self) -> NDArray[np.int64]:
        """Judge what is held, because no more positions will come; return the frames that may be used after all."""
        self._look()
        if self._trusted and self._proven >= 0:
            self._reject(np.ones(len(self._held), np.bool_))
        self.given_up |= len(self._held) > 0
        return self._release()

    @property
    def rejections(self) -> int:
        """How many frames are rejected."""
        return self._rejections

    @property
    def _trusted(self) -> bool:
        return self._normals >= _PROOF_RATIO * self._suspects

    def _suspect(self, frames: NDArray[np.int64], positions_m: NDArray[np.float64]) -> NDArray[np.bool_]:
        outside: NDArray[np.bool_] = np.any((positions_m < self._lower) | (positions_m > self._upper), axis=1)
        if self._plan.expected == self._plan.line:
            return outside
        slow = 1 - self._plan.fast
        commanded = self._plan.start_m[slow] + frames // self._plan.line * self._plan.step_m[slow]
        return outside | (np.abs(positions_m[:, slow] - commanded) > self._tolerance[slow])

    def _reject_proven(self) -> None:
        if self._trusted and self._normals >= max(self._next_look, self._proof):
            self._next_look = self._normals + max(1, self._proof // 8)
            self._look()
            self._reject(self._held < self._proven)

    def _look(self) -> None:
        """Find the last run of frames that are where they should be which is long enough to prove what it follows."""
        known = np.flatnonzero(self._verdicts)
        edges = np.flatnonzero(np.diff(self._verdicts[known] > 0, prepend=False, append=False)).reshape(-1, 2)
        long = edges[edges[:, 1] - edges[:, 0] >= self._proof]
        if len(long):
            self._proven = max(self._proven, int(known[long[-1, 0]]))

    def _reject(self, chosen: NDArray[np.bool_]) -> None:
        self.rejected[self._held[chosen]] = True
        self._rejections += int(chosen.sum())
        self._held = self._held[~chosen]

    def _release(self) -> NDArray[np.int64]:
        held, self._held = self._held, self._held[:0]
        return held
