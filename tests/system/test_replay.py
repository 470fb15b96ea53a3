"""Scans replayed over real sockets, with the decoders at the other end."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace

import numpy as np
import pytest
import zmq

from ptyinr_stream.data import siemens_star
from ptyinr_stream.errors import EndpointError, ScanFileError
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    FrameArrived,
    FrameTimed,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.replay import HXN_ENCODERS, Endpoints, Replay
from ptyinr_stream.replay.faults import ROADS
from ptyinr_stream.replay.sockets import Roads
from ptyinr_stream.wire import bluesky, codecs, eiger_v1, panda

pytestmark = pytest.mark.system

ANYWHERE = Endpoints("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")


@pytest.fixture(scope="module")
def star():
    return read_scan(siemens_star())


@pytest.fixture(scope="module")
def short(star):
    return replace(star, counts=star.counts[:30].astype(np.uint32), positions_m=star.positions_m[:30])


class Receiver:
    """Three sockets and decoders; `heard` keeps the events of each road."""

    def __init__(self, kinds=(zmq.SUB, zmq.SUB, zmq.SUB), prefix=""):
        self.context = zmq.Context()
        self.sockets = [self.context.socket(kind) for kind in kinds]
        self.decoders = [bluesky.Decoder(prefix=prefix), eiger_v1.Decoder(), panda.Decoder()]
        self.sizes = [set(), set(), set()]
        for socket in self.sockets:
            socket.rcvhwm = 0
            if socket.type == zmq.SUB:
                socket.subscribe(b"")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(0)

    def connect(self, endpoints):
        for socket, endpoint in zip(self.sockets, astuple(endpoints), strict=True):
            socket.connect(endpoint)

    def bind(self):
        return Endpoints(
            *(f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}" for socket in self.sockets)
        )

    def listen(self):
        """The events of each road until all three have ended."""
        heard = [[], [], []]
        ends = (RunStopped, SeriesEnded, CaptureEnded)
        poller = zmq.Poller()
        for socket in self.sockets:
            poller.register(socket, zmq.POLLIN)
        while not all(events and isinstance(events[-1], end) for events, end in zip(heard, ends, strict=True)):
            ready = dict(poller.poll(10_000))
            assert ready, f"nothing came for 10 s after {[len(events) for events in heard]} events"
            for road, socket in enumerate(self.sockets):
                if socket in ready:
                    parts = socket.recv_multipart()
                    self.sizes[road].add(len(parts))
                    heard[road] += self.decoders[road].feed(parts)
        return heard


@contextlib.contextmanager
def running(replay, **arguments):
    """`replay.run` in a thread, which must have succeeded at the end; yields its future."""
    with replay, ThreadPoolExecutor(1) as pool:
        future = pool.submit(replay.run, **arguments)
        yield future
        future.result(30)


def check_frames(events, scan, series):
    assert events[0] == SeriesStarted(series, len(scan.counts), events[0].header)
    assert events[-1] == SeriesEnded(series)
    frames, times = events[1:-1:2], events[2:-1:2]
    assert [(event.series, event.frame) for event in frames] == [(series, n) for n in range(len(scan.counts))]
    assert all(isinstance(event, FrameArrived) for event in frames)
    assert all(isinstance(event, FrameTimed) for event in times)
    assert [event.frame for event in times] == [event.frame for event in frames]
    for event, counts in zip(frames, scan.counts, strict=True):
        pixels = codecs.decode(event.image)
        assert pixels.dtype == counts.dtype
        assert np.array_equal(pixels, counts)


def check_positions(events, scan, sent_m):
    assert isinstance(events[0], CaptureStarted)
    assert events[0].armed_at
    assert events[-1] == CaptureEnded(len(events) - 2)
    samples = np.full((len(scan.counts) * 10, 2), np.nan)
    for event in events[1:-1]:
        assert isinstance(event, PositionsArrived)
        for axis, channel in enumerate(("/INENC2.VAL.Value", "/INENC3.VAL.Value")):
            values = event.channels[channel]
            samples[event.first_sample : event.first_sample + len(values), axis] = values
    um_per_count = (HXN_ENCODERS.axis0.um_per_count, HXN_ENCODERS.axis1.um_per_count)
    positions_m = 1e-6 * samples.reshape(-1, 10, 2).mean(axis=1) * um_per_count
    assert np.allclose(positions_m, sent_m, rtol=0, atol=1e-15)
    assert np.abs((positions_m - scan.positions_m) / scan.geometry.pixel_m).max() < 1e-3


def test_a_whole_scan_arrives_bit_by_bit(star):
    told = []
    replay = Replay(star, ANYWHERE, rate_hz=2000, series=5, scan_id=40, flush_s=0.01, progress=told.append)
    with Receiver() as receiver, running(replay, uid="the-run") as future:
        receiver.connect(replay.endpoints)
        documents, frames, positions = receiver.listen()
        report = future.result(30)
    assert (report.uid, report.scan_id, report.series, report.frames) == ("the-run", 40, 5, 516)
    assert told == list(range(1, 517))
    assert report.ended - report.started >= 516 / 2000
    check_frames(frames, star, 5)
    check_positions(positions, star, report.positions_m)
    assert [type(event) for event in documents] == [RunStarted, BaselineRead, BaselineRead, RunStopped]
    assert {event.uid for event in documents} == {"the-run"}
    assert documents[0].document["scan"]["detector_distance"] == 1.92
    assert receiver.sizes == [{1}, {1}, {1}]
    assert receiver.decoders[1].counts == {"frames": 516}
    assert receiver.decoders[2].counts == {"messages": len(positions) - 2}


def test_a_detectors_frames_are_pushed_whole_to_receivers_that_bind(short):
    with Receiver((zmq.SUB, zmq.PULL, zmq.SUB), prefix="hxn") as receiver:
        endpoints = receiver.bind()
        replay = Replay(short, endpoints, rate_hz=1000, bind=False, wire="multipart", prefix="hxn", series=1)
        with running(replay) as future:
            documents, frames, positions = receiver.listen()
            report = future.result(30)
    check_frames(frames, short, 1)
    check_positions(positions, short, report.positions_m)
    assert documents[-1] == RunStopped(report.uid)
    assert receiver.sizes == [{1}, {1, 2, 4}, {1}]


def test_each_run_has_its_own_uid_series_and_scan_id(short):
    replay = Replay(short, ANYWHERE, rate_hz=1000, wire="multipart")
    heard = []
    with Receiver((zmq.SUB, zmq.PULL, zmq.SUB)) as receiver:
        receiver.connect(replay.endpoints)
        with replay, ThreadPoolExecutor(1) as pool:
            for _ in range(2):
                future = pool.submit(replay.run)
                heard.append((receiver.listen(), future.result(30)))
    for (documents, frames, _), report in heard:
        assert documents[0].uid == documents[-1].uid == report.uid
        assert documents[0].document["scan_id"] == report.scan_id
        assert frames[0].series == frames[-1].series == report.series
    first, second = heard[0][1], heard[1][1]
    assert (second.series, second.scan_id) == (first.series + 1, first.scan_id + 1)
    assert first.uid != second.uid
    assert first.series > 1_700_000_000  # the clock: larger than that of any process before


def test_masked_pixels_go_out_as_the_value_that_marks_them(short):
    trusted = np.ones(short.geometry.window, bool)
    trusted[:, 70:73] = False
    replay = Replay(replace(short, mask=trusted), ANYWHERE, rate_hz=1000)
    with Receiver() as receiver, running(replay) as future:
        receiver.connect(replay.endpoints)
        _, frames, _ = receiver.listen()
        future.result(30)
    marked = np.where(trusted, short.counts, 2**32 - 1)
    sent = [codecs.decode(event.image) for event in frames if isinstance(event, FrameArrived)]
    assert all(np.array_equal(pixels, image) for pixels, image in zip(sent, marked, strict=True))


def test_counts_that_are_not_whole_are_not_sent(short):
    scan = replace(short, counts=short.counts.astype(np.float32))
    with pytest.raises(ScanFileError, match=r"not whole numbers, .* round them"):
        Replay(scan, ANYWHERE)
    Replay(scan.rounded(), ANYWHERE).close()


@pytest.mark.parametrize("road", ["documents", "frames", "positions"])
def test_a_port_in_use_is_named(short, road):
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        taken = f"tcp://127.0.0.1:{other.bind_to_random_port('tcp://127.0.0.1')}"
        with pytest.raises(EndpointError, match=f"{taken}: cannot be bound: Address already in use"):
            Replay(short, replace(ANYWHERE, **{road: taken}))


def test_a_malformed_endpoint_is_named(short):
    with pytest.raises(EndpointError, match="tcp://nowhere: cannot be connected to: Invalid argument"):
        Replay(short, replace(ANYWHERE, documents="tcp://nowhere"), bind=False)


@pytest.mark.parametrize("wire", ["proxy", "multipart"])
@pytest.mark.parametrize(("road", "absent"), [(0, "documents"), (1, "frames"), (2, "positions")])
def test_nothing_is_sent_while_a_road_has_no_receiver(short, road, absent, wire):
    replay = Replay(short, ANYWHERE, wire=wire, wait_s=1.5)
    with replay, Receiver((zmq.SUB, zmq.PULL if wire == "multipart" else zmq.SUB, zmq.SUB)) as receiver:
        for other, endpoint in enumerate(astuple(replay.endpoints)):
            if other != road:
                receiver.sockets[other].connect(endpoint)
        with pytest.raises(EndpointError, match=f"nobody has come for the {absent} within 1.5 s"):
            replay.run()
        assert not any(socket.poll(50) for socket in receiver.sockets)


def test_frames_are_not_pushed_into_the_void(short):
    with Receiver((zmq.SUB, zmq.PULL, zmq.SUB)) as receiver:
        endpoints = receiver.bind()
        receiver.sockets[1].unbind(endpoints.frames)
        replay = Replay(short, endpoints, bind=False, wire="multipart", wait_s=3)
        with replay, ThreadPoolExecutor(1) as pool:
            future = pool.submit(replay.run)
            while not future.done():  # a socket that binds subscribes while it is polled
                assert not receiver.sockets[0].poll(20)
                assert not receiver.sockets[2].poll(20)
            with pytest.raises(EndpointError, match="nobody has come for the frames"):
                future.result(0)


def test_a_subscriber_that_has_gone_is_no_receiver(short):
    replay = Replay(short, ANYWHERE, rate_hz=1000, wait_s=5)
    with replay, ThreadPoolExecutor(1) as pool:
        with Receiver() as receiver:
            receiver.connect(replay.endpoints)
            future = pool.submit(replay.run)
            receiver.listen()
            future.result(30)
        assert replay._roads._sockets["documents"].poll(10_000)  # the news that it has gone
        replay._roads._wait_s = 0.5
        with pytest.raises(EndpointError, match="nobody has come for the documents"):
            replay.run()


def test_a_puller_that_leaves_ends_the_replay_with_an_error(short):
    replay = Replay(short, ANYWHERE, rate_hz=10, wire="multipart", wait_s=3)
    with replay, Receiver((zmq.SUB, zmq.PULL, zmq.SUB)) as receiver, ThreadPoolExecutor(1) as pool:
        receiver.connect(replay.endpoints)
        future = pool.submit(replay.run)
        assert receiver.sockets[1].poll(10_000)
        receiver.sockets[1].close(0)
        with pytest.raises(EndpointError, match="the receiver has not read for 3 s"):
            future.result(30)


def test_a_sender_that_waits_says_nothing_on_any_road_while_its_receiver_is_away():
    roads = Roads(dict.fromkeys(ROADS, "tcp://127.0.0.1:*"), "push", bind=True, wait_s=30)
    endpoints = Endpoints(**roads.endpoints)
    with contextlib.closing(roads), ThreadPoolExecutor(1) as pool:
        with Receiver((zmq.SUB, zmq.PULL, zmq.SUB)) as receiver:
            receiver.connect(endpoints)
            roads.await_receivers()
        while any(roads._has_receiver(*item, deadline=0.0) for item in roads._sockets.items()):
            pass  # the news that it has gone
        sent = pool.submit(roads.send, "positions", [b"said to somebody"])
        with Receiver((zmq.SUB, zmq.PULL, zmq.SUB)) as receiver:
            receiver.connect(endpoints)
            assert receiver.sockets[2].poll(10_000)
            assert receiver.sockets[2].recv() == b"said to somebody"
            sent.result(10)
