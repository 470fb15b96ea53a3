"""What is wrong with a stream is told within five seconds, by `check` and by the status of what runs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from ptyinr_stream.channels import Inbox
from ptyinr_stream.checks import checks
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.sources.zeromq import Receiver

pytestmark = pytest.mark.system

SOON_S = 5.0
ROADS = ("documents", "frames", "positions")


@dataclass
class Case:
    """A sender and a configuration of its reader, and what should be said."""

    state: str
    why: str
    """In the status."""
    verdict: str
    """Of `check`."""
    good: bool = False
    encrypted: bool = True
    listed: bool = False
    """The sender admits only the client on its list."""
    sends: bool = False
    listens: bool = True
    stream: dict[str, Any] = field(default_factory=dict)


KEY = {"server_key_env": "SERVER_KEY"}
OWN = {**KEY, "secret_key_env": "OWN_KEY"}
CASES = {
    "the server's key is wrong": Case(
        "handshake failed", "the key in WRONG_KEY", "the key in WRONG_KEY", stream={"server_key_env": "WRONG_KEY"}
    ),
    "no key is given": Case("handshake failed", "encrypted", "encrypted"),
    "a key is given to a plain sender": Case("handshake failed", "encrypted", "encrypted", encrypted=False, stream=KEY),
    "the client has no key that is on the list": Case(
        "handshake failed", "give secret_key_env", "give secret_key_env", listed=True, stream=KEY
    ),
    "the client's key is not the one on the list": Case(
        "handshake failed",
        "this client's public key on it is",
        "this client's public key on it is",
        listed=True,
        stream={**KEY, "secret_key_env": "WRONG_SECRET"},
    ),
    "the port is closed": Case("disconnected", "nobody listens", "nobody listens on this port", listens=False),
    "the detector is silent": Case("idle", "", "no message has come", good=True, stream=KEY),
    "the detector sends": Case("streaming", "", "messages are coming", good=True, sends=True, stream=KEY),
    "the client is on the list": Case("streaming", "", "as client", good=True, listed=True, sends=True, stream=OWN),
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bytes, bytes]]:
    """Public and secret keys, in the environment too."""
    pairs = {name: zmq.curve_keypair() for name in ("server", "own", "other")}
    monkeypatch.setenv("SERVER_KEY", pairs["server"][0].decode())
    monkeypatch.setenv("WRONG_KEY", pairs["other"][0].decode())
    monkeypatch.setenv("OWN_KEY", pairs["own"][1].decode())
    monkeypatch.setenv("WRONG_SECRET", pairs["other"][1].decode())
    return pairs


class Publishers:
    """Publishing sockets of one context, some of which send now and then until the end."""

    def __init__(self, keys: dict[str, tuple[bytes, bytes]]) -> None:
        self._context = zmq.Context()
        self._keys = keys
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._kept: list[zmq.Socket[Any] | socket.socket] = []
        self._authenticator: ThreadAuthenticator | None = None

    def open(self, case: Case) -> str:
        """Start a sender; its endpoint."""
        if not case.listens:
            # Bound so that nobody else gets the port; closing a ZeroMQ socket instead takes effect some time later.
            closed = socket.socket()
            self._kept.append(closed)
            closed.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{closed.getsockname()[1]}"
        if case.listed:
            self._authenticator = ThreadAuthenticator(self._context)
            self._authenticator.start()
            self._authenticator.configure_curve_callback(credentials_provider=self)
        publisher = self._context.socket(zmq.PUB)
        publisher.linger = 0
        self._kept.append(publisher)
        if case.encrypted:
            publisher.curve_server = True
            publisher.curve_publickey, publisher.curve_secretkey = self._keys["server"]
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        if case.sends:
            self._threads.append(threading.Thread(target=self._send, args=(publisher,)))
            self._threads[-1].start()
        return f"tcp://127.0.0.1:{port}"

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a client is on the list."""
        del domain
        return key == self._keys["own"][0]

    def _send(self, publisher: zmq.Socket[bytes]) -> None:
        while not self._over.wait(0.02):
            publisher.send(b"hello")

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if self._authenticator is not None:
            self._authenticator.stop()
        for kept in self._kept:
            kept.close()
        self._context.destroy(linger=0)


@pytest.fixture
def publishers(keys: dict[str, tuple[bytes, bytes]]) -> Iterator[Publishers]:
    publishers = Publishers(keys)
    yield publishers
    publishers.close()


