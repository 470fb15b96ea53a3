"""Frames and positions from the documents and the files that they name: a thread that reads what others write.

Reading holds h5py's global lock and may wait for a file server, so the intake only hands over what the documents say;
what has been read comes back through the inbox. Bluesky names data that have been written, and numbers them by event:
event k of the stream belongs with frame k, or with the frames [k * m, (k + 1) * m) where a datum is m images.

* Without a stream of frames, or of positions, these are read as they are announced, run by run. A stop document is
  handed on when what was announced before it has been read: at HXN it comes with everything.
* Of a stream of frames those that were lost are read when the assembler asks for them.

What does not appear in time is counted, and the file and the reason are logged.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config
from ptyinr_stream.errors import StreamError
from ptyinr_stream.events import (
    CaptureStarted,
    DataRange,
    DataResource,
    EncodedImage,
    Event,
    FrameArrived,
    FrameFound,
    FramesMissing,
    PositionsArrived,
    Reading,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.sources.announced import Announced, Run, Task
from ptyinr_stream.sources.hdf5 import GrowingDataset

_log = logging.getLogger(__name__)

_POLL_S = 0.05  # a detector's file plugin flushes some ten times a second
_IMAGES, _SAMPLES = 16, 2**16  # that are read between two looks at what the documents say


class FileSource:
    """Reads, from its construction until `stop`, and puts what it has read into the inbox.

    Args:
        config: which data keys are frames and positions, and where files lie.
        inbox: when it is full the thread waits; when it is closed the thread ends.
        clock: seconds, by which messages are stamped.
    """

    def __init__(self, config: Config, inbox: Inbox, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._inbox = inbox
        self._clock = clock
        self.counts: Counter[str] = Counter()
        """`frames` and `samples` read, and `frames_found` that a stream had lost; `frames_lost` and `samples_lost` that
        did not appear in time, or cannot be read; `unreadable` resources and readings; `foreign` ranges of no open run
        or of no known resource."""
        self._queue: queue.Queue[Event | FramesMissing | None] = queue.Queue()
        self._announced = Announced(config, self.counts)
        self._live = self._announced.frames_live or bool(self._announced.channels)
        self._error: Exception | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="read files", daemon=True)
        self._thread.start()

    def take(self, event: Event | FramesMissing) -> bool:
        """Note what concerns files; True if it is not for the assembler, or comes back through the inbox later.

        Called in the intake's thread; returns at once.
        """
        match event:
            case RunStarted():
                self._queue.put(event)
                return False
            case RunStopped():
                self._queue.put(event)
                return self._live
            case DataResource() | DataRange() | Reading() | FramesMissing():
                self._queue.put(event)
                return True
            case _:
                return False

    def stop(self, timeout: float | None = 10.0) -> None:
        """Stop reading; what is on disk stays there."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("files: the reader still waits for a file or for room in the inbox")

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while not self._stopping:
                progress = self._advance()
                try:
                    event = self._queue.get(timeout=self._patience(progress))
                except queue.Empty:
                    continue
                if event is not None:
                    self._note(event)
            for run in self._announced.runs.values():
                if run.stopped is not None:
                    self._hand_back(run.stopped)
        except _InboxClosedError:
            pass
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
        finally:
            self._announced.close_files()

    def _patience(self, progress: bool) -> float | None:
        if progress:
            return 0.0
        return _POLL_S if any(run.tasks for run in self._announced.runs.values()) else None

    # What the documents say

    def _note(self, event: Event | FramesMissing) -> None:
        announced, stream = self._announced, self._config.files.stream
        match event:
            case RunStarted():
                announced.begin(event)
            case RunStopped(uid):
                if (run := announced.runs.get(uid)) is not None:
                    run.stopped = event
                else:
                    self._hand_back(event)
            case DataResource():
                announced.name(event)
            case DataRange() if event.stream == stream:
                announced.announce(event, self._clock())
            case Reading() if event.stream == stream and event.run in announced.runs:
                self._read(announced.runs[event.run], event)
            case FramesMissing():
                announced.fill(event, self._clock())

    def _read(self, run: Run, reading: Reading) -> None:
        """Take positions, and images, that are in the document itself."""
        for key in (key for key in self._announced.channels if key in reading.data):
            try:
                values = np.asarray(reading.data[key], np.float64).reshape(-1)
            except (TypeError, ValueError):
                self._announced.complain(f"{key} of event {reading.number + 1} is no number")
                continue
            self._put_samples(run, key, reading.number * len(values), values)
        key = self._config.files.frames_key
        if self._announced.frames_live and key in reading.data:
            image = _inline_image(reading.data[key])
            if image is None:
                self._announced.complain(f"{key} of event {reading.number + 1} is no image")
            elif reading.number < run.expected:
                self._put_frames(run, [reading.number], [image])

    # What the files say

    def _advance(self) -> bool:
        """Read a portion of what is due; False if there was nothing new to read."""
        for run in list(self._announced.runs.values()):
            progress, stuck = False, set[GrowingDataset]()
            for task in list(run.tasks):
                if task.data not in stuck:
                    progress |= self._portion(run, task)
                    if task in run.tasks and task.data.trouble:
                        stuck.add(task.data)
            if run.tasks:
                return progress  # one run after the other, as the assembler takes positions
            if run.stopped is not None:
                self._end(run)
        return False

    def _portion(self, run: Run, task: Task) -> bool:
        try:
            done = self._samples(run, task) if task.kind == "samples" else self._images(run, task)
        except StreamError as error:
            self._announced.drop(run, task, str(error))
            return True
        task.numbers, task.places = task.numbers[done:], task.places[done:]
        now = self._clock()
        if done:
            task.since = now
        if not len(task.numbers):
            run.tasks.remove(task)
        elif now - task.since >= self._config.files.wait_s:
            self._announced.drop(run, task, f"{task.data.trouble}, for {self._config.files.wait_s:g} s")
        return done > 0

    def _images(self, run: Run, task: Task) -> int:
        images = task.data.images(task.places[:_IMAGES])
        numbers = task.numbers[: len(images)]
        if images and task.kind == "frames":
            self._put_frames(run, numbers, images)
        elif images:
            self._put(*map(FrameFound, [run.uid] * len(images), numbers, images))
            self.counts["frames_found"] += len(images)
        return len(images)

    def _samples(self, run: Run, task: Task) -> int:
        values = task.data.values(task.places[0], task.places[:_SAMPLES][-1] + 1)
        if len(values):
            self._put_samples(run, task.channel, task.numbers[0], values)
        return len(values)

    def _put_frames(self, run: Run, numbers: Sequence[int], images: list[EncodedImage]) -> None:
        if "frames" not in run.armed:
            run.armed.add("frames")
            self._put(SeriesStarted(run.series, run.expected, run=run.uid))
        self._put(*map(FrameArrived, [run.series] * len(images), numbers, images))
        self.counts["frames"] += len(numbers)

    def _put_samples(self, run: Run, channel: str, first: int, values: NDArray[np.float64]) -> None:
        if "positions" not in run.armed:
            run.armed.add("positions")
            self._put(CaptureStarted(run=run.uid))
        self.counts["samples"] += len(values)
        self._put(PositionsArrived(first, {channel: values}))

    def _end(self, run: Run) -> None:
        """All has been read that was announced; what the detector's stream lost may still be asked for."""
        stopped, run.stopped = run.stopped, None
        if "frames" in run.armed:
            self._put(SeriesEnded(run.series))
        if stopped is not None:
            self._hand_back(stopped)
        self._announced.close_files()
        if self._announced.frames_live:
            del self._announced.runs[run.uid]

    def _hand_back(self, stopped: RunStopped) -> None:
        if self._live:
            self._put(stopped)

    def _put(self, *events: Event) -> None:
        message = Message("files", [], self._clock(), events)
        if not self._inbox.put(message, message.size):
            raise _InboxClosedError


class _InboxClosedError(Exception):
    """Nobody takes any more."""


def _inline_image(value: Any) -> EncodedImage | None:
    try:
        pixels = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif" or not pixels.size:
        return None
    if pixels.dtype.kind in "iu" and pixels.itemsize == 8 and 0 <= pixels.min() <= pixels.max() < 2**32:
        pixels = pixels.astype(np.uint32)  # lists of JSON do not say what the detector counts in
    order = ">" if pixels.dtype.str.startswith(">") else "<"
    shape = (pixels.shape[0], pixels.shape[1])
    return EncodedImage(pixels.tobytes(), shape, pixels.dtype.newbyteorder("="), order)
