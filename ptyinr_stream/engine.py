"""From joined frames to snapshots: owns the trainer and the device. No threads, no sockets; time is an argument.

The main thread calls `take` for whatever the intake has delivered and `work` for as long as there is something to do. A
step may last 0.3 s on a CPU and the blind start some seconds; nobody waits for either.

One scan is trained at a time, the newest. The next scan never waits: an older one keeps the time that the newest leaves
over, until that has frames enough to begin; then the older one's final snapshot is taken with the training it has had.
One that still receives stragglers keeps them until it is closed. One that is sent again under the same uid while it is
refined is finished first.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import torch

from ptyinr.settings import TrainerSettings
from ptyinr.trainer import Trainer
from ptyinr.types import ScanGeometry, Snapshot
from ptyinr_stream.assembler import (
    BaselineAdded,
    CalibrationAdded,
    CaptureBound,
    FramesMissing,
    Joined,
    Output,
    ScanClosed,
    ScanOpened,
    ScanReport,
    SeriesBound,
)
from ptyinr_stream.backlog import Backlog
from ptyinr_stream.checkpoints import Checkpoints
from ptyinr_stream.config import Config
from ptyinr_stream.errors import CheckpointError, DeviceError, FrameStoreError, GeometryError
from ptyinr_stream.frame_store import DiskStore, free_bytes
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.metadata import ScanRecord, report_record, scan_record
from ptyinr_stream.optics import scan_optics
from ptyinr_stream.refinement import Refinement
from ptyinr_stream.threads import Threads
from ptyinr_stream.warm_start import Start, WarmStart

_log = logging.getLogger(__name__)

MOST_DOUBTFUL = 60
"""Frames below which a scan's probe is not handed on."""

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
    """Joined frames that the trainer could not use, or that the disk had no room for."""
    resumed_at: int | None = None
    """The step of the checkpoint from which training went on after a restart."""
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
    """Why it has failed, or why frames are missing that were joined."""
    report: ScanReport | None = None