def configuration(folder: Path, **streams: dict[str, Any]) -> Config:
    """All roads bind, but for those given."""
    wires = dict(zip(ROADS, ("bluesky", "eiger_v1", "panda"), strict=True))
    bound = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    return parse_config(
        {
            "streams": {road: {"wire": wires[road], **streams.get(road, bound)} for road in ROADS},
            "geometry": {"detector_pixel_um": 75.0},
            "positions": HXN_ENCODERS.model_dump(),
            "training": {"device": "cpu"},
            "tiled": {"folder": folder / "tiled", "port": 0},
        }
    )


def within(condition: Callable[[], bool], seconds: float = SOON_S) -> bool:
    """Look at another thread's state until it is so, or time is up."""
    pause, ends = threading.Event(), time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        pause.wait(0.01)
    return True


@pytest.mark.parametrize("name", CASES)
def test_the_receiver_tells_how_its_stream_stands(name: str, publishers: Publishers, tmp_path: Path) -> None:
    case = CASES[name]
    config = configuration(tmp_path, frames={"endpoint": publishers.open(case), **case.stream})
    with Receiver("frames", config.streams.frames, Inbox(1_000_000)) as receiver:
        assert within(lambda: receiver.state == case.state and case.why in receiver.status()["why"]), receiver.status()
        assert bool(receiver.status()["why"]) == bool(case.why)
        assert (receiver.status()["silent_s"] is not None) == case.sends


@pytest.mark.parametrize("name", CASES)
def test_check_tells_how_a_stream_stands(name: str, publishers: Publishers, tmp_path: Path) -> None:
    case = CASES[name]
    config = configuration(tmp_path, frames={"endpoint": publishers.open(case), **case.stream})
    verdicts = {road: (verdict, good) for road, verdict, good in islice(checks(config, timeout_s=3.0), 3)}
    verdict, good = verdicts["frames"]
    assert case.verdict in verdict
    assert good == case.good


@pytest.mark.parametrize("key", ["", "x" * 39, "~" * 40])
@pytest.mark.parametrize("variable", ["SERVER_KEY", "OWN_KEY"])
@pytest.mark.usefixtures("keys")
def test_a_key_that_is_missing_or_malformed_is_told_before_anything_starts(
    variable: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, key)
    config = configuration(tmp_path, frames={"endpoint": "tcp://127.0.0.1:1", **OWN})
    verdicts = {road: (verdict, good) for road, verdict, good in islice(checks(config, timeout_s=3.0), 3)}
    assert variable in verdicts["frames"][0]
    assert (key or "\0") not in verdicts["frames"][0]
    assert not verdicts["frames"][1]
    with pytest.raises(ConfigError, match=variable):
        Receiver("frames", config.streams.frames, Inbox(1))


def test_a_secret_key_may_lie_in_a_file_and_is_never_shown(
    keys: dict[str, tuple[bytes, bytes]], publishers: Publishers, tmp_path: Path
) -> None:
    (tmp_path / "key").write_bytes(keys["own"][1] + b"\n")
    endpoint = publishers.open(Case("", "", "", listed=True, sends=True))
    config = configuration(tmp_path, frames={"endpoint": endpoint, **KEY, "secret_key_file": tmp_path / "key"})
    (_, verdict, good), *_ = islice(checks(config, timeout_s=3.0), 1, 3)
    assert good
    assert keys["own"][0].decode() in verdict
    assert keys["own"][1].decode() not in verdict


def test_a_secret_key_without_the_servers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give server_key_env"):
        configuration(tmp_path, frames={"endpoint": "tcp://127.0.0.1:1", "secret_key_env": "OWN_KEY"})


def test_the_running_daemon_tells_streams_apart(publishers: Publishers, tmp_path: Path) -> None:
    expected = {
        "documents": CASES["the port is closed"],
        "frames": CASES["the server's key is wrong"],
        "positions": CASES["the detector is silent"],
    }
    streams = {road: {"endpoint": publishers.open(case), **case.stream} for road, case in expected.items()}

    def told(daemon: Daemon) -> bool:
        found = {stream["road"]: stream for stream in daemon.status.streams}
        return all(
            found[road]["state"] == case.state and case.why in found[road]["why"] for road, case in expected.items()
        )

    with Daemon(configuration(tmp_path, **streams)) as daemon:
        ends = time.monotonic() + SOON_S

        def observe(daemon: Daemon) -> None:
            if told(daemon) or time.monotonic() > ends:
                daemon.stop()

        daemon.run(observe)
        assert told(daemon), daemon.status.streams
