"""The scan on disk as it grows: every event the intake gets, as it came, in the folder of the run it belongs to.

    intake --take, bound--> queue, bounded in bytes --> one thread: which run? --> segments of `recordings`

The disk never delays pairing for as long as the queue has room; when it has none, `take` waits and the inbox and
ZeroMQ buffer. A disk that takes nothing for `PATIENCE_S` ends the recordings in progress, not the scan: they are marked
incomplete, and the next run is tried anew. An event is safe from a kill once the flush that follows within
`FLUSH_S`, as a rule at once, has returned; no flush waits for the medium, so that a power cut may cost more.

What arrives before its run does wait: frames in a segment of their own, which moves into the run's folder when their
series is bound to it, all else in memory. What is bound to no run within the preroll is deleted and counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ptyinr_stream.assembler import CaptureBound, Output, ScanClosed, ScanOpened, SeriesBound
from ptyinr_stream.config import AssemblyConfig, RecordingConfig
from ptyinr_stream.events import Event, FrameArrived, PositionsArrived
from ptyinr_stream.recordings.router import Router

_log = logging.getLogger(__name__)

FLUSH_S = 0.1
"""How long, at most, what was received waits for the next flush to begin."""
FLUSH_SHARE = 0.05
"""Of the recorder's time may go into flushes: after such a pause, what comes is flushed at once. One takes 1 to 2 ms on
a local disk, so that a kill costs what came in the last 20 to 40 ms."""
_LEAST_PAUSE_S = 0.02
"""Where nothing is to be flushed it takes no time, and the thread would not rest (seen: a quarter of a core)."""
PATIENCE_S = 10.0
"""How long a full queue waits for the disk."""
_BATCH_BYTES = 32 * 2**20
_CHECK_S = 1.0


@dataclass(frozen=True)
class RecorderStatus:
    """How the recorder stands."""

    state: str
    """`off`, `waiting` for a run, `recording`, or `failed`: then `reason` says why."""
    reason: str = ""
    folder: str = ""
    """Of the newest run's recording."""
    bytes: int = 0
    """Written in this daemon's life."""
    frames: int = 0
    lag_s: float = 0.0
    """Age of the oldest event that is not flushed."""
    queued_bytes: int = 0
    slowest_flush_s: float = 0.0
    """The worst flush so far."""
    counts: dict[str, int] = field(default_factory=dict)
    """`unbound_frames`, `unbound_events`: of no run; `late`: after their run; `lost`: while a recording had failed."""


