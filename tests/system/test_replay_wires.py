"""Every wire, end to end: a measured scan over real sockets into the real intake, bit by bit."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from tiled.client import from_uri

from ptyinr_stream.assembler import Joined, Output, ScanClosed
from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.data import siemens_star
from ptyinr_stream.errors import ConfigError, ScanFileError
from ptyinr_stream.formats import RecordedScan, read_scan
from ptyinr_stream.intake import ROADS, Intake
from ptyinr_stream.plugins import load_plugin
from ptyinr_stream.replay import HXN_ENCODERS, WIRES, Endpoints, Faults, Replay, ReplayReport
from ptyinr_stream.replay.catalog import read_catalog
from ptyinr_stream.replay.messages import IMAGE_KEY
from ptyinr_stream.sources.files import FileSource
from ptyinr_stream.sources.zeromq import Receiver
from ptyinr_stream.tiled_server import EmbeddedServer

pytestmark = pytest.mark.system

ANYWHERE = Endpoints("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
SOCKETS = {"pub": "sub", "push": "pull"}
RATE_HZ = 2000.0


@pytest.fixture(scope="module")
def star() -> RecordedScan:
    return read_scan(siemens_star())


def configuration(wire: str, settle_s: float, endpoints: Endpoints, **frames: Any) -> Config:
    """That of a daemon which connects to a replay in this wire."""
    encoder = load_plugin("ptyinr_stream.replay.wires", wire).Encoder
    streams: dict[str, Any] = {
        "documents": {"endpoint": endpoints.documents, "wire": "bluesky"},
        "positions": {"endpoint": endpoints.positions, "wire": "panda"},
    }
    if encoder.socket is not None:
        kind = SOCKETS[encoder.socket]
        streams["frames"] = {"endpoint": endpoints.frames, "wire": encoder.wire, "socket": kind, **frames}
    return parse_config(
        {
            "streams": streams,
            "files": {} if "frames" in streams else {"frames_key": IMAGE_KEY},
            "geometry": {"detector_pixel_um": 75.0},
            "positions": HXN_ENCODERS.model_dump(),
            "assembly": {"settle_s": settle_s},
        }
    )


class Daemon:
    """The part of one that receives and joins."""

    def __init__(self, config: Config) -> None:
        self._outputs: queue.Queue[Output] = queue.Queue()
        inbox = Inbox(1_000_000_000)
        self._files = FileSource(config, inbox) if config.reads_files else None
        self.intake = Intake(config, inbox, self._outputs.put, files=self._files and self._files.take)
        streams = {road: stream for road in ROADS if (stream := getattr(config.streams, road))}
        self.receivers = [Receiver(road, stream, inbox) for road, stream in streams.items()]

    def until_closed(self, sent: Future[ReplayReport]) -> tuple[dict[int, Any], ScanClosed]:
        """Counts, mask and position of each joined frame of the next scan."""
        joined = {}
        while True:
            try:
                output = self._outputs.get(timeout=20)
            except queue.Empty:
                sent.result(0)  # what ended the replay, if anything did
                raise
            match output:
                case Joined(_, batch):
                    masks = [None] * len(batch.indices) if batch.mask is None else batch.mask
                    for number, *frame in zip(
                        batch.indices.tolist(), batch.counts, masks, batch.positions_m, strict=True
                    ):
                        assert number not in joined
                        joined[number] = tuple(frame)
                case ScanClosed() as closed:
                    return joined, closed

    def close(self) -> None:
        for part in (*self.receivers, self._files, self.intake):
            if part is not None:
                part.stop()
        for part in (*self.receivers, self._files, self.intake):
            if part is not None:
                part.check()


Run = Callable[..., tuple[dict[int, Any], ScanClosed, ReplayReport, Daemon]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Replays a scan into a daemon of its own."""
    daemons: list[Daemon] = []

    def run(
        scan: RecordedScan, wire: str, settle_s: float = 1.0, frames: dict[str, Any] | None = None, **options: Any
    ) -> tuple[dict[int, Any], ScanClosed, ReplayReport, Daemon]:
        with (
            Replay(
                scan, ANYWHERE, wire=wire, folder=tmp_path, **{"rate_hz": RATE_HZ, "flush_s": 0.01, **options}
            ) as replay,
            ThreadPoolExecutor(1) as pool,
        ):
            daemon = Daemon(configuration(wire, settle_s, replay.endpoints, **(frames or {})))
            daemons.append(daemon)
            sent = pool.submit(replay.run)
            joined, closed = daemon.until_closed(sent)
            return joined, closed, sent.result(60), daemon

    yield run
    for daemon in daemons:
        daemon.close()


def check_joined(joined: dict[int, Any], scan: RecordedScan, report: ReplayReport) -> None:
    """Every frame bit by bit, and where it was sent from."""
    for number, (counts, mask, position_m) in joined.items():
        trusted = np.ones(counts.shape, bool) if mask is None else mask
        assert np.array_equal(trusted, trusted if scan.mask is None else scan.mask)
        assert counts.dtype == scan.counts.dtype
        assert np.array_equal(counts, np.where(trusted, scan.counts[number], 0))
        assert np.allclose(position_m, report.positions_m[number], rtol=0, atol=1e-15)


@pytest.mark.parametrize("wire", WIRES)
def test_a_measured_scan_arrives_bit_by_bit_and_to_a_thousandth_of_a_pixel(
    wire: str, star: RecordedScan, run: Run
) -> None:
    joined, closed, report, _ = run(star, wire)
    assert sorted(joined) == list(range(516))
    check_joined(joined, star, report)
    positions_m = np.array([joined[number][2] for number in range(516)])
    assert np.abs((positions_m - star.positions_m) / star.geometry.pixel_m).max() < 1e-3
    assert (closed.report.reason, closed.report.lost, closed.report.frames) == ("complete", 0, 516)
    assert report.pairable.tolist() == list(range(516))


