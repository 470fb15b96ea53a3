"""Frames of a long scan on disk while it is trained: the memory of the machine holds what it likes of them.

64,000 frames of 256 x 256 pixels are 17 GB of amplitudes. A file that is mapped into memory leaves to the operating
system which of them stay in memory, and it gives that memory back when somebody else needs it. The file has no name:
it ends with the process, however that ends, and what a scan needs to be taken up again is in its recording.
"""

from __future__ import annotations

import mmap
import tempfile
import weakref
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptyinr_stream.errors import ConfigError

_STEP_BYTES = 2**28
"""By which the file grows: no byte of it takes room on the disk before a frame is written there."""


class DiskStore:
    """A `ptyinr.dataset.FrameStore` in an unnamed file.

    Args:
        window: rows and columns of a frame.
        device: where frames are trained.
        folder: on the disk that is to hold them; not in memory, as /tmp sometimes is.

    Raises:
        ConfigError: no file can be made there.
    """

    def __init__(self, window: tuple[int, int], device: str, folder: Path) -> None:
        self._window, self._device = window, torch.device(device)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lives as long as the store)
        except OSError as error:
            raise ConfigError(f"{folder}: frames cannot be kept there: {error.strerror}") from error
        weakref.finalize(self, self._file.close)
        self._frame_bytes = 4 * window[0] * window[1]
        self._map: mmap.mmap | None = None
        self._frames: NDArray[np.float32] = np.empty((0, *window), np.float32)
        self._size = 0

    def append(self, amplitudes: NDArray[np.float32]) -> None:
        """Write frames (n, h, w).

        Raises:
            OSError: the disk is full.
        """
        data = np.ascontiguousarray(amplitudes, np.float32)
        # Written, not stored through the map: a full disk is then an error, and not the end of the process.
        self._file.seek(self._size * self._frame_bytes)
        self._file.write(data.data)
        self._file.flush()
        self._size += len(data)
        if self._size > len(self._frames):
            self._remap()

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) frames by their places, on the device."""
        return torch.from_numpy(self._frames[rows]).to(self._device)

    def _remap(self) -> None:
        need = self._size * self._frame_bytes
        size = -(-need // _STEP_BYTES) * _STEP_BYTES
        self._file.truncate(size)
        self._map = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        frames = size // self._frame_bytes
        flat = np.frombuffer(self._map, np.float32, frames * self._window[0] * self._window[1])
        self._frames = flat.reshape(frames, *self._window)