class Recorder:
    """Records from its construction until `close`; `take` and its like are called by one thread, the intake's.

    Args:
        folder: of the recordings.
        config: how much may be written.
        assembly: how long what has no run waits.
        attributes: of every segment; `configuration` as JSON.
        clock: the one by which messages are stamped.
    """

    def __init__(
        self,
        folder: Path,
        config: RecordingConfig,
        assembly: AssemblyConfig,
        attributes: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._capacity = int(1e6 * config.buffer_mb)
        self._queue: deque[tuple[Callable[[], None], int, float]] = deque()
        self._queued_bytes = 0
        self._oldest: float | None = None  # when the first event that is not flushed was received
        self._changed = threading.Condition()
        self._closed = False
        self._hurried = False
        self._flush_from = 0.0  # when the pause since the last flush is over
        self._refusing = False
        self._refused = 0
        self._marked = False
        self._order = 0
        self._slowest_flush_s = 0.0
        self._died = ""
        self._router = Router(folder, config, assembly, attributes, time.time() - clock())
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def take(self, event: Event, now: float) -> None:
        """Record an event that was received at `now`."""
        self._order += 1
        order, size = self._order, _size(event)
        self._put(lambda: self._router.route(order, now, event), size, now)

    def follow(self, output: Output, now: float) -> None:
        """Learn from the assembler which runs there are, and what belongs to them."""
        match output:
            case ScanOpened(uid):
                self.opened(uid, now)
            case SeriesBound(uid, series):
                self.bound(uid, now, series)
            case CaptureBound(uid):
                self.bound(uid, now)
            case ScanClosed(uid, report):
                self.closed(uid, asdict(report), now)

    def opened(self, uid: str, now: float) -> None:
        """A run has begun that is a scan: its documents, also those that came before, are recorded."""
        self._put(lambda: self._router.opened(uid), 0, now)

    def resume(self, uid: str, folder: Path, now: float) -> None:
        """Go on with the unfinished recording of a run, in segments of a new life.

        Its own events are not to be taken again. What the assembler says of them while it is fed with them is followed
        as ever, so that the series and the capture that are bound to the run go on into its recording.
        """
        self._put(lambda: self._router.opened(uid, folder), 0, now)

    def bound(self, uid: str, now: float, series: int | None = None) -> None:
        """A detector series, or without one the newest capture of positions, belongs to a run."""
        self._put(lambda: self._router.bound(uid, series), 0, now)

    def closed(self, uid: str, report: Mapping[str, Any], now: float) -> None:
        """A scan is over; what its documents still say is awaited."""
        self._put(lambda: self._router.closed(uid, report, now), 0, now)

    @property
    def status(self) -> RecorderStatus:
        """A copy of everything that is counted."""
        router, oldest = self._router, self._oldest
        state, reason = router.state
        return RecorderStatus(
            state="failed" if self._died else state,
            reason=self._died or reason,
            folder=router.folder_of_newest,
            bytes=router.nbytes,
            frames=router.frames,
            lag_s=0.0 if oldest is None else max(0.0, self._clock() - oldest),
            queued_bytes=self._queued_bytes,
            slowest_flush_s=self._slowest_flush_s,
            counts=dict(router.counts),
        )

    def sync(self, timeout: float = 60.0) -> bool:
        """Wait until all that was taken is flushed; False if that takes longer."""
        flushed = threading.Event()

        def flush() -> None:
            self._router.flush()
            flushed.set()

        with self._changed:
            self._hurried = True
        self._put(flush, 0, self._clock())
        return not self._died and flushed.wait(timeout)

    def close(self, timeout: float | None = 60.0) -> None:
        """Write what was taken and end; the recordings of scans that go on can be resumed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.error("the recorder has not written what it holds in %g s: %d bytes", timeout, self._queued_bytes)

    def _put(self, work: Callable[[], None], size: int, now: float) -> None:
        with self._changed:
            if self._closed or self._died:
                return
            if size:  # what is said of runs is small, and never refused
                if not self._queue:
                    self._refusing = False
                if self._refusing or not self._changed.wait_for(self._has_room(size), PATIENCE_S):
                    self._refusing = True
                    self._refused += 1
                    if not self._marked:  # in its place among all else, to end the recordings that it is missing from
                        self._marked = True
                        self._queue.append((self._give_up, 0, now))
                    return
            self._marked = False
            self._queue.append((work, size, now))
            self._queued_bytes += size
            # Woken for each frame, the thread would disturb the intake a thousand times a second.
            if self._is_pressed() or (size and now >= self._flush_from):
                self._hurried = True
                self._changed.notify_all()

    def _has_room(self, size: int) -> Callable[[], bool]:
        return lambda: self._queued_bytes + size <= self._capacity or not self._queue or bool(self._died)

    def _is_pressed(self) -> bool:
        return self._closed or self._hurried or self._queued_bytes > _BATCH_BYTES

    def _run(self) -> None:
        try:
            check_at = self._clock()
            while True:
                batch, over = self._next_batch()
                for work in batch:
                    work()
                self._flush()
                if (now := self._clock()) >= check_at:
                    self._router.look_after(now)
                    check_at = now + _CHECK_S
                if over and not batch:
                    break
            self._router.close()
        except Exception as error:  # noqa: BLE001 - the live picture goes on, and the status says what is missing
            _log.error("the recorder has ended: %r", error, exc_info=error)
            with self._changed:
                self._died = f"a defect of the recorder: {error!r}"
                self._queue.clear()
                self._changed.notify_all()

    def _next_batch(self) -> tuple[list[Callable[[], None]], bool]:
        """What has come since the last, at most some `_BATCH_BYTES`, and whether no more will come."""
        with self._changed:
            pause = self._flush_from - self._clock()
            self._changed.wait_for(self._is_pressed, pause if 0 < pause < FLUSH_S else FLUSH_S)
            self._hurried = False
            batch, taken = [], 0
            while self._queue and taken <= _BATCH_BYTES:
                work, size, now = self._queue.popleft()
                self._oldest = now if self._oldest is None else self._oldest
                batch.append(work)
                taken += size
            self._queued_bytes -= taken
            self._marked = False
            self._changed.notify_all()
            return batch, self._closed

    def _give_up(self) -> None:
        with self._changed:
            refused, self._refused = self._refused, 0
        self._router.give_up(f"the disk took nothing for {PATIENCE_S:g} s", refused)

    def _flush(self) -> None:
        began = time.perf_counter()
        self._router.flush()
        lasted = time.perf_counter() - began
        self._slowest_flush_s = max(self._slowest_flush_s, lasted)
        self._oldest = None
        self._flush_from = self._clock() + min(FLUSH_S, max(_LEAST_PAUSE_S, lasted / FLUSH_SHARE))


def _size(event: Event) -> int:
    match event:
        case FrameArrived():
            return len(event.image.data) + 500
        case PositionsArrived():
            return 500 + sum(values.nbytes for values in event.channels.values())
    return 1000
