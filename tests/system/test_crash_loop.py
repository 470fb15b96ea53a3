"""A scan that ends each life of the daemon which goes on with it, and one that does not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from daemons import configuration

from ptyinr_stream.assembler import Output, ScanOpened
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.engine import Engine
from ptyinr_stream.errors import DeviceError
from ptyinr_stream.events import RunStarted
from ptyinr_stream.recordings.resumptions import MOST, attempts
from ptyinr_stream.recordings.run import RunWriter

pytestmark = pytest.mark.system

UID = "cut"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Of a scan whose daemon was killed."""
    folder = tmp_path / "results" / "recordings" / UID
    folder.parent.mkdir(parents=True)
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 4.0, -1.0, 1.0, 3.0]}
    writer = RunWriter(folder, UID, {})
    writer.append(1, 0.0, RunStarted(UID, {"uid": UID, "scan": scan}))
    writer.flush()
    return folder


def test_a_daemon_is_ended_three_times_by_a_scan_and_then_leaves_it_alone(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[Output] = []

    def take(engine: Engine, output: Output, now: float) -> None:
        taken.append(output)
        if isinstance(output, ScanOpened):
            raise DeviceError("lost")

    monkeypatch.setattr(Engine, "take", take)
    for life in range(MOST):
        with Daemon(configuration(tmp_path, recording={"free_gb": 0.0})) as daemon:
            assert daemon.status.counts["scans.left_alone"] == 0
            with pytest.raises(DeviceError):
                daemon.run()
        assert attempts(recording) == life + 1
    opened = [output.uid for output in taken if isinstance(output, ScanOpened)]
    assert opened == [UID] * MOST
    taken.clear()
    with Daemon(configuration(tmp_path, recording={"free_gb": 0.0})) as daemon:
        assert daemon.status.counts["scans.left_alone"] == 1
        daemon.stop()
        daemon.run()
    assert taken == []
    assert attempts(recording) == MOST
    assert f"ptyinr-stream reconstruct {recording}" in caplog.text


def test_a_daemon_that_is_stopped_while_it_goes_on_with_a_scan_goes_on_with_it_next_time(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = threading.Event()
    take = Engine.take

    def noticed(engine: Engine, output: Output, now: float) -> Any:
        take(engine, output, now)
        resumed.set()

    monkeypatch.setattr(Engine, "take", noticed)
    for _ in range(MOST + 1):
        resumed.clear()
        with Daemon(configuration(tmp_path, recording={"free_gb": 0.0})) as daemon:
            daemon.run(lambda daemon: daemon.stop() if resumed.is_set() else None)
            assert attempts(recording) == 1
            assert daemon.status.counts["scans.left_alone"] == 0
        assert attempts(recording) == 0
