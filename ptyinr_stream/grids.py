"""The places a scan is made of: as its motors are commanded, and as they lie along the axes of the object array."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import ScanRange

Pair = tuple[float, float]


@dataclass(frozen=True)
class Commanded:
    """What a plan commands, in the motors' own coordinates; in each pair the fast motor comes first."""

    kind: str
    """`scan.type`, else the name of the plan."""
    motors: tuple[str, str]
    """Their names, empty where the document has none."""
    shape: tuple[int, int]
    """Frames of a line, and lines."""
    ends_um: tuple[Pair, Pair]
    """Each motor's range; its ends in any order."""
    start_um: Pair
    """Where frame 0 lies."""
    steps_um: Pair
    """Signed; from frame to frame and from line to line."""
    snake: bool = False
    """Every second line runs backwards."""
    drift: bool = False
    """The slow motor moves on while a line is recorded."""
    returns: int = 0
    """Lines after which the slow motor goes back to its start; 0 is never."""
    points_um: tuple[Pair, ...] | None = None
    """Each frame's place, of a plan that lists them."""
    path_known: bool = True
    """Where False only the range and the start are: all other places must be measured."""
    relative: bool = False
    """Coordinates are relative to where the motors stood."""


@dataclass(frozen=True)
class ScanPlan:
    """The commanded grid, along the axes of the object array."""

    expected: int
    """Frames, lines times frames per line."""
    range: ScanRange
    line: int
    """Frames along the fast axis."""
    fast: Literal[0, 1]
    """The array axis along which the fast motor moves."""
    start_m: Pair
    """Where frame 0 lies: of a grid, the corner it begins in."""
    step_m: Pair
    """Signed; from frame to frame along the fast axis, from line to line along the other."""
    snake: bool = False
    """Every second line runs backwards."""
    drift: bool = False
    """The slow motor moves on while a line is recorded."""
    returns: int = 0
    """Lines after which the slow motor goes back to its start; 0 is never."""
    points_m: tuple[Pair, ...] | None = None
    """Each frame's place, of a plan that lists them."""
    path_known: bool = True
    """Where False only the range and the start are: all other places must be measured."""

    def commanded_m(self, frames: int | NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the plan meant a frame to be, in metres along (axis 0, axis 1); the start, where the path is unknown.

        Of a fly scan it is the lower end of the exposure, in either direction: everywhere as far from its centre.

        Args:
            frames: numbers, of any shape (...); what is given is (..., 2).
        """
        if self.points_m is not None:
            return self._points[frames]
        line, place = np.divmod(frames, self.line)
        if not self.path_known:
            return np.broadcast_to(np.array(self.start_m), (*line.shape, 2))
        slow = (line % self.returns if self.returns else line) + (place / self.line if self.drift else 0)
        if self.snake:
            place = np.where(line % 2, self.line - 1 - place, place)
        steps = np.stack((place, slow) if self.fast == 0 else (slow, place), axis=-1)
        return np.array(self.start_m) + steps * np.array(self.step_m)

    @cached_property
    def _points(self) -> NDArray[np.float64]:
        return np.array(self.points_m)


def laid(plan: Commanded, motors: tuple[Literal[0, 1], Literal[0, 1]], factors: Pair) -> ScanPlan:
    """Lay a plan over the axes of the object array.

    Args:
        plan: what the motors do.
        motors: which of them (0 fast, 1 slow) moves along axis 0 and axis 1.
        factors: of axis 0 and axis 1: of its motor's coordinate in that along it, with their sign.
    """

    def lay(place: Pair) -> Pair:
        return factors[0] * place[motors[0]] / 1e6, factors[1] * place[motors[1]] / 1e6

    corners = [lay((plan.ends_um[0][end], plan.ends_um[1][end])) for end in (0, 1)]
    along = list(zip(*corners, strict=True))  # the ends on each axis
    return ScanPlan(
        expected=math.prod(plan.shape),
        range=ScanRange(pair(map(min, along)), pair(map(max, along))),
        line=plan.shape[0],
        fast=0 if motors[0] == 0 else 1,
        start_m=lay(plan.start_um),
        step_m=lay(plan.steps_um),
        snake=plan.snake,
        drift=plan.drift,
        returns=plan.returns,
        points_m=None if plan.points_um is None else tuple(lay(point) for point in plan.points_um),
        path_known=plan.path_known,
    )


def pair(values: Iterable[float]) -> Pair:
    """Exactly two numbers."""
    first, second = values
    return first, second
