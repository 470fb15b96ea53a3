"""The reception in a process of its own, beside the one in threads: real sockets, real recordings, real deaths."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from daemons import configuration, connected, eventually

from ptyinr_stream.checkpoints import Checkpoints
from ptyinr_stream.config import Config
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.engine import Engine
from ptyinr_stream.errors import ConfigError, DeviceError, EndpointError, HandoverError, StreamError
from ptyinr_stream.events import FrameArrived, PositionsArrived
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.outputs import Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.reception import Reception
from ptyinr_stream.reception_process import OVERLAP_S, ReceptionProcess
from ptyinr_stream.recordings.folder import Recording, unfinished
from ptyinr_stream.recordings.master import read_standing
from ptyinr_stream.recordings.ownership import Ownership
from ptyinr_stream.recordings.resumptions import Resumption, attempts
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import (
    document_message,
    encoder_counts,
    image_parts,
    json_message,
    position_messages,
    run_documents,
    series_header_parts,
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

LONG_S = 60.0


def recording(folder: Path, **sections: Any) -> Config:
    return configuration(folder, recording={"free_gb": 0.0}, **sections)


class Collected:
    """What a reception delivers."""

    def __init__(self) -> None:
        self.outputs: queue.SimpleQueue[Output] = queue.SimpleQueue()
        self.resumed: list[Resumption] = []
        self.seen: list[Output] = []

    def until(self, kind: type[Any], times: int = 1) -> Any:
        """Wait for so many outputs of a kind; gives the last."""
        while True:
            found = [output for output in self.seen if isinstance(output, kind)]
            if len(found) >= times:
                return found[times - 1]
            self.seen.append(self.outputs.get(timeout=LONG_S))

    @property
    def batches(self) -> list[Joined]:
        return [output for output in self.seen if isinstance(output, Joined)]


@contextmanager
def received(kind: type[Reception | ReceptionProcess], config: Config, *begun: str) -> Iterator[tuple[Any, Collected]]:
    collected = Collected()
    reception = kind(config, {}, begun, collected.outputs.put, collected.resumed.append)
    try:
        yield reception, collected
    finally:
        reception.stop()


def send(roads: dict[str, Any], scan: RecordedScan, frames: range, *, begin: bool = True, end: bool = True) -> None:
    """Documents, positions and frames of a scan."""
    documents = [document_message("hxn", *pair) for pair in run_documents(scan, HXN_ENCODERS, "run", 1, 100.0)]
    if begin:
        for message in documents[:-1]:
            roads["documents"].send(message)
        roads["positions"].send(json_message({"msg_type": "start"}))
        for _, message in position_messages(encoder_counts(scan.positions_m, HXN_ENCODERS), HXN_ENCODERS, 100.0, 0.4):
            roads["positions"].send(json_message(message))
        roads["frames"].send_multipart(series_header_parts(scan, 7, 100.0))
    for frame in frames:
        roads["frames"].send_multipart(image_parts(scan.counts[frame], 7, frame, 100.0))
    if end:
        roads["frames"].send_multipart([json_message({"htype": "dseries_end-1.0", "series": 7})])
        roads["documents"].send(documents[-1])


@pytest.mark.parametrize("kind", [Reception, ReceptionProcess])
def test_frames_come_out_as_they_went_in_with_their_positions(
    tmp_path: Path, simulated: RecordedScan, kind: type[Any]
) -> None:
    total = len(simulated.counts)
    with received(kind, recording(tmp_path)) as (reception, collected):
        with connected(reception.endpoints) as roads:
            send(roads, simulated, range(total))
            report = collected.until(ScanClosed).report
        assert (report.paired, report.reason) == (total, "complete")
    np.testing.assert_array_equal(paired(collected), simulated.counts)
    order = np.argsort(np.concatenate([output.batch.indices for output in collected.batches]))
    positions_m = np.concatenate([output.batch.positions_m for output in collected.batches])[order]
    off_m = positions_m - simulated.positions_m
    assert np.ptp(off_m, axis=0).max() < 1e-3 * min(simulated.geometry.pixel_m)
    assert [type(output) for output in collected.seen].count(ScanOpened) == 1
    status = reception.status
    assert {stream["road"]: stream["messages"] for stream in status.streams}["frames"] == total + 2
    assert status.recorder.frames == total
    assert status.counts["frames.frames"] == total


def test_how_late_the_process_reads_is_seen_as_it_is(tmp_path: Path) -> None:
    with received(ReceptionProcess, configuration(tmp_path, recording={"enabled": False})) as (reception, _):
        reception.late_s[0] = 7.0  # the memory is one: the process, which has nothing to read, says so there
        eventually(lambda: reception.late_s.tolist() == [0.0])


def test_memory_of_frames_that_nobody_holds_is_used_again(tmp_path: Path, simulated: RecordedScan) -> None:
    config = configuration(tmp_path, recording={"enabled": False})
    with received(ReceptionProcess, config) as (reception, collected), connected(reception.endpoints) as roads:
        for scan in range(30):
            send(roads, simulated, range(len(simulated.counts)))
            collected.until(ScanClosed, scan + 1)
            collected.seen = [output for output in collected.seen if isinstance(output, ScanClosed)]
        shared = 0
        for path in Path(f"/proc/{reception.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                shared += "memfd" in os.readlink(path)
    # 2,160 frames are 34 blocks, of two files each; here are those in use, one made ready, and as many more as filled
    # before word came that others were free.
    assert 0 < shared < 20


def test_what_it_logs_appears_in_the_log_of_the_daemon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told() -> bool:
        return any(
            record.name.startswith("ptyinr_stream.sources") and "connected" in record.message
            for record in caplog.records
        )

    with (
        caplog.at_level(logging.INFO, "ptyinr_stream"),
        received(ReceptionProcess, recording(tmp_path)) as (reception, _),
        connected(reception.endpoints),
    ):
        eventually(told)


def test_an_address_in_use_is_the_same_error_as_in_threads(tmp_path: Path) -> None:
    with received(Reception, configuration(tmp_path, recording={"enabled": False})) as (first, _):
        streams = {
            road: {"endpoint": first.endpoints[road], "bind": True, "wire": wire}
            for road, wire in (("documents", "bluesky"), ("frames", "eiger_v1"), ("positions", "panda"))
        }
        for kind in (Reception, ReceptionProcess):
            with pytest.raises(EndpointError, match="the address is in use by another process"):
                kind(recording(tmp_path, streams=streams), {}, (), print, print)


def test_a_wrong_configuration_is_the_same_error_as_in_threads(tmp_path: Path) -> None:
    config = recording(tmp_path, frames={"mask_file": tmp_path / "none.npy"})
    for kind in (Reception, ReceptionProcess):
        with pytest.raises(ConfigError, match=r"none\.npy"):
            kind(config, {}, (), print, print)


def test_a_process_that_dies_ends_the_daemon_and_says_so(tmp_path: Path) -> None:
    with received(ReceptionProcess, recording(tmp_path)) as (reception, _):
        reception.check()
        os.kill(reception.pid, signal.SIGKILL)
        reception._thread.join(LONG_S)
        with pytest.raises(StreamError, match=r"the process that receives has ended \(exit status -9\)"):
            reception.check()


def test_a_process_that_cannot_begin_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptyinr_stream.reception_process.COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(HandoverError, match=r"has ended \(exit status 3\); what it printed says why"):
        ReceptionProcess(recording(tmp_path), {}, (), print, print)


PARENT = """
import json, sys, time
from daemons import configuration, connected
from pathlib import Path
from ptyinr_stream import reception_process
from ptyinr_stream.reception_process import ReceptionProcess
config = configuration(Path(sys.argv[1]), recording={"free_gb": 0.0}, **json.loads(sys.argv[2]))
main = f"import ptyinr_stream.reception_process as one; one.OVERLAP_S = {sys.argv[3]}; one.main()"
reception_process.COMMAND = (sys.executable, "-P", "-c", main)
reception = ReceptionProcess(config, {}, (), print, print)
print("endpoints", *(f"{road}={where}" for road, where in reception.endpoints.items()), flush=True)
while True:
    time.sleep(1)
