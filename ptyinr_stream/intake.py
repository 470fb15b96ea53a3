"""The one thread between sockets and training: message -> events -> decoded frames -> joined batches.

Pairing never waits for training: what is delivered goes into a queue. Time is that at which messages were received, so
that a backlog is not mistaken for silence; the clock counts only when there is nothing to read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from ptyinr_stream.assembler import Joined, Output, ScanOpened
from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config
from ptyinr_stream.events import CaptureEnded, CaptureStarted, Event, FramesMissing, SeriesEnded, SeriesStarted
from ptyinr_stream.frame_blocks import Memory, number_in, own_memory
from ptyinr_stream.joining import Joining
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.recordings.folder import Recording
from ptyinr_stream.wire import WireDecoder, decoder_of

_log = logging.getLogger(__name__)

ROADS = ("documents", "frames", "positions")
SAID_ONCE = (SeriesStarted, SeriesEnded, CaptureStarted, CaptureEnded)
"""Events that begin and end what has no number of its own, so that a second one would count."""

_TICK_S = 0.1
TWICE_S = 5.0
"""Of the end of a recording that goes on: what was said once in it may have been heard by this life too."""


class Intake:
    """Takes messages from the inbox, from its construction until `stop`, and delivers what the assembler makes of them.

    Args:
        config: wires, frame convention, positions and assembly.
        inbox: of `Message`s; closed when the thread ends, so that no receiver waits for ever.
        deliver: is called in the intake's thread, in order; it must return at once.
        clock: the one by which messages are stamped.
        files: is offered what the documents say, and which frames are missing. What it returns True for it takes over:
            that comes back through the inbox, as `Message.events`, when it has been read.
        recorder: of every event, as it came; None records nothing.
        resumed: recordings of scans that an earlier life of the daemon has not finished, oldest first; they go on.
        memory: of decoded frames, and of `late_s`.

    Raises:
        ConfigError: a wire is unknown, or has not an option that is set for it; or the mask file cannot be read.
    """

    def __init__(
        self,
        config: Config,
        inbox: Inbox,
        deliver: Callable[[Output], None],
        clock: Callable[[], float] = time.monotonic,
        files: Callable[[Event | FramesMissing], bool] | None = None,
        recorder: Recorder | None = None,
        resumed: Iterable[Recording] = (),
        memory: Memory = own_memory,
    ) -> None:
        self._inbox = inbox
        self._deliver = deliver
        self._clock = clock
        self._files = files
        self._recorder = recorder
        self._resumed = resumed
        self._joining = Joining(config, memory)
        self.late_s = number_in(memory)
        """(1,) How long the message that is being read had waited, in seconds; 0 while there is none."""
        self._decoders: dict[str, WireDecoder] = {}
        for road in ROADS:
            if (stream := getattr(config.streams, road)) is not None:
                self._decoders[road] = decoder_of(stream)
        self._heard: list[Event] = []  # at the end of a recording, and perhaps again
        self._resumed_at = float("-inf")
        self._progress: dict[str, Any] = {"scans": [], "waiting_frames": 0}
        self._latencies = _Latencies()
        self._next_tick = float("-inf")
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """What became of messages and frames that are in no scan's report, as `road.kind` and `assembly.kind`."""
        counters = {road: decoder.counts for road, decoder in self._decoders.items()}
        found = Counter({f"frames.{kind}": number for kind, number in dict(self._joining.unusable).items()})
        for road, counter in {**counters, "assembly": self._joining.assembler.counts}.items():
            found.update({f"{road}.{kind}": number for kind, number in dict(counter).items()})
        return dict(found)

    def status(self) -> dict[str, Any]:
        """Open scans, frames that wait for a start document, the inbox, the latency of pairs, and the counts."""
        return {
            **self._progress,
            "inbox_bytes": self._inbox.held_bytes,
            "inbox_high_water_bytes": self._inbox.high_water_bytes,
            "latency_s": self._latencies.status(),
            "counts": self.counts,
        }

    def stop(self, timeout: float | None = 30.0) -> None:
        """Close the inbox, work off what has been received, close all scans, and end."""
        self._inbox.close()
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("the intake has not worked off what was received in %g s", timeout)

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            now = self._clock()
            for recording in self._resumed:
                self._resume(recording, now)
                self._resumed_at = self._clock()
            while not self._inbox.drained:
                if (message := self._inbox.get(0.0)) is None:
                    self.late_s[0] = 0.0
                    message = self._inbox.get(_TICK_S)
                if message is not None:
                    # Of files, whose reader waits for room, it would tell nothing.
                    self.late_s[0] = 0.0 if message.road == "files" else self._clock() - message.received
                    self._take(message)
                now = self._clock() if message is None else message.received
                self._tick(now)
            self._hand_on(self._joining.finish(now))
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
        finally:
            self.late_s[0] = 0.0
            self._inbox.close()

    def _resume(self, recording: Recording, now: float) -> None:
        """Join again what was recorded of a scan, as if its last event had come just now.

        If the recording is not over, the recorder goes on with its folder, and follows what is said of the scan; the
        events are in it already.
        """
        recorder, self._recorder = self._recorder, self._recorder if recording.unfinished else None
        if self._recorder is not None:
            self._recorder.resume(recording.uid, recording.folder, now)
        with recording:
            last = now if recording.last_time is None else recording.last_time
            for recorded in recording.events():
                if recorded.time > last - TWICE_S and isinstance(recorded.event, SAID_ONCE):
                    self._heard.append(recorded.event)
                outputs = self._joining.feed(recorded.event, recorded.time + now - last)
                self._hand_on([replace(o, resumed=True) if isinstance(o, ScanOpened) else o for o in outputs])
            for problem in recording.problems:
                _log.warning("%s", problem)
        self._recorder = recorder
        _log.info("run %s goes on: %d events of it were recorded", recording.uid, len(recording))

    def _take(self, message: Message) -> None:
        for event in message.events or self._decoders[message.road].feed(message.parts):
            if self._heard and self._has_been_heard(event, message.received):
                continue
            if message.road == "documents" and self._files is not None and self._files(event):
                continue
            if self._recorder is not None:
                self._recorder.take(event, message.received)
            outputs = self._joining.feed(event, message.received)
            self._hand_on(outputs)
            if joined := sum(len(output.batch.indices) for output in outputs if isinstance(output, Joined)):
                self._latencies.add(self._clock() - message.received, joined)

    def _has_been_heard(self, event: Event, received: float) -> bool:
        """Whether it is in the recording: two lives of the daemon have received for a moment.

        Frames and samples that come twice have numbers, and are told by them.
        """
        if received > self._resumed_at:
            self._heard.clear()
        if event not in self._heard:
            return False
        self._heard.remove(event)
        return True

    def _tick(self, now: float) -> None:
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self._hand_on(self._joining.tick(now))
            assembler = self._joining.assembler
            self._progress = {"scans": assembler.open_scans, "waiting_frames": assembler.waiting_frames}

    def _hand_on(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, FramesMissing) and self._files is not None:
                self._files(output)
            if self._recorder is not None:
                self._recorder.follow(output, self._clock())
            self._deliver(output)


class _Latencies:
    """How long the newest pairs took, from the arrival of the half that came last to their delivery."""

    def __init__(self, kept: int = 8192) -> None:
        self._seconds = np.full(kept, np.nan)
        self._next = 0

    def add(self, seconds: float, pairs: int) -> None:
        """Take note of pairs that were delivered together."""
        places = np.arange(self._next, self._next + min(pairs, len(self._seconds))) % len(self._seconds)
        self._seconds[places] = seconds
        self._next = (self._next + len(places)) % len(self._seconds)

    def status(self) -> dict[str, float] | None:
        """Median, 99th percentile and maximum; None before the first pair."""
        known = self._seconds[~np.isnan(self._seconds)]
        if not len(known):
            return None
        p50, p99 = np.percentile(known, [50, 99])
        return {"p50": float(p50), "p99": float(p99), "max": float(known.max())}
