"""The file that a beamline adds to its profile, under a real RunEngine: what it sends arrives, no plan is disturbed."""

from __future__ import annotations

import datetime
import enum
import gc
import importlib.util
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import msgpack
import msgpack_numpy
import numpy as np
import pytest
import zmq
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det  # pyright: ignore[reportAttributeAccessIssue]

from ptyinr_stream.events import Reading, RunStarted, RunStopped
from ptyinr_stream.wire.bluesky import Decoder

pytestmark = pytest.mark.system

FILE = Path(__file__).parents[2] / "deploy" / "bluesky" / "publish_documents.py"
NAMES = ["start", "descriptor", "event", "stop"]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("publish_documents", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


publishing = load()


class Listener:
    """A bound SUB socket, as the daemon has one."""

    def __init__(self, **options: int) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.SUB)
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.subscribe(b"hxn ")
        self.address = f"tcp://127.0.0.1:{self.socket.bind_to_random_port('tcp://127.0.0.1')}"

    def greet(self, publisher: Any) -> None:
        """Return when the publisher is heard; ZeroMQ drops what is sent before."""
        for _ in range(500):
            publisher("greeting", {})
            if self.socket.poll(20):
                break
        else:
            raise TimeoutError("the publisher was not heard")
        publisher("greeted", {})
        while not self.socket.recv().startswith(b"hxn greeted "):
            pass

    def messages(self, until: bytes = b"hxn stop ") -> list[bytes]:
        received: list[bytes] = []
        while not received or not received[-1].startswith(until):
            assert self.socket.poll(5000), f"silence after {[message[:20] for message in received]}"
            received.append(self.socket.recv())
        return received

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def publisher(listener: Listener) -> Iterator[Any]:
    publisher = publishing.DocumentPublisher(listener.address)
    yield publisher
    publisher.close()


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    """A RunEngine, whose thread and event loop end with the test."""
    engine = RunEngine({})
    yield engine
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join(timeout=5)
    engine.loop.close()


def run(engine: RunEngine, plan: Any, **metadata: Any) -> str:
    """The uid of the one run that the plan makes."""
    (uid,) = cast("tuple[str]", engine(plan, **metadata))
    return uid


def documents(messages: list[bytes]) -> list[tuple[str, dict[str, Any]]]:
    read = []
    for message in messages:
        prefix, name, payload = message.split(b" ", 2)
        assert prefix == b"hxn"
        read.append((name.decode(), msgpack.unpackb(payload, object_hook=msgpack_numpy.decode)))
    return read


class Colour(enum.StrEnum):
    RED = "red"


