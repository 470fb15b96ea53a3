"""Joins frames with positions by frame id. Pure and deterministic: no threads, no clock, no sockets, no torch.

`(series, frame)` and the absolute sample number are the only truth; arrival order never pairs anything. The three roads
share neither clock nor order, so a detector series and a position capture are first bound to a run:

* a series to the oldest open run without one whose number of frames agrees, so that a warm-up series of one frame finds
  none; one without a header, as soon as it has shown a second frame;
* a capture to the oldest open run without one;
* both wait for a start document that is late. One that was over before it came must have been as long as the scan:
  what somebody tried out just before a scan is not taken for it.

From then on frame f belongs with samples [f * S, (f + 1) * S) of its run's capture, and all that arrives is either
joined or counted: in the report of its scan, or in `Assembler.counts`. A run that is not a scan is passed over, with
what arrives while it is open.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ptyinr.types import ScanRange
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    Event,
    FrameArrived,
    FrameTimed,
    PixelMaskSent,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.optics import ScanPlan, scan_plan
from ptyinr_stream.samples import SampleTable, select
from ptyinr_stream.scan import Frame, Joined, Reason, Scan, ScanReport

__all__ = [
    "Assembler",
    "BaselineAdded",
    "CaptureBound",
    "Frame",
    "Joined",
    "Output",
    "ScanClosed",
    "ScanOpened",
    "ScanReport",
    "SeriesBound",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScanOpened:
    """A run has begun that can be reconstructed."""

    uid: str
    document: dict[str, Any]
    """Its start document."""
    expected: int
    """Frames."""
    range: ScanRange


@dataclass(frozen=True)
class BaselineAdded:
    """Motor readings of an open scan."""

    uid: str
    values: dict[str, Any]


@dataclass(frozen=True)
class SeriesBound:
    """A detector series has turned out to be the scan's; armed again, a scan has another one."""

    uid: str
    series: int


@dataclass(frozen=True)
class CaptureBound:
    """The position capture has turned out to be the scan's."""

    uid: str


@dataclass(frozen=True)
class ScanClosed:
    """A scan is over: exactly one for each `ScanOpened`, after its last `Joined`."""

    uid: str
    report: ScanReport


Output = ScanOpened | BaselineAdded | SeriesBound | CaptureBound | Joined | ScanClosed


@dataclass(eq=False)
class _Series:
    """A detector series. Without a scan it waits for one, unless it is `closed`: its scan is over, or passed over."""

    number: int
    expected: int | None
    last: float
    """When something of it last arrived."""
    scan: Scan | None = None
    closed: bool = False
    over: bool = False
    highest: int = -1
    """The highest frame number seen."""
    waiting: deque[tuple[float, Frame]] = field(default_factory=deque)

    def fits(self, plan: ScanPlan) -> bool:
        if self.expected is not None:
            return self.expected == plan.expected
        shown = self.highest + 1
        return min(2, plan.expected) <= shown <= plan.expected and (not self.over or shown == plan.expected)


@dataclass(eq=False)
class _Capture:
    """A position capture, bound and closed like a series."""

    samples: SampleTable
    per_frame: int
    last: float
    scan: Scan | None = None
    closed: bool = False
    over: bool = False
    messages: int = 0
    """That brought anything new."""
    announced: int | None = None
    """Messages it had, as its end tells."""

    def fits(self, plan: ScanPlan) -> bool:
        length = self.samples.extent
        if length > plan.expected * self.per_frame:
            return False
        torn = self.announced is not None and self.messages < self.announced
        return not self.over or torn or length > (plan.expected - 1) * self.per_frame


