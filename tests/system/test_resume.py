"""A daemon in a process of its own, killed in the middle of a scan and started again at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from tiled.client import from_uri

from ptyinr_stream.events import FrameArrived
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.recordings.folder import Recording
from ptyinr_stream.recordings.resumptions import attempts
from ptyinr_stream.replay import Endpoints, Replay, ReplayReport

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ANY = Endpoints("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
LONG_S = 100.0
UID = "cut"


class Killable:
    """`ptyinr-stream run`, one life after the other."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self.lives = 0
        self._start()

    def __enter__(self) -> Killable:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(LONG_S)
        finally:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End it as the kernel does, and start the next life."""
        assert self._process.poll() is None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._start()

    def await_(self, true: Callable[[], bool]) -> None:
        ends = time.monotonic() + LONG_S
        while not true():
            with pytest.raises(subprocess.TimeoutExpired):  # it lives
                self._process.wait(0.05)
            assert time.monotonic() < ends, f"in vain for {LONG_S} s"

    def _start(self) -> None:
        self.lives += 1
        command = [sys.executable, "-m", "ptyinr_stream", "run", "--config", str(self._config)]
        self._process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def free_port() -> int:
    """A port that no socket is given by itself, so that it is still free when the daemon comes back."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
    raise OSError("a hundred ports of this machine are taken")


def configured(folder: Path, endpoints: Endpoints, port: int, training: str) -> Path:
    pull = 'wire = "eiger_v1"\nsocket = "pull"'
    wires = {"documents": 'wire = "bluesky"', "frames": pull, "positions": 'wire = "panda"'}
    text = "".join(f'[streams.{r}]\nendpoint = "{getattr(endpoints, r)}"\n{wires[r]}\n' for r in wires)
    text += "[geometry]\ndetector_pixel_um = 75.0\n"
    for axis, (channel, um) in enumerate((("/INENC2.VAL.Value", -9.542e-5), ("/INENC3.VAL.Value", -1.03297e-4))):
        text += f'[positions.axis{axis}]\nchannel = "{channel}"\num_per_count = {um}\n'
    text += f'[training]\ndevice = "cpu"\nrefine_s = 1.0\nsnapshot_s = 0.5\ncheckpoint_s = 0.1\n{training}'
    text += f'[tiled]\nfolder = "{folder}/tiled"\nport = {port}\n[output]\nfolder = "{folder}/results"\n'
    (folder / "config.toml").write_text(text + "[recording]\nfree_gb = 0.0\n")
    return folder / "config.toml"


def said(port: int, name: str) -> Any:
    """What the scan's container says of itself."""
    answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/metadata/processed/ptyinr/{UID}", timeout=30, trust_env=False)
    return answer.json()["data"]["attributes"]["metadata"].get(name) if answer.is_success else None


def numbers(ranges: list[str]) -> set[int]:
    """From a report's `3` and `7-9`."""
    ends = [text.split("-") for text in ranges]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


def recorded(folder: Path) -> set[int]:
    """The frames that a recording holds, of whatever life."""
    with Recording(folder / "results" / "recordings" / UID) as recording:
        assert recording.standing.state == "complete"
        return {arrived.event.frame for arrived in recording.events() if isinstance(arrived.event, FrameArrived)}


def check(folder: Path, port: int, sent: ReplayReport) -> dict[str, Any]:
    """What is true however it was cut off; returns the container's metadata."""
    results = folder / "results"
    report = json.loads((results / UID / "report.json").read_text())
    holes = numbers(report["missing_frames"]) | numbers(report["unplaced_frames"])
    with h5py.File(results / UID / "result.h5") as file:
        indices = file["indices"][()].tolist()
        assert np.isfinite(file["object"][()]).all()
    assert indices == sorted(recorded(folder) - numbers(report["unplaced_frames"]))
    assert set(indices) == set(range(sent.frames)) - holes
    assert not holes  # what arrives between two lives is recorded
    assert [path.name for path in results.glob(f"{UID}*")] == [UID]
    assert not list((results / "checkpoints").iterdir())
    assert attempts(results / "recordings" / UID) == 0
    with closing((client := from_uri(f"http://127.0.0.1:{port}/api/v1")).context.http_client):
        runs = client["processed/ptyinr"]
        assert list(runs) == [UID]
        metadata = dict(runs[UID].metadata)
        assert runs[UID]["final/object"].read().shape[0] == 2
    assert (metadata["complete"], metadata["resumed"]) == (True, True)
    return metadata


def run(folder: Path, scan: RecordedScan, at: int, training: str, ripe: Callable[[int], Any]) -> dict[str, Any]:
    """Send a scan, and kill the daemon when a frame has been exposed and something has come true."""
    port = free_port()
    lives: list[Killable] = []

    def kill(exposed: int) -> None:
        if exposed == at:
            lives[0].await_(lambda: ripe(port))
            lives[0].kill()

    options: Any = {"rate_hz": 50.0, "wait_s": LONG_S, "flush_s": 0.1, "progress": kill}
    with (
        Replay(scan, ANY, wire="multipart", **options) as replay,
        Killable(configured(folder, replay.endpoints, port, training)) as daemon,
    ):
        lives.append(daemon)
        sent = replay.run(UID)
        daemon.await_((folder / "results" / UID / "report.json").exists)
        daemon.await_(lambda: said(port, "complete"))
        daemon.await_(lambda: attempts(folder / "results" / "recordings" / UID) == 0)  # goes when publishers know
        assert daemon.lives == 2
        return check(folder, port, sent)


def test_a_daemon_that_is_killed_before_it_could_begin_reconstructs_the_whole_scan(tmp_path, simulated):
    journal = tmp_path / "results" / "recordings" / UID / "000-journal.h5"
    run(tmp_path, simulated, 12, "", lambda port: journal.exists())


def test_a_daemon_that_is_killed_in_training_goes_on_from_its_checkpoint_in_the_same_container(tmp_path, simulated):
    rows, columns = np.mgrid[-16:16, -12:12]
    np.save(tmp_path / "probe.npy", np.exp(-(rows**2 + columns**2) / 30).astype(np.complex64))
    checkpoint = tmp_path / "results" / "checkpoints" / UID / "checkpoint.before.pt"

    def ripe(port: int) -> bool:
        return checkpoint.exists() and said(port, "step") is not None

    metadata = run(tmp_path, simulated, 40, f'probe_file = "{tmp_path}/probe.npy"\n', ripe)
    assert metadata["resumptions"] == 1