class Broken:
    """What cannot be copied and cannot be printed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_the_documents_of_a_plan_arrive_in_order(engine: RunEngine, listener: Listener, publisher: Any) -> None:
    listener.greet(publisher)
    engine.subscribe(publisher)
    uid = run(engine, count([det], num=2))
    received = documents(listener.messages())
    assert [name for name, _ in received] == ["start", "descriptor", "event", "event", "stop"]
    assert received[0][1]["uid"] == received[-1][1]["run_start"] == uid
    assert received[2][1]["data"]["det"] == det.read()["det"]["value"]


def test_the_daemon_reads_what_is_published(engine: RunEngine, listener: Listener, publisher: Any) -> None:
    listener.greet(publisher)
    engine.subscribe(publisher)
    uid = run(engine, count([det]), arr=np.arange(3), scan={"dwell": np.float64(0.01), "shape": (np.int64(4), 5)})
    decoder = Decoder(prefix="hxn")
    events = [event for message in listener.messages() for event in decoder.feed([message])]
    started, *readings, stopped = events
    assert all(isinstance(reading, Reading) for reading in readings)
    assert isinstance(started, RunStarted)
    assert started.uid == uid
    assert started.document["scan"] == {"dwell": 0.01, "shape": [4, 5]}
    np.testing.assert_array_equal(started.document["arr"], [0, 1, 2])
    assert stopped == RunStopped(uid, "success")
    assert decoder.counts == {"documents": 4}


def test_metadata_that_msgpack_cannot_carry_arrives_as_text(
    engine: RunEngine, listener: Listener, publisher: Any
) -> None:
    listener.greet(publisher)
    engine.subscribe(publisher)
    when = datetime.datetime(2026, 3, 1, 12, 30)
    engine(count([det]), when=when, where=Path("/x"), tags={1, 2}, arr=np.arange(3), big=2**70)
    (_, start), *_ = documents(listener.messages())
    assert start["when"] == "2026-03-01T12:30:00"
    assert start["where"] == "/x"
    assert start["tags"] == [1, 2]
    assert start["big"] == str(2**70)
    np.testing.assert_array_equal(start["arr"], [0, 1, 2])


def holding_itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (None, None),
        (-(2**63), -(2**63)),
        (2**64 - 1, 2**64 - 1),
        (2**64, str(2**64)),
        (10**5000, "<int>"),  # Python refuses to print it
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.longdouble(1.5), "1.5"),
        (np.array([{"a": {1}}, None]), [{"a": [1]}, None]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([(1, 2.5)], dtype=[("n", "i4"), ("x", "f8")]), [[1, 2.5]]),
        (np.array(["2026-03-01"], dtype="M8[D]"), ["2026-03-01"]),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        (Colour.RED, "red"),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({1: "int", ("a", 2): "tuple", Colour.RED: "enum"}, {"1": "int", "('a', 2)": "tuple", "red": "enum"}),
        (datetime.timedelta(seconds=90), "0:01:30"),
        ("\ud800", "?"),
        (1 + 2j, "(1+2j)"),
        (ValueError("late"), "late"),
        (Broken(), "<Broken>"),
        ({"deep": [Broken()]}, {"deep": ["<Broken>"]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_can_be_sent(value: Any, arrives: Any) -> None:
    assert msgpack.unpackb(publishing.PACK(publishing.plain({"value": value}))) == {"value": arrives}


def test_nan_and_infinity_stay_numbers() -> None:
    values = msgpack.unpackb(publishing.PACK(publishing.plain([float("nan"), np.float64("inf")])))
    assert np.isnan(values[0])
    assert values[1] == float("inf")


def test_a_value_that_holds_itself_is_cut_off() -> None:
    assert b"{...}" in publishing.PACK(publishing.plain(holding_itself()))


def test_a_strided_array_arrives_as_it_looks() -> None:
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)[:, ::-2]
    packed = publishing.PACK(publishing.plain(image))
    np.testing.assert_array_equal(msgpack.unpackb(packed, object_hook=msgpack_numpy.decode), image)


def test_documents_are_not_changed_for_other_callbacks(engine: RunEngine, publisher: Any) -> None:
    seen: list[dict[str, Any]] = []
    tags = {1, 2}
    engine.subscribe(publisher)
    engine.subscribe(lambda _, document: seen.append(document))
    engine(count([det]), tags=tags)
    assert seen[0]["tags"] == {1, 2}


def test_a_plan_runs_with_nobody_listening(engine: RunEngine, caplog: pytest.LogCaptureFixture) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as taken:
        free = f"tcp://127.0.0.1:{taken.bind_to_random_port('tcp://127.0.0.1')}"
    publisher = publishing.DocumentPublisher(free)
    engine.subscribe(publisher)
    seen: list[str] = []
    engine.subscribe(lambda name, _: seen.append(name))
    engine(count([det]))
    publisher.close()
    assert seen == NAMES
    assert caplog.records == []


def test_a_plan_runs_beside_a_listener_that_stopped_reading(engine: RunEngine) -> None:
    listener = Listener(rcvhwm=1)
    publisher = publishing.DocumentPublisher(listener.address)
    listener.greet(publisher)
    for _ in range(3000):  # more than the queues of both sides and of the network take
        publisher("event", {"data": bytes(20_000)})
    engine.subscribe(publisher)
    seen: list[str] = []
    engine.subscribe(lambda name, _: seen.append(name))
    engine(count([det]))
    assert seen == NAMES

    closing = threading.Thread(target=publisher.close, daemon=True)
    closing.start()
    closing.join(timeout=30)  # ZeroMQ's own default is for ever
    assert not closing.is_alive()
    listener.close()


def test_a_failure_is_logged_once_and_never_raised(
    engine: RunEngine, listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publishing.DocumentPublisher(listener.address)
    engine.subscribe(publisher)
    publisher.close()  # from here on every send raises
    seen: list[str] = []
    engine.subscribe(lambda name, _: seen.append(name))
    engine(count([det]))
    assert seen == NAMES
    assert [record.levelno for record in caplog.records if record.name == "publish_documents"] == [logging.ERROR]


def test_one_line_in_the_profile_publishes_until_it_is_taken_back(
    engine: RunEngine, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Kept(publishing.DocumentPublisher):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(publishing, "DocumentPublisher", Kept)
    token = publishing.subscribe(engine, listener.address, prefix=b"hxn")
    gc.collect()  # the RunEngine holds methods weakly
    listener.greet(made[0])
    engine(count([det]))
    assert [name for name, _ in documents(listener.messages())] == NAMES
    engine.unsubscribe(token)
    engine(count([det]))
    assert not listener.socket.poll(100)
    made[0].close()


def test_a_prefix_with_a_space_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="may not contain"):
        publishing.DocumentPublisher("tcp://127.0.0.1:5567", b"h xn")