"""


class Killed:
    """A process with a reception process, which gets SIGKILL."""

    def __init__(self, folder: Path, overlap_s: float = OVERLAP_S, **sections: Any) -> None:
        paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(folder), json.dumps(sections), str(overlap_s)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self._process.stdout is not None
        line = next(line for line in self._process.stdout if line.startswith("endpoints"))
        self.endpoints = dict(pair.split("=") for pair in line.split()[1:])
        self._drain = threading.Thread(target=self._process.stdout.read)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._drain.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def recorded_frames(folder: Path) -> set[int]:
    with Recording(folder) as found:
        return {at.event.frame for at in found.events() if isinstance(at.event, FrameArrived)}


def await_recording(folder: Path) -> None:
    eventually((folder / "000-journal.h5").exists)


def await_the_end(folder: Path) -> None:
    def ended() -> bool:
        standing = read_standing(folder)
        return standing is not None and standing.state == "complete"

    eventually(ended)


def paired(collected: Collected) -> np.ndarray:
    """The counts of all frames that were joined, by their number."""
    counts = np.concatenate([output.batch.counts for output in collected.batches])
    return counts[np.argsort(np.concatenate([output.batch.indices for output in collected.batches]))]


def test_what_is_sent_between_two_lives_of_the_daemon_is_recorded_and_the_next_one_goes_on(
    tmp_path: Path, simulated: RecordedScan
) -> None:
    total = len(simulated.counts)
    folder = tmp_path / "results" / "recordings" / "run"
    with closing(Killed(tmp_path)) as daemon, connected(daemon.endpoints) as roads:
        send(roads, simulated, range(30), end=False)
        await_recording(folder)
        daemon.kill()
        send(roads, simulated, range(30, 50), begin=False, end=False)
        owner = Ownership(tmp_path / "results" / "recordings")
        owner.take_over()  # waits, and so the process ends
        assert recorded_frames(folder) == set(range(50))
        owner.release()
    with closing(unfinished(tmp_path / "results" / "recordings")[0]) as left:
        assert left.standing.state == "interrupted"
        assert any(isinstance(at.event, PositionsArrived) for at in left.events())

    with received(ReceptionProcess, recording(tmp_path)) as (reception, collected):
        assert collected.until(ScanOpened).resumed
        with connected(reception.endpoints) as roads:
            send(roads, simulated, range(50, total), begin=False)
            report = collected.until(ScanClosed).report
        assert (report.paired, report.frames, report.reason) == (total, total, "complete")
        assert [(one.uid, one.folder, one.before) for one in collected.resumed] == [("run", folder, 0)]
        assert attempts(folder) == 1
    np.testing.assert_array_equal(paired(collected), simulated.counts)


@contextmanager
def publishing() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Sockets that wait for nobody, bound, and the streams of a daemon that connects to them."""
    with zmq.Context() as context:
        roads = {road: context.socket(zmq.XPUB) for road in ("documents", "frames", "positions")}
        for socket in roads.values():
            socket.linger, socket.xpub_verbose = 0, True  # each subscription is told, not only the first to a topic
            socket.bind("tcp://127.0.0.1:*")
        wires = {"documents": {"wire": "bluesky", "prefix": "hxn"}, "frames": {"wire": "eiger_v1"}}
        wires["positions"] = {"wire": "panda"}
        try:
            yield roads, {r: {**wires[r], "endpoint": roads[r].get_string(zmq.LAST_ENDPOINT)} for r in roads}
        finally:
            for socket in roads.values():
                socket.close()


