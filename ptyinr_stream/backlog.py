"""What the intake has delivered and training has not taken yet, in bounded memory.

A step, a snapshot or the search for a probe takes up to some seconds, and 2,000 frames of 256 x 256 pixels a second are
260 MB. What memory is not allowed to hold of them waits in an unnamed file, in its order.
"""

from __future__ import annotations

import logging
import queue
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import Batch
from ptyinr_stream.errors import FrameStoreError
from ptyinr_stream.outputs import Joined, Output
from ptyinr_stream.unnamed_file import UnnamedFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Filed:
    """A batch whose pixels are in the file."""

    file: UnnamedFile
    emptied: Joined
    indices: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    mask: NDArray[np.bool_] | None
    """Where it is one for all frames."""
    offset: int
    parts: list[tuple[tuple[int, ...], np.dtype[Any]]]
    """Shape and type of the counts, and of the masks where each frame has its own; one after the other."""


class Backlog:
    """A queue between one thread that puts and one that gets.

    Args:
        most_bytes: of the pixels that wait in memory.
        folder: of the file that holds the others, made when it is needed.
    """

    def __init__(self, most_bytes: float, folder: Path) -> None:
        self._most_bytes, self._folder = most_bytes, folder
        self._waiting: deque[Output | _Filed] = deque()
        self._changed = Condition()
        self._file: UnnamedFile | None = None
        self._filed, self._end = 0, 0  # batches in the file, and where the next one goes
        self._bytes = 0
        self._failed = False

    def put(self, output: Output) -> None:
        """Add an output; a disk without room makes it wait in memory all the same."""
        waits: Output | _Filed = output
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
            self._changed.notify()

    def get(self, timeout: float = 0.0) -> Output:
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
        return self._fetched(first) if isinstance(first, _Filed) else first

    def status(self) -> dict[str, float]:
        """Outputs that wait, and megabytes of their pixels in memory and in the file."""
        with self._changed:
            return {"waiting": len(self._waiting), "memory_mb": self._bytes / 1e6, "file_mb": self._end / 1e6}

    def _put_away(self, output: Joined) -> _Filed:
        batch = output.batch
        own_masks = batch.mask is not None and batch.mask.ndim == 3
        arrays = [batch.counts, batch.mask] if own_masks and batch.mask is not None else [batch.counts]
        file = self._file = self._file or UnnamedFile(self._folder)
        with self._changed:
            offset, self._end = self._end, self._end + sum(array.nbytes for array in arrays)
            self._filed += 1
        try:
            at = offset
            for array in arrays:
                file.write(at, array)
                at += array.nbytes
        except FrameStoreError:
            self._release(file)
            raise
        none = Batch(np.empty(0, np.int64), np.empty((0, *batch.counts.shape[1:]), np.uint8), np.empty((0, 2)))
        parts = [(array.shape, array.dtype) for array in arrays]
        shared = None if own_masks else batch.mask
        return _Filed(file, replace(output, batch=none), batch.indices, batch.positions_m, shared, offset, parts)

    def _fetched(self, filed: _Filed) -> Joined:
        arrays, at = [np.empty(shape, dtype) for shape, dtype in filed.parts], filed.offset
        try:
            for array in arrays:
                filed.file.read(at, array)
                at += array.nbytes
        finally:
            self._release(filed.file)
        mask = arrays[1] if len(arrays) > 1 else filed.mask
        return replace(filed.emptied, batch=Batch(filed.indices, arrays[0], filed.positions_m, mask))

    def _release(self, file: UnnamedFile) -> None:
        """One batch less is in the file; the last one gives its room back."""
        with self._changed:
            self._filed -= 1
            if not self._filed:
                file.clear()
                self._end = 0


def _pixel_bytes(batch: Batch) -> int:
    """Of its own: a mask for all frames is one for all batches."""
    own = batch.mask is not None and batch.mask.ndim == 3
    return batch.counts.nbytes + (batch.mask.nbytes if own and batch.mask is not None else 0)
