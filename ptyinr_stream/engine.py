"""From joined frames to snapshots: owns the trainer and the device. No threads, no sockets; time is an argument.

The main thread calls `take` for whatever the intake has delivered and `work` for as long as there is something to do. A
step may last 0.3 s on a CPU and the blind start some seconds; nobody waits for either.

One scan is trained at a time, the newest. An older one that is still receiving stragglers keeps them; as soon as it is
closed, or at once if it is, its final snapshot is taken with the training it has had: the next scan never waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from ptyinr.settings import TrainerSettings
from ptyinr.trainer import Trainer, annealed
from ptyinr.types import Batch, Snapshot
from ptyinr_stream.assembler import BaselineAdded, Joined, Output, ScanClosed, ScanOpened, ScanReport
from ptyinr_stream.config import Config
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.metadata import ScanRecord, report_record, scan_record
from ptyinr_stream.optics import scan_geometry, scan_plan

_log = logging.getLogger(__name__)

Phase = Literal["waiting for frames", "finding the probe", "training", "refining", "done", "failed"]


class Sink(Protocol):
    """Where snapshots go. Every method returns at once and never fails."""

    def open(self, scan: ScanRecord) -> None:
        """A scan begins."""
        ...

    def publish(self, snapshot: Snapshot) -> None:
        """A snapshot of an open scan."""
        ...

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """A scan is over."""
        ...


@dataclass(frozen=True)
class ScanStatus:
    """How one scan stands, for people and for metrics."""

    uid: str
    phase: Phase
    expected: int
    frames: int = 0
    """In the dataset."""
    refused: int = 0
    """Joined frames that the trainer could not use."""
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the newest snapshot."""
    first_frame_at: float | None = None
    last_frame_at: float | None = None
    first_snapshot_at: float | None = None
    last_snapshot_at: float | None = None
    longest_gap_s: float = 0.0
    """Between two snapshots."""
    ends_at: float | None = None
    """When refinement will be over, unless the next scan begins earlier; None while frames arrive."""
    error: str | None = None
    report: ScanReport | None = None


@dataclass
class _Scan:
    """A scan on its way through the engine."""

    opened: ScanOpened
    began: float
    status: ScanStatus
    baseline: dict[str, Any] = field(default_factory=dict)
    waiting: list[Batch] = field(default_factory=list)
    trainer: Trainer | None = None
    closed_at: float | None = None
    next_snapshot: float = 0.0
    refusal: str = "no frame was joined with a position"
    """Why there is nothing to train on, should it come to that."""

    def note(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)


