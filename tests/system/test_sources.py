"""Receivers on real sockets: nothing is lost, states tell a wrong key from silence, and they can always be stopped."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq
from daemons import eventually
from zmq.utils import z85

from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import ConfigError, EndpointError
from ptyinr_stream.sources import probing
from ptyinr_stream.sources.probing import probe
from ptyinr_stream.sources.zeromq import Receiver

pytestmark = pytest.mark.system

ANYWHERE = "tcp://127.0.0.1:*"


class Senders:
    """Bound sockets, kept until the test is over."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self._kept: list[zmq.Socket[Any]] = []

    def __call__(self, kind: int = zmq.PUB, endpoint: str = "tcp://127.0.0.1:0", **options: Any) -> tuple[Any, str]:
        """A socket and its address."""
        made = self.context.socket(kind)
        self._kept.append(made)
        made.linger = 0
        for name, value in options.items():
            setattr(made, name, value)
        eventually(lambda: bound(made, endpoint))  # ZeroMQ frees an address some time after its socket was closed
        return made, made.last_endpoint.decode().rstrip("\0")


def bound(made: zmq.Socket[Any], endpoint: str) -> bool:
    try:
        made.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno != zmq.EADDRINUSE:
            raise
        return False
    return True


@pytest.fixture
def sender() -> Iterator[Senders]:
    senders = Senders()
    yield senders
    senders.context.destroy(linger=0)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(10_000_000)


def stream(endpoint: str, **more: Any) -> StreamConfig:
    return StreamConfig(endpoint=endpoint, wire="eiger_v1", **more)