def subscribed(roads: dict[str, Any], using: threading.Lock | None = None) -> None:
    """Wait for a subscriber to each; `using` lets another thread send meanwhile, since a socket is one thread's."""
    news: set[str] = set()

    def told() -> bool:
        with using or contextlib.nullcontext():
            for road in roads.keys() - news:
                if roads[road].poll(0):
                    assert roads[road].recv()[:1] == b"\x01"
                    news.add(road)
        return news == roads.keys()

    eventually(told)


def test_a_sender_that_waits_for_nobody_loses_nothing_when_the_daemon_is_killed(
    tmp_path: Path, simulated: RecordedScan
) -> None:
    total = len(simulated.counts)
    sent, between, using = threading.Event(), queue.SimpleQueue[int](), threading.Lock()
    with publishing() as (roads, streams), closing(Killed(tmp_path, streams=streams)) as daemon:

        def go_on() -> None:
            """Frames all the while that one life ends and the next begins."""
            for frame in range(30, total):
                with using:
                    send(roads, simulated, range(frame, frame + 1), begin=False, end=False)
                between.put(frame)
                sent.wait(0.1)

        subscribed(roads)
        send(roads, simulated, range(30), end=False)
        await_recording(tmp_path / "results" / "recordings" / "run")
        sender = threading.Thread(target=go_on)
        sender.start()
        between.get()
        daemon.kill()
        with received(ReceptionProcess, recording(tmp_path, streams=streams)) as (_, collected):
            subscribed(roads, using)
            sent.set()
            sender.join()
            send(roads, simulated, range(0), begin=False)
            report = collected.until(ScanClosed).report
    assert (report.paired, report.without_frame, report.reason) == (total, 0, "complete")
    np.testing.assert_array_equal(paired(collected), simulated.counts)


def test_a_scan_that_begins_while_both_lives_receive_is_one_scan(tmp_path: Path, simulated: RecordedScan) -> None:
    total = len(simulated.counts)
    results: list[Any] = []
    with publishing() as (roads, streams), closing(Killed(tmp_path, 10.0, streams=streams)) as daemon:
        subscribed(roads)
        (tmp_path / "results" / "recordings").mkdir(parents=True, exist_ok=True)
        daemon.kill()

        def next_life() -> None:
            with received(ReceptionProcess, recording(tmp_path, streams=streams)) as (_, collected):
                collected.until(ScanClosed)
                results.append(collected)

        living = threading.Thread(target=next_life)
        living.start()
        subscribed(roads)  # the next life's: the one before still receives for ten seconds
        send(roads, simulated, range(30), end=False)
        await_recording(tmp_path / "results" / "recordings" / "run")
        eventually((tmp_path / "results" / "recordings" / "run" / "001-journal.h5").exists)
        send(roads, simulated, range(30, total), begin=False)
        living.join(LONG_S)
    [collected] = results
    report = collected.until(ScanClosed).report
    assert (report.paired, report.without_frame, report.reason) == (total, 0, "complete")
    np.testing.assert_array_equal(paired(collected), simulated.counts)


