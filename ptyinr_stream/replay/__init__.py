"""A recorded scan sent again over ZeroMQ, in the words and in the order of HXN: the dry run, the demo and the tests.

| road | wire | socket |
|---|---|---|
| documents | Bluesky's, msgpack | PUB |
| frames | SIMPLON 1, bitshuffled LZ4 | PUB, or PUSH as a detector has it |
| positions | HXN's PandA JSON, encoder counts | PUB |

Nothing is sent before every road has a receiver, and nothing is dropped: what a subscriber has not taken waits in
memory. `messages` says what is sent; here are the sockets and the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.errors import EndpointError, ScanFileError
from ptyinr_stream.formats import RecordedScan

from .messages import (
    HXN_ENCODERS,
    document_message,
    encoder_counts,
    image_parts,
    json_message,
    position_messages,
    run_documents,
    series_header_parts,
)

__all__ = ["HXN_ENCODERS", "Endpoints", "Replay", "ReplayReport"]

_LINGER_MS = 10_000  # for the last messages to leave a closing socket


@dataclass(frozen=True)
class Endpoints:
    """Where the three roads begin; port `*` takes any free one."""

    documents: str = "tcp://127.0.0.1:5567"
    frames: str = "tcp://127.0.0.1:5559"
    positions: str = "tcp://127.0.0.1:6666"


@dataclass(frozen=True)
class ReplayReport:
    """What was sent."""

    uid: str
    scan_id: int
    series: int
    frames: int
    positions_m: NDArray[np.float64]
    """(n, 2) metres, as the mean of each frame's encoder counts gives them."""
    started: float
    """When the first exposure began, seconds of the Unix epoch."""
    ended: float
    """When the stop document was sent."""


