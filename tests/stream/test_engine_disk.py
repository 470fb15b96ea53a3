"""Scans whose frames are kept on a disk that has no room, is not there, or breaks."""

from __future__ import annotations

import os

import pytest
import torch

from ptyinr.dataset import MemoryStore
from ptyinr_stream import engine
from ptyinr_stream.errors import DeviceError

FRAME_BYTES = 4 * 32 * 24


def test_a_full_disk_costs_the_frames_that_it_has_no_room_for_and_the_picture_goes_on(
    bench, tmp_path, full_disk, caplog
):
    b = bench(frames_on_disk_above_mb=0, frames_folder=tmp_path)
    b.begin("a", range(50))
    b.work(4)
    shown = b.sink.of("a").count("live")
    with full_disk(56 * FRAME_BYTES + 10):
        for first in range(50, 70, 4):
            b.join("a", range(first, first + 4))
            b.work(3)
    status = b.engine.status
    assert (status.phase, status.frames, status.refused) == ("training", 54, 16)
    assert "frames cannot be kept there: File too large" in status.error
    assert b.sink.of("a").count("live") > shown
    assert [record.getMessage() for record in caplog.records if "cannot be kept" in record.getMessage()] == [
        f"scan a: 4 frames cannot be used: {tmp_path}: frames cannot be kept there: File too large"
    ]
    b.join("a", range(70, 72))  # there is room again
    b.close("a")
    b.work(8)
    final = b.sink.only("final", "a")
    assert final.indices.tolist() == [*range(54), 70, 71]
    assert b.sink.only("close", "a")["frames_refused"] == 16
    status = b.engine.status
    assert (status.phase, status.frames, status.refused) == ("done", 56, 16)
    assert "frames cannot be kept" in status.error


def test_a_disk_with_less_room_than_the_scan_takes_is_told_of_at_its_beginning(bench, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(engine, "free_bytes", lambda folder: 100_000)
    b = bench(frames_on_disk_above_mb=0, frames_folder=tmp_path)
    b.begin("a")
    assert f"{tmp_path}: 0.1 MB are free, the frames of this scan take 0.2 MB" in caplog.text


def test_a_folder_that_is_not_there_any_more_fails_the_scan_and_the_next_one_is_trained(bench, tmp_path):
    folder = tmp_path / "frames"
    folder.write_text("")
    b = bench(frames_on_disk_above_mb=0, frames_folder=folder)
    b.begin("a")
    assert b.engine.status.phase == "failed"
    assert "frames: frames cannot be kept there" in b.engine.status.error
    b.close("a")
    folder.unlink()
    b.begin("b")
    b.work(3)
    assert (b.engine.status.uid, b.engine.status.phase) == ("b", "training")


@pytest.mark.parametrize("closed", [False, True])
def test_a_disk_that_breaks_fails_the_scan_and_the_next_one_is_trained(bench, tmp_path, monkeypatch, closed):
    b = bench(frames_on_disk_above_mb=0, frames_folder=tmp_path)
    b.begin("a")
    b.work(3)
    if closed:
        b.close("a")

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken)
        b.work(2)
        if not closed:
            b.close("a")
    assert "frames cannot be read back: Input/output error" in b.engine.history[0].error
    assert b.phases == {"a": "failed"}
    b.begin("b")
    b.work(3)
    assert (b.engine.status.uid, b.engine.status.phase) == ("b", "training")


def test_a_device_without_memory_for_the_next_frames_says_so(bench, monkeypatch):
    b = bench()
    b.begin("a", range(50))

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 8 GiB")

    monkeypatch.setattr(MemoryStore, "write", full)
    with pytest.raises(DeviceError, match="the memory of cpu does not hold this scan: tried to allocate"):
        b.join("a", range(50, 60))


def test_frames_that_wait_for_the_optics_in_a_file_are_all_trained(bench, tmp_path):
    b = bench(backlog_mb=0.02, frames_folder=tmp_path)
    b.open("a")
    for first in range(0, 72, 4):
        b.join("a", range(first, first + 4))
    waiting = b.engine._scans["a"].waiting.status()
    assert (waiting["waiting"], waiting["memory_mb"] <= 0.02, waiting["file_mb"] > 0) == (18, True, True)
    b.baseline("a")
    b.close("a")
    b.work(8)
    assert b.sink.only("final", "a").indices.tolist() == list(range(72))
