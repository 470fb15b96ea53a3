"""Which detector series and which position capture belong to which scan, though neither says so. Pure.

* A series goes to the oldest open scan without one whose number of frames agrees, so that a warm-up series of one frame
  finds none; one without a header, as soon as it has shown a second frame.
* A capture goes to the oldest open scan without one.
* Both wait for a start document that is late. One that was over before it came must have been as long as the scan:
  what somebody tried out just before a scan is not taken for it.
* Nor is the end of another run of as many frames, in whose middle reception began. What shows neither its header (its
  start) nor its number 0 goes to no run that is announced later, if it had been silent for a while by then, or if a
  document told of a run whose start document was not seen. (2026-11-26: to refuse it at once, however short before the
  announcement it came, paired wrongly where a start document was late: the next scan's series went to that run.)
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import CaptureStarted, FramesCalibrated, FrameTimed, PositionsArrived, SeriesStarted
from ptyinr_stream.motors import channels
from ptyinr_stream.outputs import CalibrationAdded, CaptureBound, Output, SeriesBound
from ptyinr_stream.samples import MOST_SAMPLES, Channels, SampleTable
from ptyinr_stream.scan import Frame, Scan

_log = logging.getLogger(__name__)

_MOST_TIMES = 2**20
"""Of the frames of one series: garbled frame numbers must not fill memory."""
_SILENT_S = 2.0
"""What belongs to a run is not silent for so long before its start document comes, however late that is."""
_OVERTAKEN_S = 1.0
"""A header that comes later after frames of its number is of another series: the detector has begun to count anew."""


@dataclass(eq=False)
class Series:
    """A detector series. Without a scan it waits for one, unless it is `closed`: its scan is over, or passed over."""

    number: int
    expected: int | None
    began: float
    last: float
    """When something of it last arrived."""
    headed: bool = False
    header: dict[str, Any] = field(default_factory=dict)
    scan: Scan | None = None
    closed: bool = False
    over: bool = False
    highest: int = -1
    """The highest frame number seen."""
    lowest: int = MOST_SAMPLES
    """The lowest frame number seen."""
    stray: bool = False
    """Whether it is of no run that is announced, unless it has `begun`."""
    waiting: deque[tuple[float, Frame]] = field(default_factory=deque)
    starts_s: dict[int, float] = field(default_factory=dict)
    """When frames began to be exposed, by the detector's clock."""
    calibration: dict[str, Any] = field(default_factory=dict)
    """What its first frames told of all of them."""
    run: str | None = None
    """The uid of the only run it may be bound to."""

    @property
    def begun(self) -> bool:
        """Whether its header or frame 0 was seen."""
        return self.headed or self.lowest == 0

    def overtook(self, expected: int | None, now: float) -> bool:
        """Whether a header of so many frames may be its own, which its frames overtook."""
        bygone = (
            now - self.began > _OVERTAKEN_S
            or self.over
            or self.closed
            or (self.scan is not None and (self.scan.stopped or self.scan.superseded))
        )
        return not self.headed and not bygone and (expected is None or self.highest < expected)

    def fits(self, expected: int) -> bool:
        """Whether it may be the series of a scan of so many frames."""
        if self.expected is not None:
            return self.expected == expected
        shown = self.highest + 1
        return min(2, expected) <= shown <= expected and (not self.over or shown == expected)


