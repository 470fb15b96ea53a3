"""ZeroMQ streams: one socket is one thread, which only receives. What a message means is decided elsewhere.

To have it read by the wire's decoder here too, beside the thread that joins, made a frame dearer: 0.54 and 0.91 ms of
processor time instead of 0.43 and 0.46, since the interpreter's lock is handed over the more often (2026-11-26).

What is received and not yet worked off is bounded in bytes, wherever it waits. ZeroMQ itself counts messages, and
without a limit it has been seen to fill the memory as fast as the network brings them while a full inbox makes the
receiver wait. So its limit is lowered to a share of the inbox as the size of messages shows; beyond it, TCP holds the
sender back: a PUSH socket waits, a PUB socket drops, where its own limit is. The limit is never raised again: on a
connection whose sender waits that has been seen to leave it waiting for ever, since libzmq reports room only after half
the limit has been read.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import threading
import time
from typing import Any, Literal, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import EndpointError

from .curve import Keys, stream_keys
from .peers import Peers

_log = logging.getLogger(__name__)

State = Literal["disconnected", "handshake failed", "connected", "streaming", "idle"]

IDLE_S = 2.0
"""Silence after which a stream is idle."""

# Between two looks at the control and monitor sockets while messages pour in.
_PORTION = 1000
# Between two looks at the clock; libzmq gives up for good after some failures, and the other side may be mended.
_LOOK_AGAIN_MS = 1000
# What comes meanwhile is taken at once: a thread that wakes for each message takes the interpreter's lock as often from
# those that decode and train.
_REST_MS = 2
# ZeroMQ may hold this part of the inbox's bytes, for each stream.
_SHARE = 1 / 8
# Messages that ZeroMQ may hold: while their size is unknown, two seconds of 1,000 frames in four parts each; and at
# least, whatever their size.
_FIRST_LIMIT, _LEAST = 8_000, 10
# A shorter wait for room in the inbox is the wait for its lock.
_AT_ONCE_S = 0.01


class Receiver:
    """Receives from one stream, from its construction until `stop`, and puts every message into the inbox.

    Args:
        road: `documents`, `frames` or `positions`; the messages carry it.
        stream: where to, and how.
        inbox: when it is full the thread waits, ZeroMQ buffers a little more, and then the sender has to wait; when it
            is closed the thread ends.
        context: for `inproc://` endpoints; by default the process's own.

    Raises:
        ConfigError: a CURVE key is missing or malformed.
        EndpointError: the endpoint cannot be bound, or is malformed.
    """

    def __init__(self, road: str, stream: StreamConfig, inbox: Inbox, context: zmq.Context[Any] | None = None) -> None:
        context = context or zmq.Context.instance()
        self.road = road
        self.messages = 0
        self.bytes = 0
        self.last_message: float | None = None
        """When the newest message came, in seconds of `time.monotonic`."""
        self.held_back_s = 0.0
        """How long it has waited for room in the inbox, in all."""
        self._stream = stream
        self._inbox = inbox
        self._error: Exception | None = None
        keys = stream_keys(stream)
        self._peers = Peers(stream, keys and keys.public)
        self._heard = False  # a message since the peer came
        self._told: State = "disconnected"
        self._limit, self._mean_bytes = _FIRST_LIMIT, 0.0
        self._socket = make_socket(stream, keys, context)
        self._monitor = self._socket.get_monitor_socket()
        try:
            self.endpoint = open_socket(self._socket, stream)
            """The real address: a bound port 0 is replaced by the port it became."""
        except EndpointError:
            close_socket(self._socket, self._monitor)
            raise
        # Within one process there are no handshakes, and the monitor says nothing.
        self._monitored = not self.endpoint.startswith("inproc://")
        if not self._monitored:
            self._peers.ready, self._peers.since = 1, time.monotonic()
        address = f"inproc://receiver-{id(self)}"
        self._control, self._stopping = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._control.bind(address)
        self._stopping.connect(address)
        self._thread = threading.Thread(target=self._run, name=f"receive {road}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """How far it has come.

        `connected` has shaken hands and heard nothing yet, `streaming` has heard something, both within `IDLE_S`;
        after as long a silence each is `idle`: the line stands, and there is nothing to say.
        """
        if not self._peers.ready:
            return "handshake failed" if self._peers.failed else "disconnected"
        if time.monotonic() - max(self._peers.since, self.last_message or 0.0) >= IDLE_S:
            return "idle"
        return "streaming" if self._heard else "connected"

    def status(self) -> dict[str, Any]:
        """What there is to know, for a log or a page."""
        state, last = self.state, self.last_message
        return {
            "road": self.road,
            "endpoint": self.endpoint,
            "state": state,
            "why": self._peers.why if state in ("disconnected", "handshake failed") else "",
            "messages": self.messages,
            "bytes": self.bytes,
            "last_message": last,
            "silent_s": None if last is None else time.monotonic() - last,
            "held_back_s": self.held_back_s,
        }

    def stop(self, timeout: float | None = 10.0) -> None:
        """Stop receiving and close the socket.

        A thread that waits for room in the inbox ends when there is some, or when the inbox is closed.
        """
        if not self._stopping.closed:
            with contextlib.suppress(zmq.Again):  # the thread has ended already
                self._stopping.send(b"", zmq.NOBLOCK)
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("%s: the receiver still waits for room in the inbox", self.road)
        else:
            self._stopping.close(linger=0)

    def check(self) -> None:
        """Raise what ended the thread, if anything did."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._receive()
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
        finally:
            close_socket(self._socket, self._monitor)
            self._control.close(linger=0)

    def _receive(self) -> None:
        poller = zmq.Poller()
        for watched in (self._socket, self._monitor, self._control):
            poller.register(watched, zmq.POLLIN)
        while True:
            ready = dict(poller.poll(_LOOK_AGAIN_MS))
            if not ready and self._peers.given_up and not self._stream.bind:
                self._socket.disconnect(self._stream.endpoint)
                self._socket.connect(self._stream.endpoint)
            while self._monitor.poll(0):
                before = self._peers.ready
                self._peers.note(recv_monitor_message(self._monitor), time.monotonic())
                if not before or not self._peers.ready:
                    self._heard = False
            stopped = self._control in ready
            # What has come before it was stopped is taken: the sender believes it has arrived.
            if (stopped or self._socket in ready) and (not self._take(None if stopped else _PORTION) or stopped):
                return
            self._tell()
            self._control.poll(_REST_MS)

    def _take(self, most: int | None) -> bool:
        """Hand on what has come, at most so many messages; False when the inbox is closed."""
        for _ in itertools.count() if most is None else range(most):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            message = Message(self.road, parts, time.monotonic())
            size = message.size
            self._limit_by(size)
            if not self._inbox.put(message, size):
                return False
            self.held_back_s += max(0.0, time.monotonic() - message.received - _AT_ONCE_S)
            self._heard = True
            self.messages += 1
            self.bytes += size
            self.last_message = message.received
        return True

    def _limit_by(self, size: int) -> None:
        """Let ZeroMQ hold no more than twice its share of bytes, by the size of the last hundred messages or so."""
        self._mean_bytes += (size - self._mean_bytes) / 64
        fitting = max(_LEAST, int(_SHARE * self._inbox.capacity_bytes / max(self._mean_bytes, 1.0)))
        if fitting < self._limit / 2:
            self._limit = self._socket.rcvhwm = fitting

    def _tell(self) -> None:
        """Log how the stream stands when that has changed."""
        if (state := self.state) != self._told:
            trouble = state == "handshake failed" or (state == "disconnected" and self._told != "handshake failed")
            # To an address that we bind senders come and go.
            if trouble and not (self._stream.bind and state == "disconnected"):
                level = logging.WARNING
            else:
                level = logging.DEBUG if state in ("idle", "streaming") else logging.INFO
            why = f": {self._peers.why}" if trouble else ""
            _log.log(level, "%s from %s: %s%s", self.road, self.endpoint, state, why)
            self._told = state


