"""ZeroMQ streams: one socket is one thread, which only receives. What a message means is decided elsewhere.

A wrong CURVE key looks like silence, and so does a detector that waits. libzmq's socket monitor tells them apart, by
events that were observed with libzmq 4.3.5:

| what is wrong | events |
|---|---|
| nobody listens | CONNECT_DELAYED, CLOSED, CONNECT_RETRIED, again and again |
| a wrong server key | CONNECTED, HANDSHAKE_FAILED_NO_DETAIL, DISCONNECTED, CONNECT_RETRIED, again and again |
| encryption on one side only | CONNECTED, HANDSHAKE_FAILED_PROTOCOL (not always), DISCONNECTED, and never again |
| a socket type that does not go with ours | CONNECTED, DISCONNECTED, and never again |
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import logging
import socket
import struct
import threading
import time
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import StreamConfig, secret
from ptyinr_stream.errors import ConfigError, EndpointError

_log = logging.getLogger(__name__)

State = Literal["disconnected", "handshake failed", "connected", "streaming"]

# Between two looks at the control and monitor sockets while messages pour in.
_PORTION = 1000
# libzmq gives up for good after some failures; the other side may be mended meanwhile.
_TRY_AGAIN_MS = 1000

_HANDSHAKE_FAILED = (
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
)


class Receiver:
    """Receives from one stream, from its construction until `stop`, and puts every message into the inbox.

    Args:
        road: `documents`, `frames` or `positions`; the messages carry it.
        stream: where to, and how.
        inbox: when it is full the thread waits and ZeroMQ buffers; when it is closed the thread ends.
        context: for `inproc://` endpoints; by default the process's own.

    Raises:
        ConfigError: the CURVE key is missing or malformed.
        EndpointError: the endpoint cannot be bound, or is malformed.
    """

    def __init__(self, road: str, stream: StreamConfig, inbox: Inbox, context: zmq.Context[Any] | None = None) -> None:
        context = context or zmq.Context.instance()
        self.road = road
        self.messages = 0
        self.bytes = 0
        self.last_message: float | None = None
        """When the newest message came, in seconds of `time.monotonic`."""
        self._stream = stream
        self._inbox = inbox
        self._error: Exception | None = None
        self._peers = _Peers()
        self._heard = False  # a message since the peer came
        self._socket = _socket(stream, context)
        self._monitor = self._socket.get_monitor_socket()
        try:
            self.endpoint = _open(self._socket, stream)
            """The real address: a bound port 0 is replaced by the port it became."""
        except EndpointError:
            _close(self._socket, self._monitor)
            raise
        address = f"inproc://receiver-{id(self)}"
        self._control, self._stopping = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        self._control.bind(address)
        self._stopping.connect(address)
        self._thread = threading.Thread(target=self._run, name=f"receive {road}", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """How far it has come: silence of a `connected` or `streaming` one means that there is nothing to say."""
        # Within one process there are no handshakes, and the monitor says nothing.
        if self._peers.ready or self.endpoint.startswith("inproc://"):
            return "streaming" if self._heard else "connected"
        return "handshake failed" if self._peers.failed else "disconnected"

    def status(self) -> dict[str, Any]:
        """What there is to know, for a log or a page."""
        return {
            "road": self.road,
            "endpoint": self.endpoint,
            "state": self.state,
            "messages": self.messages,
            "bytes": self.bytes,
            "last_message": self.last_message,
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
            _close(self._socket, self._monitor)
            self._control.close(linger=0)

    def _receive(self) -> None:
        poller = zmq.Poller()
        for watched in (self._socket, self._monitor, self._control):
            poller.register(watched, zmq.POLLIN)
        while True:
            given_up = self._peers.given_up and not self._stream.bind
            ready = dict(poller.poll(_TRY_AGAIN_MS if given_up else None))
            if not ready:
                self._socket.disconnect(self._stream.endpoint)
                self._socket.connect(self._stream.endpoint)
            while self._monitor.poll(0):
                before = self._peers.ready
                self._peers.note(recv_monitor_message(self._monitor))
                if not before or not self._peers.ready:
                    self._heard = False
            if self._control in ready or (self._socket in ready and not self._take()):
                return

    def _take(self) -> bool:
        """Hand on what has come; False when the inbox is closed."""
        for _ in range(_PORTION):
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            message = Message(self.road, parts, time.monotonic())
            if not self._inbox.put(message, message.size):
                return False
            self._heard = True
            self.messages += 1
            self.bytes += message.size
            self.last_message = message.received
        return True


def probe(stream: StreamConfig, timeout_s: float = 5.0) -> str:
    """Try an endpoint and say in one line how it answers, without taking a message away from anybody.

    A PUSH socket hands its messages round to all readers, so that of a `pull` stream only the TCP port is tried.

    Raises:
        ConfigError: the CURVE key is missing or malformed.
        EndpointError: it cannot be bound or reached, or the handshake fails; the message says which and why.
    """
    ends = time.monotonic() + timeout_s
    with zmq.Context() as context:
        trial = _socket(stream, context)
        monitor = trial.get_monitor_socket()
        try:
            if not stream.bind and stream.endpoint.startswith("tcp://"):
                _reach(stream.endpoint, timeout_s)
                if stream.socket == "pull":
                    return f"{stream.endpoint}: the port answers; as a reader would take messages, no more was tried"
            address = _open(trial, stream)
            if stream.bind:
                return f"{address}: free, and can be bound"
            if not address.startswith("inproc://"):
                _shake_hands(stream, monitor, ends)
            return f"{address}: {'encrypted' if stream.server_key_env else 'unencrypted'}, the handshake succeeds"
        finally:
            _close(trial, monitor)


class _Peers:
    """Who is at the other end, as the events of a socket monitor tell."""

    def __init__(self) -> None:
        self.ready = 0
        """Peers after a handshake."""
        self.failed = False
        """Whether the last attempt reached somebody and came to nothing."""
        self.given_up = False
        """Whether libzmq makes no further attempt."""
        self._refused = 0  # peers whose handshake failed and who have not left yet

    def note(self, message: Any) -> None:
        event = message["event"]
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self.ready, self.failed = self.ready + 1, False
        elif event in _HANDSHAKE_FAILED:
            self.failed = True
            self._refused += 1
        elif event == zmq.Event.DISCONNECTED:
            self.given_up = True
            if self._refused:
                self._refused -= 1
            elif self.ready:
                self.ready -= 1
            else:
                self.failed = True
        elif event in (zmq.Event.CONNECT_RETRIED, zmq.Event.CONNECTED, zmq.Event.CONNECT_DELAYED):
            self.given_up = False
        elif event == zmq.Event.CLOSED:
            self.failed = False


def _socket(stream: StreamConfig, context: zmq.Context[Any]) -> zmq.Socket[Any]:
    """A socket with all its options, neither bound nor connected."""
    key = _server_key(stream)
    made = context.socket(zmq.SUB if stream.socket == "sub" else zmq.PULL)
    made.linger = 0
    made.rcvhwm = 0  # the inbox bounds what is held; a limit here counts parts behind HXN's proxy and drops
    made.reconnect_ivl = 100
    made.reconnect_ivl_max = 1000
    if stream.socket == "sub":
        made.subscribe(f"{stream.prefix} ".encode() if stream.prefix else b"")
    if key is not None:
        made.curve_serverkey = key
        made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()
    return made


def _open(made: zmq.Socket[Any], stream: StreamConfig) -> str:
    try:
        (made.bind if stream.bind else made.connect)(stream.endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise EndpointError(f"{stream.endpoint}: the address is in use by another process") from error
        what = "bound" if stream.bind else "connected to"
        raise EndpointError(f"{stream.endpoint} cannot be {what}: {zmq.strerror(error.errno or 0)}") from error
    return made.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _close(made: zmq.Socket[Any], monitor: zmq.Socket[Any]) -> None:
    made.disable_monitor()
    monitor.close(linger=0)
    made.close(linger=0)


def _server_key(stream: StreamConfig) -> bytes | None:
    """The server's public key in ZeroMQ's own spelling, from that or from base64."""
    name = stream.server_key_env
    if name is None:
        return None
    text = (secret(name) or "").strip()
    if not text:
        raise ConfigError(f"{stream.endpoint}: server_key_env names {name}, but this environment variable is not set")
    try:
        if len(text) == 40:
            z85.decode(text)
            return text.encode()
        key = base64.b64decode(text, validate=True) if len(text) == 44 else b""
    except (KeyError, ValueError, struct.error, binascii.Error):
        key = b""
    if len(key) != 32:
        raise ConfigError(
            f"{stream.endpoint}: {name} holds {len(text)} characters that are no CURVE public key: "
            "it must be 40 characters of Z85, or 44 of base64"
        )
    return z85.encode(key)


def _reach(endpoint: str, timeout_s: float) -> None:
    """Open and close a TCP connection."""
    try:
        parts = urlsplit(endpoint)
        if not parts.hostname or not parts.port:
            raise ValueError("it must be tcp://host:port")
        socket.create_connection((parts.hostname, parts.port), timeout_s).close()
    except TimeoutError as error:
        raise EndpointError(f"{endpoint}: no answer in {timeout_s:g} s: is a firewall in between?") from error
    except ConnectionRefusedError as error:
        raise EndpointError(f"{endpoint}: the machine is there, but nobody listens on this port") from error
    except (OSError, ValueError) as error:
        raise EndpointError(f"{endpoint} cannot be reached: {error}") from error


def _shake_hands(stream: StreamConfig, monitor: zmq.Socket[Any], ends: float) -> None:
    """Wait until the monitor has seen a handshake succeed."""
    key = stream.server_key_env
    why = "no answer"
    while (left := ends - time.monotonic()) > 0 and monitor.poll(round(1000 * left)):
        match zmq.Event(recv_monitor_message(monitor)["event"]):
            case zmq.Event.HANDSHAKE_SUCCEEDED:
                return
            case zmq.Event.CONNECTED:
                why = "the port answers, but not as ZeroMQ does"
            case zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                why = "it is not encrypted: leave out server_key_env" if key else "it is encrypted: give server_key_env"
                break
            case zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_AUTH if key:
                why = f"it does not accept the key in {key}"
                break
            case zmq.Event.DISCONNECTED:
                # It may find out first, and leave without a word.
                why = f"it hangs up: encrypted on one side only, or no socket for a {stream.socket} reader"
                break
    raise EndpointError(f"{stream.endpoint}: the handshake fails: {why}")