@dataclass
class _Scan:
    """A scan on its way through the engine."""

    opened: ScanOpened
    began: float
    status: ScanStatus
    waiting: Backlog[Joined]
    """For the optics."""
    window: tuple[int, int] | None = None
    """Of its frames, once the first has come."""
    baseline: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    """The detector's."""
    calibration: dict[str, Any] = field(default_factory=dict)
    trainer: Trainer | None = None
    refinement: Refinement | None = None
    """Since the scan was closed."""
    start: Start = field(default_factory=Start)
    """What it began with."""
    trains_since: float = -math.inf
    """Its first step in this life; a scan that is resumed has had it long ago."""
    next_snapshot: float = 0.0
    next_checkpoint: float = 0.0
    refusal: str = "no frame was joined with a position"
    """Why there is nothing to train on, should it come to that."""

    @property
    def closed(self) -> bool:
        """Whether no more frames will come."""
        return self.refinement is not None

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
        self._config, self._sinks, self._device = config, sinks, device
        self._named = None if probe is None else Start(probe, str(config.training.probe_file or "a given probe"))
        folder = config.output.folder
        self._warm = WarmStart(folder and folder / "probes")
        self._checkpoints = Checkpoints(config.checkpoints) if config.checkpoints else None
        self._convention = FrameConvention(config.frames).describe()
        self._threads = Threads(None if device == "cpu" else 1)
        self._scans: dict[str, _Scan] = {}
        self.history: list[ScanStatus] = []
        """Of the scans that are over, oldest first; the last hundred."""

    @property
    def begun(self) -> set[str]:
        """The scans that an earlier life, before it ended, has begun and not finished; empty without checkpoints."""
        return set() if self._checkpoints is None else self._checkpoints.begun

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
                if again := self._scans.get(output.uid):
                    self._finish(again, now)
                status = ScanStatus(output.uid, "waiting for frames", output.expected)
                self._scans[output.uid] = _Scan(output, now, status, self._backlog())
                if self._checkpoints is not None:
                    self._checkpoints.begin(output.uid)
            case BaselineAdded():
                if scan := self._scans.get(output.uid):
                    scan.baseline |= output.values
            case SeriesBound(uid, _, header):
                if scan := self._scans.get(uid):
                    scan.header = header
            case CalibrationAdded():
                if scan := self._scans.get(output.uid):
                    scan.calibration |= output.values
            case Joined():
                if scan := self._scans.get(output.uid):
                    self._append(scan, output, now)
            case ScanClosed():
                if scan := self._scans.get(output.uid):
                    self._close(scan, output.report, now)
            case CaptureBound() | FramesMissing():
                pass

    def work(self, now: Callable[[], float]) -> bool:
        """Take one step of the newest scan that can be trained, with a snapshot if one is due; False if none can.

        Raises:
            DeviceError: the device is lost; a restart takes the scan up again.
        """
        for scan in reversed(list(self._scans.values())):
            trainer = self._trainer(scan, now())
            if trainer is None or not trainer.ready(complete=scan.closed):
                continue
            for older in self._older(scan):
                self._finish(older, now())
            if not trainer.steps and scan.status.phase != "finding the probe":
                # In a call of its own, so that it can be seen: the next takes seconds.
                scan.note(phase="finding the probe")
                return True
            try:
                with self._translated_errors():
                    self._step(scan, trainer, now)
            except (FrameStoreError, ValueError) as error:
                self._fail(scan, str(error))
                if scan.closed:
                    self._finish(scan, now())
            return True
        return False

    def _older(self, scan: _Scan) -> list[_Scan]:
        """Closed scans that have had the time which this one, ready to be trained, left over."""
        uids = list(self._scans)
        return [self._scans[uid] for uid in uids[: uids.index(scan.opened.uid)] if self._scans[uid].closed]

    def stop(self, now: float) -> None:
        """Finish every scan with what it has."""
        for scan in list(self._scans.values()):
            self._finish(scan, now)

    def _step(self, scan: _Scan, trainer: Trainer, now: Callable[[], float]) -> None:
        end = scan.refinement
        # The first one finds the probe: how long that takes tells nothing.
        with self._threads.step(now) if trainer.steps else nullcontext():
            trainer.step(1.0 if end is None else end.factor(now()))
        scan.note(steps=trainer.steps, phase="training" if end is None else "refining")
        time = now()
        if trainer.steps == 1:
            scan.trains_since = time
            scan.next_snapshot = time + self._period(scan, time)
        if end is not None and end.over(time):
            self._finish(scan, time)
        elif time >= scan.next_snapshot:
            self._publish(scan, trainer.snapshot(), now())
            if end is not None:
                end.judge(scan.status.metrics.get("heldout_error"), now())
                scan.note(ends_at=end.ends_at)
            # From its beginning, so that the period holds; on large fields, where a snapshot takes seconds itself, at
            # most half of the time goes into snapshots.
            scan.next_snapshot = max(time + self._period(scan, time), now() + (now() - time))
        elif self._checkpoints is not None and time >= scan.next_checkpoint:
            self._checkpoint(scan, trainer, self._checkpoints, now)

    def _period(self, scan: _Scan, time: float) -> float:
        """Seconds until the next snapshot: a third of what training has taken.

        At least a third of those configured, as at first, when the picture changes most; at most those configured. A
        snapshot of the Siemens star costs 0.12 s; with a known probe 0.95 is reached 2 to 3 s after the first step
        (2026-11-26).
        """
        longest = self._config.training.snapshot_s
        return min(longest, max(longest, time - scan.trains_since) / 3)

    def _checkpoint(self, scan: _Scan, trainer: Trainer, checkpoints: Checkpoints, now: Callable[[], float]) -> None:
        began = now()
        try:
            checkpoints.save(scan.opened.uid, trainer.state())
        except CheckpointError as error:
            _log.warning("scan %s: %s", scan.opened.uid, error)
        # On large fields, which take seconds to write, a twentieth of the time goes into checkpoints.
        scan.next_checkpoint = now() + max(self._config.training.checkpoint_s, 20 * (now() - began))

    def _append(self, scan: _Scan, joined: Joined, now: float) -> None:
        batch, first = joined.batch, scan.status.first_frame_at
        frames = scan.status.frames + len(batch.indices)
        scan.note(frames=frames, first_frame_at=now if first is None else first, last_frame_at=now)
        if scan.status.phase == "failed":
            return
        height, width = batch.counts.shape[1:]
        scan.window = scan.window or (height, width)
        scan.waiting.put(joined)
        if (trainer := self._trainer(scan, now)) is None:
            return
        self._hand_over(scan, trainer)

    def _hand_over(self, scan: _Scan, trainer: Trainer) -> None:
        """Append what waits. A batch that cannot be used, such as a wild encoder position, costs its frames only.

        So does one that the disk has no room for: training goes on with those that are there.
        """
        while len(scan.waiting):
            try:
                batch = scan.waiting.get().batch
            except FrameStoreError as error:
                self._refuse(scan, error.frames, error)
                continue
            try:
                with self._translated_errors():
                    trainer.append(batch)
            except (FrameStoreError, ValueError) as error:
                self._refuse(scan, len(batch.indices), error)

    def _refuse(self, scan: _Scan, frames: int, error: Exception) -> None:
        if isinstance(error, FrameStoreError):
            scan.note(error=str(error))
        if scan.refusal != str(error):  # a full disk says the same again and again
            _log.warning("scan %s: %d frames cannot be used: %s", scan.opened.uid, frames, error)
        scan.note(refused=scan.status.refused + frames, frames=scan.status.frames - frames)
        scan.refusal = str(error)

    def _trainer(self, scan: _Scan, now: float) -> Trainer | None:
        """The scan's trainer, made as soon as a frame tells the window and the documents have told the optics."""
        if scan.status.phase == "failed":
            return None
        if scan.trainer is not None or scan.window is None:
            return scan.trainer
        document = scan.opened.document
        # The detector's header is the last resort: only when no baseline reading can still come before it.
        early = not scan.baseline and not scan.closed and now - scan.began < self._config.assembly.settle_s
        header = {} if early else scan.header
        try:
            optics = scan_optics(self._config.geometry, scan.window, document, scan.baseline, header)
        except GeometryError as error:
            if scan.closed:  # the baseline reading may still come
                self._fail(scan, str(error))
            return None
        try:
            trainer = self._begin(scan, optics.geometry)
        except (FrameStoreError, ValueError) as error:
            self._fail(scan, str(error))
            return None
        scan.trainer = trainer
        for doubt in optics.doubts:
            _log.warning("scan %s: %s", scan.opened.uid, doubt)
        convention = self._convention | scan.calibration
        if scan.opened.resumed:
            convention["resumed"] = True
        record = scan_record(scan.opened.uid, document, optics, scan.opened.layout, convention)
        for sink in self._sinks:
            sink.open(record)
        self._hand_over(scan, trainer)
        return trainer

    def _begin(self, scan: _Scan, geometry: ScanGeometry) -> Trainer:
        """A trainer with what is known before the first frame: a checkpoint of this scan, or an earlier scan's probe.

        Raises:
            ValueError: the named probe does not fit.
            FrameStoreError: there is no file to keep the frames in.
        """
        opened, warm = scan.opened, self._config.training.warm_start
        scan.start = self._named or (self._warm.start(geometry) if warm else Start())
        make = partial(
            Trainer,
            geometry,
            opened.range,
            self._settings,
            uid=opened.uid,
            device=self._device,
            check_probe=True,
            store=self._store(geometry.window, opened.expected),
        )
        for state in [] if self._checkpoints is None else self._checkpoints.states(opened.uid):
            trainer = make(probe=scan.start.probe)
            try:
                trainer.restore(state)
            except ValueError as error:
                _log.warning("scan %s: a checkpoint is not used: %s", opened.uid, error)
                continue
            scan.note(resumed_at=trainer.steps)
            _log.info("scan %s: training goes on after step %d", opened.uid, trainer.steps)
            return trainer
        if scan.start.probe is not None:
            _log.info("scan %s begins with the probe of %s", opened.uid, scan.start.of)
        if self._config.training.same_region and scan.start.state is not None:
            try:
                return make(probe=scan.start.probe, previous=scan.start.state)
            except ValueError as error:
                _log.info("scan %s begins without the object of %s: %s", opened.uid, scan.start.of, error)
        return make(probe=scan.start.probe)

    def _backlog(self) -> Backlog[Joined]:
        return Backlog(1e6 * self._config.training.backlog_mb, self._config.frames_folder)

    def _store(self, window: tuple[int, int], frames: int) -> DiskStore | None:
        """Where the frames of a scan are kept; None in the memory of the device."""
        training, size_mb = self._config.training, 4e-6 * frames * window[0] * window[1]
        if self._device != "cpu" or size_mb <= training.frames_on_disk_above_mb:
            return None
        folder = self._config.frames_folder
        if (free_mb := free_bytes(folder) / 1e6) < size_mb:
            _log.warning("%s: %.1f MB are free, the frames of this scan take %.1f MB", folder, free_mb, size_mb)
        return DiskStore(window, self._device, folder)

    def _close(self, scan: _Scan, report: ScanReport, now: float) -> None:
        scan.refinement = Refinement(now, self._config.training.refine_s)
        scan.note(report=report, ends_at=scan.refinement.ends_at)
        if not scan.status.frames and report.supersampling.verdict == "contradicts":
            scan.refusal = str(report.supersampling)
        trainer = self._trainer(scan, now)
        if not self._config.training.refine_s or trainer is None or not trainer.ready(complete=True):
            self._finish(scan, now)

    def _finish(self, scan: _Scan, now: float) -> None:
        """Take the final snapshot and let the scan go."""
        del self._scans[scan.opened.uid]
        scan.refinement = scan.refinement or Refinement(now, 0.0)
        trainer = self._trainer(scan, now)
        if trainer is not None:
            try:
                with self._translated_errors():
                    if not trainer.steps:
                        trainer.step()
                    final = trainer.snapshot(final=True)
                self._publish(scan, final, now)
                scan.note(phase="done", steps=trainer.steps)
                self._remember(scan, trainer, final)
            except (FrameStoreError, ValueError) as error:
                self._fail(scan, str(error) if len(trainer.dataset) else scan.refusal)
        elif scan.status.phase != "failed":
            scan.note(phase="failed", error=scan.refusal)
        if self._checkpoints is not None:
            self._checkpoints.forget(scan.opened.uid)
        if scan.trainer is not None:
            summary = report_record(scan.status.report) if scan.status.report else {"end_reason": "stopped"}
            for sink in self._sinks:
                sink.close(scan.opened.uid, summary | {"frames_refused": scan.status.refused})
        self.history = [*self.history[-99:], scan.status]
        _log.info(
            "scan %s: %s, %d frames, %d steps", *(getattr(scan.status, n) for n in ("uid", "phase", "frames", "steps"))
        )

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """What a device says when it can no more."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"the memory of {self._device} does not hold this scan: {error}") from error
        except RuntimeError as error:
            if "CUDA" not in str(error):
                raise
            raise DeviceError(f"{self._device} is lost: {error}") from error

    def _remember(self, scan: _Scan, trainer: Trainer, final: Snapshot) -> None:
        """Keep what the next scan may begin with."""
        if final.frames >= MOST_DOUBTFUL and trainer.sure:
            same_region = self._config.training.same_region
            self._warm.keep(trainer.geometry, final, trainer.state() if same_region else None)

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
        scan.waiting = self._backlog()
        scan.note(phase="failed", error=reason)