@pytest.mark.parametrize("wire", WIRES)
def test_masked_pixels_and_wide_counts_and_a_warm_up_arrive_as_they_should(
    wire: str, star: RecordedScan, run: Run
) -> None:
    mask = np.ones(star.geometry.window, bool)
    mask[:, 70:73] = mask[5] = False
    counts = star.counts[:60].astype(np.uint32) * 70_000
    scan = replace(star, counts=counts, positions_m=star.positions_m[:60], mask=mask)
    joined, closed, report, _ = run(scan, wire, warm_up=wire != "files")
    assert sorted(joined) == list(range(60))
    check_joined(joined, scan, report)
    assert closed.report.reason == "complete"


DISORDER = Faults(drop=0.05, duplicate=0.1, reorder=12, delay_s={"positions": 0.1})
LIGHTER = replace(
    DISORDER, drop=0.02, reorder=2
)  # where parts travel alone: four times the messages, three must follow


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("wire", WIRES)
def test_under_stress_exactly_what_was_sent_is_paired_and_counted(
    wire: str, seed: int, star: RecordedScan, run: Run
) -> None:
    faults = replace(LIGHTER if wire in ("hxn", "proxy") else DISORDER, seed=seed)
    if wire == "files":
        faults = replace(faults, on=frozenset(["positions"]))
    joined, closed, report, daemon = run(star, wire, faults=faults)
    check_joined(joined, star, report)
    assert sorted(joined) == sorted([*report.pairable, *report.partial])
    assert len(joined) > 20
    for road in faults.on:
        assert {"reordered", "duplicated"} <= set(report.messages[road])
    became = closed.report
    assert became.partial_positions == len(report.partial)
    assert became.lost == (~report.whole).sum()
    assert became.without_position == (report.whole & (report.samples == 0)).sum()
    assert became.without_frame == (~report.whole & (report.samples > 0)).sum()
    assert became.frames == became.paired + became.duplicates + became.without_position
    assert wire == "files" or daemon.intake.counts["frames.frames"] == became.frames


def test_one_who_joins_late_gets_the_rest(star: RecordedScan, run: Run) -> None:
    joined, closed, report, _ = run(star, "hxn", faults=Faults(late_join=200))
    check_joined(joined, star, report)
    assert sorted(joined) == sorted([*report.pairable, *report.partial])
    assert min(joined) >= 200
    assert len(joined) > 300
    assert closed.report.lost == 200


def test_documents_may_come_last(star: RecordedScan, run: Run) -> None:
    joined, closed, report, _ = run(star, "hxn", faults=Faults(delay_s={"documents": 0.5}))
    check_joined(joined, star, report)
    assert sorted(joined) == list(range(516))
    assert closed.report.exit_status in ("success", None)  # complete before the stop document


def test_frames_are_fetched_from_a_tiled_server_while_they_are_replayed(
    star: RecordedScan, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTYINR_TILED_API_KEY", "secret")
    geometry = star.geometry
    optics = {
        "lambda_nm": 1e9 * geometry.wavelength_m,
        "z_m": geometry.distance_m,
        "ccd_pixel_um": 1e6 * geometry.detector_pixel_m,
    }
    with EmbeddedServer(tmp_path, "secret") as server:
        client = from_uri(server.uri, api_key="secret")
        node = client.create_container("star", metadata=optics)
        node.write_array(star.counts, key="counts")
        node.write_array(star.positions_m, key="positions_m")
        client.context.http_client.close()
        joined, _, report, _ = run(read_catalog(f"{server.uri}/metadata/star"), "hxn")
    assert sorted(joined) == list(range(516))
    check_joined(joined, star, report)


def test_encrypted_frames_reach_who_has_the_key(star: RecordedScan, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    public, secret = zmq.curve_keypair()
    monkeypatch.setenv("FRAMES_KEY", public.decode())
    short = replace(star, counts=star.counts[:30], positions_m=star.positions_m[:30])
    joined, _, report, _ = run(short, "hxn", frames={"server_key_env": "FRAMES_KEY"}, frames_key=secret)
    assert sorted(joined) == list(range(30))
    check_joined(joined, short, report)


def test_files_cannot_lose_frames_nor_hide_them(star: RecordedScan, tmp_path: Path) -> None:
    for wrong in ({"faults": Faults(drop=0.1)}, {"warm_up": True}, {"frames_key": zmq.curve_keypair()[1]}):
        with pytest.raises(ConfigError, match="wire 'files' sends no frames: there is nothing to encrypt"):
            Replay(star, ANYWHERE, wire="files", folder=tmp_path, **wrong)


def test_a_file_is_never_overwritten(star: RecordedScan, tmp_path: Path) -> None:
    (tmp_path / "replay-7.h5").write_bytes(b"precious")
    with (
        Replay(star, ANYWHERE, wire="files", folder=tmp_path, series=7) as replay,
        zmq.Context() as context,
        context.socket(zmq.SUB) as listener,
    ):
        listener.subscribe(b"")
        for endpoint in (replay.endpoints.documents, replay.endpoints.positions):
            listener.connect(endpoint)
        with pytest.raises(ScanFileError, match=r"replay-7\.h5: cannot be written"):
            replay.run()
        listener.linger = 0
    assert (tmp_path / "replay-7.h5").read_bytes() == b"precious"


def test_a_wire_that_does_not_exist_is_answered_with_those_that_do(star: RecordedScan) -> None:
    with pytest.raises(ConfigError, match="there are: cbor, files, holoptycho, hxn"):
        Replay(star, ANYWHERE, wire="kafka")