class Assembler:
    """Turns events of three roads into joined batches, scan by scan.

    Args:
        positions: channels, scale and samples per frame.
        assembly: how long things wait; times are those that `feed` and `tick` are given, in seconds.
    """

    def __init__(self, positions: PositionsConfig, assembly: AssemblyConfig) -> None:
        self._positions = positions
        self._assembly = assembly
        self.counts: Counter[str] = Counter()
        """What belonged to no scan: `frames_foreign`, `positions_foreign`, `positions_without_channel` (messages),
        `documents_foreign`, `runs_passed_over`."""
        self._scans: list[Scan] = []  # open, oldest first
        self._passed_over: str | None = None  # the uid of an open run that is no scan
        self._foreign_before: dict[str, int] = {}
        self._series: dict[int, _Series] = {}  # the newest of each number
        self._newest_series: _Series | None = None
        self._series_of: dict[str, _Series] = {}  # by the uid of their run
        self._loose_series: list[_Series] = []  # waiting for a run, oldest first
        self._capture: _Capture | None = None  # the newest
        self._loose_captures: list[_Capture] = []
        self._waiting_bytes = 0
        self._now = self._last = float("-inf")

    def feed(self, event: Event | Frame, now: float) -> list[Output]:
        """Take one event, and give what has become of it and of those before.

        Raises:
            TypeError: an image that is still encoded.
        """
        now = self._last = self._now = max(self._now, now)
        outputs: list[Output] = []
        match event:
            case Frame():
                outputs += self._take_frame(event, now)
            case PositionsArrived():
                outputs += self._take_positions(event, now)
            case RunStarted():
                outputs += self._open(event, now)
            case BaselineRead(uid, values):
                if scan := self._documented(uid, now):
                    outputs.append(BaselineAdded(scan.uid, values))
            case RunStopped(uid, exit_status):
                if uid == self._passed_over:
                    self._passed_over = None
                elif scan := self._documented(uid, now):
                    scan.stopped, scan.exit_status = True, exit_status
            case SeriesStarted(number, expected):
                series = self._begin_series(number, expected, now)
                outputs += self._bind(now)
                if self._scans and expected not in (None, 1) and series in self._loose_series:
                    runs = {scan.uid: scan.plan.expected for scan in self._scans}
                    _log.warning("series %d of %d frames fits none of the open runs %s", number, expected, runs)
            case SeriesEnded(number):
                if series := self._series.get(number):
                    series.over = True
                    self._touch(series, now)
            case CaptureStarted():
                if not self._armed_again(now):
                    self._begin_capture(now)
                    outputs += self._bind(now)
            case CaptureEnded(messages):
                if self._capture is not None:
                    self._capture.over, self._capture.announced = True, messages
                    self._touch(self._capture, now)
            case FrameTimed() | PixelMaskSent():
                pass
            case FrameArrived():
                raise TypeError("the assembler takes decoded frames: give it a Frame")
        return outputs + self._close_ended(now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass: close scans that are over, and drop what has waited too long for a start document."""
        now = self._now = max(self._now, now)
        outputs = self._close_ended(now)
        self._forget(now - self._assembly.preroll_s)
        return outputs

    def finish(self) -> list[Output]:
        """Close every open scan, because nothing more will be received; count what still waited for a run."""
        outputs: list[Output] = []
        for scan in list(self._scans):
            outputs += self._close(scan, "complete" if scan.paired == scan.plan.expected else "stopped")
        self._forget(float("inf"))
        return outputs

    @property
    def waiting_frames(self) -> int:
        """Frames that wait for a start document."""
        return sum(len(series.waiting) for series in self._loose_series)

    @property
    def open_scans(self) -> list[dict[str, Any]]:
        """For each open scan its uid, and the frames expected, received and paired so far."""
        return [
            {"uid": scan.uid, "expected": scan.plan.expected, "frames": scan.frames, "paired": scan.paired}
            for scan in self._scans
        ]

    # Runs

    def _open(self, started: RunStarted, now: float) -> list[Output]:
        if any(scan.uid == started.uid for scan in self._scans):
            self.counts["documents_foreign"] += 1
            return []
        # One RunEngine has one run at a time: the elder's stop document was lost or overtaken.
        for scan in self._scans:
            scan.superseded = True
        self._passed_over = None
        outputs = self._close_ended(now)
        self._forget(now - self._assembly.preroll_s)
        try:
            plan = scan_plan(started.document, self._positions)
        except GeometryError as error:
            _log.warning("run %s is passed over: %s", started.uid, error)
            self.counts["runs_passed_over"] += 1
            self._passed_over = started.uid
        else:
            self._scans.append(Scan(started, plan, self._positions.zero, now))
            self._foreign_before[started.uid] = self.counts["frames_foreign"]
            outputs.append(ScanOpened(started.uid, started.document, plan.expected, plan.range))
        return outputs + self._bind(now)

    def _documented(self, uid: str, now: float) -> Scan | None:
        """The open scan that a later document belongs to."""
        scan = next((scan for scan in self._scans if scan.uid == uid), None)
        if scan is not None:
            scan.documented, scan.last = True, now
        elif uid != self._passed_over:
            self.counts["documents_foreign"] += 1
        return scan

    def _close_ended(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        limits = (now - self._last, self._assembly.settle_s, self._assembly.idle_s)
        for scan in list(self._scans):
            if reason := scan.ending(now, *limits):
                outputs += self._close(scan, reason)
        return outputs

    def _close(self, scan: Scan, reason: Reason) -> list[Output]:
        self._scans.remove(scan)
        for bound in (self._series_of.pop(scan.uid, None), self._capture):
            if bound is not None and bound.scan is scan:
                bound.scan, bound.closed = None, True
        foreign = self.counts["frames_foreign"] - self._foreign_before.pop(scan.uid)
        return [*scan.finish(), ScanClosed(scan.uid, scan.report(reason, foreign))]

    # Frames

    def _take_frame(self, frame: Frame, now: float) -> list[Output]:
        series = self._series.get(frame.series) or self._begin_series(frame.series, None, now)
        series.highest = max(series.highest, frame.frame)
        self._touch(series, now)
        if series.closed:
            self.counts["frames_foreign"] += 1
            return []
        if series.scan is not None:
            return [*series.scan.take([frame])]
        series.waiting.append((now, frame))
        self._waiting_bytes += frame.nbytes
        joined: list[Output] = self._bind(now) if series.expected is None else []
        while self._waiting_bytes > 1e6 * self._assembly.inbox_mb:
            self._drop_waiting(next(loose for loose in self._loose_series if loose.waiting))
        return joined

    def _begin_series(self, number: int, expected: int | None, now: float) -> _Series:
        series = self._series.get(number)
        if series is not None and series.highest < 0 and not series.over and series.expected == expected:
            return series  # its header came twice
        if self._newest_series is not None:
            self._newest_series.over = True
        series = self._newest_series = self._series[number] = _Series(number, expected, now)
        self._loose_series.append(series)
        return series

    def _drop_waiting(self, series: _Series) -> None:
        _, frame = series.waiting.popleft()
        self._waiting_bytes -= frame.nbytes
        self.counts["frames_foreign"] += 1

    # Positions

    def _take_positions(self, event: PositionsArrived, now: float) -> list[Output]:
        values = select(self._positions, event.channels)
        if values is None:
            if not self.counts["positions_without_channel"]:
                _log.warning(
                    "positions: neither %s nor %s among the channels %s",
                    *(self._positions.axis0.channel, self._positions.axis1.channel, ", ".join(event.channels)),
                )
            self.counts["positions_without_channel"] += 1
            return []
        capture, first = self._capture, event.first_sample
        # Both the end of a capture and the start of the next may be lost: then its numbers begin again.
        if capture is None or capture.samples.contradicts(first, values):
            capture = self._begin_capture(now)
        news = capture.samples.lacks(first, values)
        if news and capture.announced is not None and capture.messages >= capture.announced:
            capture, news = self._begin_capture(now), True
        capture.messages += news
        self._touch(capture, now)
        if capture.closed:
            self.counts["positions_foreign"] += 1
            return []
        scan = capture.scan
        end = None if scan is None else scan.plan.expected * capture.per_frame
        complete, surplus = capture.samples.place(first, values, end)
        return self._bind(now) if scan is None else [*scan.take_samples(capture.samples, complete.tolist(), surplus)]

    def _begin_capture(self, now: float) -> _Capture:
        if self._capture is not None:
            self._capture.over = True
        self._capture = _Capture(SampleTable(self._positions), self._positions.samples_per_frame, now)
        self._loose_captures.append(self._capture)
        return self._capture

    def _armed_again(self, now: float) -> bool:
        """Whether the newest run's capture was armed before, without effect: then it stays the same."""
        capture = self._capture
        if capture is None or capture.messages or capture.over or capture.scan is None:
            return False
        self._touch(capture, now)
        return capture.scan is self._scans[-1] and not capture.scan.stopped

    # Binding

    def _touch(self, bound: _Series | _Capture, now: float) -> None:
        bound.last = now
        if bound.scan is not None:
            bound.scan.last = now

    def _bind(self, now: float) -> list[Output]:
        """Give series and captures that wait to runs that lack one."""
        joined: list[Output] = []
        for series in list(self._loose_series):
            series.scan = self._run_for(series)
            series.closed = series.scan is None and self._passed_over is not None
            if series.scan is None and not series.closed:
                continue
            self._loose_series.remove(series)
            frames = [frame for _, frame in series.waiting]
            self._waiting_bytes -= sum(frame.nbytes for frame in frames)
            series.waiting.clear()
            if series.scan is None:
                self.counts["frames_foreign"] += len(frames)
            else:
                self._series_of[series.scan.uid] = series
                series.scan.last = now
                joined.append(SeriesBound(series.scan.uid, series.number))
                joined += series.scan.take(frames)
        for capture in list(self._loose_captures):
            taken = (scan for scan in self._scans if scan.samples is None and capture.fits(scan.plan))
            capture.scan = next(taken, None)
            capture.closed = capture.scan is None and self._passed_over is not None
            if capture.scan is not None:
                capture.scan.last = now
                joined.append(CaptureBound(capture.scan.uid))
                joined += capture.scan.take_samples(capture.samples, capture.samples.complete_frames().tolist())
            elif capture.closed:
                self.counts["positions_foreign"] += capture.messages
            else:
                continue
            self._loose_captures.remove(capture)
        return joined

    def _run_for(self, series: _Series) -> Scan | None:
        for scan in self._scans:
            if scan.uid not in self._series_of and series.fits(scan.plan):
                return scan
        # Armed again before its first frame came: the newer series takes over the newest run.
        newest = self._scans[-1] if self._scans else None
        if newest is None or newest.stopped or not series.fits(newest.plan) or self._series_of[newest.uid].highest >= 0:
            return None
        elder = self._series_of[newest.uid]
        elder.scan, elder.closed = None, True
        return newest

    def _forget(self, horizon: float) -> None:
        """Drop what has waited for a run since before `horizon`, and all memory of what has been silent since."""
        for series in self._loose_series:
            while series.waiting and series.waiting[0][0] < horizon:
                self._drop_waiting(series)
        self._loose_series = [series for series in self._loose_series if series.waiting or series.last >= horizon]
        self._series = {
            number: series
            for number, series in self._series.items()
            if series.scan is not None or series.waiting or series.last >= horizon
        }
        for capture in [capture for capture in self._loose_captures if capture.last < horizon]:
            self._loose_captures.remove(capture)
            self.counts["positions_foreign"] += capture.messages
        if self._capture is not None and self._capture.scan is None and self._capture.last < horizon:
            self._capture = None
