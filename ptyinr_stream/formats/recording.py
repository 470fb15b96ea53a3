"""A recording as a scan: what `recordings` holds, joined as it was joined live.

The events are fed to the same assembler with the recorded configuration, so that what the scan was live it is again:
from the same bytes, by the same frame ids. Frames are decoded twice, once to join them and once when somebody looks at
them; they are never held together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.assembler import BaselineAdded, Joined, Output, ScanClosed, ScanOpened, ScanReport, SeriesBound
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.errors import ConfigError, GeometryError, ScanFileError
from ptyinr_stream.events import FrameArrived
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.joining import Joining
from ptyinr_stream.optics import scan_optics
from ptyinr_stream.recordings.folder import Recorded, Recording

_TICK_S = 0.1


class LazyCounts:
    """(n, h, w) photon counts that are decoded when they are looked at; numpy takes it for an array of all of them."""

    ndim = 3

    def __init__(
        self,
        recording: Recording,
        places: NDArray[np.int64],
        joining: Joining,
        window: tuple[int, int],
        dtype: np.dtype[Any],
    ) -> None:
        self._recording = recording
        self._places = places
        self._joining = joining
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
        event = self._recording.event(place)
        frame = self._joining.frame(event) if isinstance(event, FrameArrived) else None
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
    joining = Joining(config)
    places: defaultdict[int, list[int]] = defaultdict(list)
    batches: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    opened, report, baseline, header, mask, form = None, None, {}, {}, None, None
    chosen: dict[int, int] = {}

    def fed() -> Iterator[Recorded]:
        for recorded in recording.events():
            if isinstance(recorded.event, FrameArrived):
                places[recorded.event.frame].append(recorded.place)
            yield recorded

    for output in outputs(fed(), joining):
        match output:
            case ScanOpened() if opened is None:
                opened = output
            case BaselineAdded(_, values):
                baseline = {**values, **baseline}
            case SeriesBound():
                header = output.header
            case Joined(_, batch):
                batches.append((batch.indices, batch.positions_m))
                form = batch.counts.shape[1:], batch.counts.dtype
                if batch.mask is not None:
                    trusted = batch.mask if batch.mask.ndim == 2 else batch.mask.all(axis=0)
                    mask = trusted if mask is None else mask & trusted
                for index, counts in zip(batch.indices.tolist(), batch.counts, strict=True):
                    chosen[index] = _chosen(recording, places[index], counts, joining)
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
    counts = LazyCounts(recording, np.array([chosen[n] for n in numbers.tolist()], np.int64), joining, window, kind)
    try:
        geometry = scan_optics(config.geometry, window, opened.document, baseline, header).geometry
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


def outputs(events: Iterable[Recorded], joining: Joining) -> Iterator[Output]:
    """What is made of recorded events, as the intake did when they came."""
    tick_at = now = float("-inf")
    for recorded in events:
        now = recorded.time
        if now >= tick_at:
            tick_at = now + _TICK_S
            yield from joining.tick(now)
        yield from joining.feed(recorded.event, now)
    yield from joining.finish(now)


def _chosen(recording: Recording, places: list[int], counts: NDArray[Any], joining: Joining) -> int:
    """Which of the frames that came under one number was joined: another series may have shown it too."""
    for place in places if len(places) > 1 else ():
        event = recording.event(place)
        frame = joining.frame(event) if isinstance(event, FrameArrived) else None
        if frame is not None and np.array_equal(frame.counts, counts):
            return place
    return places[0]
