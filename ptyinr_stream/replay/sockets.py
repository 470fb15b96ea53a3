"""The sockets of a replay: three roads, each with its receivers."""

from __future__ import annotations

import time
from typing import Literal

import zmq

from ptyinr_stream.errors import EndpointError

from .faults import Road

_LINGER_MS = 10_000  # for the last messages to leave a closing socket


class Roads:
    """Sockets that send; where frames are pushed, none of them says anything while a receiver is away.

    Args:
        endpoints: of each road that has one.
        frames_socket: the kind of the frames' socket; the others publish.
        bind: wait for receivers at the endpoints; False connects to receivers that bind.
        wait_s: how long to wait for receivers, and for one that has stopped reading.
        frames_key: the CURVE secret key in Z85 with which frames are encrypted; None leaves them plain.

    Raises:
        EndpointError: an endpoint is in use or malformed.
    """

    def __init__(
        self,
        endpoints: dict[Road, str],
        frames_socket: Literal["pub", "push"],
        *,
        bind: bool,
        wait_s: float,
        frames_key: bytes | None = None,
    ) -> None:
        self._wait_s = wait_s
        self._waits = frames_socket == "push" and "frames" in endpoints
        self._context = zmq.Context()
        self._sockets: dict[Road, zmq.Socket[bytes]] = {}
        self._topics: dict[Road, set[bytes]] = {}  # what is subscribed to, of the roads that publish
        try:
            for road, endpoint in endpoints.items():
                kind = frames_socket if road == "frames" else "pub"
                self._sockets[road] = self._open(road, endpoint, kind, bind, frames_key if road == "frames" else None)
        except EndpointError:
            self.close()
            raise

    @property
    def endpoints(self) -> dict[Road, str]:
        """With the ports that were taken."""
        return {road: _address(socket) for road, socket in self._sockets.items()}

    def close(self) -> None:
        """Close the sockets; waits at most 10 s for what has not left yet."""
        self._context.destroy(_LINGER_MS)

    def send(self, road: Road, parts: list[bytes]) -> None:
        """Send one message.

        Raises:
            EndpointError: the receiver has stopped reading.
        """
        try:
            if self._waits and not all(self._has_receiver(*item, deadline=0.0) for item in self._sockets.items()):
                # The receiver is busy, or gone: then nothing is said on any road before one is there again on all.
                if not self._sockets["frames"].poll(int(1000 * self._wait_s), zmq.POLLOUT):
                    raise zmq.Again
                self.await_receivers()
            self._sockets[road].send_multipart(parts)
        except zmq.Again as error:
            address = _address(self._sockets["frames"])
            raise EndpointError(f"{address}: the receiver has not read for {self._wait_s:g} s") from error

    def await_receivers(self) -> None:
        """Return once every road has a receiver.

        Raises:
            EndpointError: a road has none in time.
        """
        deadline = time.monotonic() + self._wait_s
        for road, socket in self._sockets.items():
            if not self._has_receiver(road, socket, deadline):
                raise EndpointError(f"{_address(socket)}: nobody has come for the {road} within {self._wait_s:g} s")

    def _open(self, road: Road, endpoint: str, kind: str, bind: bool, key: bytes | None) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.PUSH if kind == "push" else zmq.XPUB)
        if kind == "push":
            socket.sndtimeo = int(1000 * self._wait_s)
            socket.immediate = True  # nothing is queued for a receiver that has not come
        else:
            socket.sndhwm = 0  # beyond a limit it would drop
            self._topics[road] = set()
        if key is not None:
            socket.curve_secretkey, socket.curve_publickey = key, zmq.curve_public(key)
            socket.curve_server = True
        try:
            (socket.bind if bind else socket.connect)(endpoint)
        except zmq.ZMQError as error:
            done = "bound" if bind else "connected to"
            raise EndpointError(f"{endpoint}: cannot be {done}: {error.strerror}") from error
        return socket

    def _has_receiver(self, road: Road, socket: zmq.Socket[bytes], deadline: float) -> bool:
        topics = self._topics.get(road)
        if topics is None:
            return bool(socket.poll(_until_ms(deadline), zmq.POLLOUT))
        while socket.poll(0 if topics else _until_ms(deadline)):  # takes note of all that has come, waits for the first
            message = socket.recv()
            (topics.add if message[:1] == b"\x01" else topics.discard)(message[1:])
        return bool(topics)


def _address(socket: zmq.Socket[bytes]) -> str:
    return socket.get_string(zmq.LAST_ENDPOINT)


def _until_ms(deadline: float) -> int:
    return max(0, int(1000 * (deadline - time.monotonic())))
