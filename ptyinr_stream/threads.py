"""How many threads take a step: all of them, or one where others want the processor.

Threads wait for each other a few hundred times in a step. Where another program wants a core, each time means waiting
for a turn. The Siemens star on two cores, steps a second with both and with one, beside none, one and two programs
that want a core each: 18.3 and 11.5, 6.5 and 12.2, 0.5 and 8.8 (2026-11-26, `shared_cores.py`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

import torch

FIRST_S, LONGEST_S = 5.0, 60.0
"""Until the other number is tried; twice as long after each time in vain."""
GAIN = 0.8
"""The part of a step's time at which the other number is worth a change."""
SUDDENLY = 2.0
"""Growth of a step's time since the last try that is reason enough for another."""
_REMEMBERED, _ENOUGH_S = 5, 1.0
"""Steps by which a number is judged; fewer if they take so long together."""
_TRIES = 2
"""Steps that are tried, the shortest of which counts: the first may have to wake threads."""

_log = logging.getLogger(__name__)


class Threads:
    """Chooses while steps are taken."""

    def __init__(self, most: int | None = None) -> None:
        """`most` threads, by default as many as torch would use."""
        self._most = torch.get_num_threads() if most is None else most
        self.number = self._most
        """Of threads, by now."""
        self._taken: deque[float] = deque(maxlen=_REMEMBERED)
        self._tried: list[float] = []
        self._pause_s, self._again, self._usual = FIRST_S, 0.0, 0.0

    @contextmanager
    def step(self, now: Callable[[], float]) -> Iterator[None]:
        """Around a step; `now` tells the seconds."""
        if self._most < 2:
            yield
            return
        began = now()
        known = len(self._taken) == _REMEMBERED or sum(self._taken) >= _ENOUGH_S
        trying = known and (began >= self._again or median(self._taken) > SUDDENLY * self._usual)
        torch.set_num_threads(self._other if trying else self.number)
        try:
            yield
        finally:
            torch.set_num_threads(self.number)
        if trying:
            self._judge(now() - began, now())
        else:
            self._taken.append(now() - began)

    @property
    def _other(self) -> int:
        return 1 if self.number > 1 else self._most

    def _judge(self, took: float, now: float) -> None:
        self._tried.append(took)
        usual = median(self._taken)
        better = took < GAIN * usual
        if not better and took * GAIN < usual and len(self._tried) < _TRIES:
            return
        self._tried.clear()
        self._usual = usual
        self._pause_s = FIRST_S if better else min(2 * self._pause_s, LONGEST_S)
        self._again = now + self._pause_s
        if better:
            _log.info("steps take %.2f s with %d threads, and %.2f s with %d", usual, self.number, took, self._other)
            self.number = self._other
            self._taken.clear()