class Replay:
    """Sockets that replay one scan, as often as `run` is called.

    For example::

        with Replay(read_scan(path), Endpoints(), rate_hz=50) as replay:
            report = replay.run()
    """

    endpoints: Endpoints
    """With the ports that were taken."""

    def __init__(
        self,
        scan: RecordedScan,
        endpoints: Endpoints,
        positions: PositionsConfig = HXN_ENCODERS,
        *,
        rate_hz: float = 100.0,
        bind: bool = True,
        frames_socket: Literal["pub", "push"] = "pub",
        multipart: bool = True,
        prefix: str = "",
        series: int | None = None,
        scan_id: int | None = None,
        wait_s: float = 60.0,
        flush_s: float = 0.4,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Open the sockets.

        Args:
            scan: what to send, in whole counts; masked pixels go out as the largest value, as a detector marks them.
            endpoints: where.
            positions: the encoders, as the receiver is configured to read them.
            rate_hz: frames a second.
            bind: wait for receivers at the endpoints; False connects to receivers that bind.
            frames_socket: the frames' kind of socket.
            multipart: send a frame as one message, as a detector does; False sends each part alone, as HXN's proxy.
            prefix: of the documents.
            series: of the first run, counted up; None begins at the clock's seconds, to grow from process to process.
            scan_id: likewise.
            wait_s: how long to wait for receivers, and for one that has stopped reading.
            flush_s: how much of the scan's time a message of positions covers.
            progress: called with the number of frames sent.

        Raises:
            EndpointError: an endpoint is in use or malformed.
            ScanFileError: the scan's counts are not whole.
        """
        if not scan.whole:
            raise ScanFileError(
                f"{scan.name}: its counts are not whole numbers, which is all that a detector sends: replay a scan "
                f"with photon noise, or round them (--round)"
            )
        self._scan, self._positions = scan, positions
        self._rate_hz, self._flush_s, self._wait_s = rate_hz, flush_s, wait_s
        self._multipart, self._prefix, self._progress = multipart, prefix, progress
        self._series = int(time.time()) if series is None else series
        self._scan_id = int(time.time()) if scan_id is None else scan_id
        self._context = zmq.Context()
        self._topics: dict[zmq.Socket[bytes], set[bytes]] = {}  # what is subscribed to, of the sockets that publish
        try:
            self._documents = self._open(endpoints.documents, zmq.XPUB, bind)
            self._frames = self._open(endpoints.frames, zmq.PUSH if frames_socket == "push" else zmq.XPUB, bind)
            self._encoders = self._open(endpoints.positions, zmq.XPUB, bind)
        except EndpointError:
            self.close()
            raise
        self.endpoints = Endpoints(_address(self._documents), _address(self._frames), _address(self._encoders))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; waits at most 10 s for what has not left yet."""
        self._context.destroy(_LINGER_MS)

    def run(self, uid: str | None = None) -> ReplayReport:
        """Send the scan once, as a new run with the next series and scan id; returns when all is sent.

        Raises:
            EndpointError: a road has no receiver, or one that does not read.
            GeometryError: the wavelength is beyond a Si(111) monochromator, whose angle the documents tell.
        """
        self._await_receivers()
        scan, series, scan_id = self._scan, self._series, self._scan_id
        self._series, self._scan_id = series + 1, scan_id + 1
        counts = encoder_counts(scan.positions_m, self._positions)  # (n, samples, 2)
        messages = position_messages(counts, self._positions, self._rate_hz, self._flush_s)
        documents = run_documents(scan, self._positions, uid, scan_id, self._rate_hz)
        (_, start), *_ = [self._document(*next(documents)) for _ in ("start", "descriptor", "baseline")]
        armed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        self._send_json({"msg_type": "start", "arm_time": armed, "start_time": armed, "hw_time_offset_ns": None})
        self._send(self._frames, series_header_parts(scan, series, self._rate_hz))
        started, clock = time.time(), time.monotonic()
        emitted, complete = 0, next(messages)
        trusted, marked = scan.mask, np.iinfo(scan.counts.dtype).max
        for frame, measured in enumerate(scan.counts):
            pixels = measured if trusted is None else np.where(trusted, measured, marked)
            # Deadlines since the start: what single sleeps miss does not add up.
            time.sleep(max(0.0, clock + (frame + 1) / self._rate_hz - time.monotonic()))
            self._send(self._frames, image_parts(pixels, series, frame, self._rate_hz))
            while complete is not None and complete[0] <= frame:
                self._send_json(complete[1])
                emitted, complete = emitted + 1, next(messages, None)
            if self._progress is not None:
                self._progress(frame + 1)
        self._send(self._frames, [json_message({"htype": "dseries_end-1.0", "series": series})])
        self._send_json({"msg_type": "stop", "emitted_frames": emitted})
        for name, document in documents:
            self._document(name, document)
        um_per_count = [axis.um_per_count for axis in self._positions.axes]
        positions_m = 1e-6 * counts.mean(axis=1) * um_per_count
        return ReplayReport(start["uid"], scan_id, series, len(scan.counts), positions_m, started, time.time())

    def _open(self, endpoint: str, kind: int, bind: bool) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        if kind == zmq.XPUB:
            socket.sndhwm = 0  # beyond a limit it would drop
            self._topics[socket] = set()
        else:
            socket.sndtimeo = int(1000 * self._wait_s)
            socket.immediate = True  # nothing is queued for a receiver that has not come
        try:
            (socket.bind if bind else socket.connect)(endpoint)
        except zmq.ZMQError as error:
            done = "bound" if bind else "connected to"
            raise EndpointError(f"{endpoint}: cannot be {done}: {error.strerror}") from error
        return socket

    def _await_receivers(self) -> None:
        deadline = time.monotonic() + self._wait_s
        for road, socket in (("documents", self._documents), ("frames", self._frames), ("positions", self._encoders)):
            if not self._has_receiver(socket, deadline):
                raise EndpointError(f"{_address(socket)}: nobody has come for the {road} within {self._wait_s:g} s")

    def _has_receiver(self, socket: zmq.Socket[bytes], deadline: float) -> bool:
        topics = self._topics.get(socket)
        if topics is None:
            return bool(socket.poll(_until_ms(deadline), zmq.POLLOUT))
        while socket.poll(0 if topics else _until_ms(deadline)):  # takes note of all that has come, waits for the first
            message = socket.recv()
            (topics.add if message[:1] == b"\x01" else topics.discard)(message[1:])
        return bool(topics)

    def _send(self, socket: zmq.Socket[bytes], parts: list[bytes]) -> None:
        try:
            for message in [parts] if self._multipart else [[part] for part in parts]:
                socket.send_multipart(message)
        except zmq.Again as error:
            raise EndpointError(f"{_address(socket)}: the receiver has not read for {self._wait_s:g} s") from error

    def _send_json(self, message: dict[str, Any]) -> None:
        self._send(self._encoders, [json_message(message)])

    def _document(self, name: str, document: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        self._send(self._documents, [document_message(self._prefix, name, document)])
        return name, document


def _address(socket: zmq.Socket[bytes]) -> str:
    return socket.get_string(zmq.LAST_ENDPOINT)


def _until_ms(deadline: float) -> int:
    return max(0, int(1000 * (deadline - time.monotonic())))
