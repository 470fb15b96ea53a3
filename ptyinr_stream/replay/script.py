"""Who says what when: the three roads of a scan as one sequence of messages. No sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.formats import RecordedScan

from .faults import Content, Frames, Outgoing, Piece, Road, Samples
from .messages import RunDocuments, document_message, json_message, position_messages
from .wires import FrameEncoder, FrameFile


@dataclass(frozen=True)
class Run:
    """What tells one run of a replay from another."""

    uid: str
    scan_id: int
    series: int
    warm_up: int | None = None
    """The number of a series of one frame that comes before the scan; None sends none."""


class Script:
    """A scan as it is replayed, as often as it is asked for.

    Args:
        scan: what is sent, in whole counts; masked pixels become the largest value, as a detector marks them.
        encoder: spells the frames.
        positions: the encoders.
        rate_hz: frames a second.
        flush_s: how much of the scan's time a message of positions covers.
        prefix: of the documents.
    """

    def __init__(
        self,
        scan: RecordedScan,
        encoder: FrameEncoder,
        positions: PositionsConfig,
        *,
        rate_hz: float,
        flush_s: float,
        prefix: str,
    ) -> None:
        self._scan = scan
        self._encoder = encoder
        self._positions = positions
        self._rate_hz, self._flush_s, self._prefix = rate_hz, flush_s, prefix

    def messages(self, run: Run, counts: NDArray[np.float64]) -> Iterator[Outgoing]:
        """All messages of a run, each made, and so dated, when it is asked for; by increasing `at_s`.

        Args:
            run: which.
            counts: (n, samples, 2) of the encoders.

        Raises:
            GeometryError: the wavelength is beyond a Si(111) monochromator, whose angle the documents tell.
        """
        scan, series, frames = self._scan, run.series, len(self._scan.counts)
        documents = RunDocuments(scan, self._positions, run.uid, run.scan_id, self._rate_hz)
        if run.warm_up is not None:
            yield from self._warm_up(run.warm_up)
        yield from self._documents(documents.opening(), 0)
        armed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        capture = {"msg_type": "start", "arm_time": armed, "start_time": armed, "hw_time_offset_ns": None}
        yield self._message("positions", [json_message(capture)], 0, opens=True)
        for parts in self._encoder.arm(series, frames):
            yield self._message("frames", parts, 0, opens=True)
        file = self._encoder if isinstance(self._encoder, FrameFile) else None
        named = None if file is None else documents.file_of_images(file.uri, file.dataset)
        yield from self._documents(named.introduction() if named else (), 0)
        data = position_messages(counts, self._positions, self._rate_hz, self._flush_s)
        emitted, complete = 0, next(data)
        written, block = 0, max(1, int(self._flush_s * self._rate_hz))
        for frame, pixels in enumerate(scan.counts):
            exposed = frame + 1
            yield from self._image(series, frame, pixels, exposed)
            if file and named and (exposed == frames or exposed - written == block):
                file.flush()
                yield self._document(*named.written(written, exposed), exposed, Frames(written, exposed))
                written = exposed
            while complete is not None and complete[0] <= frame:
                yield self._message("positions", [json_message(complete[1])], exposed, _samples(complete[1]))
                emitted, complete = emitted + 1, next(data, None)
        for parts in self._encoder.end(series):
            yield self._message("frames", parts, frames)
        yield self._message("positions", [json_message({"msg_type": "stop", "emitted_frames": emitted})], frames)
        yield from self._documents(() if file else documents.at_the_end(), frames)
        yield from self._documents(documents.closing(), frames)

    def _warm_up(self, series: int) -> Iterator[Outgoing]:
        """A series of one dark frame, which has nothing to do with the scan."""
        for parts in self._encoder.arm(series, 1):
            yield self._message("frames", parts, 0, opens=True)
        for parts in self._encoder.image(series, 0, np.zeros(self._scan.counts.shape[1:], self._scan.counts.dtype)):
            yield self._message("frames", parts, 0)
        for parts in self._encoder.end(series):
            yield self._message("frames", parts, 0)

    def _image(self, series: int, frame: int, measured: NDArray[Any], exposed: int) -> Iterator[Outgoing]:
        trusted, marked = self._scan.mask, np.iinfo(measured.dtype).max
        pixels = measured if trusted is None else np.where(trusted, measured, marked)
        carriers = self._encoder.carriers
        for number, parts in enumerate(self._encoder.image(series, frame, pixels)):
            content = Piece(frame, number, carriers) if number < carriers else None
            yield self._message("frames", parts, exposed, content)

    def _documents(self, named: Iterable[tuple[str, dict[str, Any]]], exposed: int) -> Iterator[Outgoing]:
        for name, document in named:
            yield self._document(name, document, exposed)

    def _document(self, name: str, document: dict[str, Any], exposed: int, content: Frames | None = None) -> Outgoing:
        message = document_message(self._prefix, name, document)
        return self._message("documents", [message], exposed, content, opens=name == "start")

    def _message(
        self,
        road: Road,
        parts: list[bytes],
        exposed: int,
        content: Content | None = None,
        *,
        opens: bool = False,
    ) -> Outgoing:
        return Outgoing(road, parts, exposed / self._rate_hz, exposed, content, opens)


def _samples(message: dict[str, Any]) -> Samples:
    dataset = next(iter(message["datasets"].values()))
    first = dataset["starting_sample_number"]
    return Samples(first, first + dataset["size"])