class Engine:
    """Trains the newest scan and hands its snapshots to the sinks."""

    def __init__(
        self,
        config: Config,
        sinks: Sequence[Sink],
        *,
        device: str,
        probe: np.ndarray | None = None,
        settings: TrainerSettings | None = None,
    ) -> None:
        """Begin without a scan.

        Args:
            config: the whole configuration.
            sinks: where snapshots go.
            device: torch's name.
            probe: (modes, h, w) starts every scan; None finds one in each.
            settings: what the configuration does not say of the training; None leaves it to the data.
        """
        self._settings = replace(
            settings or TrainerSettings(), holdout=config.training.holdout, seed=config.training.seed
        )
        self._config, self._sinks, self._device, self._probe = config, sinks, device, probe
        self._convention = FrameConvention(config.frames).describe()
        self._scans: dict[str, _Scan] = {}
        self.history: list[ScanStatus] = []
        """Of the scans that are over, oldest first; the last hundred."""

    @property
    def status(self) -> ScanStatus | None:
        """Of the scan in training, else of the last one that ended."""
        if self._scans:
            return next(reversed(self._scans.values())).status
        return self.history[-1] if self.history else None

    def take(self, output: Output, now: float) -> None:
        """Accept what the intake has delivered."""
        match output:
            case ScanOpened():
                for scan in [s for s in self._scans.values() if s.closed_at is not None]:
                    self._finish(scan, now)
                status = ScanStatus(output.uid, "waiting for frames", output.expected)
                self._scans[output.uid] = _Scan(output, now, status)
            case BaselineAdded():
                if scan := self._scans.get(output.uid):
                    scan.baseline |= output.values
            case Joined():
                if scan := self._scans.get(output.uid):
                    self._append(scan, output.batch, now)
            case ScanClosed():
                if scan := self._scans.get(output.uid):
                    self._close(scan, output.report, now)

    def work(self, now: Callable[[], float]) -> bool:
        """Take one step of the newest scan, with a snapshot if one is due; False if there is nothing to do."""
        scan = next(reversed(self._scans.values()), None)
        trainer = None if scan is None else self._trainer(scan)
        if scan is None or trainer is None or not trainer.ready(complete=scan.closed_at is not None):
            return False
        if not trainer.steps and scan.status.phase != "finding the probe":
            scan.note(phase="finding the probe")  # in a call of its own, so that it can be seen: the next takes seconds
            return True
        try:
            self._step(scan, trainer, now)
        except ValueError as error:
            self._fail(scan, str(error))
            if scan.closed_at is not None:
                self._finish(scan, now())
        return True

    def stop(self, now: float) -> None:
        """Finish every scan with what it has."""
        for scan in list(self._scans.values()):
            self._finish(scan, now)

    def _step(self, scan: _Scan, trainer: Trainer, now: Callable[[], float]) -> None:
        trainer.step(self._anneal(scan, now()))
        scan.note(steps=trainer.steps, phase="training" if scan.closed_at is None else "refining")
        time = now()
        if trainer.steps == 1:
            scan.next_snapshot = time + self._config.training.snapshot_s
        if scan.closed_at is not None and time >= scan.closed_at + self._config.training.refine_s:
            self._finish(scan, time)
        elif time >= scan.next_snapshot:
            self._publish(scan, trainer.snapshot(), now())
            # From its beginning, so that the period holds; on large fields, where a snapshot takes seconds itself, at
            # most half of the time goes into snapshots.
            scan.next_snapshot = max(time + self._config.training.snapshot_s, now() + (now() - time))

    def _append(self, scan: _Scan, batch: Batch, now: float) -> None:
        first = scan.status.first_frame_at
        frames = scan.status.frames + len(batch.indices)
        scan.note(frames=frames, first_frame_at=now if first is None else first, last_frame_at=now)
        if scan.status.phase == "failed":
            return
        scan.waiting.append(batch)
        if (trainer := self._trainer(scan)) is None:
            return
        self._hand_over(scan, trainer)

    def _hand_over(self, scan: _Scan, trainer: Trainer) -> None:
        """Append what waits. A batch that cannot be used, such as a wild encoder position, costs its frames only."""
        while scan.waiting:
            batch = scan.waiting.pop(0)
            try:
                trainer.append(batch)
            except ValueError as error:
                refused = scan.status.refused + len(batch.indices)
                scan.note(refused=refused, frames=scan.status.frames - len(batch.indices))
                scan.refusal = str(error)
                _log.warning("scan %s: %d frames cannot be used: %s", scan.opened.uid, len(batch.indices), error)

    def _trainer(self, scan: _Scan) -> Trainer | None:
        """The scan's trainer, made as soon as a frame tells the window and the documents have told the optics."""
        if scan.status.phase == "failed":
            return None
        if scan.trainer is not None or not scan.waiting:
            return scan.trainer
        height, width = scan.waiting[0].counts.shape[1:]
        document = scan.opened.document
        try:
            plan = scan_plan(document, self._config.positions)
            geometry = scan_geometry(self._config.geometry, (height, width), document, scan.baseline)
        except GeometryError as error:
            if scan.closed_at is not None:  # the baseline reading may still come
                self._fail(scan, str(error))
            return None
        try:
            trainer = Trainer(
                geometry,
                scan.opened.range,
                self._settings,
                uid=scan.opened.uid,
                probe=self._probe,
                device=self._device,
            )
        except ValueError as error:
            self._fail(scan, str(error))
            return None
        scan.trainer = trainer
        record = scan_record(scan.opened.uid, document, geometry, plan, self._convention)
        for sink in self._sinks:
            sink.open(record)
        self._hand_over(scan, trainer)
        return trainer

    def _anneal(self, scan: _Scan, now: float) -> float:
        refine_s = self._config.training.refine_s
        if scan.closed_at is None or not refine_s:
            return 1.0
        return annealed((now - scan.closed_at) / refine_s)

    def _close(self, scan: _Scan, report: ScanReport, now: float) -> None:
        scan.closed_at = now
        scan.note(report=report, ends_at=now + self._config.training.refine_s)
        newest = next(reversed(self._scans.values()))
        trainer = self._trainer(scan)
        refined = self._config.training.refine_s and trainer is not None and trainer.ready(complete=True)
        if scan is not newest or not refined:
            self._finish(scan, now)

    def _finish(self, scan: _Scan, now: float) -> None:
        """Take the final snapshot and let the scan go."""
        del self._scans[scan.opened.uid]
        scan.closed_at = now if scan.closed_at is None else scan.closed_at
        trainer = self._trainer(scan)
        if trainer is not None:
            try:
                if not trainer.steps:
                    trainer.step()
                self._publish(scan, trainer.snapshot(final=True), now)
                scan.note(phase="done", steps=trainer.steps)
            except ValueError as error:
                self._fail(scan, str(error) if len(trainer.dataset) else scan.refusal)
        elif scan.status.phase != "failed":
            scan.note(phase="failed", error=scan.refusal)
        if scan.trainer is not None:
            summary = report_record(scan.status.report) if scan.status.report else {"end_reason": "stopped"}
            for sink in self._sinks:
                sink.close(scan.opened.uid, summary | {"frames_refused": scan.status.refused})
        self.history = [*self.history[-99:], scan.status]
        _log.info(
            "scan %s: %s, %d frames, %d steps", *(getattr(scan.status, n) for n in ("uid", "phase", "frames", "steps"))
        )

    def _publish(self, scan: _Scan, snapshot: Snapshot, now: float) -> None:
        last = scan.status.last_snapshot_at
        snapshot = replace(snapshot, metrics={**snapshot.metrics, "seconds": now - scan.began})
        for sink in self._sinks:
            sink.publish(snapshot)
        scan.note(
            metrics=snapshot.metrics,
            first_snapshot_at=scan.status.first_snapshot_at or now,
            last_snapshot_at=now,
            longest_gap_s=max(scan.status.longest_gap_s, 0.0 if last is None else now - last),
        )

    def _fail(self, scan: _Scan, reason: str) -> None:
        """Give a scan up, keep its frames counted, and say why once."""
        _log.error("scan %s cannot be reconstructed: %s", scan.opened.uid, reason)
        scan.waiting.clear()
        scan.note(phase="failed", error=reason)
