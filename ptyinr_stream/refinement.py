"""When a reconstruction is done: rates stay up while training gains, then fall, and that is the end.

After the last frame training goes on at full rates until the error of what is held out has stalled, but at most until
it must cool down within its time; cooling takes a third of the time, in which noisy weights settle.
"""

from __future__ import annotations

import math

from ptyinr.annealing import annealed

COOLING = 1 / 3
"""Of the time, in which the rates fall."""
GAIN = 0.01
"""By which the error must fall, relative to itself, for training to gain."""
PATIENCE = 1 / 6
"""Of the time, without a gain."""


class Refinement:
    """The end of one scan.

    >>> end = Refinement(began=100.0, seconds=90.0)
    >>> end.judge(0.40, 103.0); end.judge(0.38, 110.0); end.judge(0.379, 126.0)
    >>> end.factor(126.0), end.over(126.0), round(end.ends_at)
    (1.0, False, 156)
    """

    def __init__(self, began: float, seconds: float) -> None:
        """`seconds` is all that it may take; 0 takes none."""
        self._seconds = seconds
        self._least, self._gained_at = math.inf, began
        self._cools_from = began + (1 - COOLING) * seconds

    @property
    def ends_at(self) -> float:
        """When it will be over, as things stand."""
        return self._cools_from + COOLING * self._seconds

    def judge(self, error: float | None, now: float) -> None:
        """Take note of an error of what is held out; None, and nothing is known, keeps training to its time."""
        if error is None or now >= self._cools_from:
            return
        if error < (1 - GAIN) * self._least:
            self._least, self._gained_at = error, now
        elif now - self._gained_at >= PATIENCE * self._seconds:
            self._cools_from = now

    def factor(self, now: float) -> float:
        """Of the learning rates."""
        if now <= self._cools_from or not self._seconds:
            return 1.0
        return annealed((now - self._cools_from) / (COOLING * self._seconds))

    def over(self, now: float) -> bool:
        """Whether that was all."""
        return now >= self.ends_at
