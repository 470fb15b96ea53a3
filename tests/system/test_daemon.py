"""The whole daemon: real sockets, real threads, a real Tiled server, and scans sent as the beamline sends them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import zmq
from daemons import configuration, connected
from tiled.client import from_uri

from ptyinr_stream import daemon as daemon_module
from ptyinr_stream.assembler import Assembler, BaselineAdded
from ptyinr_stream.daemon import IDLE_WAIT_S, Daemon
from ptyinr_stream.errors import ConfigError, EndpointError, FrameStoreError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay import HXN_ENCODERS, Endpoints, Replay
from ptyinr_stream.replay.messages import (
    document_message,
    encoder_counts,
    image_parts,
    json_message,
    position_messages,
    run_documents,
    series_header_parts,
)
from ptyinr_stream.tiled_server import EmbeddedServer
from ptyinr_stream.unnamed_file import UnnamedFile

pytestmark = pytest.mark.system

LONG_S = 60.0
SERIES = 77


@pytest.fixture
def known_probe(tmp_path: Path) -> dict[str, Any]:
    """Training that starts from a probe, and so at once."""
    rows, columns = np.mgrid[-16:16, -12:12]
    np.save(tmp_path / "probe.npy", np.exp(-(rows**2 + columns**2) / 30).astype(np.complex64))
    return {"probe_file": tmp_path / "probe.npy"}


def work(daemon: Daemon, until: Callable[[], bool]) -> None:
    """Run the daemon until something has come true; it can go on afterwards."""
    ends = time.monotonic() + LONG_S
    daemon._stop.clear()

    def observe(daemon: Daemon) -> None:
        if until():
            daemon.stop()
        elif time.monotonic() > ends:
            raise TimeoutError(f"in vain for {LONG_S} s: {daemon.status}")

    daemon.run(observe)


def shown(server: EmbeddedServer, path: str) -> bool:
    """Whether a node of the server can be seen."""
    return httpx.get(f"{server.uri}/metadata/{path}", timeout=30, trust_env=False).status_code == httpx.codes.OK


def delivered(daemon: Daemon, scans: int = 1) -> bool:
    return len(daemon.engine.history) >= scans and not any(status.waiting for status in daemon.status.publishers)


@contextlib.contextmanager
def replayed(daemon: Daemon, scan: RecordedScan, times: int = 1) -> Iterator[Future[list[Any]]]:
    """A replay that connects to the daemon, in a thread."""
    endpoints = Endpoints(**daemon.endpoints)
    options: Any = {"rate_hz": 400.0, "bind": False, "wire": "multipart", "prefix": "hxn", "series": SERIES}
    with Replay(scan, endpoints, **options) as replay, ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: [replay.run() for _ in range(times)])


class Beamline:
    """The three senders, each sending what and when the test wants."""

    def __init__(self, daemon: Daemon, scan: RecordedScan) -> None:
        self.scan = scan
        self._connected = connected(daemon.endpoints)

    def __enter__(self) -> Beamline:
        self._roads = self._connected.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._connected.__exit__(*raised)

    def send(self, road: str, *parts: bytes) -> None:
        self._roads[road].send_multipart(parts)

    def documents(self, uid: str, stop: bool = True) -> None:
        for name, document in run_documents(self.scan, HXN_ENCODERS, uid, 404611, 100.0):
            if stop or name != "stop":
                self.send("documents", document_message("hxn", name, document))

    def frames(self, series: int, frames: range | None = None) -> None:
        frames = frames or range(len(self.scan.counts))
        self.send("frames", *series_header_parts(self.scan, series, 100.0))
        for frame in frames:
            self.send("frames", *image_parts(self.scan.counts[frame], series, frame, 100.0))
        self.send("frames", json_message({"htype": "dseries_end-1.0", "series": series}))

    def positions(self) -> None:
        counts = encoder_counts(self.scan.positions_m, HXN_ENCODERS)
        self.send("positions", json_message({"msg_type": "start"}))
        for _, message in position_messages(counts, HXN_ENCODERS, 100.0, 0.4):
            self.send("positions", json_message(message))


def off_px(result: Path, scan: RecordedScan, positions_m: np.ndarray) -> float:
    """By how much the positions in a result differ from those that were sent, apart from one common offset."""
    with h5py.File(result) as file:
        found = np.asarray(file["positions_px"])
    off = found - positions_m / scan.geometry.pixel_m
    return float(np.abs(off - off.mean(axis=0)).max())


@pytest.fixture
def warmed(monkeypatch) -> list[Any]:
    """The devices that were warmed up; append an error to have it raised."""
    seen: list[Any] = []

    def warm_up(device: str) -> None:
        errors = [each for each in seen if isinstance(each, BaseException)]
        seen.append(device)
        if errors:
            raise errors[0]

    monkeypatch.setattr(daemon_module, "warm_up", warm_up)
    monkeypatch.setattr(daemon_module, "choose_device", lambda name: name)
    return seen


def on(device: str) -> dict[str, Any]:
    return {"training": {"device": device}}


def test_a_gpu_is_warmed_up_before_the_first_scan_and_a_processor_is_not(tmp_path, warmed) -> None:
    with Daemon(configuration(tmp_path / "a", **on("cpu"))), Daemon(configuration(tmp_path / "b", **on("cuda"))):
        assert warmed == ["cuda"]


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), ValueError("not finite"), OSError("no library")])
def test_a_device_that_fails_when_it_is_warmed_up_keeps_nobody_from_recording(tmp_path, warmed, caplog, error) -> None:
    warmed.append(error)
    with Daemon(configuration(tmp_path, **on("cuda"))) as daemon:
        assert daemon.endpoints["frames"].startswith("tcp://")
    assert f"cuda fails: {error}" in caplog.text


def test_whoever_gives_up_while_it_is_warmed_up_leaves_nothing_running(tmp_path, warmed) -> None:
    warmed.append(KeyboardInterrupt())
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        Daemon(configuration(tmp_path, **on("cuda"))).start()
    assert {thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("Any")} == set()


def test_every_frame_that_is_sent_is_in_the_result_at_the_position_that_was_sent(tmp_path, simulated):
    with Daemon(configuration(tmp_path)) as daemon:
        with replayed(daemon, simulated) as replay:
            work(daemon, lambda: replay.done() and delivered(daemon))
        (sent,) = replay.result()
        status = daemon.engine.history[0]
        assert (status.uid, status.phase, status.error) == (sent.uid, "done", None)
        assert sent.frames == status.frames == status.report.paired == 72
        assert status.report.frames == 72
        assert [status.lost for status in daemon.status.publishers] == [0, 0]
    result = tmp_path / "results" / sent.uid / "result.h5"
    with h5py.File(result) as file:
        assert file["indices"][()].tolist() == list(range(72))
        assert file.attrs["frames"] == 72
        assert file.attrs["steps"] == status.steps
        assert np.isfinite(file["object"][()]).all()
    assert off_px(result, simulated, sent.positions_m) <= 0.01


def test_two_scans_in_succession_each_get_a_container_with_live_and_final_results(
    tmp_path, simulated, known_probe, monkeypatch
):
    monkeypatch.setenv("TILED_KEY_OF_TEST", "secret")
    with EmbeddedServer(tmp_path / "tiled", "secret") as server:
        tiled = {"uri": server.uri, "path": "hxn/processed/ptyinr", "api_key_env": "TILED_KEY_OF_TEST"}
        config = configuration(tmp_path, training={**known_probe, "refine_s": 1000.0}, tiled=tiled)
        with Daemon(config) as daemon, Beamline(daemon, simulated) as beamline:
            for number, uid in enumerate(("first", "second")):
                beamline.documents(uid)
                beamline.frames(SERIES + number)
                beamline.positions()
                work(daemon, lambda uid=uid: shown(server, f"hxn/processed/ptyinr/{uid}/live/object"))
            assert [status.uid for status in daemon.engine.history] == ["first"]  # the second one ended its refinement
        client = from_uri(server.uri, api_key="secret")["hxn/processed/ptyinr"]
        with contextlib.closing(client.context.http_client):
            for uid in ("first", "second"):
                run = client[uid]
                assert {"live", "final"} <= set(run)
                for folder in ("live", "final"):
                    assert run[folder, "object"].shape[0] == 2
                    assert np.isfinite(run[folder, "object"].read()).all()
                    assert run[folder, "probe"].shape == (2, 32, 24)
                assert run.metadata["complete"] is True
                assert (run.metadata["frames_paired"], run.metadata["frames"]) == (72, 72)
                assert (run.metadata["x_num"], run.metadata["y_num"]) == (9, 8)
                assert (run.metadata["raw_uid"], run.metadata["scan_id"]) == (uid, "404611")


def test_what_nobody_can_read_is_counted_and_passed_over(tmp_path, simulated, known_probe):
    first = image_parts(simulated.counts[0], SERIES, 0, 100.0)
    with Daemon(configuration(tmp_path, training=known_probe)) as daemon:
        with Beamline(daemon, simulated) as stranger:
            stranger.send("documents", b"hxn start \x80\x04N.")
            stranger.send("documents", b"hxn start \xc1")
            stranger.send("documents", b"hxn gossip \xc0")
            stranger.send("frames", b"hello")
            stranger.send("frames", first[0], first[1], first[2][:40], first[3])
            stranger.send("positions", b"{")
            stranger.send("positions", json_message({"msg_type": "data"}))
        with replayed(daemon, simulated) as replay:
            work(daemon, lambda: replay.done() and delivered(daemon))
        counts = daemon.status.counts
        assert daemon.engine.history[0].report.paired == 72
    expected = {
        "documents.pickle_refused": 1,
        "documents.undecodable": 1,
        "documents.unknown_name": 1,
        "frames.orphan_part": 2,  # a greeting, and the bytes of the image that was cut
        "frames.torn": 1,
        "frames.frames": 72,
        "positions.not_understood": 2,
    }
    assert {name: counts.get(name) for name in expected} == expected


def test_documents_may_come_after_the_frames_and_the_positions(tmp_path, simulated, known_probe):
    with Daemon(configuration(tmp_path, training=known_probe)) as daemon:
        with Beamline(daemon, simulated) as beamline:
            beamline.frames(SERIES)
            beamline.positions()
            beamline.documents("late")
            work(daemon, lambda: delivered(daemon))
        status = daemon.engine.history[0]
    assert (status.uid, status.phase) == ("late", "done")
    assert (status.report.paired, status.report.lost) == (72, 0)
    assert off_px(tmp_path / "results" / "late" / "result.h5", simulated, simulated.positions_m) <= 0.01


def test_a_beamline_that_falls_silent_leaves_a_result_and_the_next_scan_is_taken(tmp_path, simulated, known_probe):
    config = configuration(tmp_path, training=known_probe, assembly={"idle_s": 2.0})
    with Daemon(config) as daemon:
        with Beamline(daemon, simulated) as beamline:
            beamline.documents("torn", stop=False)
            beamline.frames(SERIES, range(70))
            beamline.positions()
            work(daemon, lambda: delivered(daemon))
            status = daemon.engine.history[0]
            assert (status.uid, status.phase, status.report.reason) == ("torn", "done", "idle")
            assert (status.report.paired, status.report.lost) == (70, 2)
        with h5py.File(tmp_path / "results" / "torn" / "result.h5") as file:
            assert file.attrs["frames"] == 70
        with Beamline(daemon, simulated) as beamline:
            beamline.documents("whole")
            beamline.frames(SERIES + 1)
            beamline.positions()
            work(daemon, lambda: delivered(daemon, scans=2))
        assert daemon.engine.history[1].report.paired == 72


def test_a_scan_that_cannot_be_reconstructed_says_why_and_the_next_one_is_taken(tmp_path, simulated, known_probe):
    with Daemon(configuration(tmp_path, training=known_probe)) as daemon:
        with Beamline(daemon, simulated) as beamline:
            for name, document in run_documents(simulated, HXN_ENCODERS, "blind", 1, 100.0):
                if name in ("start", "stop"):  # no baseline, and so no energy
                    beamline.send("documents", document_message("hxn", name, document))
            beamline.frames(SERIES)
            beamline.positions()
            work(daemon, lambda: delivered(daemon))
            status = daemon.engine.history[0]
            assert (status.uid, status.phase) == ("blind", "failed")
            assert "the photon energy is unknown" in status.error
            beamline.documents("seeing")
            beamline.frames(SERIES + 1)
            beamline.positions()
            work(daemon, lambda: delivered(daemon, scans=2))
        assert daemon.engine.history[1].phase == "done"


def test_a_tiled_server_that_is_away_at_the_start_gets_the_result_when_it_comes(
    tmp_path, simulated, known_probe, monkeypatch, caplog
):
    monkeypatch.setenv("PTYINR_TILED_API_KEY", "secret")
    with EmbeddedServer(tmp_path / "away", "secret") as server:
        port, uri = server.port, server.uri
    config = configuration(tmp_path, training=known_probe, tiled={"uri": uri})
    with Daemon(config) as daemon, replayed(daemon, simulated) as sent:
        assert "going on" in caplog.text
        work(daemon, lambda: len(daemon.engine.history) == 1)
        with EmbeddedServer(tmp_path / "away", "secret", port=port) as server:
            work(daemon, lambda: delivered(daemon))
            assert shown(server, f"processed/ptyinr/{sent.result()[0].uid}/final/object")


def test_frames_that_wait_for_training_in_a_file_are_all_trained(tmp_path, simulated, known_probe, monkeypatch):
    monkeypatch.setattr(daemon_module, "DELIVERY_S", 0.0)
    config = configuration(tmp_path, training={**known_probe, "backlog_mb": 0.0})
    with Daemon(config) as daemon, replayed(daemon, simulated):
        work(daemon, lambda: delivered(daemon))
        status = daemon.engine.history[0]
        assert (status.phase, status.frames, status.refused) == ("done", 72, 0)
        assert daemon.status.backlog == {"waiting": 0, "memory_mb": 0.0, "file_mb": 0.0, "frames_lost": 0}


def test_frames_that_a_disk_does_not_give_back_are_counted_and_the_rest_is_trained(
    tmp_path, simulated, known_probe, monkeypatch, caplog
):
    monkeypatch.setattr(daemon_module, "DELIVERY_S", 0.0)
    config = configuration(tmp_path, training={**known_probe, "backlog_mb": 0.0})
    read, broken = UnnamedFile.read, iter([True])

    def once(self, offset, into):
        if next(broken, False):
            raise FrameStoreError("the disk is broken")
        read(self, offset, into)

    monkeypatch.setattr(UnnamedFile, "read", once)
    with Daemon(config) as daemon, replayed(daemon, simulated):
        work(daemon, lambda: delivered(daemon))
        status = daemon.engine.history[0]
        lost = daemon.status.backlog["frames_lost"]
        assert lost > 0
        assert (status.phase, status.frames) == ("done", 72 - lost)
    assert "frames that waited for training are lost to it, not to the recording: the disk is broken" in caplog.text


def test_deliveries_without_an_end_leave_training_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon_module, "DELIVERY_S", 0.01)
    with Daemon(configuration(tmp_path)) as daemon, monkeypatch.context() as patched:
        patched.setattr(daemon._outputs, "get", lambda timeout: BaselineAdded("of no scan", {}))
        patched.setattr(daemon.engine, "work", lambda now: daemon.stop() is None)
        daemon.run()


def test_an_interrupted_daemon_delivers_what_it_has(tmp_path, simulated, known_probe):
    with Daemon(configuration(tmp_path, training=known_probe)) as daemon, Beamline(daemon, simulated) as beamline:
        beamline.documents("cut", stop=False)
        beamline.positions()
        beamline.frames(SERIES, range(70))

        def interrupted() -> bool:
            if daemon.status.scan is not None and daemon.status.scan.steps > 3:
                raise KeyboardInterrupt
            return False

        with pytest.raises(KeyboardInterrupt):
            work(daemon, interrupted)
    with h5py.File(tmp_path / "results" / "cut" / "result.h5") as file:
        assert file.attrs["frames"] == 70
    assert daemon.engine.history[0].report.reason == "stopped"


def test_what_ends_the_intake_ends_the_daemon(tmp_path, simulated, monkeypatch):
    def broken(self, event, now):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Assembler, "feed", broken)
    with Daemon(configuration(tmp_path)) as daemon, Beamline(daemon, simulated) as beamline:
        beamline.positions()
        with pytest.raises(RuntimeError, match="a defect"):
            work(daemon, lambda: False)


def test_a_closed_daemon_leaves_no_thread_and_no_port(tmp_path):
    before = set(threading.enumerate())
    with Daemon(configuration(tmp_path)) as daemon:
        endpoints = daemon.endpoints
        assert all(endpoint.rsplit(":", 1)[1].isdecimal() for endpoint in endpoints.values())
        assert set(threading.enumerate()) - before
    with zmq.Context() as context:
        for endpoint in endpoints.values():
            with context.socket(zmq.PULL) as socket:
                socket.bind(endpoint)
    names = {"intake", "publisher-tiled", "publisher-files", "tiled-server", *(f"receive {road}" for road in endpoints)}
    assert not names & {thread.name for thread in threading.enumerate()}


def test_an_endpoint_in_use_is_refused_and_everything_opened_before_is_closed(tmp_path):
    with zmq.Context() as context, context.socket(zmq.PULL) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        streams = configuration(tmp_path).model_dump()["streams"]
        streams["positions"]["endpoint"] = f"tcp://127.0.0.1:{port}"
        with pytest.raises(EndpointError, match=f"tcp://127.0.0.1:{port}: the address is in use"):
            Daemon(configuration(tmp_path, streams=streams)).start()
    names = {"intake", "publisher-tiled", "publisher-files", "tiled-server", "receive documents", "receive frames"}
    assert not names & {thread.name for thread in threading.enumerate()}
    with Daemon(configuration(tmp_path)):
        pass


def test_an_unknown_wire_is_refused_with_the_list_of_those_there_are(tmp_path):
    streams = configuration(tmp_path).model_dump()["streams"]
    streams["frames"]["wire"] = "eiger_v9"
    with pytest.raises(ConfigError, match=r"eiger_v9.*bluesky.*eiger_v1.*panda"):
        Daemon(configuration(tmp_path, streams=streams)).start()


def test_the_daemon_tells_how_it_does_over_http_and_to_plans(tmp_path, simulated, known_probe):
    sections = {"telemetry": {"port": 0}, "steering": {"endpoint": "tcp://127.0.0.1:*"}}
    with (
        Daemon(configuration(tmp_path, training=known_probe, **sections)) as daemon,
        zmq.Context() as context,
        context.socket(zmq.SUB) as plan,
        httpx.Client(base_url=daemon.telemetry.url, trust_env=False) as client,
    ):
        assert client.get("/healthz").text == "ok\n"
        assert client.get("/status").json()["scan"] is None
        (steering,) = [thread._publisher for thread in daemon._publishers if thread.status.name == "steering"]
        plan.subscribe("ptyinr ")
        plan.connect(steering.endpoint)
        with replayed(daemon, simulated) as replay:
            work(daemon, lambda: replay.done() and delivered(daemon))
        status = client.get("/status").json()
        assert (status["scan"]["phase"], status["scan"]["frames"]) == ("done", 72)
        assert {stream["road"] for stream in status["streams"]} == {"documents", "frames", "positions"}
        assert status["recording"]["frames"] == 72
        assert status["disk_free_gb"] > 0
        assert "ptyinr_scan_frames 72.0" in client.get("/metrics").text.splitlines()
        heard = []
        while plan.poll(1000):
            heard.append(json.loads(plan.recv().removeprefix(b"ptyinr ")))
        assert heard[-1]["state"] == "closed"
        assert [message["frames"] for message in heard if message["state"] == "final"] == [72]


def test_a_signal_whose_handling_outlasts_the_wait_ends_an_idle_daemon(tmp_path):
    with Daemon(configuration(tmp_path)) as daemon:

        def handle(*_: object) -> None:
            time.sleep(2 * IDLE_WAIT_S)
            daemon.stop()

        before = signal.signal(signal.SIGTERM, handle)
        sender = threading.Timer(1.5 * IDLE_WAIT_S, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        try:
            daemon.run()
        finally:
            signal.signal(signal.SIGTERM, before)
            sender.join()
