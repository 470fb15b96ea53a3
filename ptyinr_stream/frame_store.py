"""Frames of a long scan on disk while it is trained: the memory of the machine holds what it likes of them.

64,000 frames of 256 x 256 pixels are 17 GB of amplitudes. Read from a file, they stay in memory as far as the operating
system has any to spare, and it takes that back when somebody else needs it. The file has no name: it ends with the
process, however that ends, and what a scan needs to be taken up again is in its recording.

It is read, not mapped into memory: what a disk cannot give is then an error, and not the end of the process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptyinr_stream.errors import ConfigError, FrameStoreError


class DiskStore:
    """A `ptyinr.dataset.FrameStore` in an unnamed file.

    Args:
        window: rows and columns of a frame.
        device: where frames are trained.
        folder: on a disk of this machine that is to hold them; not in memory, as /tmp sometimes is.

    Raises:
        FrameStoreError: no file can be made there.
    """

    def __init__(self, window: tuple[int, int], device: str, folder: Path) -> None:
        self._window, self._device, self._folder = window, torch.device(device), folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # It lives as long as the store. What is written goes to the disk's cache at once, and is there or not.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FrameStoreError(f"{folder}: frames cannot be kept there: {error.strerror}") from error
        weakref.finalize(self, self._file.close)
        self._frame_bytes = 4 * window[0] * window[1]

    def write(self, row: int, amplitudes: NDArray[np.float32]) -> None:
        """Put frames (n, h, w) at the places from `row` on.

        Raises:
            FrameStoreError: the disk is full, or broken.
        """
        left = np.ascontiguousarray(amplitudes, np.float32).reshape(-1).view(np.uint8).data
        offset = row * self._frame_bytes
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise FrameStoreError(f"{self._folder}: frames cannot be kept there: {error.strerror}") from error

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) frames by their places, on the device.

        Raises:
            FrameStoreError: the disk is broken.
        """
        frames = np.empty((len(rows), *self._window), np.float32)
        for row, frame in zip(rows.tolist(), frames, strict=True):
            self._read(row * self._frame_bytes, frame.reshape(-1).view(np.uint8).data)
        return torch.from_numpy(frames).to(self._device)

    def _read(self, offset: int, room: memoryview) -> None:
        """Fill the room."""
        try:
            while room:
                read = os.preadv(self._file.fileno(), [room], offset)
                if not read:
                    raise FrameStoreError(f"{self._folder}: the file of frames ends before byte {offset}")
                room, offset = room[read:], offset + read
        except OSError as error:
            raise FrameStoreError(f"{self._folder}: frames cannot be read back: {error.strerror}") from error


def check_folder(folder: Path) -> str:
    """Say how much room there is.

    Raises:
        ConfigError: no file can be made there.
    """
    try:
        return f"{folder}: can be written, {free_bytes(folder) / 1e9:.1f} GB are free"
    except FrameStoreError as error:
        raise ConfigError(f"training.frames_folder: {error}") from error


def free_bytes(folder: Path) -> int:
    """Room for frames.

    Raises:
        FrameStoreError: no file can be made there.
    """
    DiskStore((1, 1), "cpu", folder)
    return shutil.disk_usage(folder).free