def make_socket(stream: StreamConfig, keys: Keys | None, context: zmq.Context[Any]) -> zmq.Socket[Any]:
    """A socket with all its options, neither bound nor connected."""
    made = context.socket(zmq.SUB if stream.socket == "sub" else zmq.PULL)
    made.linger = 0
    made.rcvhwm = _FIRST_LIMIT
    made.reconnect_ivl = 100
    made.reconnect_ivl_max = 1000
    # A machine that was switched off says no goodbye: after 25 s of no answer its connection is given up.
    made.tcp_keepalive, made.tcp_keepalive_idle, made.tcp_keepalive_intvl, made.tcp_keepalive_cnt = 1, 10, 5, 3
    if stream.socket == "sub":
        made.subscribe(f"{stream.prefix} ".encode() if stream.prefix else b"")
    if keys is not None:
        made.curve_serverkey, made.curve_publickey, made.curve_secretkey = keys.server, keys.public, keys.own
    return made


def open_socket(made: zmq.Socket[Any], stream: StreamConfig) -> str:
    """Bind or connect it; returns the address, port 0 replaced by the one it became.

    Raises:
        EndpointError: the endpoint cannot be bound, or is malformed.
    """
    try:
        (made.bind if stream.bind else made.connect)(stream.endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise EndpointError(
                f"{stream.endpoint}: the address is in use by another process; one that a daemon with another output "
                "folder has left behind ends within a minute"
            ) from error
        what = "bound" if stream.bind else "connected to"
        raise EndpointError(f"{stream.endpoint} cannot be {what}: {zmq.strerror(error.errno or 0)}") from error
    return made.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def close_socket(made: zmq.Socket[Any], monitor: zmq.Socket[Any]) -> None:
    """Close a socket and its monitor."""
    made.disable_monitor()
    monitor.close(linger=0)
    made.close(linger=0)