@dataclass(eq=False)
class Capture:
    """A position capture, bound and closed like a series."""

    armed_at: str
    last: float
    samples: SampleTable = field(default_factory=SampleTable)
    scan: Scan | None = None
    closed: bool = False
    over: bool = False
    messages: int = 0
    """That brought anything new."""
    announced: int | None = None
    """Messages it had, as its end tells."""
    highest: int = 0
    """One more than the highest sample number that has come."""
    started: bool = False
    """Whether its start was seen."""
    lowest: int = MOST_SAMPLES
    """The lowest sample number that has come."""
    stray: bool = False
    """As of a series."""
    guessed: tuple[int, bool] = (0, False)
    """Samples it had, and whether it was over, when it last was tried to tell from them what was commanded."""
    run: str | None = None
    """The uid of the only run it may be bound to."""

    @property
    def begun(self) -> bool:
        """Whether its start or sample 0 was seen."""
        return self.started or self.lowest == 0

    def begins_again(self, first: int, channels: Channels, now: float) -> bool:
        """Whether samples are of the next one, whose start was lost: they contradict, or two of three signs tell."""
        signs = (self.stray, now - self.last >= _SILENT_S, first < self.lowest)
        return (not self.begun and sum(signs) >= 2) or self.samples.contradicts(first, channels)

    @property
    def intact(self) -> bool:
        """Whether it is over and all its messages have come."""
        return self.over and self.announced is not None and self.messages >= self.announced

    def fits(self, expected: int, per_frame: int) -> bool:
        """Whether it may be the capture of a scan of so many frames."""
        length = self.samples.extent
        if length > expected * per_frame:
            return False
        torn = self.announced is not None and self.messages < self.announced
        return not self.over or torn or length > (expected - 1) * per_frame


