"""The recording of one run while it is written: a journal, a segment for each detector series, and the master."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.events import BaselineRead, Event, PositionsArrived, RunStarted, RunStopped

from . import MASTER
from .master import Standing, State, read_documents, write_master
from .packing import pack
from .segment import PACKED, WRITE_ERRORS, SegmentReader, SegmentWriter

_log = logging.getLogger(__name__)

_SPARE = ".spare"
_SPARE_BYTES = 2**18  # room for the master that says why a recording ended, on the disk that it filled


class RunWriter:
    """Writes into a folder of its own until it is finished, or the disk fails: then it takes what comes and drops it.

    Args:
        folder: is made, unless a life before this one has.
        uid: of the run.
        attributes: of every segment; `configuration` among them.
        life: 0, or one more than the last that wrote into the folder.

    Raises:
        OSError: the folder or the journal cannot be made.
        RuntimeError: likewise.
    """

    def __init__(self, folder: Path, uid: str, attributes: Mapping[str, str], life: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=life > 0)
        self.folder, self.uid, self.life = folder, uid, life
        self.stopped = False
        """Whether the stop document has come."""
        self.failure: str | None = None
        """What ended it before its time."""
        self.closed_at: float | None = None
        """When the scan closed."""
        self.report: dict[str, Any] = {}
        """The scan's."""
        self.over = False
        """Whether the scan has ended by itself, not with the daemon."""
        self.standing = Standing(uid, configuration=attributes.get("configuration", "{}"))
        self._documents = read_documents(folder)
        self._series: list[SegmentWriter] = []
        self._master_due = False
        self._journal = SegmentWriter(folder / f"{life:03d}-journal.h5", {**attributes, "uid": uid})
        (folder / _SPARE).write_bytes(bytes(_SPARE_BYTES))
        write_master(folder, self.standing, self._documents)

    @property
    def nbytes(self) -> int:
        """Written by this life."""
        return sum(segment.nbytes for segment in (self._journal, *self._series))

    @property
    def pending_bytes(self) -> int:
        """Noted and not yet written."""
        return sum(segment.pending_bytes for segment in (self._journal, *self._series))

    def append(self, order: int, time: float, event: Event, segment: SegmentWriter | None = None) -> None:
        """Note an event, in the journal or in a series' segment."""
        if self.failure is not None:
            return
        (segment or self._journal).append(order, time, event)
        if isinstance(event, RunStarted | BaselineRead | RunStopped):
            self._documents.append(pack(event).partition(b"\n")[0].decode())
            self.stopped |= isinstance(event, RunStopped)

    def adopt(self, segment: SegmentWriter, series: int) -> None:
        """Take over a series' segment, wherever it was begun."""
        same = sum(path.name.startswith(f"{self.life:03d}-series-{series}") for path in self.folder.iterdir())
        name = f"{self.life:03d}-series-{series}" + (f"-{same}" if same else "")
        try:
            segment.move(self.folder / f"{name}.h5")
            self._series.append(segment)
            self._master_due = True
        except WRITE_ERRORS as error:
            self.fail(f"{self.folder}: {error}")

    def flush(self) -> None:
        """Write what was noted, frames first."""
        if self.failure is None:
            try:
                for segment in (*self._series, self._journal):
                    segment.flush()
                if self._master_due:  # a virtual dataset of no frames cannot grow
                    write_master(self.folder, self.standing, self._documents)
                    self._master_due = False
            except WRITE_ERRORS as error:
                self.fail(f"{self.folder}: {error}")

    def fail(self, reason: str) -> None:
        """End the recording before its run: what was flushed stays, nothing more is written."""
        if self.failure is not None:
            return
        _log.error("recording of run %s ends, incomplete: %s", self.uid, reason)
        self.failure = reason
        for segment in (*self._series, self._journal):
            segment.abandon()
        self._conclude("incomplete", reason)

    def finish(self, counts: Mapping[str, int]) -> None:
        """End it with its run, or with the daemon."""
        self.standing = replace(self.standing, report=self.report, counts=dict(counts))
        if self.failure is not None:
            self._conclude("incomplete", self.failure)
            return
        try:
            for segment in (*self._series, self._journal):
                segment.close()
        except WRITE_ERRORS as error:
            self.fail(f"{self.folder}: {error}")
            return
        if self.over:
            self._conclude("complete", "")
        else:
            self._conclude("interrupted", "the daemon ended before the scan")

    def _conclude(self, state: State, reason: str) -> None:
        self.standing = replace(self.standing, state=state, reason=reason)
        positions = _positions(self.folder) if self.failure is None else []
        try:
            (self.folder / _SPARE).unlink(missing_ok=True)
            write_master(self.folder, self.standing, self._documents, positions)
        except WRITE_ERRORS as error:
            with contextlib.suppress(OSError):
                (self.folder / f".{MASTER}").unlink(missing_ok=True)
            _log.warning("%s: the master cannot be written, the segments stand: %s", self.folder, error)


def _positions(folder: Path) -> list[PositionsArrived]:
    """All messages of positions, in the order they were written."""
    found: list[PositionsArrived] = []
    for path in sorted(folder.glob("[0-9][0-9][0-9]-journal.h5")):
        with contextlib.suppress(ScanFileError), SegmentReader(path) as segment:
            packed = [index for index, kind in enumerate(segment.rows["kind"].tolist()) if kind == PACKED]
            events = (segment.event(index) for index in packed)
            found += [event for event in events if isinstance(event, PositionsArrived)]
    return found
