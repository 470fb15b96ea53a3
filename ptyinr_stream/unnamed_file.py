"""A file without a name, for arrays that memory shall not hold: it ends with the process, however that ends.

It is read, not mapped into memory: what a disk cannot give is then an error, and not the end of the process. What the
machine has memory to spare for it keeps there by itself.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import FrameStoreError


class UnnamedFile:
    """Holds arrays at the offsets that its owner gives them. Threads may use parts of it that do not overlap.

    Args:
        folder: on a disk of this machine; not in memory, as /tmp sometimes is.

    Raises:
        FrameStoreError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # It lives as long as its owner. What is written goes to the disk's cache at once, and is there or not.
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise FrameStoreError(f"{folder}: frames cannot be kept there: {error.strerror}") from error
        weakref.finalize(self, self._file.close)

    def write(self, offset: int, array: NDArray[Any]) -> None:
        """Put an array there.

        Raises:
            FrameStoreError: the disk is full, or broken.
        """
        left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            raise FrameStoreError(f"{self._folder}: frames cannot be kept there: {error.strerror}") from error

    def read(self, offset: int, into: NDArray[Any]) -> None:
        """Fill a contiguous array with what was put there.

        Raises:
            FrameStoreError: the disk is broken.
        """
        room = into.reshape(-1).view(np.uint8).data
        try:
            while room:
                read = os.preadv(self._file.fileno(), [room], offset)
                if not read:
                    raise FrameStoreError(f"{self._folder}: the file of frames ends before byte {offset}")
                room, offset = room[read:], offset + read
        except OSError as error:
            raise FrameStoreError(f"{self._folder}: frames cannot be read back: {error.strerror}") from error
