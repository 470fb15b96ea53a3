"""Training stands back while what has been received waits to be read.

Frames that are joined late are a picture that is late, and a sender that drops them or has to wait. Where training and
reception share a machine, the one slows the other even if each has a core: they share caches and memory.

2026-11-26, two cores, the sender on them, 256 x 256 pixels at 2,000/s beside training, the 99th percentile of the time
from a pair's last half to the pair, medians of three runs in turn: without this 1,041 ms, with waits of at most the
time of a step 190 ms, of at most three times that 97 ms; steps a second 18, 15 and 13. An hour later, when the machine
was slower: three times 143 ms, nine times 107 ms; a limit of 0.02 s for `LATE_S` 167 ms, of 0.008 s 95 ms. Going on as
soon as reading has caught up 110 ms and 16 steps a second; after it was in time for `CALM_S` 74 ms and 18, for 0.25 s
95 ms and 20. What was left, 40 to 140 ms once a scan, was a table that doubled (`samples`); without it 60 ms and 22;
with `CALM_STEPS` for short steps, an hour later, 42 ms and 34.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LATE_S = 0.01
"""A message that has waited so long before it was read shows that reading falls behind."""
CALM_STEPS, CALM_S = 2.0, 0.1
"""For so many times of the last step, and so long at most, messages have to be read in time before training goes on:
what was late is late again soon."""
MOST_STEPS = 9.0
"""The longest wait, in times of the last step: where reading is behind all the time, training keeps a tenth of its."""
MOST_S = 1.0
"""The longest wait after long steps, such as the search for a probe."""
_LOOK_S = 0.005


def give_way(late_s: Callable[[], float], step_s: float, pause: Callable[[float], object] = time.sleep) -> None:
    """Before a step, wait until messages are read in time again, and have been for a while.

    Args:
        late_s: how long the message that is being read had waited.
        step_s: what the last step took.
        pause: how to wait for some seconds.
    """
    calm = time.monotonic()
    until, calm_s = calm + min(MOST_STEPS * step_s, MOST_S), min(CALM_STEPS * step_s, CALM_S)
    while True:
        now = time.monotonic()
        if late_s() > LATE_S:
            calm = now + calm_s
        if now >= min(calm, until):
            return
        pause(min(_LOOK_S, until - now))