def greet(publisher: zmq.Socket[Any], inbox: Inbox, topic: bytes = b"") -> None:
    """Return when the receiver is heard, with an empty inbox; PUB drops what is sent before."""
    while (message := inbox.get(timeout=0.02)) is None:
        publisher.send(topic + b"hello")
    publisher.send(topic + b"now")
    while message.parts != [topic + b"now"]:
        message = inbox.get(timeout=5)
        assert message is not None, "the receiver fell silent"


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of an encrypted sender, whose public key is in the environment."""
    public, secret = zmq.curve_keypair()
    monkeypatch.setenv("SERVER_KEY", public.decode())
    return {"curve_server": True, "curve_publickey": public, "curve_secretkey": secret}


def test_messages_arrive_whole_in_order_and_stamped(sender: Senders, inbox: Inbox) -> None:
    pusher, endpoint = sender(zmq.PUSH)
    with Receiver("frames", stream(endpoint, socket="pull"), inbox) as receiver:
        began = time.monotonic()
        for number in range(3000):
            pusher.send_multipart([b"%d" % number, b"", bytes(100)])
        messages = [inbox.get(timeout=5) for _ in range(3000)]
        eventually(lambda: receiver.messages == 3000)
        assert receiver.state == "streaming"
    assert all(message is not None for message in messages)
    assert [m.parts for m in messages if m] == [[b"%d" % number, b"", bytes(100)] for number in range(3000)]
    stamps = [m.received for m in messages if m]
    assert began <= stamps[0] <= stamps[-1] == receiver.last_message
    assert receiver.bytes == sum(m.size for m in messages if m)
    assert {m.road for m in messages if m} == {"frames"}


def test_a_bound_receiver_tells_its_real_address(sender: Senders, inbox: Inbox) -> None:
    with Receiver("documents", stream(ANYWHERE, bind=True), inbox) as receiver:
        assert receiver.endpoint.startswith("tcp://127.0.0.1:")
        assert receiver.state == "disconnected"
        publisher = sender.context.socket(zmq.PUB)
        publisher.connect(receiver.endpoint)
        greet(publisher, inbox)
        eventually(lambda: receiver.state == "streaming")
        publisher.close(linger=0)
        eventually(lambda: receiver.state == "disconnected")


def test_a_prefix_is_subscribed_to_with_the_space_that_ends_it(sender: Senders, inbox: Inbox) -> None:
    publisher, endpoint = sender()
    with Receiver("documents", stream(endpoint, prefix="hxn"), inbox):
        greet(publisher, inbox, topic=b"hxn ")
        for message in (b"hxnx start", b"other start", b"hxn start"):
            publisher.send(message)
        received = inbox.get(timeout=5)
    assert received is not None
    assert received.parts == [b"hxn start"]


def test_a_sender_that_comes_back_is_heard_again(sender: Senders, inbox: Inbox) -> None:
    publisher, endpoint = sender()
    with Receiver("frames", stream(endpoint), inbox) as receiver:
        greet(publisher, inbox)
        publisher.close()
        eventually(lambda: receiver.state == "disconnected")
        publisher, _ = sender(endpoint=endpoint)
        greet(publisher, inbox)
        eventually(lambda: receiver.state == "streaming")


def test_two_ends_in_one_process_may_share_a_context(sender: Senders, inbox: Inbox) -> None:
    publisher, _ = sender(endpoint="inproc://here")
    with Receiver("frames", stream("inproc://here"), inbox, sender.context) as receiver:
        assert receiver.state == "connected"
        greet(publisher, inbox)
        assert receiver.state == "streaming"


@pytest.mark.parametrize("spelling", ["z85", "base64"])
def test_an_encrypted_stream_is_read_with_either_spelling_of_its_key(
    sender: Senders, inbox: Inbox, curve: dict[str, Any], monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    if spelling == "base64":
        monkeypatch.setenv("SERVER_KEY", base64.b64encode(z85.decode(curve["curve_publickey"])).decode() + "\n")
    publisher, endpoint = sender(**curve)
    with Receiver("frames", stream(endpoint, server_key_env="SERVER_KEY"), inbox):
        greet(publisher, inbox)
    assert "encrypted, the handshake succeeds" in probe(stream(endpoint, server_key_env="SERVER_KEY"), timeout_s=2)


def test_a_wrong_key_is_not_mistaken_for_silence(
    sender: Senders, inbox: Inbox, curve: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", zmq.curve_keypair()[0].decode())
    _, endpoint = sender(**curve)
    config = stream(endpoint, server_key_env="SERVER_KEY")
    with Receiver("frames", config, inbox) as receiver:
        eventually(lambda: receiver.state == "handshake failed")
    with pytest.raises(EndpointError, match="does not accept the key in SERVER_KEY"):
        probe(config)


def test_a_stream_that_is_encrypted_on_one_side_only_is_named_so(
    sender: Senders, inbox: Inbox, curve: dict[str, Any]
) -> None:
    _, encrypted = sender(**curve)
    _, plain = sender()
    with Receiver("frames", stream(encrypted), inbox) as receiver:
        eventually(lambda: receiver.state == "handshake failed")
    with pytest.raises(EndpointError, match=r"handshake fails: .*encrypted"):
        probe(stream(encrypted))
    with pytest.raises(EndpointError, match=r"handshake fails: .*(encrypted|accept)"):
        probe(stream(plain, server_key_env="SERVER_KEY"))


def test_a_sender_mended_after_a_failed_handshake_is_heard(
    sender: Senders, inbox: Inbox, curve: dict[str, Any]
) -> None:
    encrypted, endpoint = sender(**curve)
    with Receiver("frames", stream(endpoint), inbox) as receiver:
        eventually(lambda: receiver.state == "handshake failed")
        encrypted.close()
        publisher, _ = sender(endpoint=endpoint)
        greet(publisher, inbox)
        eventually(lambda: receiver.state == "streaming")


@pytest.mark.parametrize("key", ["short", "€" * 40, "~" * 40, "!" * 44, base64.b64encode(bytes(31)).decode(), ""])
def test_a_key_that_is_none_is_refused_before_anything_starts(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SERVER_KEY", key)
    with pytest.raises(ConfigError, match="SERVER_KEY"):
        Receiver("frames", stream("tcp://127.0.0.1:1", server_key_env="SERVER_KEY"), inbox)


def test_an_address_in_use_is_named(inbox: Inbox) -> None:
    with Receiver("frames", stream(ANYWHERE, bind=True), inbox) as first:
        taken = stream(first.endpoint, bind=True)
        with pytest.raises(EndpointError, match=f"{first.endpoint}: the address is in use"):
            Receiver("frames", taken, inbox)
        with pytest.raises(EndpointError, match="in use"):
            probe(taken)
    assert "can be bound" in probe(stream(ANYWHERE, bind=True))


def test_a_malformed_endpoint_is_named(inbox: Inbox) -> None:
    with pytest.raises(EndpointError, match=r"tcp://127\.0\.0\.1 cannot be connected to"):
        Receiver("frames", stream("tcp://127.0.0.1"), inbox)
    with pytest.raises(EndpointError, match="tcp://host:port"):
        probe(stream("tcp://127.0.0.1"))


def test_a_receiver_that_waits_for_room_ends_when_the_inbox_is_closed(sender: Senders) -> None:
    inbox = Inbox(1)
    pusher, endpoint = sender(zmq.PUSH)
    receiver = Receiver("frames", stream(endpoint, socket="pull"), inbox)
    for _ in range(3):
        pusher.send(bytes(10))
    eventually(lambda: receiver.messages == 1)
    inbox.close()
    receiver.stop()
    receiver.stop()  # twice does no harm
    receiver.check()
    assert receiver.messages == 1


def test_what_ends_the_thread_is_raised_by_check(sender: Senders) -> None:
    class Broken(Inbox):
        def put(self, message: Any, size: int) -> bool:
            raise OSError("no room anywhere")

    pusher, endpoint = sender(zmq.PUSH)
    receiver = Receiver("frames", stream(endpoint, socket="pull"), Broken(1))
    receiver.check()
    pusher.send(b"x")
    receiver._thread.join(timeout=5)
    with pytest.raises(OSError, match="no room anywhere"):
        receiver.check()
    receiver.stop()


def test_the_status_says_what_there_is_to_know(sender: Senders, inbox: Inbox) -> None:
    publisher, endpoint = sender()
    with Receiver("frames", stream(endpoint), inbox) as receiver:
        greet(publisher, inbox)
        eventually(lambda: receiver.status()["messages"] >= 2)
        status = receiver.status()
    assert (status["road"], status["endpoint"], status["state"]) == ("frames", endpoint, "streaming")
    assert status["bytes"] >= 8


def test_a_closed_port_is_told_from_one_that_is_no_zeromq(closed_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(EndpointError, match="not as ZeroMQ does"):
            probe(stream(endpoint), timeout_s=2)
    with pytest.raises(EndpointError, match="nobody listens"):
        probe(stream(f"tcp://127.0.0.1:{closed_port}"))


def test_a_sender_that_ends_while_it_is_looked_at_is_told_from_one_that_does_not_answer(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_reach", lambda *_: socket.socket())  # it was there a moment ago
    with pytest.raises(EndpointError, match="nobody listens on this port any more"):
        probe(stream(f"tcp://127.0.0.1:{closed_port}"), timeout_s=2)


def test_a_socket_of_the_wrong_type_is_told(sender: Senders) -> None:
    _, endpoint = sender(zmq.PUSH)
    with pytest.raises(EndpointError, match=r"it hangs up: .*no socket for a sub reader"):
        probe(stream(endpoint))


def test_probing_a_push_socket_takes_no_message_away(sender: Senders, inbox: Inbox) -> None:
    pusher, endpoint = sender(zmq.PUSH)
    config = stream(endpoint, socket="pull")
    assert "no more was tried" in probe(config)
    with Receiver("frames", config, inbox):
        for number in range(10):
            pusher.send(b"%d" % number)
        received = [inbox.get(timeout=5) for _ in range(10)]
    assert [m.parts for m in received if m] == [[b"%d" % number] for number in range(10)]


def test_probing_a_push_socket_tells_encryption_on_one_side_only(sender: Senders, curve: dict[str, Any]) -> None:
    _, encrypted = sender(zmq.PUSH, **curve)
    _, plain = sender(zmq.PUSH)
    with pytest.raises(EndpointError, match="it is encrypted: give server_key_env"):
        probe(stream(encrypted, socket="pull"))
    with pytest.raises(EndpointError, match="it is not encrypted: leave out server_key_env"):
        probe(stream(plain, socket="pull", server_key_env="SERVER_KEY"))
    assert ": encrypted, the port answers" in probe(stream(encrypted, socket="pull", server_key_env="SERVER_KEY"))


def test_probing_a_pull_stream_tells_what_is_no_zeromq() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(EndpointError, match="not as ZeroMQ does"):
            probe(stream(endpoint, socket="pull"), timeout_s=2)


def test_a_plain_stream_is_probed_in_one_line(sender: Senders) -> None:
    _, endpoint = sender()
    silent = f"{endpoint}: unencrypted, the handshake succeeds, and no message has come in 2 s: nothing is being sent"
    assert probe(stream(endpoint), timeout_s=2) == silent


SIZE = 100_000
FLOOD = 4000
"""Messages: 400 MB, all of which ZeroMQ would take into memory if it had no limit."""


def test_a_flood_that_nobody_works_off_holds_a_pushing_sender_back_and_loses_nothing(sender: Senders) -> None:
    inbox, sent = Inbox(10 * SIZE), 0
    pusher, endpoint = sender(zmq.PUSH, sndhwm=1)
    with Receiver("frames", stream(endpoint, socket="pull"), inbox) as receiver:
        assert pusher.poll(10_000, zmq.POLLOUT)
        while sent < FLOOD and pusher.poll(500, zmq.POLLOUT):
            pusher.send(b"%6d" % sent + bytes(SIZE - 6), zmq.NOBLOCK)
            sent += 1
        assert 10 < sent < FLOOD / 4
        taken = []
        while len(taken) < sent and (message := inbox.get(timeout=10)) is not None:
            taken.append(int(message.parts[0][:6]))
        assert receiver.held_back_s > 0.1
    assert taken == list(range(sent))
    assert inbox.high_water_bytes == 10 * SIZE


def test_a_flood_that_nobody_works_off_is_dropped_at_the_publisher(sender: Senders) -> None:
    inbox = Inbox(10 * SIZE)
    publisher, endpoint = sender(zmq.PUB, sndhwm=100)
    with Receiver("frames", stream(endpoint), inbox):
        greet(publisher, inbox)
        for number in range(FLOOD):
            publisher.send(b"%6d" % number + bytes(SIZE - 6))
        taken = []
        while (message := inbox.get(timeout=1)) is not None:
            taken.append(int(message.parts[0][:6]))
    assert 10 <= len(taken) < FLOOD / 4
    assert taken == sorted(set(taken))


def test_small_messages_after_large_ones_do_not_stall(sender: Senders) -> None:
    """A limit of ZeroMQ's that is raised while a sender waits leaves it waiting for ever."""
    inbox = Inbox(10 * SIZE)
    pusher, endpoint = sender(zmq.PUSH, sndhwm=1, sndtimeo=10_000)
    with Receiver("frames", stream(endpoint, socket="pull"), inbox):
        for size, number in ((SIZE, 200), (10, 20_000), (SIZE, 200)):
            with ThreadPoolExecutor(1) as pool:
                sending = pool.submit(
                    lambda size=size, number=number: [pusher.send(bytes(size)) for _ in range(number)]
                )
                messages = [inbox.get(timeout=10) for _ in range(number)]
                sending.result(timeout=10)
            assert all(message is not None and message.size == size for message in messages)
