"""From real sockets to joined batches: bit-exact, whatever else comes down the wires."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from ptyinr_stream.assembler import BaselineAdded, Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.intake import Intake
from ptyinr_stream.sources.zeromq import Receiver
from ptyinr_stream.wire import decoder_of
from ptyinr_stream.wire.codecs import encode

pytestmark = pytest.mark.system

Y, X = "/INENC3.VAL.Value", "/INENC2.VAL.Value"
SHAPE = (24, 20)
UM_PER_COUNT = -1e-4


def configuration(assembly: dict[str, Any] | None = None, **frames: Any) -> Config:
    def stream(**given: Any) -> dict[str, Any]:
        return {"endpoint": "tcp://127.0.0.1:*", "bind": True, **given}

    return parse_config(
        {
            "streams": {
                "documents": stream(wire="bluesky", prefix="hxn"),
                "frames": stream(wire="eiger_v1", socket="pull"),
                "positions": stream(wire="panda"),
            },
            "geometry": {"detector_pixel_um": 75.0},
            "frames": {"orientation": "fliplr", "window": [16, 12], "centre": [11, 9], **frames},
            "positions": {
                "axis0": {"channel": Y, "um_per_count": UM_PER_COUNT},
                "axis1": {"channel": X, "um_per_count": UM_PER_COUNT},
                "samples_per_frame": 2,
                "motors": [1, 0],
            },
            # Positions are drawn at random, not where the scan commands them.
            "assembly": {"gate": False, **(assembly or {})},
        }
    )


@dataclass
class Scan:
    """A scan as its three senders know it, and what should come of it."""

    uid: str
    series: int
    nx: int = 4
    ny: int = 3

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.series)
        self.n = self.nx * self.ny
        self.images = rng.poisson(3, (self.n, *SHAPE)).astype(np.uint16)
        self.images[2, 12, 10] = 65535
        self.samples = rng.integers(-20_000, 20_000, (2, 2 * self.n)).astype(float)

    def start(self) -> bytes:
        scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, float(self.nx), -1.0, 1.0, float(self.ny)]}
        return document("start", {"uid": self.uid, "shape": [self.nx, self.ny], "scan": scan})

    def baseline(self) -> list[bytes]:
        descriptor = {"uid": f"{self.uid}-d", "run_start": self.uid, "name": "baseline"}
        event = {"uid": f"{self.uid}-e", "descriptor": f"{self.uid}-d", "seq_num": 1, "data": {"dcm_th": 9.5}}
        return [document("descriptor", descriptor), document("event", event)]

    def stop(self) -> bytes:
        return document("stop", {"uid": f"{self.uid}-s", "run_start": self.uid, "exit_status": "success"})

    def header(self) -> list[bytes]:
        basic = {"htype": "dheader-1.0", "series": self.series, "header_detail": "basic"}
        return [text(basic), text({"trigger_mode": "exte", "nimages": 1, "ntrigger": self.n})]

    def image(self, frame: int) -> list[bytes]:
        data = encode(self.images[frame], "bs16-lz4<")
        spec = {"shape": SHAPE[::-1], "type": "uint16", "encoding": "bs16-lz4<", "size": len(data)}
        return [
            text({"htype": "dimage-1.0", "series": self.series, "frame": frame, "hash": ""}),
            text({"htype": "dimage_d-1.0", **spec}),
            data,
            text({"htype": "dconfig-1.0", "start_time": 0, "stop_time": 1, "real_time": 1}),
        ]

    def end(self) -> list[bytes]:
        return [text({"htype": "dseries_end-1.0", "series": self.series})]

    def positions(self, size: int = 7) -> list[bytes]:
        messages = [text({"msg_type": "start"})]
        for number, first in enumerate(range(0, 2 * self.n, size)):
            datasets = {}
            for name, row in zip((Y, X), self.samples, strict=True):
                data = row[first : first + size].tolist()
                datasets[name] = {"size": len(data), "starting_sample_number": first, "data": data}
            messages.append(text({"msg_type": "data", "frame_number": number, "datasets": datasets}))
        return [*messages, text({"msg_type": "stop", "emitted_frames": len(messages) - 1})]

    def expected_counts(self, frame: int) -> NDArray[np.uint16]:
        counts = self.images[frame, :, ::-1][3:19, 3:15].copy()
        counts[counts == 65535] = 0
        return counts

    def expected_position(self, frame: int) -> NDArray[np.float64]:
        return self.samples[:, 2 * frame : 2 * frame + 2].mean(axis=1) * UM_PER_COUNT * 1e-6


def text(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def document(name: str, value: dict[str, Any]) -> bytes:
    return b"hxn " + name.encode() + b" " + msgpack.packb(value)


class Beamline:
    """Three senders, three receivers, one intake."""

    def __init__(self, config: Config) -> None:
        self.context = zmq.Context()
        self.outputs: queue.Queue[Output] = queue.Queue()
        self.inbox = Inbox(1_000_000)
        self.intake = Intake(config, self.inbox, self.outputs.put)
        self.receivers: list[Receiver] = []
        self.senders: list[zmq.Socket[Any]] = []
        for road, kind in (("documents", zmq.XPUB), ("frames", zmq.PUSH), ("positions", zmq.XPUB)):
            receiver = Receiver(road, getattr(config.streams, road), self.inbox, self.context)
            sender = self.context.socket(kind)
            sender.linger = 0
            sender.connect(receiver.endpoint)
            if kind == zmq.XPUB:
                assert sender.poll(5000), "nobody has subscribed"
                sender.recv()
            self.receivers.append(receiver)
            self.senders.append(sender)
        self.documents, self.frames, self.positions = self.senders

    def until_closed(self, uid: str) -> tuple[list[Output], ScanClosed]:
        outputs: list[Output] = []
        while True:
            output = self.outputs.get(timeout=20)
            if isinstance(output, ScanClosed) and output.uid == uid:
                return outputs, output
            outputs.append(output)

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.stop()
            receiver.check()
        self.intake.stop()
        self.context.destroy(linger=0)
        self.intake.check()


@pytest.fixture
def beamline() -> Iterator[Beamline]:
    beamline = Beamline(configuration({"settle_s": 1.0}))
    yield beamline
    beamline.close()


def check_joined(scan: Scan, outputs: list[Output], lost: Set[int] = frozenset()) -> None:
    seen: set[int] = set()
    for output in outputs:
        if isinstance(output, Joined) and output.uid == scan.uid:
            batch = output.batch
            for row, frame in enumerate(batch.indices.tolist()):
                seen.add(frame)
                np.testing.assert_array_equal(batch.counts[row], scan.expected_counts(frame))
                assert batch.counts.dtype == np.uint16
                assert batch.positions_m[row] == pytest.approx(scan.expected_position(frame), rel=1e-12)
                trusted = np.ones((16, 12), bool) if batch.mask is None else batch.mask[row]
                assert trusted.sum() == 16 * 12 - (frame == 2)
    assert seen == set(range(scan.n)) - lost


def test_two_scans_in_succession_are_joined_bit_exact_past_torn_and_foreign_messages(beamline: Beamline) -> None:
    first, second = Scan("a", 7), Scan("b", 8, nx=5, ny=2)

    for message in (first.start(), b"hxn start \x80\x04garbage", b"hxn ", *first.baseline()):
        beamline.documents.send(message)
    beamline.frames.send_multipart(first.header())
    for frame in range(first.n):
        parts = first.image(frame)
        if frame == 5:
            parts[2] = parts[2][:-9]  # torn
        if frame == 6:
            beamline.frames.send_multipart([b"\x00foreign", b"{}", b"[1"])
        if frame % 2:
            beamline.frames.send_multipart(parts)
        else:
            for part in parts:  # as HXN's proxy sends them
                beamline.frames.send(part)
    for message in [b"not json", *first.positions()]:
        beamline.positions.send(message)
    beamline.documents.send(first.stop())
    outputs, closed = beamline.until_closed("a")
    assert isinstance(outputs[0], ScanOpened)
    assert outputs[0].expected == 12
    assert BaselineAdded("a", {"dcm_th": 9.5}) in outputs
    check_joined(first, outputs, lost={5})
    assert (closed.report.reason, closed.report.exit_status, closed.report.lost) == ("settled", "success", 1)

    for message in (second.start(), *second.baseline()):
        beamline.documents.send(message)
    for message in second.positions(size=3):
        beamline.positions.send(message)
    for parts in (second.header(), *map(second.image, range(second.n)), second.end()):
        beamline.frames.send_multipart(parts)
    outputs, closed = beamline.until_closed("b")
    check_joined(second, outputs)
    assert (closed.report.reason, closed.report.paired, closed.report.lost) == ("complete", 10, 0)

    counts = beamline.intake.counts
    assert counts["frames.frames"] == 21
    assert counts["frames.torn"] >= 1
    assert counts["positions.not_understood"] == 1
    assert counts["documents.pickle_refused"] == 1
    assert {receiver.state for receiver in beamline.receivers} <= {"streaming", "idle"}


def queued(config: Config, messages: list[Message], clock: float = 0.0) -> tuple[Intake, list[Output]]:
    """An intake that finds these messages in its inbox and has worked them off."""
    inbox, outputs = Inbox(100_000_000), []
    for message in messages:
        inbox.put(message, message.size)
    intake = Intake(config, inbox, outputs.append, clock=lambda: clock)
    intake.stop()
    intake.check()
    return intake, outputs


def test_what_has_been_received_is_worked_off_before_the_end() -> None:
    scan = Scan("a", 3)
    messages = [Message("documents", [scan.start()], 0.0), Message("frames", scan.header(), 0.0)]
    messages += [Message("positions", [part], 0.0) for part in scan.positions()]
    messages += [Message("frames", scan.image(frame), 0.0) for frame in range(scan.n - 1)]
    intake, outputs = queued(configuration(), messages)
    check_joined(scan, outputs, lost={11})
    assert isinstance(outputs[-1], ScanClosed)
    assert outputs[-1].report.reason == "stopped"
    assert intake.status()["inbox_bytes"] == 0
    assert intake.status()["inbox_high_water_bytes"] > 0


def test_the_latency_of_pairs_counts_from_the_half_that_came_last() -> None:
    scan = Scan("a", 3)
    messages = [Message("documents", [scan.start()], 0.0), Message("frames", scan.header(), 0.0)]
    messages += [Message("frames", scan.image(frame), 0.0) for frame in range(scan.n - 1)]
    assert queued(configuration(), messages, clock=4.5)[0].status()["latency_s"] is None
    messages += [Message("positions", [part], 4.0) for part in scan.positions()]
    assert queued(configuration(), messages, clock=4.5)[0].status()["latency_s"] == {"p50": 0.5, "p99": 0.5, "max": 0.5}
    messages.append(Message("frames", scan.image(scan.n - 1), 1.5))
    latency = queued(configuration(), messages, clock=4.5)[0].status()["latency_s"]
    assert (latency["p50"], latency["max"]) == (0.5, 3.0)


def test_how_late_a_message_is_read_can_be_seen_meanwhile() -> None:
    inbox, seen = Inbox(1000), queue.Queue()
    intake = Intake(configuration(), inbox, lambda _: seen.put(intake.late_s.tolist()), clock=lambda: 4.5)
    inbox.put(Message("documents", [Scan("a", 3).start()], 1.5), 1)
    assert seen.get(timeout=5) == [3.0]
    intake.stop()
    assert intake.late_s.tolist() == [0.0]


def test_what_is_read_from_files_is_never_late() -> None:
    inbox, seen, config = Inbox(1000), queue.Queue(), configuration()
    intake = Intake(config, inbox, lambda _: seen.put(intake.late_s.tolist()), clock=lambda: 4.5)
    said = decoder_of(config.streams.documents).feed([Scan("a", 3).start()])
    inbox.put(Message("files", [], 1.5, tuple(said)), 1)
    assert seen.get(timeout=5) == [0.0]
    intake.stop()
    assert intake.late_s.tolist() == [0.0]


def test_a_backlog_is_not_mistaken_for_silence() -> None:
    scan = Scan("a", 3)
    messages = [Message("documents", [part], 0.0) for part in (scan.start(), scan.stop())]
    messages.append(Message("frames", scan.header(), 1.0))
    messages += [Message("positions", [part], 2.0) for part in scan.positions()]
    messages += [Message("frames", scan.image(frame), 3.0 + frame) for frame in range(scan.n)]
    _, outputs = queued(configuration({"settle_s": 2.0}), messages, clock=1000.0)
    check_joined(scan, outputs)


def test_silence_lets_time_pass() -> None:
    inbox, outputs = Inbox(1000), queue.Queue()
    now = [0.0]
    intake = Intake(configuration({"settle_s": 2.0}), inbox, outputs.put, clock=lambda: now[0])
    scan = Scan("a", 3)
    for part in (scan.start(), scan.stop()):
        inbox.put(Message("documents", [part], 0.0), 1)
    assert isinstance(outputs.get(timeout=5), ScanOpened)
    now[0] = 3.0
    closed = outputs.get(timeout=5)
    assert (closed.report.reason, closed.report.lost) == ("settled", 12)
    intake.stop()
    assert outputs.empty()


@pytest.mark.parametrize(
    ("frames", "spoilt", "kind"),
    [({}, True, "frames.undecodable"), ({"window": [16, 30]}, False, "frames.outside_window")],
)
def test_frames_that_cannot_be_used_are_counted_and_named_once(
    frames: dict[str, Any], spoilt: bool, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    scan = Scan("a", 3)
    messages = [Message("documents", [scan.start()], 0.0), Message("frames", scan.header(), 0.0)]
    for frame in range(3):
        parts = scan.image(frame)
        if spoilt:
            parts[2] = bytes(len(parts[2]))
        messages.append(Message("frames", parts, 0.0))
    intake, outputs = queued(configuration(**frames), messages)
    assert intake.counts[kind] == 3
    assert caplog.text.count("of series 3") == 1
    assert isinstance(outputs[-1], ScanClosed)
    assert outputs[-1].report.frames == 0


def test_what_ends_the_thread_is_raised_by_check_and_releases_the_receivers() -> None:
    def deliver(output: Output) -> None:
        raise RuntimeError(f"no place for {type(output).__name__}")

    inbox = Inbox(1000)
    intake = Intake(configuration(), inbox, deliver)
    scan = Scan("a", 3)
    inbox.put(Message("documents", [scan.start()], 0.0), 1)
    intake._thread.join(timeout=5)
    with pytest.raises(RuntimeError, match="no place for ScanOpened"):
        intake.check()
    assert inbox.put(Message("documents", [scan.stop()], 0.0), 1) is False
    intake.stop()


def test_the_status_shows_open_scans() -> None:
    inbox, outputs = Inbox(1000), queue.Queue()
    intake = Intake(configuration(), inbox, outputs.put, clock=lambda: 0.0)
    inbox.put(Message("documents", [Scan("a", 3).start()], 0.0), 1)
    outputs.get(timeout=5)
    inbox.put(Message("documents", [b"hxn other"], 1.0), 1)  # the tick that follows shows what came before
    intake.stop()
    assert intake.status()["scans"] == [{"uid": "a", "expected": 12, "frames": 0, "paired": 0}]
    assert intake.status()["counts"]["documents.documents"] == 1
