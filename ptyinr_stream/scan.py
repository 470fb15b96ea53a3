"""One scan while it lasts: frames wait here for their positions, and whatever is not joined is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import Batch
from ptyinr_stream.events import RunStarted
from ptyinr_stream.optics import ScanPlan
from ptyinr_stream.samples import SampleTable

# A start document that comes late finds thousands of frames: joined in portions, memory never holds them twice. Blocks
# of more than 32 MB would come from the kernel page by page, every time: that costs as much as decoding.
_LARGEST_BATCH = 64

Reason = Literal["complete", "settled", "superseded", "idle", "stopped"]


@dataclass(frozen=True, eq=False)
class Frame:
    """A diffraction pattern; `(series, frame)` is its only identity."""

    series: int
    frame: int
    counts: NDArray[Any]
    """(h, w) photon counts, DC in the centre."""
    mask: NDArray[np.bool_] | None = None
    """(h, w) True where trusted; None trusts all."""

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        return self.counts.nbytes + (0 if self.mask is None else self.mask.nbytes)


@dataclass(frozen=True)
class Joined:
    """Frames of a scan that have found their positions."""

    uid: str
    batch: Batch


@dataclass(frozen=True)
class ScanReport:
    """What became of everything that arrived for a scan.

    `frames` is the sum of `paired`, `duplicates`, `surplus`, `misfits` and `without_position`.
    """

    expected: int
    frames: int
    """Received, of whatever fate."""
    paired: int
    duplicates: int
    """Dropped: the first of its number counts."""
    surplus: int
    """Dropped: numbered beyond `expected`, as noise on the trigger line makes them."""
    misfits: int
    """Dropped: of another shape or data type than the scan's first frame."""
    without_position: int
    without_frame: int
    """Positions whose frame never came."""
    partial_positions: int
    """Of `paired`, those whose position is the mean of fewer samples than there should be."""
    surplus_samples: int
    """Encoder samples beyond the last frame's: many of them mean a wrong `samples_per_frame`."""
    foreign: int
    """Frames that were dropped while the scan was open because they belonged to no open run."""
    exit_status: str | None
    """Of the stop document; None if there was none."""
    reason: Reason

    @property
    def lost(self) -> int:
        """Frames that never came."""
        return self.expected - self.paired - self.without_position


