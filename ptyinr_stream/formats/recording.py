"""A recording as a scan: what `recordings` holds, joined as it was joined live.

The events are fed to the same assembler with the recorded configuration, so that what the scan was live it is again:
from the same bytes, by the same frame ids. Frames are decoded twice, once to join them and once when somebody looks at
them; they are never held together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.assembler import Assembler, BaselineAdded, Joined, Output, ScanClosed, ScanOpened, ScanReport
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.errors import ConfigError, GeometryError, ScanFileError, WireError
from ptyinr_stream.events import FrameArrived
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.optics import scan_geometry
from ptyinr_stream.recordings.folder import Recorded, Recording
from ptyinr_stream.scan import Frame
from ptyinr_stream.wire.codecs import decode

_TICK_S = 0.1


class LazyCounts:
    """(n, h, w) photon counts that are decoded when they are looked at; numpy takes it for an array of all of them."""

    ndim = 3

    def __init__(
        self,
        recording: Recording,
        places: NDArray[np.int64],
        convention: FrameConvention,
        window: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        self._recording = recording
        self._places = places
        self._convention = convention
        self.shape = (len(places), *window)
        self.dtype = dtype
        self.itemsize = dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Of all counts, were they held together."""
        return int(np.prod(self.shape)) * self.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, key: Any) -> NDArray[Any]:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        places = self._places[rows]
        if places.ndim == 0:
            return self._decode(int(places))[rest]
        counts = np.empty((len(places), *self.shape[1:]), self.dtype)
        for number, place in enumerate(places.tolist()):
            counts[number] = self._decode(place)
        return counts[(slice(None), *rest)]

    @overload
    def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[Any]: ...
    @overload
    def __array__(self, dtype: np.dtype[Any], copy: bool | None = None) -> NDArray[Any]: ...
    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("encoded frames cannot become an array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def _decode(self, place: int) -> NDArray[Any]:
        frame = _frame(self._recording.event(place), self._convention)
        if frame is None:
            raise ScanFileError(f"{self._recording.folder}: event {place} is no frame that can be decoded any more")
        return frame.counts.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class RecordedRun:
    """A recording's scan, and what became of all that was received for it."""

    scan: RecordedScan
    indices: NDArray[np.int64]
    """(n,) frame numbers of the scan's counts, ascending."""
    report: ScanReport
    problems: list[str]
    """Of what could not be read."""


def read_scan(path: Path) -> RecordedScan:
    """Read a recording's folder; its counts are decoded as they are looked at.

    A pixel that was not trusted in one of the frames is not trusted in any, since a scan has one mask.

    Raises:
        ScanFileError: it holds no recording, no scan, or no frame with a position.
    """
    return read_run(path).scan


def read_run(path: Path, config: Config | None = None) -> RecordedRun:
    """Read a recording's folder, by another configuration than the one it was recorded with if one is given.

    Raises:
        ScanFileError: as `read_scan`.
    """
    recording = Recording(path)
    config = config or recorded_config(recording)
    convention = FrameConvention(config.frames)
    places: defaultdict[int, list[int]] = defaultdict(list)
    batches: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    opened, report, baseline, mask, form = None, None, {}, None, None
    chosen: dict[int, int] = {}

    def fed() -> Iterator[Recorded]:
        for recorded in recording.events():
            if isinstance(recorded.event, FrameArrived):
                places[recorded.event.frame].append(recorded.place)
            yield recorded

    for output in outputs(fed(), config):
        match output:
            case ScanOpened() if opened is None:
                opened = output
            case BaselineAdded(_, values):
                baseline = {**values, **baseline}
            case Joined(_, batch):
                batches.append((batch.indices, batch.positions_m))
                form = batch.counts.shape[1:], batch.counts.dtype
                if batch.mask is not None:
                    trusted = batch.mask if batch.mask.ndim == 2 else batch.mask.all(axis=0)
                    mask = trusted if mask is None else mask & trusted
                for index, counts in zip(batch.indices.tolist(), batch.counts, strict=True):
                    chosen[index] = _chosen(recording, places[index], counts, convention)
            case ScanClosed():
                report = output.report
    if opened is None or report is None:
        raise ScanFileError(f"{path}: there is no start document of a scan")
    if form is None:
        raise ScanFileError(f"{path}: no frame has found its position: {report}")
    indices = np.concatenate([numbers for numbers, _ in batches])
    positions_m = np.concatenate([positions for _, positions in batches])
    order = np.argsort(indices)
    window, kind = (form[0][0], form[0][1]), np.dtype(np.uint16 if form[1].itemsize < 2 else form[1])
    numbers = indices[order]
    counts = LazyCounts(recording, np.array([chosen[n] for n in numbers.tolist()], np.int64), convention, window, kind)
    try:
        geometry = scan_geometry(config.geometry, window, opened.document, baseline)
        scan = RecordedScan(counts, positions_m[order], geometry, name=recording.uid, mask=mask)  # pyright: ignore[reportArgumentType]
    except (GeometryError, ValueError) as error:
        raise ScanFileError(f"{path}: {error}") from error
    return RecordedRun(scan, numbers, report, recording.problems)


def recorded_config(recording: Recording) -> Config:
    """The configuration that a scan was recorded with.

    Raises:
        ScanFileError: it is of a version that knew other keys.
    """
    try:
        return parse_config(json.loads(recording.standing.configuration), str(recording.folder))
    except (ConfigError, ValueError) as error:
        raise ScanFileError(f"{recording.folder}: the configuration in it cannot be used: {error}") from error


def outputs(events: Iterator[Recorded], config: Config) -> Iterator[Output]:
    """What the assembler makes of recorded events, as the intake did when they came."""
    assembler, convention = Assembler(config.positions, config.assembly), FrameConvention(config.frames)
    tick_at = float("-inf")
    for recorded in events:
        if recorded.time >= tick_at:
            tick_at = recorded.time + _TICK_S
            yield from assembler.tick(recorded.time)
        event = recorded.event
        ready = _frame(event, convention) if isinstance(event, FrameArrived) else event
        if ready is not None:
            yield from assembler.feed(ready, recorded.time)
    yield from assembler.finish()


def _frame(event: Any, convention: FrameConvention) -> Frame | None:
    """Decode an image; None if that is impossible, as it was live."""
    try:
        counts, mask = convention.apply(decode(event.image))
    except (WireError, GeometryError):
        return None
    return Frame(event.series, event.frame, counts, mask)


def _chosen(recording: Recording, places: list[int], counts: NDArray[Any], convention: FrameConvention) -> int:
    """Which of the frames that came under one number was joined: another series may have shown it too."""
    for place in places if len(places) > 1 else ():
        frame = _frame(recording.event(place), convention)
        if frame is not None and np.array_equal(frame.counts, counts):
            return place
    return places[0]
