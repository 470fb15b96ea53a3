"""Whether the detector took a frame for every trigger: its own times against those of the encoder samples. Pure.

A missed trigger leaves no hole in the detector's frame numbers: all frames after it lie one position too early. But the
turn of the stage at the end of a line shows in both clocks. The gap between two lines that the PandA saw after trigger
p and the detector after frame g tells that from there on frame g has the position of trigger p: p - g were missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_A_GAP = 1.5
"""Times the usual interval: a longer one is the end of a line, or a missed trigger."""
_SAME_GAP = 0.4
"""Intervals that differ by less than this part of a period are the same gap."""
_REACH = 16
"""Frames round the expected one in which a line's end is looked for."""


@dataclass(frozen=True)
class Alignment:
    """What the line ends of a scan say."""

    verdict: Literal["unchecked", "agrees", "suspect"] = "unchecked"
    lines: tuple[int, ...] = ()
    """At whose end frame and trigger numbers differ, ascending."""
    offsets: tuple[int, ...] = ()
    """For each of them: triggers that have no frame so far; negative: frames that have no trigger."""
    checked: int = 0
    """Lines whose end both clocks have seen."""


def alignment(frame_starts_s: Mapping[int, float], trigger_times_s: NDArray[np.float64], line: int) -> Alignment:
    """Compare the ends of lines.

    Args:
        frame_starts_s: by frame number, in seconds of the detector's clock.
        trigger_times_s: (n,) of the first sample of each frame, in seconds of the PandA's clock; NaN where unknown.
        line: frames of a line.
    """
    triggers = np.diff(trigger_times_s)
    known = np.isfinite(triggers)
    if len(frame_starts_s) < 3 or known.sum() < 3:
        return Alignment()
    numbers = np.array(sorted(frame_starts_s), np.int64)
    starts = np.array([frame_starts_s[number] for number in numbers.tolist()])
    intervals = np.where(np.diff(numbers) == 1, np.diff(starts), np.nan)
    measured = np.isfinite(intervals)
    if measured.sum() < 3:
        return Alignment()
    period = float(np.median(triggers[known]))
    if period <= 0:
        return Alignment()
    ends = np.flatnonzero(known & (triggers > _A_GAP * period))
    ends = ends[(ends + 1) % line == 0]
    gaps = numbers[:-1][measured & (intervals > _A_GAP * period)]
    lengths = intervals[measured & (intervals > _A_GAP * period)]
    offset, checked = 0, 0
    found: list[tuple[int, int]] = []
    for end in ends.tolist():
        near = slice(*np.searchsorted(gaps, [end - offset - _REACH, end - offset + _REACH + 1]))
        same = np.abs(lengths[near] - triggers[end]) < _SAME_GAP * period
        if not same.any():
            continue
        candidates = gaps[near][same]
        offset = end - int(candidates[np.abs(candidates - (end - offset)).argmin()])
        checked += 1
        if offset:
            found.append((end // line, offset))
    if not checked:
        return Alignment()
    lines, offsets = zip(*found, strict=True) if found else ((), ())
    return Alignment("suspect" if found else "agrees", lines, offsets, checked)
