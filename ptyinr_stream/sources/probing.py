"""Whether a stream would work, tried once and told in one line, without taking a message away from anybody."""

from __future__ import annotations

import socket
import time
from typing import Any
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import EndpointError

from .curve import stream_keys
from .peers import HANDSHAKE_FAILED, refusal
from .zeromq import close_socket, make_socket, open_socket


def probe(stream: StreamConfig, timeout_s: float = 5.0) -> str:
    """Try an endpoint and say how it answers, within `timeout_s`.

    A PUSH socket hands its messages round to all readers, so that a `pull` stream is tried with a socket that it
    refuses: that tells encryption on one side only from agreement, but not a wrong key from the right one.

    Raises:
        ConfigError: a CURVE key is missing or malformed.
        EndpointError: it cannot be bound or reached, or the handshake fails; the message says which and why.
    """
    ends = time.monotonic() + timeout_s
    tried = stream if stream.bind else stream.model_copy(update={"socket": "sub"})
    keys = stream_keys(stream)
    with zmq.Context() as context:
        trial = make_socket(tried, keys, context)
        monitor = trial.get_monitor_socket()
        try:
            if not stream.bind and stream.endpoint.startswith("tcp://"):
                _reach(stream.endpoint, timeout_s)
            address = open_socket(trial, tried)
            if stream.bind:
                return f"{address}: free, and can be bound"
            kind = "unencrypted"
            if keys is not None:
                own = stream.secret_key_env or stream.secret_key_file
                kind = f"encrypted, as client {keys.public.decode()}" if own else "encrypted"
            if stream.socket == "pull":
                _expect_refusal(stream, monitor, ends)
                return f"{address}: {kind}, the port answers; as a reader would take messages, no more was tried"
            if not address.startswith("inproc://"):
                _shake_hands(stream, monitor, ends, keys and keys.public)
            return f"{address}: {kind}, the handshake succeeds{_first_message(trial, ends, timeout_s)}"
        finally:
            close_socket(trial, monitor)


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


def _shake_hands(stream: StreamConfig, monitor: zmq.Socket[Any], ends: float, public: bytes | None) -> None:
    """Wait until the monitor has seen a handshake succeed."""
    why = "no answer"
    for event in _events(monitor, ends):
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            return
        if event == zmq.Event.CONNECTED:
            why = "the port answers, but not as ZeroMQ does"
        elif event == zmq.Event.DISCONNECTED or event in HANDSHAKE_FAILED:
            why = refusal(event, stream, public)
            break
    raise EndpointError(f"{stream.endpoint}: the handshake fails: {why}")


def _expect_refusal(stream: StreamConfig, monitor: zmq.Socket[Any], ends: float) -> None:
    """Wait until the socket has been refused; not for its type, that is an error."""
    for event in _events(monitor, ends):
        if event == zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
            raise EndpointError(f"{stream.endpoint}: the handshake fails: {refusal(event, stream, None)}")
        if event == zmq.Event.HANDSHAKE_SUCCEEDED:
            raise EndpointError(f'{stream.endpoint}: the sender publishes: give socket = "sub"')
        if event == zmq.Event.DISCONNECTED:
            return
    raise EndpointError(f"{stream.endpoint}: the port answers, but not as ZeroMQ does")


def _events(monitor: zmq.Socket[Any], ends: float):
    while (left := ends - time.monotonic()) > 0 and monitor.poll(round(1000 * left)):
        yield recv_monitor_message(monitor)["event"]


def _first_message(trial: zmq.Socket[Any], ends: float, timeout_s: float) -> str:
    if trial.poll(max(0, round(1000 * (ends - time.monotonic())))):
        return " and messages are coming"
    return f", and no message has come in {timeout_s:g} s: nothing is being sent"
