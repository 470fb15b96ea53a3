"""Frames on disk: the same as in memory, without holding it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyinr.dataset import MemoryStore
from ptyinr_stream.errors import ConfigError, FrameStoreError
from ptyinr_stream.frame_store import DiskStore, check_folder, free_bytes


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_frames_come_back_as_from_memory_however_they_were_appended(tmp_path, portions, seed):
    random = np.random.default_rng(seed)
    disk, memory = DiskStore((6, 10), "cpu", tmp_path), MemoryStore((6, 10), torch.device("cpu"))
    total = 0
    for n in portions:
        frames = random.normal(size=(n, 6, 10)).astype(np.float32)
        disk.write(total, frames)
        memory.write(total, frames)
        total += n
        rows = random.integers(0, total, 5) if total else np.empty(0, np.int64)
        assert torch.equal(disk.take(rows), memory.take(rows))


def test_the_file_has_no_name_and_the_folder_is_made(tmp_path: Path):
    store = DiskStore((4, 4), "cpu", tmp_path / "new")
    store.write(0, np.ones((3, 4, 4), np.float32))
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_full_disk_has_no_room_for_is_an_error_and_what_was_written_stays(tmp_path: Path, full_disk):
    store = DiskStore((32, 32), "cpu", tmp_path)
    frames = np.random.default_rng(0).normal(size=(24, 32, 32)).astype(np.float32)
    store.write(0, frames[:8])
    with (
        full_disk(20 * 4096 + 100),
        pytest.raises(FrameStoreError, match="cannot be kept there: File too large"),
    ):
        store.write(8, frames[8:])
    assert torch.equal(store.take(np.arange(8)), torch.from_numpy(frames[:8]))
    store.write(8, frames[8:])  # there is room again
    assert torch.equal(store.take(np.arange(24)), torch.from_numpy(frames))


def test_what_is_read_or_written_in_pieces_is_whole(tmp_path: Path, monkeypatch):
    store = DiskStore((32, 32), "cpu", tmp_path)
    frames = np.random.default_rng(0).normal(size=(3, 32, 32)).astype(np.float32)
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:1000], at))
    monkeypatch.setattr(os, "preadv", lambda fd, room, at: read(fd, [room[0][:700]], at))
    store.write(0, frames)
    assert torch.equal(store.take(np.array([2, 0])), torch.from_numpy(frames[[2, 0]]))


def test_frames_that_a_broken_disk_does_not_give_are_an_error(tmp_path: Path, monkeypatch):
    store = DiskStore((4, 4), "cpu", tmp_path)
    store.write(0, np.ones((3, 4, 4), np.float32))
    with pytest.raises(FrameStoreError, match="ends before byte 192"):
        store.take(np.array([3]))

    def broken(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(FrameStoreError, match="cannot be read back: Input/output error"):
        store.take(np.array([0]))


def test_a_folder_that_cannot_be_written_is_an_error_with_its_name(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for attempt in (lambda: DiskStore((4, 4), "cpu", tmp_path / "file"), lambda: free_bytes(tmp_path / "file")):
        with pytest.raises(FrameStoreError, match="file: frames cannot be kept there"):
            attempt()
    with pytest.raises(ConfigError, match=r"training\.frames_folder: .*file: frames cannot be kept there"):
        check_folder(tmp_path / "file")
    assert check_folder(tmp_path).startswith(f"{tmp_path}: can be written, ")
