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
import math
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config
from ptyinr_stream.documents import HDF5
from ptyinr_stream.errors import GeometryError, StreamError
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
from ptyinr_stream.optics import scan_plan
from ptyinr_stream.sources.hdf5 import GrowingDataset, local_path

_log = logging.getLogger(__name__)

FIRST_SERIES = 2**32
"""Series of files are numbered from here on, one a run: no detector counts so far."""

_POLL_S = 0.05  # a detector's file plugin flushes some ten times a second
_IMAGES, _SAMPLES = 16, 2**16  # that are read between two looks at what the documents say
_MOST = 2**31  # images or values of one range; more are garbage
_MOST_RUNS = 8
_MOST_RESOURCES = 4096


@dataclass(eq=False)
class _Task:
    """Something announced that has not been read to its end."""

    data: GrowingDataset
    since: float
    """When it was announced, or last showed anything new."""
    kind: Literal["frames", "lost frames", "samples"]
    channel: str
    numbers: Sequence[int]
    """Of frames or of samples, in their scan."""
    places: Sequence[int]
    """Of the same in the file."""


@dataclass(eq=False)
class _Run:
    """A run of which something is taken from files."""

    uid: str
    series: int
    expected: int
    armed: set[str] = field(default_factory=set)
    """`frames` and `positions`, as soon as the assembler has been told to expect them."""
    tasks: deque[_Task] = field(default_factory=deque)
    images: list[DataRange] = field(default_factory=list)
    """All that is known of the detector's frames."""
    stopped: RunStopped | None = None


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
        positions = config.positions
        self._channels = (positions.axis0.channel, positions.axis1.channel) if config.streams.positions is None else ()
        self._frames_live = config.streams.frames is None
        self.counts: Counter[str] = Counter()
        """`frames` and `samples` read, and `frames_found` that a stream had lost; `frames_lost` and `samples_lost` that
        did not appear in time, or cannot be read; `unreadable` resources and readings; `foreign` ranges of no open run
        or of no known resource."""
        self._queue: queue.SimpleQueue[Event | FramesMissing | None] = queue.SimpleQueue()
        self._resources: dict[str, DataResource] = {}
        self._open: dict[str, GrowingDataset] = {}  # by the uid of their resource
        self._runs: dict[str, _Run] = {}  # oldest first
        self._next_series = FIRST_SERIES
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
                return self._frames_live or bool(self._channels)
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
            for run in self._runs.values():
                if run.stopped is not None:
                    self._put(run.stopped)
        except _InboxClosedError:
            pass
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
        finally:
            self._close_files()

    def _patience(self, progress: bool) -> float | None:
        if progress:
            return 0.0
        return _POLL_S if any(run.tasks for run in self._runs.values()) else None

    # What the documents say

    def _note(self, event: Event | FramesMissing) -> None:
        match event:
            case RunStarted():
                self._begin(event)
            case RunStopped(uid):
                if (run := self._runs.get(uid)) is not None:
                    run.stopped = event
                else:
                    self._hand_back(event)
            case DataResource():
                self._resources[event.uid] = event
                while len(self._resources) > _MOST_RESOURCES:
                    del self._resources[oldest := next(iter(self._resources))]
                    self._open.pop(oldest, None)
            case DataRange() if event.stream == self._config.files.stream:
                self._announce(event)
            case Reading() if event.stream == self._config.files.stream and event.run in self._runs:
                self._read(self._runs[event.run], event)
            case FramesMissing(uid):
                self._fill(self._runs.get(uid), event)

    def _begin(self, started: RunStarted) -> None:
        try:
            plan = scan_plan(started.document, self._config.positions)
        except GeometryError:
            return  # the assembler says why it passes the run over
        self._runs[started.uid] = _Run(started.uid, self._next_series, plan.expected)
        self._next_series += 1
        while len(self._runs) > _MOST_RUNS:
            self._lose(self._runs.pop(next(iter(self._runs))), "too many runs have begun since")

    def _announce(self, part: DataRange) -> None:
        resource, run = self._resources.get(part.resource), self._runs.get(part.run)
        if resource is None or run is None:
            self.counts["foreign"] += 1
            return
        if resource.key == self._config.files.frames_key:
            run.images.append(part)
            if self._frames_live:
                self._frames_of(run, part)
        elif channel := self._channel(resource):
            data = self._dataset(resource)
            if data is not None:
                numbers, places = _numbered(part, math.prod(part.shape))
                run.tasks.append(_Task(data, self._clock(), "samples", channel, numbers, places))

    def _channel(self, resource: DataResource) -> str | None:
        names = (resource.key, _dataset_name(resource))
        return next((channel for channel in self._channels if channel in names), None)

    def _frames_of(self, run: _Run, part: DataRange, wanted: set[int] | None = None) -> int:
        """Have the images of a range read, or of those only the wanted ones, and say how many they are."""
        resource = self._resources.get(part.resource)
        data = self._dataset(resource) if resource else None
        span, places = _numbered(part, math.prod(part.shape[:-2]))
        span = span[: max(0, run.expected - span.start)]
        numbers = span if wanted is None else [number for number in span if number in wanted]
        if data is None or not numbers:
            return 0
        shift = places.start - span.start
        places = places[: len(span)] if wanted is None else [number + shift for number in numbers]
        kind = "frames" if wanted is None else "lost frames"
        run.tasks.append(_Task(data, self._clock(), kind, "", numbers, places))
        return len(numbers)

    def _dataset(self, resource: DataResource) -> GrowingDataset | None:
        if resource.uid in self._open:
            return self._open[resource.uid]
        try:
            if resource.mimetype != HDF5:
                raise StreamError(f"{resource.mimetype} is not understood, only {HDF5}")
            name = _dataset_name(resource)
            if name is None:
                raise StreamError(f"where its data lie is not said: its parameters are {resource.parameters}")
            data = GrowingDataset(local_path(resource.uri, self._config.files.paths), name)
        except StreamError as error:
            self._complain(f"{resource.key} in {resource.uri}: {error}")
            return None
        self._open[resource.uid] = data
        return data

    def _read(self, run: _Run, reading: Reading) -> None:
        """Take positions, and images, that are in the document itself."""
        for key in (key for key in self._channels if key in reading.data):
            try:
                values = np.asarray(reading.data[key], np.float64).reshape(-1)
            except (TypeError, ValueError):
                self._complain(f"{key} of event {reading.number + 1} is no number")
                continue
            self._put_samples(run, key, reading.number * len(values), values)
        key = self._config.files.frames_key
        if self._frames_live and key in reading.data:
            image = _inline_image(reading.data[key])
            if image is None:
                self._complain(f"{key} of event {reading.number + 1} is no image")
            elif reading.number < run.expected:
                self._put_frames(run, [reading.number], [image])

    def _fill(self, run: _Run | None, missing: FramesMissing) -> None:
        if run is None:
            self.counts["frames_lost"] += len(missing.indices)
            return
        wanted = set(missing.indices.tolist())
        found = sum(self._frames_of(run, part, wanted) for part in run.images)
        self.counts["frames_lost"] += max(0, len(wanted) - found)

    # What the files say

    def _advance(self) -> bool:
        """Read a portion of what is due; False if there was nothing new to read."""
        for run in list(self._runs.values()):
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

    def _portion(self, run: _Run, task: _Task) -> bool:
        try:
            done = self._samples(run, task) if task.kind == "samples" else self._images(run, task)
        except StreamError as error:
            self._drop(run, task, str(error))
            return True
        task.numbers, task.places = task.numbers[done:], task.places[done:]
        now = self._clock()
        if done:
            task.since = now
        if not len(task.numbers):
            run.tasks.remove(task)
        elif now - task.since >= self._config.files.wait_s:
            self._drop(run, task, f"{task.data.trouble}, for {self._config.files.wait_s:g} s")
        return done > 0

    def _images(self, run: _Run, task: _Task) -> int:
        images = task.data.images(task.places[:_IMAGES])
        numbers = task.numbers[: len(images)]
        if images and task.kind == "frames":
            self._put_frames(run, numbers, images)
        elif images:
            self._put(*map(FrameFound, [run.uid] * len(images), numbers, images))
            self.counts["frames_found"] += len(images)
        return len(images)

    def _samples(self, run: _Run, task: _Task) -> int:
        values = task.data.values(task.places[0], task.places[:_SAMPLES][-1] + 1)
        if len(values):
            self._put_samples(run, task.channel, task.numbers[0], values)
        return len(values)

    def _put_frames(self, run: _Run, numbers: Sequence[int], images: list[EncodedImage]) -> None:
        if "frames" not in run.armed:
            run.armed.add("frames")
            self._put(SeriesStarted(run.series, run.expected, run=run.uid))
        self._put(*map(FrameArrived, [run.series] * len(images), numbers, images))
        self.counts["frames"] += len(numbers)

    def _put_samples(self, run: _Run, channel: str, first: int, values: NDArray[np.float64]) -> None:
        if "positions" not in run.armed:
            run.armed.add("positions")
            self._put(CaptureStarted(run.uid))
        self.counts["samples"] += len(values)
        self._put(PositionsArrived(first, {channel: values}))

    def _end(self, run: _Run) -> None:
        """All has been read that was announced; what the detector's stream lost may still be asked for."""
        stopped, run.stopped = run.stopped, None
        if "frames" in run.armed:
            self._put(SeriesEnded(run.series))
        if stopped is not None:
            self._hand_back(stopped)
        self._close_files()
        if self._frames_live:
            del self._runs[run.uid]

    def _hand_back(self, stopped: RunStopped) -> None:
        if self._frames_live or self._channels:
            self._put(stopped)

    def _drop(self, run: _Run, task: _Task, why: str) -> None:
        run.tasks.remove(task)
        self.counts["samples_lost" if task.kind == "samples" else "frames_lost"] += len(task.numbers)
        _log.warning("run %s: %d %s cannot be read: %s", run.uid, len(task.numbers), task.kind, why)

    def _lose(self, run: _Run, why: str) -> None:
        for task in list(run.tasks):
            self._drop(run, task, why)

    def _complain(self, what: str) -> None:
        if not self.counts["unreadable"]:
            _log.warning("files: %s; later ones are only counted", what)
        self.counts["unreadable"] += 1

    def _put(self, *events: Event) -> None:
        message = Message("files", [], self._clock(), events)
        if not self._inbox.put(message, message.size):
            raise _InboxClosedError

    def _close_files(self) -> None:
        for data in self._open.values():
            data.close()


class _InboxClosedError(Exception):
    """Nobody takes any more."""


def _numbered(part: DataRange, size: int) -> tuple[range, range]:
    """Numbers in the scan, and places in the file, of a range whose datums are `size` images or values each."""
    count = min((part.stop - part.start) * size, _MOST)
    number, place = part.first * size, part.start * size
    return range(number, number + count), range(place, place + count)


def _dataset_name(resource: DataResource) -> str | None:
    name = resource.parameters.get("dataset", resource.parameters.get("path"))
    return name if isinstance(name, str) else None


def _inline_image(value: Any) -> EncodedImage | None:
    try:
        pixels = np.asarray(value)
    except ValueError:  # lists of different lengths
        return None
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "uif" or not pixels.size:
        return None
    order = ">" if pixels.dtype.str.startswith(">") else "<"
    shape = (pixels.shape[0], pixels.shape[1])
    return EncodedImage(pixels.tobytes(), shape, pixels.dtype.newbyteorder("="), order)
