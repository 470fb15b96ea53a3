"""Frames of a long scan on disk while it is trained: the memory of the machine holds what it likes of them.

64,000 frames of 256 x 256 pixels are 17 GB of amplitudes. Read from a file, they stay in memory as far as the operating
system has any to spare, and it takes that back when somebody else needs it. What a scan needs to be taken up again is
in its recording.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptyinr_stream.errors import ConfigError, FrameStoreError
from ptyinr_stream.unnamed_file import UnnamedFile


class DiskStore:
    """A `ptyinr.dataset.FrameStore` in an unnamed file.

    Args:
        window: rows and columns of a frame.
        device: where frames are trained.
        folder: of the file.

    Raises:
        FrameStoreError: no file can be made there.
    """

    def __init__(self, window: tuple[int, int], device: str, folder: Path) -> None:
        self._window, self._device = window, torch.device(device)
        self._file = UnnamedFile(folder)
        self._frame_bytes = 4 * window[0] * window[1]

    def write(self, row: int, amplitudes: NDArray[np.float32]) -> None:
        """Put frames (n, h, w) at the places from `row` on.

        Raises:
            FrameStoreError: the disk is full, or broken.
        """
        self._file.write(row * self._frame_bytes, np.asarray(amplitudes, np.float32))

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) frames by their places, on the device.

        Raises:
            FrameStoreError: the disk is broken.
        """
        frames = np.empty((len(rows), *self._window), np.float32)
        for row, frame in zip(rows.tolist(), frames, strict=True):
            self._file.read(row * self._frame_bytes, frame)
        return torch.from_numpy(frames).to(self._device)


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
    UnnamedFile(folder)
    return shutil.disk_usage(folder).free
