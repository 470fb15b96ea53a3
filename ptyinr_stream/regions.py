"""How well each region of a scan is reconstructed, and whether more training or more frames would help. Pure.

A region is a cell of a grid over the commanded range, about a window wide. Its error is that of the held-out frames
that lie in it, in units of the error that photon noise alone would leave them (0.25 in root counts); it has converged
when the error has stopped falling.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptyinr.types import Snapshot

NOISE = 0.25
"""Mean squared error of the root of a Poisson count."""
STILL = 0.02
"""Relative change of a region's error over the snapshots remembered below which it has converged."""
REMEMBERED = 4
"""Snapshots, the newest included."""


@dataclass(frozen=True)
class Region:
    """One cell; a region without a judge knows no error."""

    lower_um: tuple[float, float]
    """Of the corner, along (axis 0, axis 1)."""
    upper_um: tuple[float, float]
    frames: int
    """That lie in it."""
    error: float | None
    """Of its held-out frames, in units of photon noise: 1 is as good as data can be."""
    converged: float | None
    """From 0, still falling fast, to 1, still; None while there is nothing to compare with."""
    coverage: float
    """The part of it that light has reached."""

    def as_dict(self) -> dict[str, Any]:
        """For a message."""
        return asdict(self)


class Regions:
    """Looks at the snapshots of one scan, oldest first."""

    def __init__(self, cells: int = 8) -> None:
        """At most `cells` along each axis."""
        self._cells = cells
        self._errors: deque[np.ndarray] = deque(maxlen=REMEMBERED - 1)

    def look(self, snapshot: Snapshot) -> list[Region]:
        """The regions of the newest snapshot, row by row."""
        positions_um = 1e6 * snapshot.positions_m
        window = np.array(snapshot.probe.shape[-2:])
        lower, upper = positions_um.min(0), positions_um.max(0)
        pixel_um = 1e6 * np.array(snapshot.pixel_m)
        cells = np.clip(((upper - lower) / (window * pixel_um)).round().astype(int), 1, self._cells)
        place = np.clip(((positions_um - lower) / np.maximum(upper - lower, 1e-12) * cells).astype(int), 0, cells - 1)
        judged = place[np.searchsorted(snapshot.indices, snapshot.judges)]
        sums, judges = np.zeros(tuple(cells)), np.zeros(tuple(cells))
        np.add.at(sums, tuple(judged.T), snapshot.judged)
        np.add.at(judges, tuple(judged.T), 1)
        frames = np.zeros(tuple(cells), int)
        np.add.at(frames, tuple(place.T), 1)
        errors = np.where(judges > 0, sums / np.maximum(judges, 1) / NOISE, np.nan)
        same = [before for before in self._errors if before.shape == errors.shape]
        self._errors.append(errors)
        edges = [np.linspace(a, b, n + 1) for a, b, n in zip(lower, upper, cells, strict=True)]
        found = []
        for row, column in np.ndindex(*cells):
            box = tuple((float(e[k]), float(e[k + 1])) for e, k in zip(edges, (row, column), strict=True))
            before = float(same[0][row, column]) if len(same) == REMEMBERED - 1 else math.nan
            found.append(
                Region(
                    lower_um=(box[0][0], box[1][0]),
                    upper_um=(box[0][1], box[1][1]),
                    frames=int(frames[row, column]),
                    error=_known(float(errors[row, column])),
                    converged=_known(_stillness(before, float(errors[row, column]))),
                    coverage=_covered(snapshot, positions_um, box, pixel_um),
                )
            )
        return found


def _stillness(before: float, after: float) -> float:
    if not (math.isfinite(before) and after > 0):
        return math.nan
    return min(1.0, STILL / max(abs(before - after) / after, 1e-9))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _covered(
    snapshot: Snapshot, positions_um: np.ndarray, box: tuple[tuple[float, float], ...], pixel_um: np.ndarray
) -> float:
    """The lit part of a cell of positions, seen on the canvas around the middle of its windows."""
    middle = np.array(snapshot.probe.shape[-2:]) / 2
    origin = (snapshot.positions_px + middle - positions_um / pixel_um).mean(0)
    parts = []
    for (a, b), start, pixel, n in zip(box, origin, pixel_um, snapshot.coverage.shape, strict=True):
        first = int(np.clip(start + a / pixel, 0, n - 1))
        parts.append(slice(first, max(first + 1, int(np.clip(start + b / pixel, 0, n)))))
    return float((snapshot.coverage[tuple(parts)] > 0).mean())
