"""One scan while it lasts: frames wait here for their positions, and whatever is not joined is counted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import Batch
from ptyinr_stream.alignment import alignment
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.frame_blocks import side_by_side, stacked
from ptyinr_stream.motors import Layout
from ptyinr_stream.outputs import Joined
from ptyinr_stream.placement import Placement
from ptyinr_stream.samples import SampleTable
from ptyinr_stream.scan_report import Reason, ScanReport, ranges
from ptyinr_stream.waiting import Frame, Waiting

_log = logging.getLogger(__name__)


class Scan:
    """All state of a scan, from its opening to its report.

    Args:
        uid: of the run.
        document: the start document.
        layout: what it commands and how its encoders are read.
        positions: where encoders read zero, and where samples have their times.
        assembly: when it ends, and what is checked.
        now: the time.
    """

    def __init__(
        self,
        uid: str,
        document: dict[str, Any],
        layout: Layout,
        positions: PositionsConfig,
        assembly: AssemblyConfig,
        now: float,
    ) -> None:
        self.uid = uid
        self.document = document
        self.layout = layout
        self.plan = plan = layout.plan
        self.opened = self.last = now
        self.placement = Placement(layout, positions, assembly)
        self.undocumented = False
        """Opened by its streams alone."""
        self.documented_as: str | None = None
        """The uid of a start document that came when the scan had been opened without."""
        self.documented = False
        """Whether another document has followed the start document."""
        self.stopped = False
        self.superseded = False
        self.series_over = self.capture_over = False
        self.exit_status: str | None = None
        self.fill_until: float | None = None
        """How long frames that are missing may still be brought; None before anybody was asked for them."""
        self.headed = False
        """Whether the header of its series has been seen."""
        self.frame_starts_s: Mapping[int, float] = {}
        self._waiting = Waiting(1e6 * assembly.waiting_mb)
        self._seen = np.zeros(plan.expected, np.bool_)
        self._unplaced = np.zeros(plan.expected, np.bool_)  # dropped before they had a position
        self._gated = 0  # frames that are dropped
        self._gate_seen = 0  # frames rejected, when waiting ones were last looked through
        self._form: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._counts: Counter[str] = Counter()
        self.paired = 0
        """Joined so far."""

    def take(self, frames: Iterable[Frame], now: float) -> list[Joined]:
        """Accept frames of this scan's series and join those whose positions are known."""
        ready: list[Frame] = []
        placed, gate = self.placement.placed, self.placement.gate
        for frame in frames:
            number = frame.frame
            form = (frame.counts.shape, frame.counts.dtype)
            self._counts["frames"] += 1
            if number >= self.plan.expected:
                self._counts["surplus"] += 1
            elif self._seen[number]:
                self._counts["duplicates"] += 1
            elif self._form not in (None, form):
                self._counts["misfits"] += 1
            else:
                self._form = form
                self._seen[number] = True
                if placed[number]:
                    ready.append(frame)
                elif gate is not None and gate.rejected[number]:
                    self._gated += 1
                elif self.placement.stopped:
                    self._unplaced[number] = True
                elif gone := self._waiting.add(frame):
                    self._drop(gone)
        return self._join(sorted(ready, key=lambda frame: frame.frame) if len(ready) > 1 else ready, now)

    def bind_samples(self, table: SampleTable, now: float) -> list[Joined]:
        """Accept the samples of this scan's capture."""
        return self._pair(self.placement.bind(table), now)

    def take_samples(self, first: int, end: int, surplus: int, now: float) -> list[Joined]:
        """Accept that samples [first, end) are in the table, and `surplus` more came beyond the last frame's."""
        return self._pair(self.placement.update(first, end, surplus), now)

    def end_samples(self, intact: int | None, now: float) -> list[Joined]:
        """Accept that the capture is over after `intact` samples; None if some of them were lost."""
        self.capture_over = True
        if intact is None:
            return []
        seen = np.flatnonzero(self._seen)
        return self._pair(self.placement.ended(intact, int(seen[-1]) + 1 if len(seen) else 0), now)

    def ending(self, now: float, quiet_s: float, settle_s: float, idle_s: float) -> Reason | None:
        """Say why the scan is over, None while it is not.

        Args:
            now: the time.
            quiet_s: how long nothing has arrived on any road.
            settle_s: how long stragglers may still arrive.
            idle_s: how long the roads may be silent.
        """
        # All frames may have been waiting for a late start document: its baseline is then still on the way.
        if self.whole and (self.documented or now - self.opened >= settle_s):
            return "complete"
        if now - self.last >= settle_s:
            if self.stopped or (self.undocumented and self.series_over and self.capture_over):
                return "settled"
            if self.superseded:
                return "superseded"
        return "idle" if self._form is not None and quiet_s >= idle_s else None

    def missing(self) -> NDArray[np.int64]:
        """Frames, ascending, that have not come though their position is known and good."""
        known = self.placement.known_frames()
        gate = self.placement.gate
        wanted = ~self._seen[known] if gate is None else ~self._seen[known] & ~gate.rejected[known]
        return known[wanted]

    def finish(self, now: float) -> list[Joined]:
        """Join what is left: frames of which some samples on each axis are known."""
        ready, partial = self.placement.finish()
        self._counts["partial_positions"] += sum(number in self._waiting for number in partial.tolist())
        return self._pair(ready, now)

    def report(self, reason: Reason, foreign: int) -> ScanReport:
        """Account for everything that arrived."""
        counts, placement = self._counts, self.placement
        known = placement.known_frames()
        unplaced = self._unplaced.copy()
        unplaced[list(self._waiting)] = True
        first = int(self._seen.argmax())
        gate = placement.gate
        return ScanReport(
            expected=self.plan.expected,
            frames=counts["frames"],
            paired=self.paired,
            duplicates=counts["duplicates"],
            surplus=counts["surplus"],
            misfits=counts["misfits"],
            without_position=int(unplaced.sum()),
            dropped_for_memory=counts["dropped_for_memory"],
            without_frame=int((~self._seen[known]).sum()),
            partial_positions=counts["partial_positions"],
            surplus_samples=placement.surplus,
            foreign=foreign,
            exit_status=self.exit_status,
            reason=reason,
            gated=self._gated,
            gated_frames=() if gate is None else ranges(gate.rejected & self._seen & ~unplaced),
            missing_frames=ranges(~self._seen),
            unplaced_frames=ranges(unplaced),
            partial_start=not self.headed and bool(self._seen.any()) and first > 0,
            gate="off" if gate is None else "given up" if gate.given_up else "on",
            alignment=alignment(self.frame_starts_s, placement.trigger_times_s(), self.plan.line),
            supersampling=placement.supersampling,
            span_ratios=placement.span_ratios(),
        )

    @property
    def whole(self) -> bool:
        """Whether every frame has been joined, or kept out by the gate."""
        return self.paired + self._gated == self.plan.expected

    @property
    def frames(self) -> int:
        """Received so far."""
        return self._counts["frames"]

    def _drop(self, numbers: list[int]) -> None:
        """Count frames that memory has no room for until they have a position, which they may get all the same."""
        if not self._counts["dropped_for_memory"]:
            _log.warning(
                "scan %s: frames from %d on have no position, and fill the %g MB of assembly.waiting_mb: the oldest "
                "are dropped; does the position stream arrive?",
                *(self.uid, numbers[0], 1e-6 * self._waiting.most_bytes),
            )
        self._counts["dropped_for_memory"] += len(numbers)
        self._unplaced[numbers] = True

    def _pair(self, placed: NDArray[np.int64], now: float) -> list[Joined]:
        """Join frames that waited for positions which have just been `placed`, ascending."""
        if not self._waiting:
            return []
        gate = self.placement.gate
        if gate is not None and gate.rejections > self._gate_seen:
            self._gate_seen = gate.rejections
            for number in [number for number in self._waiting if gate.rejected[number]]:
                self._waiting.pop(number)
                self._gated += 1
        if self.placement.stopped:
            self._unplaced[list(self._waiting)] = True
            self._waiting.clear()
        return self._join([self._waiting.pop(k) for k in placed.tolist() if k in self._waiting], now)

    def _join(self, frames: list[Frame], now: float) -> list[Joined]:
        joined: list[Joined] = []
        for portion, counts in side_by_side([frame.counts for frame in frames]):
            indices = np.array([frame.frame for frame in frames[portion]], np.int64)
            batch = Batch(indices, counts, self.placement.positions_m(indices), _masks(frames[portion]))
            joined.append(Joined(self.uid, batch, now))
        self.paired += len(frames)
        return joined


def _masks(frames: list[Frame]) -> NDArray[np.bool_] | None:
    if all(frame.mask is None for frame in frames):
        return None
    return stacked([np.ones(frame.counts.shape, bool) if frame.mask is None else frame.mask for frame in frames])
