"""The one thread between sockets and training: message -> events -> decoded frames -> joined batches.

Pairing never waits for training: what is delivered goes into a queue. Time is that at which messages were received, so
that a backlog is not mistaken for silence; the clock counts only when there is nothing to read.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from ptyinr_stream.assembler import Assembler, Frame, Output
from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config
from ptyinr_stream.errors import GeometryError, WireError
from ptyinr_stream.events import FrameArrived
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.plugins import load_plugin
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.wire import WireDecoder
from ptyinr_stream.wire.codecs import decode

_log = logging.getLogger(__name__)

ROADS = ("documents", "frames", "positions")

_TICK_S = 0.1


class Intake:
    """Takes messages from the inbox, from its construction until `stop`, and delivers what the assembler makes of them.

    Args:
        config: wires, frame convention, positions and assembly.
        inbox: of `Message`s; closed when the thread ends, so that no receiver waits for ever.
        deliver: is called in the intake's thread, in order; it must return at once.
        clock: the one by which messages are stamped.
        recorder: of every event, as it came; None records nothing.

    Raises:
        ConfigError: a wire is unknown.
    """

    def __init__(
        self,
        config: Config,
        inbox: Inbox,
        deliver: Callable[[Output], None],
        clock: Callable[[], float] = time.monotonic,
        recorder: Recorder | None = None,
    ) -> None:
        self._inbox = inbox
        self._deliver = deliver
        self._clock = clock
        self._recorder = recorder
        self._convention = FrameConvention(config.frames)
        self._assembler = Assembler(config.positions, config.assembly)
        self._decoders: dict[str, WireDecoder] = {}
        for road in ROADS:
            stream = getattr(config.streams, road)
            self._decoders[road] = load_plugin("ptyinr_stream.wire", stream.wire).Decoder(prefix=stream.prefix)
        self._unusable: Counter[str] = Counter()
        self._progress: dict[str, Any] = {"scans": [], "waiting_frames": 0}
        self._next_tick = float("-inf")
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """What became of messages and frames that are in no scan's report, as `road.kind` and `assembly.kind`."""
        counters = {road: decoder.counts for road, decoder in self._decoders.items()}
        found = Counter({f"frames.{kind}": number for kind, number in dict(self._unusable).items()})
        for road, counter in {**counters, "assembly": self._assembler.counts}.items():
            found.update({f"{road}.{kind}": number for kind, number in dict(counter).items()})
        return dict(found)

    def status(self) -> dict[str, Any]:
        """Open scans, frames that wait for a start document, the inbox, and the counts."""
        return {
            **self._progress,
            "inbox_bytes": self._inbox.held_bytes,
            "inbox_high_water_bytes": self._inbox.high_water_bytes,
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
            while not self._inbox.drained:
                message = self._inbox.get(_TICK_S)
                if message is not None:
                    self._take(message)
                self._tick(self._clock() if message is None else message.received)
            self._hand_on(self._assembler.finish())
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
        finally:
            self._inbox.close()

    def _take(self, message: Message) -> None:
        for event in self._decoders[message.road].feed(message.parts):
            if self._recorder is not None:
                self._recorder.take(event, message.received)
            ready = self._frame(event) if isinstance(event, FrameArrived) else event
            if ready is not None:
                self._hand_on(self._assembler.feed(ready, message.received))

    def _tick(self, now: float) -> None:
        if now >= self._next_tick:
            self._next_tick = now + _TICK_S
            self._hand_on(self._assembler.tick(now))
            self._progress = {"scans": self._assembler.open_scans, "waiting_frames": self._assembler.waiting_frames}

    def _hand_on(self, outputs: list[Output]) -> None:
        for output in outputs:
            if self._recorder is not None:
                self._recorder.follow(output, self._clock())
            self._deliver(output)

    def _frame(self, arrived: FrameArrived) -> Frame | None:
        """Decode an image; None, and it is counted, if that is impossible."""
        try:
            counts, mask = self._convention.apply(decode(arrived.image))
        except (WireError, GeometryError) as error:
            kind = error.kind if isinstance(error, WireError) else "outside_window"
            if not self._unusable[kind]:
                _log.warning("frame %d of series %d: %s", arrived.frame, arrived.series, error)
            self._unusable[kind] += 1
            return None
        return Frame(arrived.series, arrived.frame, counts, mask)
