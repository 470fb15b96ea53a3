"""What waits for training: all of it, in order, in bounded memory."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyinr.types import Batch
from ptyinr_stream import backlog as backlog_module
from ptyinr_stream.assembler import BaselineAdded, Joined, Output
from ptyinr_stream.backlog import Backlog
from ptyinr_stream.errors import FrameStoreError
from ptyinr_stream.unnamed_file import UnnamedFile

SHAPE = (4, 6)
FRAME_BYTES = 2 * 4 * 6


def joined(first: int, frames: int, masked: str = "nowhere") -> Joined:
    """Frames whose counts tell their numbers."""
    indices = np.arange(first, first + frames)
    counts = np.broadcast_to(indices[:, None, None], (frames, *SHAPE)).astype(np.uint16)
    random = np.random.default_rng(first)
    one = random.random(SHAPE) > 0.5
    masks = {
        "nowhere": None,
        "alike": one,
        "repeated": np.broadcast_to(one, (frames, *SHAPE)),
        "each": random.random((frames, *SHAPE)) > 0.5,
    }
    mask = masks[masked]
    return Joined("a", Batch(indices, counts, np.stack([indices, -indices], 1).astype(np.float64), mask))


def same(one: object, other: object) -> bool:
    """Whether two outputs say the same."""
    if not isinstance(one, Joined) or not isinstance(other, Joined):
        return one == other
    return (
        one.uid == other.uid
        and one.batch.counts.dtype == other.batch.counts.dtype
        and all(
            np.array_equal(getattr(one.batch, name), getattr(other.batch, name))
            for name in ("indices", "counts", "positions_m", "mask")
        )
    )


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data())
def test_everything_comes_out_in_order_and_memory_holds_no_more_than_it_may(tmp_path, data):
    backlog, put, got = Backlog[Output](5 * FRAME_BYTES, tmp_path), [], []
    for number in range(data.draw(st.integers(1, 30))):
        if data.draw(st.booleans()):
            kinds = st.sampled_from(["nowhere", "alike", "repeated", "each", "said"])
            kind = data.draw(kinds)
            output = (
                BaselineAdded("a", {"of": number})
                if kind == "said"
                else joined(number, data.draw(st.integers(0, 4)), kind)
            )
            put.append(output)
            backlog.put(output)
        elif len(got) < len(put):
            got.append(backlog.get())
        assert backlog.status()["memory_mb"] <= 5e-6 * FRAME_BYTES
        assert backlog.status()["waiting"] == len(put) - len(got)
    while len(got) < len(put):
        got.append(backlog.get())
    assert all(map(same, put, got))
    assert backlog.status() == {"waiting": 0, "memory_mb": 0.0, "file_mb": 0.0}


def test_a_file_gives_its_room_back_when_nothing_in_it_waits_any_more(tmp_path, monkeypatch):
    files: list[weakref.ref[UnnamedFile]] = []

    def made(folder: Path) -> UnnamedFile:
        file = UnnamedFile(folder)
        files.append(weakref.ref(file))
        return file

    monkeypatch.setattr(backlog_module, "UnnamedFile", made)
    monkeypatch.setattr(backlog_module, "FILE_BYTES", 4 * FRAME_BYTES)
    backlog, open_files = Backlog(0, tmp_path), []
    for first in range(0, 15, 3):
        backlog.put(joined(first, 3))
    for first in range(0, 15, 3):
        assert backlog.status()["file_mb"] == pytest.approx(1e-6 * (15 - first) * FRAME_BYTES)
        assert same(backlog.get(), joined(first, 3))
        open_files.append([file() is not None for file in files])
    gone, there = False, True
    assert open_files == [
        [there, there, there],
        [gone, there, there],
        [gone, there, there],
        [gone, gone, there],
        [gone, gone, gone],
    ]
    backlog.put(joined(15, 2))
    assert same(backlog.get(), joined(15, 2))
    assert list(tmp_path.iterdir()) == []


def test_without_room_on_the_disk_frames_wait_in_memory_and_it_is_said_once(tmp_path, full_disk, caplog):
    backlog = Backlog(0, tmp_path)
    backlog.put(joined(0, 3))
    with full_disk(4 * FRAME_BYTES):
        backlog.put(joined(3, 3))
        backlog.put(joined(6, 3))
    backlog.put(joined(9, 3))
    assert backlog.status()["memory_mb"] == 6e-6 * FRAME_BYTES
    for first in range(0, 12, 3):
        assert same(backlog.get(), joined(first, 3))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("ptyinr_stream")] == [
        f"frames that training has not taken yet fill the memory: {tmp_path}: frames cannot be kept there: "
        "File too large"
    ]


def test_a_disk_that_does_not_give_frames_back_is_an_error_and_the_others_come(tmp_path: Path, monkeypatch):
    backlog = Backlog(0, tmp_path)
    backlog.put(joined(0, 3))
    backlog.put(joined(3, 3))

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", broken)
        with pytest.raises(FrameStoreError, match="cannot be read back"):
            backlog.get()
    assert same(backlog.get(), joined(3, 3))


def test_who_waits_is_woken_and_who_finds_nothing_is_told(tmp_path):
    backlog = Backlog(2 * FRAME_BYTES, tmp_path)
    with pytest.raises(queue.Empty):
        backlog.get()
    thread = threading.Thread(target=lambda: [backlog.put(joined(first, 2)) for first in range(0, 400, 2)])
    thread.start()
    for first in range(0, 400, 2):
        assert same(backlog.get(timeout=20.0), joined(first, 2))
    thread.join()
    assert backlog.status() == {"waiting": 0, "memory_mb": 0.0, "file_mb": 0.0}
