"""The demo as a newcomer starts it, and what it shows."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from daemons import commands, read_until
from rich.console import Console

from ptyinr_stream.demo import SecondProcess, demo_config, finished, report
from ptyinr_stream.engine import ScanStatus
from ptyinr_stream.errors import StreamError
from ptyinr_stream.publishers.base import PublisherStatus
from ptyinr_stream.scan_report import ScanReport
from ptyinr_stream.terminal import _display, _line

pytestmark = pytest.mark.system

LINK = "http://127.0.0.1:43491/ui/browse/processed/ptyinr"
UID = "f5063ebb-3e6d-484a-8e66-cbbb316f4f04"
LONG_S = 60


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen[str]]]:
    """Starts the demo in a process, at so many frames a second."""
    with commands(tmp_path) as started:
        yield lambda rate: started("demo", "--exit-when-done", "--rate", rate, "--refine", 5, "--output", "out")


def test_the_demo_runs_to_its_end_and_leaves_a_result(start, tmp_path):
    demo = start(200)
    out, err = demo.communicate(timeout=280)
    assert demo.returncode == 0, err
    assert err == ""
    assert re.search(r"^frames sent, joined, in the result +516, 516, 516$", out, re.M)
    assert re.search(r"^steps +\d+$", out, re.M)
    assert re.search(r"^held-out amplitude error +\d+\.\d{3} photons$", out, re.M)
    assert re.search(r"^phase correlation with the reference +-?\d\.\d{4}$", out, re.M)
    result = tmp_path / re.search(r"^result +(\S+/result\.h5)$", out, re.M)[1]
    with h5py.File(result) as file:
        assert file["indices"][()].tolist() == list(range(516))
        assert np.isfinite(file["object"][()]).all()
    assert list((result.parent / "snapshots").glob("*.png"))
    assert (result.parent / "latest.png").is_file()
    assert '"frames_paired": 516' in (result.parent / "report.json").read_text()
    assert f"Picture: out/{result.parent.name}/latest.png" in out
    address = rf"http://127\.0\.0\.1:\d+/ui/browse/processed/ptyinr/{result.parent.name}/live/object"
    assert re.search(rf"^Object:  {address} ", out, re.M)


def test_an_interrupted_demo_ends_in_order(start):
    demo = start(200)
    read_until(demo, "Files:")
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=LONG_S)
    assert demo.returncode == 0, err
    assert "stopped before the end" in out
    assert "Traceback" not in err


def test_a_demo_after_an_interrupted_one_shows_its_own_scan_to_the_end(start):
    first = start(20)
    picture = r"Picture: out/(\S+)/latest\.png"
    interrupted = re.search(picture, read_until(first, "/latest.png"))[1]
    first.send_signal(signal.SIGINT)
    assert "stopped before the end" in first.communicate(timeout=LONG_S)[0]
    demo = start(200)
    out, err = demo.communicate(timeout=280)
    assert demo.returncode == 0, err
    assert re.search(r"^an earlier scan, resumed: ", out, re.M)
    assert re.search(r"^frames sent, joined, in the result +516, 516, 516$", out, re.M)
    own = re.search(r"^result +out/(\S+)/result\.h5$", out, re.M)[1]
    assert own != interrupted
    assert re.findall(picture, out) == [own]


# What ends a demo


def daemon(*history: ScanStatus, waiting: int = 0) -> SimpleNamespace:
    publishers = [PublisherStatus("tiled", waiting=waiting, published=1)]
    scan = history[-1] if history else None
    return SimpleNamespace(
        engine=SimpleNamespace(history=list(history)), status=SimpleNamespace(publishers=publishers, scan=scan)
    )


def test_a_demo_is_finished_when_its_scan_is_over_and_delivered():
    done, earlier = ScanStatus(UID, "done", 516), ScanStatus("of an earlier life", "done", 427)
    assert finished(daemon(), UID) is None
    assert finished(daemon(done, waiting=1), UID) is None
    assert finished(daemon(earlier), UID) is None
    assert finished(daemon(earlier, done), UID) is done


def test_a_failed_scan_says_why_instead_of_a_summary(tmp_path):
    failed = ScanStatus(UID, "failed", 516, error="the photon energy is unknown")
    with pytest.raises(StreamError, match="was not reconstructed: the photon energy is unknown"):
        report(failed, tmp_path, (128, 128), scored=True)


def test_a_replay_that_fails_says_why(tmp_path):
    roads = dict.fromkeys(("documents", "frames", "positions"), "tcp://127.0.0.1:9")
    sender = SecondProcess(tmp_path / "no.h5", roads, 10.0, UID)
    try:
        sender._process.wait(LONG_S)
        with pytest.raises(StreamError, match=r"the replay failed: error: .*no\.h5: there is no such file"):
            sender.check()
    finally:
        sender.stop()


def test_a_replay_that_is_not_needed_any_more_is_ended(tmp_path):
    roads = dict.fromkeys(("documents", "frames", "positions"), "tcp://127.0.0.1:9")
    sender = SecondProcess(tmp_path / "no.h5", roads, 10.0, UID)
    sender.stop()
    assert sender._process.returncode is not None
    sender.stop()


def test_every_endpoint_of_the_demo_is_free_and_on_loopback(simulated, tmp_path):
    config = demo_config(simulated, tmp_path, 3.0, 0)
    for stream in (config.streams.documents, config.streams.frames, config.streams.positions):
        assert (stream.endpoint, stream.bind) == ("tcp://127.0.0.1:*", True)
    assert config.tiled.host == "127.0.0.1"
    assert config.training.refine_s == 3.0


# What it shows


def statuses() -> list[ScanStatus]:
    now = time.monotonic()
    judged = {"metrics": {"heldout_error": 12.3456, "loss": 0.5}, "last_snapshot_at": now - 98.6}
    counts = ScanReport(516, 516, 516, 0, 0, 0, 0, 0, 0, 0, 0, "success", "complete")
    return [
        ScanStatus(UID, "waiting for frames", 516),
        ScanStatus(UID, "finding the probe", 516, frames=60),
        ScanStatus(UID, "training", 516, frames=300, steps=12345, **judged),
        ScanStatus(UID, "refining", 516, frames=516, steps=12345, ends_at=now + 80.4, report=counts, **judged),
        ScanStatus(UID, "done", 516, frames=516, steps=12345, ends_at=now - 1, report=counts, **judged),
    ]


def test_every_phase_fits_into_a_line_of_eighty_columns():
    lines = [_line(status, counted=False) for status in (None, *statuses())]
    assert max(map(len, lines)) < 80
    assert lines[0] == "waiting for the scan"
    assert lines[2] == "finding the probe: 0 steps"
    assert lines[3] == "training: 12345 steps, held-out error 12.346, snapshot 99 s ago"
    assert lines[4].startswith("refining, 80 s left: 12345 steps")
    assert lines[5].startswith("done: ")


def test_outside_of_a_terminal_every_phase_is_a_line_and_addresses_are_whole(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    folder = tmp_path / "a folder [with] a rather long name, longer than the eighty columns of a line in a terminal"
    earlier = ScanStatus("of an earlier life", "training", 516, frames=427, steps=9, last_snapshot_at=time.monotonic())
    with _display(console, LINK, folder, UID) as show:
        for status in (earlier, *statuses()):
            show(daemon(status))
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "an earlier scan, resumed: training: 427/516 frames, 9 steps, snapshot 0 s ago",
        "waiting for frames: 0/516 frames, 0 steps",
        "finding the probe: 60/516 frames, 0 steps",
        "training: 300/516 frames, 12345 steps, held-out error 12.346, snapshot 99 s ago",
        f"Object:  {LINK}/{UID}/live/object (reload to see it grow)",
        f"Picture: {folder}/{UID}/latest.png",
        "refining, 80 s left: 516/516 frames, 12345 steps, held-out error 12.346, snapshot 99 s ago",
        "done: 516/516 frames, 12345 steps, held-out error 12.346, snapshot 99 s ago",
    ]


def test_in_a_terminal_the_display_is_redrawn_below_the_addresses():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, legacy_windows=False, _environ={})
    with _display(console, LINK, Path("out"), UID) as show:
        for status in statuses():
            show(daemon(status))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())
    assert shown.count("/live/object (reload to see it grow)") == 1
    assert "516/516" in shown
    assert shown.rstrip().endswith("done: 12345 steps, held-out error 12.346, snapshot 99 s ago")