class Binder:
    """Holds series and captures, and gives them to scans.

    Args:
        positions: what its channels are called.
        assembly: how much may wait.
        counts: where is counted what belongs to no scan.
    """

    def __init__(self, positions: PositionsConfig, assembly: AssemblyConfig, counts: Counter[str]) -> None:
        self._channels = channels(positions)
        self._most_bytes = 1e6 * assembly.inbox_mb
        self._counts = counts
        self._series: dict[int, Series] = {}  # the newest of each number
        self._newest_series: Series | None = None
        self._series_of: dict[str, Series] = {}  # by the uid of their scan
        self._capture: Capture | None = None  # the newest
        self._waiting_bytes = 0
        self._unannounced = False  # a run is open, or was the last one, whose start document was not seen
        self.loose_series: list[Series] = []
        """Waiting for a scan, oldest first."""
        self.loose_captures: list[Capture] = []
        """Likewise."""
        self.scans: list[Scan] = []
        """Open, oldest first. The assembler's."""
        self.passed_over: str | None = None
        """The uid of an open run that is no scan."""

    @property
    def waiting_frames(self) -> int:
        """Frames that wait for a scan."""
        return sum(len(series.waiting) for series in self.loose_series)

    def series_of(self, uid: str) -> int | None:
        """The number of the series of an open scan."""
        series = self._series_of.get(uid)
        return None if series is None else series.number

    # Runs

    def announce(self, now: float) -> None:
        """A start document has come."""
        self._unannounced = False
        for bound in (*self.loose_series, *self.loose_captures):
            bound.stray |= now - bound.last >= _SILENT_S

    def disown(self) -> None:
        """A document of a run has come whose start document was not seen, and what waits is likely to be of that."""
        self._unannounced = True
        for bound in (*self.loose_series, *self.loose_captures):
            bound.stray = True

    # What arrives

    def start_series(self, event: SeriesStarted, now: float) -> list[Output]:
        """Take a series' header."""
        series = self._series.get(event.series)
        if series is not None and series.overtook(event.expected, now):
            series.headed, series.expected = True, event.expected  # it was overtaken by its frames
            if series.scan is not None:
                series.scan.headed = True
        elif series is None or series.highest >= 0 or series.over or series.expected != event.expected:
            series = self._begin_series(event.series, event.expected, now)  # else it came twice
            series.headed, series.run = True, event.run
        series.header = event.header or series.header
        outputs = self.bind(now)
        documented = self.scans and not self.scans[-1].undocumented
        if documented and event.expected not in (None, 1) and series in self.loose_series:
            runs = {scan.uid: scan.plan.expected for scan in self.scans}
            _log.warning("series %d of %d frames fits none of the open runs %s", event.series, event.expected, runs)
        return outputs

    def end_series(self, number: int, now: float) -> None:
        """Take a series' end."""
        if series := self._series.get(number):
            series.over = True
            _touch(series, now)
            if series.scan is not None:
                series.scan.series_over = True

    def take_frame(self, frame: Frame, now: float) -> list[Output]:
        """Take a frame."""
        series = self._series.get(frame.series) or self._begin_series(frame.series, None, now)
        series.highest, series.lowest = max(series.highest, frame.frame), min(series.lowest, frame.frame)
        _touch(series, now)
        if series.closed:
            self._counts["frames_foreign"] += 1
            return []
        if series.scan is not None:
            return [*series.scan.take([frame], now)]
        series.waiting.append((now, frame))
        self._waiting_bytes += frame.nbytes
        outputs = self.bind(now) if series.expected is None else []
        while self._waiting_bytes > self._most_bytes:
            self._drop_waiting(next(loose for loose in self.loose_series if loose.waiting))
        return outputs

    def calibrate(self, event: FramesCalibrated, now: float) -> list[Output]:
        """Take what the first frames of a series told of all of them."""
        series = self._series.get(event.series) or self._begin_series(event.series, None, now)
        series.calibration |= event.told
        _touch(series, now)
        return [] if series.scan is None else [CalibrationAdded(series.scan.uid, event.told)]

    def take_times(self, event: FrameTimed) -> None:
        """Take when a frame was exposed."""
        series = self._series.get(event.series)
        if series is not None and len(series.starts_s) < _MOST_TIMES:
            series.starts_s.setdefault(event.frame, 1e-9 * event.start_ns)

    def start_capture(self, event: CaptureStarted, now: float) -> list[Output]:
        """Take a capture's start."""
        if self._armed_again(now):
            return []
        capture = self._begin_capture(event.armed_at, now)
        capture.run, capture.started = event.run, True
        return self.bind(now)

    def end_capture(self, messages: int | None, now: float) -> list[Output]:
        """Take a capture's end."""
        capture = self._capture
        if capture is None:
            return []
        capture.over, capture.announced = True, messages
        _touch(capture, now)
        return self._end_if_whole(capture, now)

    def take_positions(self, event: PositionsArrived, now: float) -> list[Output]:
        """Take encoder samples."""
        if not any(name in event.channels for name in self._channels):
            if not self._counts["positions_without_channel"]:
                names = ", ".join(event.channels)
                _log.warning("positions: none of %s among the channels %s", ", ".join(self._channels), names)
            self._counts["positions_without_channel"] += 1
            return []
        capture, first = self._capture, event.first_sample
        # Both the end of a capture and the start of the next may be lost: then its numbers begin again.
        if capture is None or capture.begins_again(first, event.channels, now):
            capture = self._begin_capture("", now)
        news = capture.samples.lacks(first, event.channels)
        if news and capture.announced is not None and capture.messages >= capture.announced:
            capture, news = self._begin_capture("", now), True
        capture.messages += news
        capture.lowest = min(capture.lowest, first)
        _touch(capture, now)
        if capture.closed:
            self._counts["positions_foreign"] += 1
            return []
        scan = capture.scan
        surplus = capture.samples.place(first, event.channels, None if scan is None else scan.placement.end)
        end = first + max(len(values) for values in event.channels.values())
        capture.highest = max(capture.highest, end)
        if scan is None:
            return self.bind(now)
        return [*scan.take_samples(first, end, surplus, now), *self._end_if_whole(capture, now)]

    # Binding

    def bind(self, now: float) -> list[Output]:
        """Give series and captures that wait to scans that lack one."""
        outputs: list[Output] = []
        for series in list(self.loose_series):
            series.scan = self._scan_for(series)
            series.closed = series.scan is None and self.passed_over is not None
            if series.scan is None and not series.closed:
                continue
            self.loose_series.remove(series)
            frames = [frame for _, frame in series.waiting]
            self._waiting_bytes -= sum(frame.nbytes for frame in frames)
            series.waiting.clear()
            if (scan := series.scan) is None:
                self._counts["frames_foreign"] += len(frames)
                continue
            self._series_of[scan.uid] = series
            scan.last, scan.headed, scan.series_over = now, series.headed, series.over
            scan.frame_starts_s = series.starts_s
            outputs.append(SeriesBound(scan.uid, series.number, series.header))
            if series.calibration:
                outputs.append(CalibrationAdded(scan.uid, series.calibration))
            outputs += scan.take(frames, now)
        for capture in list(self.loose_captures):
            allowed = (scan for scan in self.scans if _allows(scan, capture))
            lacking = (scan for scan in allowed if scan.placement.table is None)
            fitting = (scan for scan in lacking if capture.fits(scan.plan.expected, scan.placement.per_frame))
            scan = capture.scan = next(fitting, None)
            capture.closed = scan is None and self.passed_over is not None
            if scan is not None:
                scan.last = now
                outputs += [CaptureBound(scan.uid), *scan.bind_samples(capture.samples, now)]
                outputs += self._end_if_whole(capture, now)
            elif capture.closed:
                self._counts["positions_foreign"] += capture.messages
            else:
                continue
            self.loose_captures.remove(capture)
        return outputs

    def release(self, scan: Scan) -> None:
        """Let go of what belongs to a scan that is closed."""
        for bound in (self._series_of.pop(scan.uid, None), self._capture):
            if bound is not None and bound.scan is scan:
                bound.scan, bound.closed = None, True

    def forget(self, horizon: float) -> None:
        """Drop what has waited for a run since before `horizon`, and all memory of what has been silent since."""
        for series in self.loose_series:
            while series.waiting and series.waiting[0][0] < horizon:
                self._drop_waiting(series)
        self.loose_series = [series for series in self.loose_series if series.waiting or series.last >= horizon]
        self._series = {
            number: series
            for number, series in self._series.items()
            if series.scan is not None or series.waiting or series.last >= horizon
        }
        for capture in [capture for capture in self.loose_captures if capture.last < horizon]:
            self.loose_captures.remove(capture)
            self._counts["positions_foreign"] += capture.messages
        if self._capture is not None and self._capture.scan is None and self._capture.last < horizon:
            self._capture = None

    def _begin_series(self, number: int, expected: int | None, now: float) -> Series:
        if self._newest_series is not None:
            self._newest_series.over = True
            if self._newest_series.scan is not None:
                self._newest_series.scan.series_over = True
        series = self._newest_series = self._series[number] = Series(number, expected, now, now)
        series.stray = self._unannounced
        self.loose_series.append(series)
        return series

    def _drop_waiting(self, series: Series) -> None:
        _, frame = series.waiting.popleft()
        self._waiting_bytes -= frame.nbytes
        self._counts["frames_foreign"] += 1

    def _begin_capture(self, armed_at: str, now: float) -> Capture:
        if self._capture is not None:
            self._capture.over = True
            if self._capture.scan is not None:
                self._capture.scan.capture_over = True
        self._capture = Capture(armed_at, now, stray=self._unannounced)
        self.loose_captures.append(self._capture)
        return self._capture

    def _armed_again(self, now: float) -> bool:
        """Whether the newest scan's capture was armed before, without effect: then it stays the same."""
        capture = self._capture
        if capture is None or capture.messages or capture.over or capture.scan is None:
            return False
        _touch(capture, now)
        return capture.scan is self.scans[-1] and not capture.scan.stopped

    def _end_if_whole(self, capture: Capture, now: float) -> list[Output]:
        if capture.scan is None or not capture.over:
            return []
        return [*capture.scan.end_samples(capture.highest if capture.intact else None, now)]

    def _scan_for(self, series: Series) -> Scan | None:
        allowed = [scan for scan in self.scans if _allows(scan, series)]
        for scan in allowed:
            if scan.uid not in self._series_of and series.fits(scan.plan.expected):
                return scan
        # Armed again before its first frame came: the newer series takes over the newest scan.
        newest = allowed[-1] if allowed and allowed[-1] is self.scans[-1] else None
        if newest is None or newest.stopped or not series.fits(newest.plan.expected):
            return None
        elder = self._series_of[newest.uid]
        if elder.highest >= 0:
            return None
        elder.scan, elder.closed = None, True
        return newest


def _allows(scan: Scan, bound: Series | Capture) -> bool:
    """Whether a series or a capture may be of a scan, as far as may be told before its length is."""
    stray = bound.stray and not bound.begun and not scan.undocumented
    return bound.run in (None, scan.uid) and not stray


def _touch(bound: Series | Capture, now: float) -> None:
    bound.last = now
    if bound.scan is not None:
        bound.scan.last = now
