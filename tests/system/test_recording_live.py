"""A scan over real sockets, recorded by the intake, read back, and replayed from its recording."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path

import numpy as np
import pytest

from ptyinr_stream.assembler import Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.formats import RecordedScan, read_scan
from ptyinr_stream.intake import Intake
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.recordings.folder import unfinished
from ptyinr_stream.replay import HXN_ENCODERS, Endpoints, Replay
from ptyinr_stream.sources.zeromq import Receiver

pytestmark = pytest.mark.system

ANY = Endpoints("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")


def configuration(endpoints: Endpoints, folder: Path) -> Config:
    return parse_config(
        {
            "streams": {
                "documents": {"endpoint": endpoints.documents, "wire": "bluesky"},
                "frames": {"endpoint": endpoints.frames, "wire": "eiger_v1"},
                "positions": {"endpoint": endpoints.positions, "wire": "panda"},
            },
            "geometry": {"detector_pixel_um": 75.0},
            "positions": HXN_ENCODERS.model_dump(),
            "output": {"folder": str(folder)},
            "recording": {"free_gb": 0.0},
        }
    )


def outputs_of(config: Config, recorder: Recorder, begun: set[str]) -> list[Output]:
    """What an intake gives of the scans that it takes up again."""
    outputs: queue.Queue[Output] = queue.Queue()
    resumed = unfinished(config.recordings, begun=begun)
    intake = Intake(config, Inbox(10_000_000), outputs.put, recorder=recorder, resumed=resumed)
    found: list[Output] = []
    while resumed and not isinstance((found or [None])[-1], ScanClosed):
        found.append(outputs.get(timeout=60))
    intake.stop()
    intake.check()
    return found


def record(scan: RecordedScan, folder: Path) -> Path:
    """Replay a scan to an intake that records, and return the recording."""
    outputs: queue.Queue[Output] = queue.Queue()
    with Replay(scan, ANY, rate_hz=2000) as replay:
        config = configuration(replay.endpoints, folder)
        assert config.recordings == folder / "recordings"
        attributes = {"configuration": json.dumps(config.model_dump(mode="json"))}
        recorder = Recorder(config.recordings, config.recording, config.assembly, attributes)
        inbox = Inbox(10_000_000)
        intake = Intake(config, inbox, outputs.put, recorder=recorder)
        roads = ("documents", "frames", "positions")
        receivers = [Receiver(road, getattr(config.streams, road), inbox) for road in roads]
        sender = threading.Thread(target=replay.run, args=("run",))
        sender.start()
        while not isinstance(outputs.get(timeout=60), ScanClosed):
            pass
        sender.join()
        for receiver in receivers:
            receiver.stop()
        intake.stop()
        intake.check()
        recorder.close()
        assert recorder.status.frames == len(scan.counts)
    return folder / "recordings" / "run"


def test_a_live_scan_is_read_back_and_replayed_from_its_recording(simulated: RecordedScan, tmp_path: Path) -> None:
    first = read_scan(record(simulated, tmp_path / "first"))
    np.testing.assert_array_equal(np.asarray(first.counts), simulated.counts)
    np.testing.assert_allclose(first.positions_m, simulated.positions_m, rtol=0, atol=1e-10)
    assert first.geometry.distance_m == simulated.geometry.distance_m
    assert first.geometry.wavelength_m == pytest.approx(simulated.geometry.wavelength_m, rel=1e-4)
    second = read_scan(record(first, tmp_path / "second"))
    np.testing.assert_array_equal(np.asarray(second.counts), simulated.counts)


def test_a_scan_that_was_cut_off_in_its_refinement_is_joined_again_and_its_recording_stays_as_it_is(
    simulated: RecordedScan, tmp_path: Path
) -> None:
    folder = record(simulated, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    config = configuration(ANY, tmp_path)
    recorder = Recorder(folder.parent, config.recording, config.assembly, {})
    assert outputs_of(config, recorder, begun=set()) == []
    outputs = outputs_of(config, recorder, begun={"run"})
    recorder.close()
    (opened,) = (output for output in outputs if isinstance(output, ScanOpened))
    assert (opened.uid, opened.resumed) == ("run", True)
    assert sum(len(output.batch.indices) for output in outputs if isinstance(output, Joined)) == len(simulated.counts)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]