class Scan:
    """All state of a scan, from its start document to its report.

    With `zero="scan_start"` the encoders read zero anywhere, and one constant offset lays frame 0 on the commanded
    start; nothing is joined before it is known. If frame 0 still lacks samples when as many frames as make a line have
    theirs, they were lost: then the lowest frame with a position is laid where the plan meant it to be. The close of
    the scan does the same at the latest.
    """

    def __init__(self, started: RunStarted, plan: ScanPlan, zero: Literal["motor", "scan_start"], now: float) -> None:
        self.uid = started.uid
        self.plan = plan
        self.opened = self.last = now
        self.documented = False
        """Whether another document has followed the start document."""
        self.stopped = False
        self.superseded = False
        self.exit_status: str | None = None
        self.samples: SampleTable | None = None
        self._offset_m: NDArray[np.float64] | None = np.zeros(2) if zero == "motor" else None
        self._waiting: dict[int, Frame] = {}
        self._seen: set[int] = set()
        self._form: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._counts: Counter[str] = Counter()

    def take(self, frames: Iterable[Frame]) -> list[Joined]:
        """Accept frames of this scan's series and join those whose positions are known."""
        new = []
        for frame in frames:
            form = (frame.counts.shape, frame.counts.dtype)
            self._counts["frames"] += 1
            if frame.frame >= self.plan.expected:
                self._counts["surplus"] += 1
            elif frame.frame in self._seen:
                self._counts["duplicates"] += 1
            elif self._form not in (None, form):
                self._counts["misfits"] += 1
            else:
                self._form = form
                self._seen.add(frame.frame)
                self._waiting[frame.frame] = frame
                new.append(frame.frame)
        return self._pair(new)

    def take_samples(self, samples: SampleTable, frames: Iterable[int], surplus: int = 0) -> list[Joined]:
        """Accept that `frames` have just got their last sample in the table of this scan's capture."""
        self.samples = samples
        self._counts["surplus_samples"] += surplus
        return self._pair(frames)

    def ending(self, now: float, quiet_s: float, settle_s: float, idle_s: float) -> Reason | None:
        """Say why the scan is over, None while it is not.

        Args:
            now: the time.
            quiet_s: how long nothing has arrived on any road.
            settle_s: how long stragglers may still arrive.
            idle_s: how long the roads may be silent.
        """
        # All frames may have been waiting for a late start document: its baseline is then still on the way.
        if self.paired == self.plan.expected and (self.documented or now - self.opened >= settle_s):
            return "complete"
        if now - self.last >= settle_s:
            if self.stopped:
                return "settled"
            if self.superseded:
                return "superseded"
        return "idle" if self._seen and quiet_s >= idle_s else None

    def finish(self) -> list[Joined]:
        """Join what is left: frames of which some samples on each axis are known."""
        if self.samples is None or not self._waiting:
            return []
        known = self.samples.known_frames()
        if self._offset_m is None and len(known):
            complete = self.samples.complete_frames()
            self._anchor(self.samples, int((complete if len(complete) else known)[0]))
        rest = [number for number in known.tolist() if number in self._waiting]
        self._counts["partial_positions"] += sum(not self.samples.is_complete(number) for number in rest)
        return self._join(self.samples, rest)

    def report(self, reason: Reason, foreign: int) -> ScanReport:
        """Account for everything that arrived."""
        known = [] if self.samples is None else self.samples.known_frames().tolist()
        counts = self._counts
        return ScanReport(
            expected=self.plan.expected,
            frames=counts["frames"],
            paired=self.paired,
            duplicates=counts["duplicates"],
            surplus=counts["surplus"],
            misfits=counts["misfits"],
            without_position=len(self._waiting),
            without_frame=sum(number not in self._seen for number in known),
            partial_positions=counts["partial_positions"],
            surplus_samples=counts["surplus_samples"],
            foreign=foreign,
            exit_status=self.exit_status,
            reason=reason,
        )

    @property
    def frames(self) -> int:
        """Received so far."""
        return self._counts["frames"]

    @property
    def paired(self) -> int:
        """Joined so far."""
        return len(self._seen) - len(self._waiting)

    def _pair(self, frames: Iterable[int]) -> list[Joined]:
        samples = self.samples
        if samples is None:
            return []
        if self._offset_m is None:
            if samples.is_complete(0):
                self._anchor(samples, 0)
            elif samples.completed >= self.plan.line:
                self._anchor(samples, int(samples.complete_frames()[0]))
            else:
                return []
            frames = list(self._waiting)  # whatever waited for the anchor
        ready = sorted(frame for frame in frames if frame in self._waiting and samples.is_complete(frame))
        return self._join(samples, ready)

    def _anchor(self, samples: SampleTable, frame: int) -> None:
        self._offset_m = samples.positions_m([frame])[0] - self.plan.commanded_m(frame)

    def _join(self, samples: SampleTable, numbers: list[int]) -> list[Joined]:
        joined: list[Joined] = []
        if self._offset_m is None:
            return joined
        for start in range(0, len(numbers), _LARGEST_BATCH):
            portion = numbers[start : start + _LARGEST_BATCH]
            frames = [self._waiting.pop(number) for number in portion]
            positions = samples.positions_m(portion) - self._offset_m
            joined.append(Joined(self.uid, _batch(frames, positions)))
        return joined


def _batch(frames: list[Frame], positions_m: NDArray[np.float64]) -> Batch:
    mask = None
    if any(frame.mask is not None for frame in frames):
        mask = _stacked([np.ones(f.counts.shape, bool) if f.mask is None else f.mask for f in frames])
    return Batch(
        indices=np.array([frame.frame for frame in frames], np.int64),
        counts=_stacked([frame.counts for frame in frames]),
        positions_m=positions_m,
        mask=mask,
    )


def _stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    """Along a new first axis; one alone is not copied."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)
