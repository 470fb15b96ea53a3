"""How the learning rates fall towards the end of a reconstruction whose length is known."""

from __future__ import annotations

LEAST_ANNEAL = 0.1
"""Factor on the learning rates at the end; they fall linearly from 1."""


def annealed(progress: float) -> float:
    """Factor on the learning rates when `progress` of the given time, 0 to 1 and no more, is over.

    >>> [round(annealed(progress), 9) for progress in (0.0, 0.5, 1.0, 7.0)]
    [1.0, 0.55, 0.1, 0.1]
    """
    return 1.0 - (1.0 - LEAST_ANNEAL) * min(progress, 1.0)
