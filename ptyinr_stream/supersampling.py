"""How many encoder samples make a frame: believed, and checked against the times of the samples themselves. Pure.

Samples are taken inside exposures only, S of them at an even pace; between frames there is the detector's dead time,
between lines the turn of the stage. So gaps in `PCAP.TS_TRIG` stand S samples apart, or S times a line where dead time
is too short to be seen. A wrong S would shear the scan without any other sign; it must be found before the first frame
is placed. The number of samples at the capture's end tells once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ENOUGH_SAMPLES = 128
"""Without a gap in so many samples, or in somewhat more than a line, there is none to be seen: frames are placed."""
_MOST_PATIENCE = 4096
_LEAST_DISTANCES = 8
_UNANIMOUS = 0.9
_MOST_LOOKED_AT = 2**16

Verdict = Literal["unchecked", "agrees", "contradicts", "followed"]


@dataclass(frozen=True)
class Supersampling:
    """Whether the samples of a scan bear out the number that makes a frame."""

    verdict: Verdict = "unchecked"
    """`unchecked`: they tell nothing; `followed`: the number they showed took the place of the configured one."""
    per_frame: int = 0
    """Used."""
    seen: int | None = None
    """What they show, where they do."""

    def __str__(self) -> str:
        if self.verdict != "contradicts":
            return self.verdict
        right = "there are too many of them" if self.seen is None else f"{self.seen} would have been right"
        return f"samples_per_frame is {self.per_frame}, which the encoder samples contradict: {right}"


@dataclass(frozen=True)
class Groups:
    """The groups that gaps divide samples into."""

    size: int
    """Samples from gap to gap."""
    nested: int | None
    """Every so many gaps there is a much longer one: the first are between frames, the longer ones between lines."""


def groups(times_s: NDArray[np.float64]) -> Groups | None:
    """Find how many samples lie from gap to gap; None where they do not agree about it.

    Args:
        times_s: (n,) when samples were taken, NaN where that is not known.
    """
    steps = np.diff(times_s)
    known = np.isfinite(steps)
    if known.sum() < 2 * _LEAST_DISTANCES:
        return None
    pace = float(np.quantile(steps[known], 0.2))
    even = steps[known & (steps <= np.quantile(steps[known], 0.4))]
    jitter = float(np.median(np.abs(even - pace)))
    if pace <= 0:
        return None
    begins = np.flatnonzero(known & (steps > pace + max(5e-3 * pace, 8 * jitter))) + 1
    holes = np.concatenate([[0], np.cumsum(~known)])
    whole = np.diff(holes[begins - 1]) == 0 if len(begins) else np.zeros(0, bool)
    distances = np.diff(begins)[whole]
    if len(distances) < _LEAST_DISTANCES:
        return None
    sizes, counts = np.unique(distances, return_counts=True)
    size = int(sizes[counts.argmax()])
    if counts.max() < _UNANIMOUS * len(distances):
        return None
    gaps = steps[begins - 1]
    long = np.flatnonzero(gaps > 1.5 * np.median(gaps)) if len(gaps) > 2 else np.zeros(0, int)
    apart = np.unique(np.diff(begins[long]) // size)
    return Groups(size, int(apart[0]) if len(apart) == 1 else None)


class SupersamplingCheck:
    """Compares one scan's samples with what is believed, as they come.

    Args:
        per_frame: samples that are believed to make a frame.
        line: frames of a line.
        expected: frames of the scan.
    """

    def __init__(self, per_frame: int, line: int, expected: int) -> None:
        self._line = line
        self._expected = expected
        self._next_look = ENOUGH_SAMPLES
        self._patience = ENOUGH_SAMPLES
        if per_frame > 1 and line < expected:
            # Lines seen where frames should be are as good a sign that S is 1.
            self._patience = max(ENOUGH_SAMPLES, min(11 * line * per_frame // 10, _MOST_PATIENCE))
        self._patience = min(self._patience, expected * per_frame)
        self.result = Supersampling(per_frame=per_frame)

    @property
    def contradicted(self) -> bool:
        """Whether no frame may be placed any more."""
        return self.result.verdict == "contradicts"

    def ready(self, timed: bool, extent: int) -> bool:
        """Tell whether frames may be placed: as soon as samples agree, or have had the time to contradict."""
        if self.result.verdict == "unchecked":
            return not timed or extent >= self._patience
        return not self.contradicted

    def look(self, times_s: NDArray[np.float64]) -> None:
        """Look at the times of all samples so far; costs nothing until there are a quarter more than the last time."""
        if self.result.verdict != "unchecked" or len(times_s) < self._next_look:
            return
        self._next_look = len(times_s) * 5 // 4
        found = groups(times_s[-_MOST_LOOKED_AT:])
        if found is None:
            return
        per_frame, line = self.result.per_frame, self._line
        of_frames = found.nested == line or found.size % line != 0
        of_lines = found.size % line == 0 and found.nested is None
        if of_frames and of_lines:
            return
        if found.size == per_frame * line or (found.size == per_frame and of_frames):
            self._conclude("agrees", per_frame)
        elif found.size != per_frame:  # else frames of S samples or lines of S frames: not to be told apart
            self._conclude("contradicts", found.size if of_frames else found.size // line)

    def overrun(self, surplus: int) -> None:
        """Take notice of the number of samples beyond the last frame's: half a scan's worth are too many."""
        if 2 * surplus > self._expected * self.result.per_frame + ENOUGH_SAMPLES and not self.contradicted:
            self._conclude("contradicts", None)

    def ended(self, samples: int, frames: int) -> None:
        """Take notice of a capture that is over: of its number of samples, none being lost, and of frames seen so far.

        Fewer samples than there should be are those of a scan that was aborted, unless more frames have come.
        """
        times, rest = divmod(samples, self._expected)
        per_frame = self.result.per_frame
        if not times or rest or self.result.verdict == "followed":
            return
        if times >= per_frame or frames > samples // per_frame + 1:
            self._conclude("agrees" if times == per_frame else "contradicts", times)

    def follow(self) -> int | None:
        """Believe what the samples show, if it is a number: it is returned, and `result` says so."""
        seen = self.result.seen
        if seen is not None:
            self.result = Supersampling("followed", seen, seen)
        return seen

    def _conclude(self, verdict: Verdict, seen: int | None) -> None:
        self.result = Supersampling(verdict, self.result.per_frame, seen)
