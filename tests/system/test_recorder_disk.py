"""A disk that is full, read-only, too small or too slow costs the recording, never the scan, and says so."""

from __future__ import annotations

import contextlib
import errno
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyinr_stream import recorder as recorder_module
from ptyinr_stream.config import AssemblyConfig, RecordingConfig
from ptyinr_stream.events import EncodedImage, FrameArrived, RunStarted, RunStopped, SeriesStarted
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.recordings.folder import Recording
from ptyinr_stream.recordings.segment import SegmentWriter

pytestmark = pytest.mark.system

SIDE = 64
BYTES = 2 * SIDE * SIDE


@contextlib.contextmanager
def recording(folder: Path, preroll_s: float = 60.0, **config: Any) -> Iterator[Recorder]:
    chosen = RecordingConfig.model_validate({"free_gb": 0.0, **config})
    recorder = Recorder(folder, chosen, AssemblyConfig(preroll_s=preroll_s), {"configuration": "{}"})
    try:
        yield recorder
    finally:
        recorder.close()


def frame(series: int, number: int) -> FrameArrived:
    pixels = np.random.default_rng(number).integers(0, 1000, (SIDE, SIDE), np.uint16)
    return FrameArrived(series, number, EncodedImage(pixels.tobytes(), (SIDE, SIDE), np.dtype(np.uint16), "<"))


def begin(recorder: Recorder, uid: str, series: int) -> None:
    now = time.monotonic()
    recorder.take(RunStarted(uid, {"uid": uid}), now)
    recorder.opened(uid, now)
    recorder.take(SeriesStarted(series, 100), now)
    recorder.bound(uid, now, series)


def end(recorder: Recorder, uid: str) -> None:
    recorder.closed(uid, {"reason": "complete"}, time.monotonic())
    recorder.take(RunStopped(uid), time.monotonic())


def record(recorder: Recorder, uid: str, series: int, frames: int) -> None:
    begin(recorder, uid, series)
    for number in range(frames):
        recorder.take(frame(series, number), time.monotonic())
        if number % 20 == 0:
            assert recorder.sync()
    end(recorder, uid)
    assert recorder.sync()


def numbers(folder: Path) -> list[int]:
    with Recording(folder) as found:
        return [e.event.frame for e in found.events() if isinstance(e.event, FrameArrived)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False, capture_output=True)
    if mount.returncode:
        pytest.skip("a disk of 2 MB needs the right to mount one")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_was_flushed_and_the_next_run_is_tried_anew(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(small_disk) as recorder, caplog.at_level(logging.ERROR):
        record(recorder, "run-a", 7, 400)
        status = recorder.status
        assert status.state == "failed"
        assert "run-a" in status.reason
        assert status.counts["lost"] > 0
        assert "incomplete" in caplog.text
        there = numbers(small_disk / "run-a")
        assert there == list(range(len(there)))
        assert 100 < len(there) < 2 * 2**20 // BYTES
        with Recording(small_disk / "run-a") as found:
            assert found.standing.state == "incomplete"
        for file in (small_disk / "run-a").iterdir():
            file.unlink()
        record(recorder, "run-b", 8, 20)
        assert recorder.status.state in ("recording", "waiting")
    assert numbers(small_disk / "run-b") == list(range(20))
    with Recording(small_disk / "run-b") as found:
        assert found.standing.state == "complete"


def test_a_write_error_ends_the_recording_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = SegmentWriter.flush

    def fail(segment: SegmentWriter) -> None:
        if segment.frames > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(segment)

    monkeypatch.setattr(SegmentWriter, "flush", fail)
    with recording(tmp_path) as recorder:
        record(recorder, "run-a", 7, 60)
        assert recorder.status.state == "failed"
        assert "No space left on device" in recorder.status.reason
    kept = numbers(tmp_path / "run-a")
    assert kept == list(range(len(kept)))  # what was flushed before the disk was full
    assert 0 < len(kept) <= 31
    with Recording(tmp_path / "run-a") as found:
        assert found.standing.state == "incomplete"
        assert "No space left" in found.standing.reason


def test_a_folder_that_cannot_be_written_is_an_error_and_no_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with recording(tmp_path / "file" / "recordings") as recorder:
        record(recorder, "run-a", 7, 30)
        assert recorder.status.state == "failed"
        assert "Not a directory" in recorder.status.reason


def test_at_the_cap_the_recording_stops_and_the_elders_stay(tmp_path: Path) -> None:
    with recording(tmp_path, cap_gb=1e-9 * 150 * BYTES) as recorder:
        record(recorder, "run-a", 7, 80)
        record(recorder, "run-b", 8, 80)
        record(recorder, "run-c", 9, 10)
        assert recorder.status.state == "failed"
        assert "recording.cap_gb" in recorder.status.reason
    assert numbers(tmp_path / "run-a") == list(range(80))
    assert not (tmp_path / "run-c").exists()


def test_at_the_cap_the_oldest_recording_is_deleted_where_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with recording(tmp_path, cap_gb=1e-9 * 250 * BYTES, when_full="delete_oldest") as recorder:
        for series, uid in enumerate(("run-a", "run-b", "run-c", "run-d")):
            record(recorder, uid, series, 80)
    assert not (tmp_path / "run-a").exists()
    assert numbers(tmp_path / "run-d") == list(range(80))
    assert (tmp_path / "notes").is_dir()


def test_below_the_free_space_nothing_is_recorded(tmp_path: Path) -> None:
    with recording(tmp_path, free_gb=1e6) as recorder:
        record(recorder, "run-a", 7, 3)
        assert "recording.free_gb" in recorder.status.reason


@pytest.mark.parametrize("begun", [True, False])
def test_a_disk_that_stands_still_ends_the_recording_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(recorder_module, "PATIENCE_S", 0.05 if begun else 1e-3)  # before the run itself is written
    flush, moves = SegmentWriter.flush, threading.Event()

    def slow(segment: SegmentWriter) -> None:
        if segment.frames:
            moves.wait(60)
        flush(segment)

    monkeypatch.setattr(SegmentWriter, "flush", slow)
    with recording(tmp_path, buffer_mb=1e-6 * 20 * BYTES) as recorder:
        begin(recorder, "run-a", 7)
        if begun:
            assert recorder.sync()
        for number in range(100):
            recorder.take(frame(7, number), time.monotonic())
        moves.set()
        end(recorder, "run-a")
        assert recorder.sync()
        assert recorder.status.counts["lost"] >= 60
        record(recorder, "run-b", 8, 5)
    with Recording(tmp_path / "run-a") as found:
        assert found.standing.state == "incomplete"
        assert "took nothing" in found.standing.reason
    assert numbers(tmp_path / "run-b") == list(range(5))


def test_what_no_run_claims_within_the_preroll_is_deleted_and_counted(tmp_path: Path) -> None:
    with recording(tmp_path, preroll_s=1e-3) as recorder:
        recorder.take(SeriesStarted(3, 5), time.monotonic())
        for number in range(5):
            recorder.take(frame(3, number), time.monotonic())
        assert recorder.sync()
    assert recorder.status.counts == {"unbound_frames": 5, "unbound_events": 1}
    assert list(tmp_path.iterdir()) == []
