"""Whether a stream would work, tried once and told in one line, without taking a message away from anybody."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import EndpointError

from .curve import stream_keys
from .peers import HANDSHAKE_FAILED, refusal
from .zeromq import close_socket, make_socket, open_socket

# How a greeting of ZMTP 3.0 begins: signature and version. The answer goes on with 20 bytes that name the mechanism;
# ours does not, because a sender that disagrees hangs up, and its answer may be lost with it.
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00"
_ANSWER_BYTES = 32


def probe(stream: StreamConfig, timeout_s: float = 5.0) -> str:
    """Try an endpoint and say how it answers, within `timeout_s`.

    A PUSH socket hands its messages round to all readers, so that with the sender of a `pull` stream no more than
    greetings are exchanged: that tells encryption on one side only from agreement, not a wrong key from the right one.

    Raises:
        ConfigError: a CURVE key is missing or malformed.
        EndpointError: it cannot be bound or reached, or the handshake fails; the message says which and why.
    """
    ends = time.monotonic() + timeout_s
    keys = stream_keys(stream)
    kind = "unencrypted"
    if keys is not None:
        own = stream.secret_key_env or stream.secret_key_file
        kind = f"encrypted, as client {keys.public.decode()}" if own else "encrypted"
    if not stream.bind and stream.endpoint.startswith("tcp://"):
        with _reach(stream.endpoint, timeout_s) as connection:
            if stream.socket == "pull":
                _exchange_greetings(stream, connection)
    if not stream.bind and stream.socket == "pull":
        return f"{stream.endpoint}: {kind}, the port answers; as a reader would take messages, no more was tried"
    with zmq.Context() as context:
        trial = make_socket(stream, keys, context)
        monitor = trial.get_monitor_socket()
        try:
            address = open_socket(trial, stream)
            if stream.bind:
                return f"{address}: free, and can be bound"
            if not address.startswith("inproc://"):
                _shake_hands(stream, monitor, ends, keys and keys.public)
            return f"{address}: {kind}, the handshake succeeds{_first_message(trial, ends, timeout_s)}"
        finally:
            close_socket(trial, monitor)


def _reach(endpoint: str, timeout_s: float) -> socket.socket:
    """Open a TCP connection."""
    try:
        parts = urlsplit(endpoint)
        if not parts.hostname or not parts.port:
            raise ValueError("it must be tcp://host:port")
        return socket.create_connection((parts.hostname, parts.port), timeout_s)
    except TimeoutError as error:
        raise EndpointError(f"{endpoint}: no answer in {timeout_s:g} s: is a firewall in between?") from error
    except ConnectionRefusedError as error:
        raise EndpointError(f"{endpoint}: the machine is there, but nobody listens on this port") from error
    except (OSError, ValueError) as error:
        raise EndpointError(f"{endpoint} cannot be reached: {error}") from error


def _exchange_greetings(stream: StreamConfig, connection: socket.socket) -> None:
    """Learn from a sender's greeting whether it is encrypted; nothing is handed out before a handshake."""
    answer = b""
    with contextlib.suppress(OSError):
        connection.sendall(_GREETING)
        while len(answer) < _ANSWER_BYTES and (more := connection.recv(_ANSWER_BYTES - len(answer))):
            answer += more
    if answer[:1] != b"\xff":
        raise EndpointError(f"{stream.endpoint}: the port answers, but not as ZeroMQ does")
    if answer[12:32].startswith(b"NULL" if stream.server_key_env else b"CURVE"):
        why = refusal(zmq.Event.HANDSHAKE_FAILED_PROTOCOL, stream, None)
        raise EndpointError(f"{stream.endpoint}: the handshake fails: {why}")


def _shake_hands(stream: StreamConfig, monitor: zmq.Socket[Any], ends: float, public: bytes | None) -> None:
    """Wait until the monitor has seen a handshake succeed."""
    why = "no answer"
    for event in _events(monitor, ends):
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            return
        if event == zmq.Event.CLOSED:
            why = "nobody listens on this port any more"
        elif event == zmq.Event.CONNECTED:
            why = "the port answers, but not as ZeroMQ does"
        elif event == zmq.Event.DISCONNECTED or event in HANDSHAKE_FAILED:
            why = refusal(event, stream, public)
            break
    raise EndpointError(f"{stream.endpoint}: the handshake fails: {why}")


def _events(monitor: zmq.Socket[Any], ends: float) -> Iterator[int]:
    while (left := ends - time.monotonic()) > 0 and monitor.poll(round(1000 * left)):
        yield recv_monitor_message(monitor)["event"]


def _first_message(trial: zmq.Socket[Any], ends: float, timeout_s: float) -> str:
    if trial.poll(max(0, round(1000 * (ends - time.monotonic())))):
        return " and messages are coming"
    return f", and no message has come in {timeout_s:g} s: nothing is being sent"
