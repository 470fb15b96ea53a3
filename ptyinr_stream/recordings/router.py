"""Which recording an event belongs to: pure bookkeeping in the recorder's thread, and the files that follow from it."""

from __future__ import annotations

import logging
import shutil
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ptyinr_stream.config import AssemblyConfig, RecordingConfig
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    Event,
    FrameArrived,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesStarted,
)

from .folder import Recording
from .run import RunWriter
from .segment import WRITE_ERRORS, SegmentWriter
from .space import Space

_log = logging.getLogger(__name__)

_LINGER_S = 30.0  # HXN's last documents come seconds after the last frame
_UNBOUND = ".unbound"

Noted = tuple[int, float, Event]
"""Order of arrival, time received, event."""


@dataclass(eq=False)
class _Series:
    """A detector series, of a run once it is bound."""

    last: float
    uid: str | None = None
    segment: SegmentWriter | None = None
    shown: int = 0
    """Frames."""
    waiting: deque[Noted] = field(default_factory=deque)
    failed: bool = False


class Router:
    """Files of all runs in progress.

    Args:
        folder: of the recordings.
        config: how much may be written.
        assembly: how long what has no run waits.
        attributes: of every segment.
        epoch: what makes seconds since 1970 of the times of `route`.
    """

    def __init__(
        self,
        folder: Path,
        config: RecordingConfig,
        assembly: AssemblyConfig,
        attributes: Mapping[str, str],
        epoch: float,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.frames = 0
        """Recorded of runs."""
        self.folder_of_newest = ""
        self._folder = folder
        self._preroll_s = assembly.preroll_s
        self._attributes = attributes
        self._epoch = epoch
        self._space = Space(folder, config)
        self._runs: dict[str, RunWriter] = {}
        self._finished_bytes = 0
        self._failure = ""
        self._missed: str | None = None  # the uid of a run that could not be recorded
        self._series: dict[int, _Series] = {}  # the newest of each number
        self._unbound: list[_Series] = []
        self._capture: str | None = None  # the uid of the newest capture's run
        self._captured = 0  # one more than its highest sample
        self._waiting: deque[Noted] = deque()  # of captures without a run
        self._documents: dict[str, deque[Noted]] = {}  # of runs that are not open
        self._names = count()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder / _UNBOUND, ignore_errors=True)
            (folder / _UNBOUND).mkdir()
        except OSError as error:
            self._fail(f"{folder}: {error.strerror}")

    # What the recorder asks

    @property
    def state(self) -> tuple[str, str]:
        """As in `RecorderStatus`, with its reason."""
        runs = list(self._runs.values())
        failed = next((run.failure for run in reversed(runs) if run.failure), "")
        if failed or (self._failure and not runs):
            return "failed", failed or self._failure
        return ("recording" if runs else "waiting"), ""

    @property
    def nbytes(self) -> int:
        """Written in this life."""
        return self._finished_bytes + sum(run.nbytes for run in list(self._runs.values()))

    @property
    def pending_bytes(self) -> int:
        """Noted and not yet written."""
        loose = sum(s.segment.pending_bytes for s in self._unbound if s.segment is not None)
        return loose + sum(run.pending_bytes for run in self._runs.values())

    # What it is told

    def route(self, order: int, now: float, event: Event) -> None:
        """Note an event where it belongs."""
        noted = (order, now, event)
        match event:
            case RunStarted(uid) | BaselineRead(uid) | RunStopped(uid):
                if uid in self._runs:
                    self._record(uid, noted)
                else:
                    self._documents.setdefault(uid, deque()).append(noted)
            case CaptureStarted() | PositionsArrived() | CaptureEnded():
                self._route_capture(noted)
            case _ if isinstance(number := getattr(event, "series", None), int):
                self._route_series(number, noted)
            case _:
                for uid in self._runs:
                    self._record(uid, noted)

    def opened(self, uid: str, unfinished: Path | None = None) -> None:
        """Begin the recording of a run, or go on with one that is unfinished."""
        if uid in self._runs:
            return
        for elder in [elder for elder, run in self._runs.items() if run.closed_at is not None]:
            self._finish(elder)
        folder, life = unfinished or self._folder / uid, 0
        self._missed = uid
        try:
            if unfinished is not None:
                with Recording(folder) as recording:
                    life = recording.life + 1
            else:
                # A uid may come twice, by a replay: what is recorded is never written into again.
                versions = (self._folder / f"{uid}-{number}" for number in count(2))
                while folder.exists():
                    folder = next(versions)
            self._space.survey({run.folder for run in self._runs.values()} | {folder})
            if (shortage := self._space.shortage(self._growing_bytes())) is not None:
                self._fail(f"run {uid} is not recorded: {shortage}")
                return
            run = RunWriter(folder, uid, self._attributes, life)
        except (*WRITE_ERRORS, ScanFileError) as error:
            self._fail(f"run {uid} is not recorded: {folder}: {error}")
            return
        self._failure, self._missed, self._runs[uid] = "", None, run
        self.folder_of_newest = str(folder)
        for noted in self._documents.pop(uid, ()):
            self._record(uid, noted)

    def bound(self, uid: str, series: int | None) -> None:
        """Give a series, or the newest capture, to a run with all that has waited of it."""
        if series is None:
            self._capture = uid
            for noted in self._waiting:
                self._record(uid, noted)
            self._waiting.clear()
            return
        found = self._series.get(series)
        if found is None or found.uid == uid:
            # Its events are not known here: those of a life before this one.
            self._series.setdefault(series, _Series(float("inf"), uid)).uid = uid
            return
        found.uid = uid
        if found in self._unbound:
            self._unbound.remove(found)
        for noted in found.waiting:
            self._record(uid, noted)
        found.waiting.clear()
        run, segment = self._runs.get(uid), found.segment
        if segment is not None and run is not None:
            run.adopt(segment, series)
            self.frames += segment.frames
        elif segment is not None:
            self._discard(found)

    def closed(self, uid: str, report: Mapping[str, Any], now: float) -> None:
        """A scan is over."""
        if (run := self._runs.get(uid)) is not None:
            run.closed_at, run.report = now, dict(report)
            if report.get("reason") != "stopped":  # by the daemon's own end: another life may go on with the scan
                run.over = True

    def give_up(self, reason: str, lost: int) -> None:
        """End the recordings in progress: events have been lost."""
        self.counts["lost"] += lost
        for run in self._runs.values():
            run.fail(reason)

    # What it does by and by

    def flush(self) -> None:
        """Write what was noted."""
        for run in self._runs.values():
            run.flush()
        for series in self._unbound:
            if series.segment is not None and not series.failed:
                try:
                    series.segment.flush()
                except WRITE_ERRORS as error:
                    self._fail(f"{series.segment.path}: {error}")
                    self._discard(series)

    def look_after(self, now: float) -> None:
        """Finish runs whose documents are in, drop what has waited too long, stop before the disk is full."""
        for uid, run in list(self._runs.items()):
            if run.closed_at is not None and (run.stopped or now - run.closed_at >= _LINGER_S):
                self._finish(uid)
        self._forget(now - self._preroll_s)
        if self._unbound or any(run.failure is None for run in self._runs.values()):
            try:
                shortage = self._space.shortage(self._growing_bytes())
            except OSError as error:
                shortage = f"{self._folder}: {error.strerror}"
            if shortage is not None:
                for run in self._runs.values():
                    run.flush()
                    run.fail(shortage)
                for series in self._unbound:
                    self._discard(series)

    def close(self) -> None:
        """Finish everything."""
        for uid in list(self._runs):
            self._finish(uid)
        self._forget(float("inf"))
        shutil.rmtree(self._folder / _UNBOUND, ignore_errors=True)

    # Inside

    def _record(self, uid: str, noted: Noted, segment: SegmentWriter | None = None) -> None:
        order, now, event = noted
        run = self._runs.get(uid)
        if run is None:
            self.counts["lost" if uid == self._missed else "late"] += 1
            return
        run.append(order, now + self._epoch, event, segment)
        self.counts["lost"] += run.failure is not None

    def _route_capture(self, noted: Noted) -> None:
        event = noted[2]
        again = False
        match event:
            case CaptureStarted():
                if self._captured or self._capture not in self._runs:  # not one that is armed twice
                    self._capture, self._captured = None, 0
            case PositionsArrived(first):
                end = first + max(map(len, event.channels.values()), default=0)
                # Numbers that begin again may be another capture's whose start was lost, for a run to come.
                again = first < self._captured
                self._captured = end if again else max(self._captured, end)
        if self._capture is not None:
            self._record(self._capture, noted)
        if self._capture is None or again:
            self._waiting.append(noted)

    def _route_series(self, number: int, noted: Noted) -> None:
        order, now, event = noted
        series = self._series.get(number)
        if series is None or (isinstance(event, SeriesStarted) and series.shown):
            series = self._series[number] = _Series(now)
            self._unbound.append(series)
        series.last = now
        is_frame = isinstance(event, FrameArrived)
        series.shown += is_frame
        if series.uid is not None:
            run = self._runs.get(series.uid)
            if run is not None and is_frame and run.failure is None:
                if series.segment is None and (segment := self._begin(event)) is not None:
                    series.segment = segment
                    run.adopt(segment, number)
                elif series.segment is None:
                    run.fail(self._failure)
                self.frames += run.failure is None
            self._record(series.uid, noted, series.segment if is_frame else None)
            return
        if is_frame and series.segment is None and not series.failed:
            series.segment = self._begin(event)
            series.failed = series.segment is None
        if series.segment is not None:
            series.segment.append(order, now + self._epoch, event)
        elif not is_frame:
            series.waiting.append(noted)

    def _begin(self, first: FrameArrived) -> SegmentWriter | None:
        path = self._folder / _UNBOUND / f"{next(self._names)}.h5"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return SegmentWriter(path, self._attributes, first)
        except WRITE_ERRORS as error:
            self._fail(f"{path}: {error}")
            return None

    def _finish(self, uid: str) -> None:
        run = self._runs.pop(uid)
        run.finish(self.counts)
        self._finished_bytes += run.nbytes
        if run.failure is not None:
            self._failure = run.failure

    def _forget(self, horizon: float) -> None:
        for series in [series for series in self._unbound if series.last < horizon]:
            self._unbound.remove(series)
            self.counts["unbound_frames"] += series.shown
            self.counts["unbound_events"] += len(series.waiting)
            self._discard(series)
        self._series = {
            number: series
            for number, series in self._series.items()
            if series in self._unbound or series.uid in self._runs or series.last >= horizon
        }
        for waiting in (self._waiting, *self._documents.values()):
            while waiting and waiting[0][1] < horizon:
                waiting.popleft()
                self.counts["unbound_events"] += 1
        self._documents = {uid: waiting for uid, waiting in self._documents.items() if waiting}

    def _discard(self, series: _Series) -> None:
        series.failed = True
        if series.segment is not None:
            series.segment.abandon()
            try:
                series.segment.path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s: cannot be deleted: %s", series.segment.path, error.strerror)
            series.segment = None

    def _growing_bytes(self) -> int:
        loose = sum(series.segment.nbytes for series in self._unbound if series.segment is not None)
        return loose + sum(run.nbytes for run in self._runs.values())

    def _fail(self, reason: str) -> None:
        if reason != self._failure:
            _log.error("the recorder: %s", reason)
        self._failure = reason
