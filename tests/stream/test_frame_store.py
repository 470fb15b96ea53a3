"""Frames on disk: the same as in memory, without holding it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyinr.dataset import MemoryStore
from ptyinr_stream import frame_store
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.frame_store import DiskStore


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_frames_come_back_as_from_memory_however_they_were_appended(tmp_path, monkeypatch, portions, seed):
    monkeypatch.setattr(frame_store, "_STEP_BYTES", 2**14)
    random = np.random.default_rng(seed)
    disk, memory = DiskStore((6, 10), "cpu", tmp_path), MemoryStore((6, 10), torch.device("cpu"))
    for n in portions:
        frames = random.normal(size=(n, 6, 10)).astype(np.float32)
        disk.append(frames)
        memory.append(frames)
        total = sum(portions[: portions.index(n) + 1])
        rows = random.integers(0, max(total, 1), 5) if total else np.empty(0, np.int64)
        assert torch.equal(disk.take(rows), memory.take(rows))


def test_the_file_has_no_name_and_the_folder_is_made(tmp_path: Path):
    store = DiskStore((4, 4), "cpu", tmp_path / "new")
    store.append(np.ones((3, 4, 4), np.float32))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_mistake_in_the_configuration(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="frames cannot be kept there"):
        DiskStore((4, 4), "cpu", tmp_path / "file")
