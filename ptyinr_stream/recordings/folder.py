"""A recording read: its events in the order they arrived, while it grows and after any death of its writer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.events import Event

from . import is_recording
from .master import Standing, read_standing
from .segment import ROW, SegmentReader

_INDEX = np.dtype([("life", "<i8"), ("order", "<i8"), ("time", "<f8"), ("segment", "<i8"), ("row", "<i8")])


@dataclass(frozen=True)
class Recorded:
    """An event, and where it lies."""

    event: Event
    time: float
    """Seconds, as it was received; the time between a daemon's death and the next life is left out."""
    place: int
    """What `Recording.event` finds it by."""


class Recording:
    """What is on disk when it is opened: open it again to see more of one that grows.

    For example::

        with Recording(folder) as recording:
            for recorded in recording.events():
                outputs += assembler.feed(recorded.event, recorded.time)

    Raises:
        ScanFileError: the folder holds no recording, or not one readable segment.
    """

    problems: list[str]
    """Of segments and events that cannot be read; the rest is."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.problems = []
        if not is_recording(self.folder):
            raise ScanFileError(f"{self.folder}: holds no recording: a folder with 000-journal.h5 is needed")
        self._segments: list[SegmentReader] = []
        lives = []
        for path in sorted(self.folder.glob("[0-9][0-9][0-9]-*.h5")):
            try:
                self._segments.append(SegmentReader(path))
                lives.append(int(path.name[:3]))
                if lacking := self._segments[-1].unwritten:
                    self.problems.append(f"{path}: {lacking} events are not there: torn, or just being written")
            except ScanFileError as error:
                self.problems.append(str(error))
        if not self._segments:
            raise ScanFileError(f"{self.folder}: no segment can be read: {'; '.join(self.problems)}")
        attributes = next((s.attributes for s in self._segments if "uid" in s.attributes), {})
        configuration = self._segments[0].attributes.get("configuration", "{}")
        uid = attributes.get("uid", self.folder.name)
        self.standing = read_standing(self.folder) or Standing(uid, configuration=configuration)
        self._index = self._arrange(lives)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Events there are."""
        return len(self._index)

    @property
    def uid(self) -> str:
        """Of the run."""
        return self.standing.uid

    @property
    def unfinished(self) -> bool:
        """Whether its scan may go on: the daemon was killed or stopped before it had closed, or still writes."""
        return self.standing.state in ("growing", "interrupted")

    @property
    def life(self) -> int:
        """The number of the last life that wrote."""
        return int(self._index["life"].max(initial=0))

    @property
    def last_time(self) -> float | None:
        """When its last event was received; None where there is none."""
        return float(self._index["time"].max()) if len(self._index) else None

    def events(self) -> Iterator[Recorded]:
        """All that was received for the run, in the order of arrival; what cannot be read becomes a problem."""
        for place, time_s in enumerate(self._index["time"].tolist()):
            try:
                event = self.event(place)
            except ScanFileError as error:
                self.problems.append(str(error))
                continue
            yield Recorded(event, time_s, place)

    def event(self, place: int) -> Event:
        """One event again.

        Raises:
            ScanFileError: it cannot be read.
        """
        entry = self._index[place]
        return self._segments[entry["segment"]].event(int(entry["row"]))

    def close(self) -> None:
        """Close the segments."""
        for segment in self._segments:
            segment.close()

    def _arrange(self, lives: list[int]) -> NDArray[Any]:
        parts = []
        for number, (segment, life) in enumerate(zip(self._segments, lives, strict=True)):
            part = np.zeros(len(segment.rows), _INDEX)
            part["life"], part["segment"], part["row"] = life, number, np.arange(len(part))
            for name in ("order", "time"):
                part[name] = segment.rows[name]
            parts.append(part)
        index = np.concatenate(parts) if parts else np.zeros(0, _INDEX)
        index = index[np.lexsort((index["order"], index["life"]))]
        # Nobody listened between two lives: silence of that time is none of the beamline's.
        begins = np.flatnonzero(np.diff(index["life"])) + 1
        for first in begins:
            index["time"][first:] -= index["time"][first] - index["time"][first - 1]
        return index


def recordings(folder: Path) -> list[Path]:
    """The folders of all recordings in `folder`, oldest first."""
    found = [path for path in folder.iterdir() if is_recording(path)] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.stat().st_mtime)


def unfinished(folder: Path, within_s: float = float("inf"), begun: Collection[str] = ()) -> list[Recording]:
    """Recordings in `folder` whose scan may go on, oldest first; close each.

    Args:
        folder: of the recordings.
        within_s: leave out what was last written longer ago.
        begun: uids of scans whose reconstruction is not over, even where their recording is.
    """
    found: dict[str, Recording] = {}  # of a run that came twice, by a replay, the newest
    for path in recordings(folder):
        newest = max(file.stat().st_mtime for file in path.iterdir())
        standing = read_standing(path)
        ended = standing is not None and standing.state in ("complete", "incomplete") and standing.uid not in begun
        if not ended and time.time() - newest <= within_s:
            with contextlib.suppress(ScanFileError):
                recording = Recording(path)
                if (elder := found.pop(recording.uid, None)) is not None:
                    elder.close()
                found[recording.uid] = recording
    return list(found.values())


__all__ = ["ROW", "Recorded", "Recording", "recordings", "unfinished"]
