"""From events to joined frames: calibrate, decode, join. So does the intake live, and whoever reads a recording.

Pure and deterministic: no threads, no clock, no sockets; time is an argument.
"""

from __future__ import annotations

import logging
from collections import Counter

from ptyinr_stream.assembler import Assembler, Frame, Output
from ptyinr_stream.calibration import Calibration
from ptyinr_stream.config import Config
from ptyinr_stream.errors import GeometryError, WireError
from ptyinr_stream.events import Event, FrameArrived, FrameFound, RunStopped
from ptyinr_stream.frame_blocks import FrameBlocks, Memory, own_memory
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.wire.codecs import decode

_log = logging.getLogger(__name__)

FIRST_SERIES_OF_FILES = 2**32
"""Series of files are numbered from here on, one a run: no detector counts so far."""


class Joining:
    """Turns events into what the assembler makes of them.

    Args:
        config: frame conventions, positions and assembly.
        memory: of decoded frames.

    Raises:
        ConfigError: the mask file cannot be read.
    """

    def __init__(self, config: Config, memory: Memory = own_memory) -> None:
        self._of_stream = Calibration(config.frames)
        self._of_files = Calibration(config.files.frames or config.frames)
        # A stream and a file of one detector may lie differently; if they do not, they share the beam's centre.
        self._alike = config.files.frames is None
        self.assembler = Assembler(config.positions, config.joining)
        self._blocks = FrameBlocks(memory)
        self.unusable: Counter[str] = Counter()
        """Images that could not be decoded or cropped, by kind."""

    def feed(self, event: Event | FrameFound, now: float) -> list[Output]:
        """Take one event, and give what has become of it and of those before."""
        if isinstance(event, FrameFound):
            return self._fill(event, now)
        if isinstance(event, RunStopped):  # frames that wait must hurry, wherever they come from
            self._of_files.feed(event, now)
        series = getattr(event, "series", 0)
        calibration = self._of_files if series >= FIRST_SERIES_OF_FILES else self._of_stream
        return self._join(calibration.feed(event, now), now)

    def tick(self, now: float) -> list[Output]:
        """Let time pass."""
        waited = [*self._of_stream.tick(now), *self._of_files.tick(now)]
        return [*self._join(waited, now), *self.assembler.tick(now)]

    def finish(self, now: float) -> list[Output]:
        """Give what still waits, because nothing more will come."""
        waited = [*self._of_stream.finish(), *self._of_files.finish()]
        return [*self._join(waited, now), *self.assembler.finish()]

    def frame(self, arrived: FrameArrived) -> Frame | None:
        """Decode an image, its needed rows only; None, and it is counted, if that is impossible."""
        return self._frame(arrived, self._convention(arrived.series))

    def _fill(self, found: FrameFound, now: float) -> list[Output]:
        """Give a frame that the stream has lost to its scan, as the file has it."""
        number = self.assembler.series_of(found.uid)
        series = -1 if number is None else number
        calibration = self._of_stream if self._alike else self._of_files
        frame = self._frame(FrameArrived(series, found.frame, found.image), calibration.convention(series))
        return self.assembler.fill(found.uid, [] if frame is None else [frame], now)

    def _join(self, events: list[Event], now: float) -> list[Output]:
        outputs: list[Output] = []
        for event in events:
            ready = self.frame(event) if isinstance(event, FrameArrived) else event
            if ready is not None:
                outputs += self.assembler.feed(ready, now)
        return outputs

    def _convention(self, series: int) -> FrameConvention:
        return (self._of_files if series >= FIRST_SERIES_OF_FILES else self._of_stream).convention(series)

    def _frame(self, arrived: FrameArrived, convention: FrameConvention) -> Frame | None:
        shape = arrived.image.shape
        try:
            rows = convention.rows_needed(shape)
            counts, mask = convention.apply(
                decode(arrived.image, rows), None if rows is None else shape, self._blocks.place
            )
        except (WireError, GeometryError) as error:
            kind = error.kind if isinstance(error, WireError) else "outside_window"
            if not self.unusable[kind]:
                _log.warning("frame %d of series %d: %s", arrived.frame, arrived.series, error)
            self.unusable[kind] += 1
            return None
        return Frame(arrived.series, arrived.frame, counts, mask)
