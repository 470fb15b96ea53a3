"""What documents have announced and nobody has read yet: runs, resources, ranges of them. Nothing is opened here."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ptyinr_stream.config import Config
from ptyinr_stream.documents import HDF5
from ptyinr_stream.errors import GeometryError, StreamError
from ptyinr_stream.events import DataRange, DataResource, FramesMissing, RunStarted, RunStopped
from ptyinr_stream.joining import FIRST_SERIES_OF_FILES
from ptyinr_stream.motors import channels, resolve
from ptyinr_stream.sources.hdf5 import GrowingDataset, local_path

_log = logging.getLogger(__name__)

_MOST = 2**31  # images or values of one range; more are garbage
_MOST_RUNS = 8
_MOST_RESOURCES = 4096


@dataclass(eq=False)
class Task:
    """Something announced that has not been read to its end."""

    data: GrowingDataset
    since: float
    """When it was announced, or last showed anything new."""
    kind: Literal["frames", "lost frames", "samples"]
    channel: str
    """Of samples."""
    numbers: Sequence[int]
    """Of frames or of samples, in their scan."""
    places: Sequence[int]
    """Of the same in the file."""


@dataclass(eq=False)
class Run:
    """A run of which something is taken from files."""

    uid: str
    series: int
    expected: int
    armed: set[str] = field(default_factory=set)
    """`frames` and `positions`, as soon as the assembler has been told to expect them."""
    tasks: deque[Task] = field(default_factory=deque)
    images: list[DataRange] = field(default_factory=list)
    """All that is known of the detector's frames."""
    stopped: RunStopped | None = None


class Announced:
    """Keeps account of what is to be read, run by run.

    Args:
        config: which data keys are frames and positions, and where files lie.
        counts: gets `frames_lost`, `samples_lost`, `unreadable` and `foreign`.
    """

    def __init__(self, config: Config, counts: Counter[str]) -> None:
        self._config = config
        self._counts = counts
        self.frames_live = config.streams.frames is None
        """Whether there is no other stream of frames."""
        self.channels = channels(config.positions) if config.streams.positions is None else ()
        """Of positions that no other stream brings."""
        self.runs: dict[str, Run] = {}
        """By their uid, oldest first."""
        self._resources: dict[str, DataResource] = {}
        self._datasets: dict[str, GrowingDataset] = {}  # by the uid of their resource
        self._next_series = FIRST_SERIES_OF_FILES

    def begin(self, started: RunStarted) -> None:
        """Keep account of a run, if it is a scan; the assembler says why one is not."""
        try:
            plan = resolve(started.document, {}, self._config.positions).plan
        except GeometryError:
            return
        self.runs[started.uid] = Run(started.uid, self._next_series, plan.expected)
        self._next_series += 1
        while len(self.runs) > _MOST_RUNS:
            elder = self.runs.pop(next(iter(self.runs)))
            for task in list(elder.tasks):
                self.drop(elder, task, "too many runs have begun since")

    def name(self, resource: DataResource) -> None:
        """Remember where data lie."""
        self._resources[resource.uid] = resource
        while len(self._resources) > _MOST_RESOURCES:
            del self._resources[oldest := next(iter(self._resources))]
            self._datasets.pop(oldest, None)

    def announce(self, part: DataRange, now: float) -> None:
        """Have a range read, if it is of the frames or the positions and no stream brings those."""
        resource, run = self._resources.get(part.resource), self.runs.get(part.run)
        if resource is None or run is None:
            self._counts["foreign"] += 1
            return
        if resource.key == self._config.files.frames_key:
            run.images.append(part)
            if self.frames_live:
                self._read_images(run, part, now)
        elif channel := self._channel(resource):
            data = self._dataset(resource)
            if data is not None:
                numbers, places = _numbered(part, math.prod(part.shape))
                run.tasks.append(Task(data, now, "samples", channel, numbers, places))

    def fill(self, missing: FramesMissing, now: float) -> None:
        """Have frames read that a stream has lost."""
        run, wanted = self.runs.get(missing.uid), set(missing.indices.tolist())
        found = 0 if run is None else sum(self._read_images(run, part, now, wanted) for part in run.images)
        self._counts["frames_lost"] += max(0, len(wanted) - found)

    def drop(self, run: Run, task: Task, why: str) -> None:
        """Give up what is left of a task."""
        run.tasks.remove(task)
        self._counts["samples_lost" if task.kind == "samples" else "frames_lost"] += len(task.numbers)
        _log.warning("run %s: %d %s cannot be read: %s", run.uid, len(task.numbers), task.kind, why)

    def complain(self, what: str) -> None:
        """Count something unreadable, and say it once."""
        if not self._counts["unreadable"]:
            _log.warning("files: %s; later ones are only counted", what)
        self._counts["unreadable"] += 1

    def close_files(self) -> None:
        """Let go of every file; those that are read on are opened again."""
        for data in self._datasets.values():
            data.close()

    def _channel(self, resource: DataResource) -> str | None:
        names = (resource.key, _dataset_name(resource))
        return next((channel for channel in self.channels if channel in names), None)

    def _read_images(self, run: Run, part: DataRange, now: float, wanted: set[int] | None = None) -> int:
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
        run.tasks.append(Task(data, now, "frames" if wanted is None else "lost frames", "", numbers, places))
        return len(numbers)

    def _dataset(self, resource: DataResource) -> GrowingDataset | None:
        if resource.uid in self._datasets:
            return self._datasets[resource.uid]
        try:
            if resource.mimetype != HDF5:
                raise StreamError(f"{resource.mimetype} is not understood, only {HDF5}")
            name = _dataset_name(resource)
            if name is None:
                raise StreamError(f"where its data lie is not said: its parameters are {resource.parameters}")
            data = GrowingDataset(local_path(resource.uri, self._config.files.paths), name)
        except StreamError as error:
            self.complain(f"{resource.key} in {resource.uri}: {error}")
            return None
        self._datasets[resource.uid] = data
        return data


def _numbered(part: DataRange, size: int) -> tuple[range, range]:
    """Numbers in the scan, and places in the file, of a range whose datums are `size` images or values each."""
    count = min((part.stop - part.start) * size, _MOST)
    number, place = part.first * size, part.start * size
    return range(number, number + count), range(place, place + count)


def _dataset_name(resource: DataResource) -> str | None:
    name = resource.parameters.get("dataset", resource.parameters.get("path"))
    return name if isinstance(name, str) else None