def test_a_scan_that_comes_and_goes_while_no_daemon_lives_is_taken_up(tmp_path: Path, simulated: RecordedScan) -> None:
    total = len(simulated.counts)
    config = recording(tmp_path)
    folder = tmp_path / "results" / "recordings" / "run"
    with closing(Killed(tmp_path)) as daemon, connected(daemon.endpoints) as roads:
        daemon.kill()
        send(roads, simulated, range(total))
        await_recording(folder)
        await_the_end(folder)
        assert config.checkpoints is not None
        with received(ReceptionProcess, config, *Checkpoints(config.checkpoints).begun) as (_, collected):
            report = collected.until(ScanClosed).report
    assert (report.paired, report.reason) == (total, "complete")
    assert [one.uid for one in collected.resumed] == ["run"]


def test_what_arrives_while_the_daemon_hangs_is_recorded(tmp_path: Path, simulated: RecordedScan) -> None:
    folder = tmp_path / "results" / "recordings" / "run"
    with closing(Killed(tmp_path)) as daemon, connected(daemon.endpoints) as roads:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            geometry = replace(simulated.geometry, window=(128, 96))
            large = RecordedScan(np.tile(simulated.counts, (1, 4, 4)), simulated.positions_m, geometry)
            send(roads, large, range(len(large.counts)), end=False)
            await_recording(folder)
            eventually(lambda: recorded_frames(folder) == set(range(len(large.counts))))
        finally:
            os.kill(daemon.pid, signal.SIGCONT)


def test_a_value_that_cannot_be_taken_ends_the_daemon_and_nothing_hangs(
    tmp_path: Path, simulated: RecordedScan
) -> None:
    def refuse(_: Output) -> None:
        raise MemoryError("no room")

    reception = ReceptionProcess(recording(tmp_path), {}, (), refuse, print)
    with connected(reception.endpoints) as roads:
        send(roads, simulated, range(10), end=False)
        reception._thread.join(LONG_S)
    with pytest.raises(StreamError, match="what the process that receives has said cannot be taken: MemoryError"):
        reception.check()
    reception.stop()
    assert reception._process.returncode is not None


def test_a_process_whose_daemon_is_gone_ends_when_it_is_told_to(tmp_path: Path, simulated: RecordedScan) -> None:
    folder = tmp_path / "results" / "recordings" / "run"
    with closing(Killed(tmp_path)) as daemon, connected(daemon.endpoints) as roads:
        send(roads, simulated, range(30), end=False)
        await_recording(folder)
        eventually(lambda: recorded_frames(folder) == set(range(30)))
        [child] = [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]
        os.kill(child, signal.SIGTERM)  # of no account while the daemon lives
        daemon.kill()
        watched = os.pidfd_open(child)
        try:
            assert select.select([watched], [], [], LONG_S / 2)[0]  # long before it would end by itself
        finally:
            os.close(watched)
    assert recorded_frames(folder) == set(range(30))


def test_a_daemon_whose_device_is_lost_leaves_a_process_that_records_until_the_next_one_is_there(
    tmp_path: Path, simulated: RecordedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = len(simulated.counts)
    folder = tmp_path / "results" / "recordings" / "run"

    def lose(*_: object) -> bool:
        if not folder.exists():
            return False
        raise DeviceError("the device is lost")

    daemon = Daemon(recording(tmp_path), reception=ReceptionProcess)
    monkeypatch.setattr(Engine, "work", lose)
    with contextlib.ExitStack() as stack:
        stack.enter_context(daemon)
        roads = stack.enter_context(connected(daemon.endpoints))
        sender = threading.Thread(target=send, args=(roads, simulated, range(30)), kwargs={"end": False})
        sender.start()
        with pytest.raises(DeviceError):
            daemon.run()
        sender.join()
        daemon.close()
        send(roads, simulated, range(30, total), begin=False)
        await_the_end(folder)
    assert recorded_frames(folder) == set(range(total))
    owner = Ownership(tmp_path / "results" / "recordings")
    owner.take_over()  # so that the process ends
    owner.release()
    assert daemon._reception is not None
    daemon._reception.stop()
