"""Joins frames with positions by frame id. Pure and deterministic: no threads, no clock, no sockets, no torch.

`(series, frame)` and the absolute sample number are the only truth; arrival order never pairs anything. The three roads
share neither clock nor order, so a detector series and a position capture are first bound to a run (`binding`). From
then on frame f belongs with samples [f * S, (f + 1) * S) of its run's capture (`placement`), and all that arrives is
either joined or counted: in the report of its scan, or in `Assembler.counts`. A run that is not a scan is passed over,
with what arrives while it is open.

Where a rotation in the baseline reading decides how positions are read, a run opens with that reading, or without it
when `settle_s` have passed.

Where `without_documents` is set no start document is waited for: a scan opens as soon as there are a series and a
capture for it, with a start document that is made up (`undocumented`). One that comes later all the same is taken for
the same scan's.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptyinr_stream.binding import Binder, Capture, Series
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    DataRange,
    DataResource,
    Event,
    FrameArrived,
    FrameFound,
    FramesCalibrated,
    FrameTimed,
    PixelMaskSent,
    PositionsArrived,
    Reading,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.motors import awaits_baseline, resolve
from ptyinr_stream.outputs import (
    BaselineAdded,
    CalibrationAdded,
    CaptureBound,
    FramesMissing,
    Joined,
    Output,
    ScanClosed,
    ScanOpened,
    SeriesBound,
)
from ptyinr_stream.samples import MOST_SAMPLES, FramePositions
from ptyinr_stream.scan import Frame, Scan
from ptyinr_stream.scan_report import Reason, ScanReport
from ptyinr_stream.undocumented import KIND, commanded, enclosing, start_document

__all__ = [
    "Assembler",
    "BaselineAdded",
    "CalibrationAdded",
    "CaptureBound",
    "Frame",
    "FramesMissing",
    "Joined",
    "Output",
    "ScanClosed",
    "ScanOpened",
    "ScanReport",
    "SeriesBound",
]

_log = logging.getLogger(__name__)

_REMEMBERED = 64
"""Runs: a stop document may come when its scan has long been closed."""
_SPAN_TOLERANCE = 0.05
"""Encoders follow their commands more closely; the factors of two stages are further apart."""


@dataclass(frozen=True)
class _Awaiting:
    """A run whose baseline reading decides how its positions are read."""

    uid: str
    document: dict[str, Any]
    since: float


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
        `documents_foreign`, `documents_late`, `runs_passed_over`."""
        self._binder = Binder(positions, assembly, self.counts)
        self._scans = self._binder.scans
        self._foreign_before: dict[str, int] = {}
        self._made_up: Counter[str] = Counter()  # uids
        self._announced: deque[str] = deque(maxlen=_REMEMBERED)  # uids of the last start documents
        self._awaiting: _Awaiting | None = None  # the newest run, until it opens
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
                outputs += self._binder.take_frame(event, now)
            case FrameTimed():
                self._binder.take_times(event)
                return outputs
            case PositionsArrived():
                outputs += self._binder.take_positions(event, now)
            case RunStarted(uid, document):
                outputs += self._open(uid, document, now)
            case BaselineRead(uid, values):
                outputs += self._open_awaiting(values, uid)
                if scan := self._documented(uid, now):
                    outputs.append(BaselineAdded(scan.uid, values))
            case RunStopped(uid, exit_status):
                outputs += self._open_awaiting({}, uid)
                if uid == self._binder.passed_over:
                    self._binder.passed_over = None
                elif scan := self._documented(uid, now):
                    scan.stopped, scan.exit_status = True, exit_status
            case SeriesStarted():
                outputs += self._binder.start_series(event, now)
            case SeriesEnded(number):
                self._binder.end_series(number, now)
            case CaptureStarted():
                outputs += self._binder.start_capture(event, now)
            case CaptureEnded(messages):
                outputs += self._binder.end_capture(messages, now)
            case FramesCalibrated():
                outputs += self._binder.calibrate(event, now)
            case PixelMaskSent() | DataResource() | DataRange() | Reading():
                pass
            case FrameArrived() | FrameFound():
                raise TypeError("the assembler takes decoded frames: give it a Frame")
        if self._assembly.without_documents:
            outputs += self._open_without_documents(now)
        return outputs + self._open_overdue(now) + self._close_ended(now)

    def fill(self, uid: str, frames: Iterable[Frame], now: float) -> list[Output]:
        """Take frames of a scan from elsewhere than its stream, such as the detector's file; their series is not read.

        What it no longer lacks counts as a duplicate; what belongs to no open scan as foreign.
        """
        now = self._now = max(self._now, now)
        scan = next((scan for scan in self._scans if scan.uid == uid), None)
        if scan is None:
            self.counts["frames_foreign"] += sum(1 for _ in frames)
            return []
        return [*scan.take(frames, now), *self._close_ended(now)]

    def series_of(self, uid: str) -> int | None:
        """The number of the detector series that is bound to an open scan."""
        return self._binder.series_of(uid)

    def tick(self, now: float) -> list[Output]:
        """Let time pass: close scans that are over, and drop what has waited too long for a start document."""
        now = self._now = max(self._now, now)
        outputs = self._open_without_documents(now) if self._assembly.without_documents else []
        outputs += self._open_overdue(now) + self._close_ended(now)
        self._binder.forget(now - self._assembly.preroll_s)
        return outputs

    def finish(self) -> list[Output]:
        """Close every open scan, because nothing more will be received; count what still waited for a run."""
        outputs = self._open_awaiting({})
        if self._assembly.without_documents:
            outputs += self._open_without_documents(self._now, final=True)
        for scan in list(self._scans):
            outputs += self._close(scan, "complete" if scan.whole else "stopped")
        self._binder.forget(float("inf"))
        return outputs

    @property
    def waiting_frames(self) -> int:
        """Frames that wait for a start document."""
        return self._binder.waiting_frames

    @property
    def open_scans(self) -> list[dict[str, Any]]:
        """For each open scan its uid, and the frames expected, received and paired so far."""
        return [
            {"uid": scan.uid, "expected": scan.plan.expected, "frames": scan.frames, "paired": scan.paired}
            for scan in self._scans
        ]

    # Runs

    def _open(self, uid: str, document: dict[str, Any], now: float) -> list[Output]:
        if self._awaits(uid) or any(uid in (scan.uid, scan.documented_as) for scan in self._scans):
            self.counts["documents_foreign"] += 1
            return []
        self._announced.append(uid)
        self._binder.announce(now)
        outputs = self._open_awaiting({})
        try:
            scan = self._scan(uid, document, self._positions, now)
        except GeometryError as error:
            outputs += self._supersede(now)
            _log.warning("run %s is passed over: %s", uid, error)
            self.counts["runs_passed_over"] += 1
            self._binder.passed_over = uid
        else:
            undocumented = [s for s in self._scans if s.undocumented and s.documented_as is None]
            if undocumented and undocumented[-1].plan.expected == scan.plan.expected:
                undocumented[-1].documented_as = uid
                self.counts["documents_late"] += 1
                return outputs
            outputs += self._supersede(now)
            if awaits_baseline(document, self._positions):
                self._awaiting = _Awaiting(uid, document, now)
                return outputs
            outputs.append(self._begin(scan))
        return outputs + self._binder.bind(now)

    def _awaits(self, uid: str | None) -> bool:
        return self._awaiting is not None and uid in (None, self._awaiting.uid)

    def _open_awaiting(self, baseline: dict[str, Any], uid: str | None = None) -> list[Output]:
        """Open the run that awaits its baseline reading, if there is one (with this uid), with what is known."""
        if self._awaiting is None or not self._awaits(uid):
            return []
        awaiting, self._awaiting = self._awaiting, None
        scan = self._scan(awaiting.uid, awaiting.document, self._positions, awaiting.since, baseline)
        if scan.layout.angle_source.startswith("assumed") and self._positions.foreshorten:
            _log.warning("run %s: its rotation is %s: not foreshortened", scan.uid, scan.layout.angle_source)
        return [self._begin(scan), *self._binder.bind(self._now)]

    def _open_overdue(self, now: float) -> list[Output]:
        patient = self._awaiting is not None and now - self._awaiting.since < self._assembly.settle_s
        return [] if patient else self._open_awaiting({})

    def _scan(
        self,
        uid: str,
        document: dict[str, Any],
        positions: PositionsConfig,
        now: float,
        baseline: Mapping[str, Any] | None = None,
    ) -> Scan:
        """Make a scan of a start document. What holds for its encoders is decided here, and nowhere else."""
        layout = resolve(document, baseline or {}, positions)
        expected, samples = layout.plan.expected, layout.samples_per_frame
        if expected * samples > MOST_SAMPLES:
            raise GeometryError(
                f"start document: {expected} frames of {samples} samples are more than the {MOST_SAMPLES} samples that "
                "can be held"
            )
        return Scan(uid, document, layout, positions, self._assembly, now)

    def _supersede(self, now: float) -> list[Output]:
        """One RunEngine has one run at a time: the elder's stop document was lost or overtaken."""
        for scan in self._scans:
            scan.superseded = True
        self._binder.passed_over = None
        outputs = self._close_ended(now)
        self._binder.forget(now - self._assembly.preroll_s)
        return outputs

    def _begin(self, scan: Scan) -> ScanOpened:
        self._scans.append(scan)
        self._foreign_before[scan.uid] = self.counts["frames_foreign"]
        return ScanOpened(scan.uid, scan.document, scan.layout)

    def _documented(self, uid: str, now: float) -> Scan | None:
        """The open scan that a later document belongs to."""
        scan = next((scan for scan in self._scans if uid in (scan.uid, scan.documented_as)), None)
        if scan is not None:
            scan.documented, scan.last = True, now
        elif uid != self._binder.passed_over:
            self.counts["documents_foreign"] += 1
            if uid not in self._announced and not self._scans and self._awaiting is None:
                self._binder.disown()
        return scan

    def _close_ended(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        quiet_s, assembly = now - self._last, self._assembly
        for scan in tuple(self._scans):
            reason = scan.ending(now, quiet_s, assembly.settle_s, assembly.idle_s)
            if reason is None:
                continue
            if reason != "complete" and assembly.fill_s:
                outputs += self._ask_for_missing(scan, now)
                if scan.fill_until is not None and now < scan.fill_until:
                    continue
            outputs += self._close(scan, reason)
        return outputs

    def _ask_for_missing(self, scan: Scan, now: float) -> list[Output]:
        if scan.fill_until is not None:
            return []
        missing = scan.missing()
        scan.fill_until = now + self._assembly.fill_s if len(missing) else now
        return [FramesMissing(scan.uid, missing)] if len(missing) else []

    def _close(self, scan: Scan, reason: Reason) -> list[Output]:
        self._scans.remove(scan)
        self._binder.release(scan)
        foreign = self.counts["frames_foreign"] - self._foreign_before.pop(scan.uid)
        joined = scan.finish(self._now)
        report = scan.report(reason, foreign)
        if report.alignment.verdict == "suspect":
            line, offset = report.alignment.lines[0], report.alignment.offsets[0]
            _log.warning("scan %s: at the end of line %d the detector is %d triggers behind", scan.uid, line, offset)
        if report.gate == "given up":
            _log.warning("scan %s: too many frames lay where they were not commanded: none was kept out", scan.uid)
        for axis, ratio in zip(scan.layout.axes, report.span_ratios, strict=True):
            if axis.channel is not None and ratio is not None and abs(ratio - 1) > _SPAN_TOLERANCE:
                _log.warning(
                    "scan %s: by %s %s moved %.3f of its commanded range: scale, sign or channel is not right",
                    *(scan.uid, axis.channel, axis.motor or "the motor", ratio),
                )
        return [*joined, ScanClosed(scan.uid, report)]

    # Scans without documents

    def _open_without_documents(self, now: float, final: bool = False) -> list[Output]:
        """Open a scan for the oldest series and the oldest capture that wait, if they can be of one."""
        for series in self._binder.loose_series:
            expected = self._expected(series)
            for capture in self._binder.loose_captures if expected else ():
                if not expected or not capture.fits(expected, self._positions.samples(KIND) or 1):
                    continue
                if scan := self._guess(series, capture, expected, now, final):
                    return [*self._supersede(now), self._begin(scan), *self._binder.bind(now)]
                break
        return []

    def _expected(self, series: Series) -> int | None:
        """Frames of a series that may be a scan's; None for a warm-up, or while that is not known."""
        if series.expected is not None:
            plausible = 1 < series.expected <= MOST_SAMPLES // (self._positions.samples(KIND) or 1)
            return series.expected if plausible else None
        configured = self._assembly.scan_input
        return int(configured[2] * configured[5]) if configured and series.highest >= 1 else None

    def _guess(self, series: Series, capture: Capture, expected: int, now: float, final: bool) -> Scan | None:
        configured, per_frame = self._assembly.scan_input, self._positions.samples(KIND) or 1
        positions = self._positions.model_copy(update={"samples_per_frame": per_frame})
        if configured is not None and int(configured[2] * configured[5]) == expected:
            document = start_document(series.number, capture.armed_at, configured)
        else:
            over = final or capture.over or now - capture.last >= self._assembly.settle_s
            extent, (tried, tried_over) = capture.samples.extent, capture.guessed
            if (extent == tried and over == tried_over) or (not over and 4 * extent < 5 * tried):
                return None
            capture.guessed = (extent, over)
            try:
                unknown = start_document(series.number, capture.armed_at, (0, 1, expected, 0, 1, 1))
                layout = resolve(unknown, {}, positions)
            except GeometryError as error:
                _log.warning("series %d, without documents: %s", series.number, error)
                return None
            at = FramePositions(capture.samples, layout, per_frame, expected)
            at.update(0, extent)
            complete = np.flatnonzero(at.complete)
            first = int(at.complete.argmin()) if len(complete) < expected else expected
            found = commanded(at.positions_m(np.arange(first)), expected, positions)
            if found is None and not (over and len(complete)):
                return None
            scan_input, snake = found or (enclosing(at.positions_m(complete), expected, positions), False)
            document = start_document(series.number, capture.armed_at, scan_input, snake)
            # What was read from the encoders needs no other zero than theirs.
            positions = positions.model_copy(update={"zero": "motor"})
        uid = document["uid"]
        self._made_up[uid] += 1
        if self._made_up[uid] > 1:
            uid = document["uid"] = f"{uid}-{self._made_up[uid]}"
        try:
            scan = self._scan(uid, document, positions, now)
        except (GeometryError, ValueError) as error:
            _log.warning("series %d, without documents: %s", series.number, error)
            return None
        scan.undocumented = True
        return scan
