"""A beamline without a detector stream: ophyd-async devices under a RunEngine in another process, HDF5 as it grows."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyinr_stream.assembler import Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.events import Event, FramesMissing, RunStopped
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import write_scan
from ptyinr_stream.intake import Intake
from ptyinr_stream.sources.files import FileSource
from ptyinr_stream.sources.zeromq import Receiver

pytestmark = pytest.mark.system

BEAMLINE = Path(__file__).parent / "ophyd_async_beamline.py"
LONG_S = 60.0


def configuration(samples_per_frame: int = 1, **files: Any) -> Config:
    """Nothing but documents."""
    axes = {f"axis{n}": {"channel": channel, "um_per_count": 1.0} for n, channel in enumerate(("panda-x", "panda-y"))}
    return parse_config(
        {
            "streams": {
                "documents": {"endpoint": "tcp://127.0.0.1:*", "bind": True, "wire": "bluesky", "prefix": "hxn"}
            },
            "geometry": {"detector_pixel_um": 75.0, "energy_kev": 12.4},
            "positions": {**axes, "samples_per_frame": samples_per_frame},
            "files": {"frames_key": "eiger", **files},
            "assembly": {"settle_s": 1.0},
        }
    )


class Listening:
    """A receiver of documents, a reader of files, and the intake between them."""

    def __init__(self, config: Config) -> None:
        self.outputs: queue.Queue[Output] = queue.Queue()
        self.joined = 0
        self.joined_at_stop: list[int] = []
        inbox = Inbox(10_000_000)
        self.files = FileSource(config, inbox)
        self.intake = Intake(config, inbox, self._deliver, files=self._take)
        self.receiver = Receiver("documents", config.streams.documents, inbox)

    def _take(self, event: Event | FramesMissing) -> bool:
        if isinstance(event, RunStopped):
            self.joined_at_stop.append(self.joined)
        return self.files.take(event)

    def _deliver(self, output: Output) -> None:
        if isinstance(output, Joined):
            self.joined += len(output.batch.indices)
        self.outputs.put(output)

    def until_closed(self) -> tuple[list[Output], ScanClosed]:
        outputs: list[Output] = []
        while True:
            outputs.append(self.outputs.get(timeout=LONG_S))
            if isinstance(outputs[-1], ScanClosed):
                return outputs, outputs[-1]

    def close(self) -> None:
        self.receiver.stop()
        self.files.stop()
        self.intake.stop()
        for part in (self.receiver, self.files, self.intake):
            part.check()


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[Listening]:
    listening = Listening(configuration(**getattr(request, "param", {})))
    yield listening
    listening.close()


@contextlib.contextmanager
def beamline(listening: Listening, scan: RecordedScan, folder: Path, *options: str) -> Iterator[None]:
    write_scan(folder / "scan.h5", scan)
    command = [sys.executable, str(BEAMLINE), str(folder / "scan.h5"), listening.receiver.endpoint, str(folder)]
    process = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ends = time.monotonic() + LONG_S
        while not listening.intake.counts.get("documents.unknown_name"):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < ends, "the beamline is not heard"
            listening.receiver._thread.join(0.02)
        process.stdin.write("\n")
        process.stdin.flush()
        yield
        assert process.wait(LONG_S) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


def check_joined(outputs: list[Output], scan: RecordedScan) -> None:
    """Every frame once, bit by bit, where it was measured."""
    batches = [output.batch for output in outputs if isinstance(output, Joined)]
    indices = np.concatenate([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(len(scan.counts)))
    np.testing.assert_array_equal(np.concatenate([batch.counts for batch in batches]), scan.counts[indices])
    positions_m = np.concatenate([batch.positions_m for batch in batches])
    np.testing.assert_allclose(positions_m, scan.positions_m[indices], rtol=0, atol=1e-15)


@pytest.mark.parametrize("listening", [{"samples_per_frame": 3}], indirect=True)
def test_a_fly_scan_is_joined_from_its_files_while_they_grow(
    listening: Listening, simulated: RecordedScan, tmp_path: Path
) -> None:
    with beamline(listening, simulated, tmp_path, "--rate", "40", "--samples", "3", "--flush", "0.1"):
        outputs, closed = listening.until_closed()
    check_joined(outputs, simulated)
    assert isinstance(outputs[0], ScanOpened)
    assert (closed.report.paired, closed.report.lost, closed.report.partial_positions) == (72, 0, 0)
    (joined_at_stop,) = listening.joined_at_stop
    assert joined_at_stop >= 9  # of 72 that take 1.8 s, in portions of 4
    assert listening.files.counts == {"frames": 72, "samples": 2 * 3 * 72}


def test_two_scans_in_succession_are_told_apart(listening: Listening, simulated: RecordedScan, tmp_path: Path) -> None:
    with beamline(listening, simulated, tmp_path, "--rate", "200", "--runs", "2"):
        for _ in range(2):
            outputs, closed = listening.until_closed()
            check_joined(outputs, simulated)
            assert (closed.report.paired, closed.report.reason) == (72, "complete")
    assert listening.intake.counts["documents.documents"] > 0
    assert "documents.bad_document" not in listening.intake.counts
