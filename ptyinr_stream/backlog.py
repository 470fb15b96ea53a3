"""What the intake has delivered and training has not taken yet, in bounded memory.

A step, a snapshot or the search for a probe takes up to some seconds, and 2,000 frames of 256 x 256 pixels a second are
260 MB. What memory is not allowed to hold of them waits in unnamed files, in its order.
"""

from __future__ import annotations

import logging
import math
import queue
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import Batch
from ptyinr_stream.errors import FrameStoreError
from ptyinr_stream.outputs import Joined, Output
from ptyinr_stream.unnamed_file import UnnamedFile

_log = logging.getLogger(__name__)

FILE_BYTES = 2**30
"""From which on the next file is begun: the disk gets the room of one back when nothing in it waits any more."""


@dataclass(frozen=True, eq=False)
class _Filed:
    """A batch whose pixels are in a file, which ends with the last of its batches."""

    file: UnnamedFile
    emptied: Joined
    indices: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    """Where it is one for all frames."""
    offset: int
    parts: list[tuple[tuple[int, ...], np.dtype[Any]]]
    """Shape and type of the counts, and of the masks where each frame has its own; one after the other."""

    @property
    def nbytes(self) -> int:
        """In the file."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.parts)


T = TypeVar("T", bound=Output)


class Backlog(Generic[T]):
    """A queue between one thread that puts and one that gets.

    Args:
        most_bytes: of the pixels that wait in memory.
        folder: of the files that hold the others, made when they are needed.
    """

    def __init__(self, most_bytes: float, folder: Path) -> None:
        self._most_bytes, self._folder = most_bytes, folder
        self._waiting: deque[T | _Filed] = deque()
        self._changed = Condition()
        self._file: UnnamedFile | None = None
        self._end = 0  # of what is in the file
        self._bytes = self._filed_bytes = 0
        self._failed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, output: T) -> None:
        """Add an output; a disk without room makes it wait in memory all the same."""
        waits: T | _Filed = output
        if isinstance(output, Joined) and self._bytes + _pixel_bytes(output.batch) > self._most_bytes:
            try:
                waits = self._put_away(output)
            except FrameStoreError as error:
                if not self._failed:
                    _log.warning("frames that training has not taken yet fill the memory: %s", error)
                self._failed = True
        with self._changed:
            self._waiting.append(waits)
            if isinstance(waits, Joined):
                self._bytes += _pixel_bytes(waits.batch)
            elif isinstance(waits, _Filed):
                self._filed_bytes += waits.nbytes
            self._changed.notify()

    def get(self, timeout: float = 0.0) -> T:
        """Take the oldest output.

        Raises:
            queue.Empty: none came within `timeout` seconds.
            FrameStoreError: the disk does not give it back.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, timeout):
                raise queue.Empty
            first = self._waiting.popleft()
            if isinstance(first, Joined):
                self._bytes -= _pixel_bytes(first.batch)
            elif isinstance(first, _Filed):
                self._filed_bytes -= first.nbytes
            if not self._waiting:
                self._file = None
        if not isinstance(first, _Filed):
            return first
        try:
            return cast(T, _fetched(first))
        except FrameStoreError as error:
            error.frames = len(first.indices)
            raise

    def status(self) -> dict[str, float]:
        """Outputs that wait, and megabytes of their pixels in memory and in files."""
        with self._changed:
            return {"waiting": len(self._waiting), "memory_mb": self._bytes / 1e6, "file_mb": self._filed_bytes / 1e6}

    def _put_away(self, output: Joined) -> _Filed:
        batch = output.batch
        masks = _own_masks(batch)
        arrays = [batch.counts] if masks is None else [batch.counts, masks]
        with self._changed:
            file, offset = self._file, self._end
        if file is None or offset >= FILE_BYTES:
            file, offset = UnnamedFile(self._folder), 0
        end = offset
        for array in arrays:
            file.write(end, array)
            end += array.nbytes
        with self._changed:
            self._file, self._end = file, end
        none = Batch(np.empty(0, np.int64), np.empty((0, *batch.counts.shape[1:]), np.uint8), np.empty((0, 2)))
        parts = [(array.shape, array.dtype) for array in arrays]
        shared = batch.mask if masks is None else None
        return _Filed(file, replace(output, batch=none), batch.indices, batch.positions_m, shared, offset, parts)


def _fetched(filed: _Filed) -> Joined:
    arrays, at = [np.empty(shape, dtype) for shape, dtype in filed.parts], filed.offset
    for array in arrays:
        filed.file.read(at, array)
        at += array.nbytes
    mask = arrays[1] if len(arrays) > 1 else filed.mask
    return replace(filed.emptied, batch=Batch(filed.indices, arrays[0], filed.positions_m, mask))


def _own_masks(batch: Batch) -> NDArray[np.bool_] | None:
    """(n, h, w) where each frame has one; None where one, or a repeated one, is for all of them."""
    mask = batch.mask
    repeated = mask is not None and len(mask) > 1 and not mask.strides[0]
    return mask if mask is not None and mask.ndim == 3 and not repeated else None


def _pixel_bytes(batch: Batch) -> int:
    """Of what is its own."""
    masks = _own_masks(batch)
    return batch.counts.nbytes + (0 if masks is None else masks.nbytes)
