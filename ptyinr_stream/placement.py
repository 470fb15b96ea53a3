"""Where the frames of a scan lie: encoder samples become positions that may be used, or reasons why not. Pure.

In this order: samples must bear out how many of them make a frame (`supersampling`), one constant offset lays the
encoders over the commanded range, and the gate keeps out what was taken while the stages settled (`gate`).
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.gate import PositionGate
from ptyinr_stream.motors import Layout, span_ratios
from ptyinr_stream.samples import FramePositions, SampleTable
from ptyinr_stream.supersampling import Supersampling, SupersamplingCheck

_log = logging.getLogger(__name__)

_STEADY_STEPS = 0.5
"""From one line to the next the slow axis may be off its command by so many steps more: 1 is an encoder that stands."""
_MOST_LINES_AWAITED = 16

_NONE = np.zeros(0, np.int64)


class Placement:
    """Positions of one scan's frames.

    With `zero = "scan_start"` encoders read zero anywhere, and one constant offset lays them over the commanded grid;
    nothing is placed before it is known. It is taken from the first two neighbouring lines along which the slow axis
    follows its command, by medians: the very first frame may be one of an encoder that had not settled. A scan of one
    line, and any scan without the gate, has its first frame laid where the plan meant it to be: frame 0, or the lowest
    there is when as many frames as make a line have a position. The close of the scan does that at the latest.
    """

    def __init__(self, layout: Layout, positions: PositionsConfig, assembly: AssemblyConfig) -> None:
        self._layout = layout
        self._plan = plan = layout.plan
        self._positions = positions
        self._follows = assembly.supersampling == "follow"
        self._check: SupersamplingCheck | None = None
        if assembly.supersampling != "ignore":
            self._check = SupersamplingCheck(layout.samples_per_frame, plan.line, plan.expected)
        self._gate = PositionGate(plan, assembly.gate_margin) if assembly.gate else None
        self._offset_m = np.zeros(2) if positions.zero == "motor" else None
        self._off: dict[int, NDArray[np.float64]] = {}  # how far off their command lines are, until there is an offset
        self._table: SampleTable | None = None
        self._at: FramePositions | None = None
        self._complete: list[NDArray[np.int64]] = []  # not yet placed
        self._told = False
        self.per_frame = layout.samples_per_frame
        self.surplus = 0
        """Samples that came beyond the last frame's."""
        self.placed = np.zeros(plan.expected, np.bool_)
        """(expected,) which frames may be joined."""
        if not any(layout.measured):
            self._check = self._gate = None
            self._offset_m = np.zeros(2)
            self._at = FramePositions(SampleTable(), layout, self.per_frame, plan.expected)
            self.placed[:] = True

    @property
    def table(self) -> SampleTable | None:
        """The samples of the scan's capture, once it has one."""
        return self._table

    @property
    def gate(self) -> PositionGate | None:
        """None where it is switched off."""
        return self._gate

    @property
    def supersampling(self) -> Supersampling:
        """What samples tell about their number."""
        return self._check.result if self._check else Supersampling(per_frame=self.per_frame)

    @property
    def stopped(self) -> bool:
        """Whether no frame is placed any more, because each would get the samples of another."""
        return self._check is not None and self._check.contradicted

    @property
    def end(self) -> int:
        """One more than the number of the last frame's last sample."""
        return self._plan.expected * self.per_frame

    def bind(self, table: SampleTable) -> NDArray[np.int64]:
        """Take the samples of the scan's capture, and all it has so far; return as `update` does."""
        self._table = table
        self._at = FramePositions(table, self._layout, self.per_frame, self._plan.expected)
        return self.update(0, table.extent)

    def update(self, first: int, end: int, surplus: int = 0) -> NDArray[np.int64]:
        """Take notice of samples [first, end) of the table; return the frames, ascending, that may now be joined.

        Args:
            first: the first sample.
            end: one more than the last sample.
            surplus: how many more have come that are beyond the last frame's.
        """
        if self._table is None or self._at is None:
            return _NONE
        self.surplus += surplus
        if len(frames := self._at.update(first, end)):
            self._complete.append(frames)
        if self._check is not None:
            self._check.look(self._times())
            self._check.overrun(self.surplus)
            self._conclude()
        return self._place(final=False)

    def ended(self, samples: int, frames: int) -> NDArray[np.int64]:
        """Take notice that the capture is over and that nothing of its `samples` was lost."""
        if self._check is None:
            return _NONE
        self._check.ended(samples, frames)
        self._conclude()
        return self._place(final=False)

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Place what is left, because no more samples will come.

        Returns:
            The frames, ascending, that may now be joined; and those of them of which only some samples are known.
        """
        if self._table is None or self._at is None or self.stopped:
            return _NONE, _NONE
        known = self._at.known_frames()
        partial = known[~self._at.complete[known]]
        self._at.settle(partial)
        self._complete.append(partial)
        ready = self._place(final=True)
        return ready, np.intersect1d(partial, ready, assume_unique=True)

    def known_frames(self) -> NDArray[np.int64]:
        """Frames, ascending, of which some samples on each axis are known."""
        return _NONE if self._at is None else self._at.known_frames()

    def positions_m(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, 2) of frames that are placed, in metres along (axis 0, axis 1)."""
        if self._at is None or self._offset_m is None:
            raise ValueError("no frame is placed yet")
        return self._at.positions_m(frames) - self._offset_m

    def span_ratios(self) -> tuple[float | None, float | None]:
        """How far frames lie apart, by how far they were commanded to, along axis 0 and axis 1."""
        if self._at is None:
            return None, None
        frames = np.flatnonzero(self.placed & self._at.complete)
        return span_ratios(self._plan, frames, self._at.positions_m(frames))

    def trigger_times_s(self) -> NDArray[np.float64]:
        """(n,) of the first sample of each frame, NaN where unknown."""
        return self._times()[:: self.per_frame][: self._plan.expected]

    def _times(self) -> NDArray[np.float64]:
        table, name = self._table, self._positions.time_channel
        return np.zeros(0) if table is None or name not in table else table.row(name)

    def _conclude(self) -> None:
        """Follow a contradiction where that is wanted and nothing is placed yet; else say once that placement stops."""
        if self._check is None or self._table is None or not self._check.contradicted or self._told:
            return
        if self._follows and not self.placed.any() and (seen := self._check.follow()):
            self.per_frame = seen
            self._at = FramePositions(self._table, self._layout, seen, self._plan.expected)
            self._complete = [self._at.update(0, self._table.extent)]
            _log.warning("samples_per_frame is %d, by the times of the samples", seen)
            return
        self._told = True
        _log.error("%s; no more frames of this scan are placed", self._check.result)

    def _place(self, final: bool) -> NDArray[np.int64]:
        if self._at is None or self._table is None or self.stopped:
            return _NONE
        timed = self._check is not None and bool(np.isfinite(self._times()[:1024]).any())
        if self._check is not None and not final and not self._check.ready(timed, self._table.extent):
            return _NONE
        if self._offset_m is None:
            self._offset_m = self._anchor(self._at, final)
        if self._offset_m is None:
            return _NONE
        frames = self._complete[0] if len(self._complete) == 1 else np.sort(np.concatenate([_NONE, *self._complete]))
        self._complete.clear()
        if self._gate is not None:
            frames = self._gate.judge(frames, self._at.positions_m(frames) - self._offset_m)
            if final:
                frames = np.union1d(frames, self._gate.finish())
        self.placed[frames] = True
        return frames

    def _anchor(self, at: FramePositions, final: bool) -> NDArray[np.float64] | None:
        """The offset of the encoders from the commanded grid, None while it cannot be told."""
        complete = np.flatnonzero(at.complete)
        plan = self._plan
        if self._gate is None or plan.line == plan.expected or (final and len(complete) < plan.line):
            if final and not len(complete):
                complete = at.known_frames()
            if len(complete) and (at.complete[0] or final or len(complete) >= plan.line):
                return at.positions_m(complete[:1])[0] - plan.commanded_m(int(complete[0]))
            return None
        if not len(complete):
            return None
        newest = int(complete[-1]) // plan.line
        waited = final or newest > _MOST_LINES_AWAITED
        # Samples that a line lacks when the next one has begun are probably lost.
        enough = np.full(plan.expected // plan.line, 1 if waited else (plan.line + 1) // 2)
        enough[newest:] = 1 if final else plan.line
        for line in np.flatnonzero(at.complete.reshape(-1, plan.line).sum(axis=1) >= enough).tolist():
            if line not in self._off:
                frames = complete[complete // plan.line == line]
                commanded = plan.commanded_m(frames)
                self._off[line] = np.median(at.positions_m(frames) - commanded, axis=0)
        slow = 1 - plan.fast
        for line, off in sorted(self._off.items()):
            after = self._off.get(line + 1)
            if after is not None and abs(after[slow] - off[slow]) <= _STEADY_STEPS * abs(plan.step_m[slow]):
                return (off + after) / 2
        return np.median(list(self._off.values()), axis=0) if waited and self._off else None
