"""Memory for decoded frames: blocks that are filled in turn, handed on without a copy, and used again.

What joins at once, say the 800 frames of one PandA message, mostly lies side by side in a few blocks already. Measured
2026-11-25, 256 x 256 uint16, one core: to give every frame memory of its own and to stack what joins cost 0.40 ms a
frame, two thirds of it page faults, and 490 ms after such a message; in blocks it costs 0.01 ms, and 7 ms. The first
frames of a scan still waited for the system, 0.19 ms each, so that at 2,000/s pairs came 0.15 to 0.29 s late: now a
thread, the only one of what joins, touches the next block while one is filled, and they come 0.05 to 0.1 s late
(2026-11-26).
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

FRAMES = 64
"""In a block; fewer where that would be more than `_BLOCK_BYTES`, but no fewer than `_FEW`."""
_BLOCK_BYTES = 2**24
_FREE_BLOCKS = 16
"""That are kept for later; 8 MB each for 256 x 256 pixels of two bytes. More go back to the system."""
_FEW = 8
"""Frames; fewer side by side are not worth an array of their own."""


class _Lease:
    """Memory on loan: numpy holds it while there is any view of the array made from it."""

    def __init__(self, memory: NDArray[np.uint8]) -> None:
        self.memory = memory
        self.__array_interface__ = memory.__array_interface__


Memory = Callable[[int], NDArray[np.uint8]]
"""Gives so many bytes, with anything in them; they are given back when nobody holds them any more."""


def own_memory(size: int) -> NDArray[np.uint8]:
    """Memory of this process alone."""
    return np.empty(size, np.uint8)


def number_in(memory: Memory) -> NDArray[np.float64]:
    """(1,) of 0 in memory that can be lent: whoever borrows it sees what its owner writes."""
    block = np.asarray(_Lease(memory(8)))
    block[:] = 0
    return block.view(np.float64)


class FrameBlocks:
    """Gives places for frames, one after the other; a block returns when nobody holds a view of it any more.

    Args:
        memory: of the blocks.
    """

    def __init__(self, memory: Memory = own_memory) -> None:
        self._memory = memory
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=_FREE_BLOCKS)
        self._ahead = ThreadPoolExecutor(1, "memory ahead")
        self._coming: Future[NDArray[np.uint8]] | None = None
        self._size = 0
        self._made = 0  # blocks of that size
        self._form: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._places: Iterator[tuple[NDArray[Any], NDArray[np.bool_]]] = iter(())

    def place(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Give an array of this shape and type for counts, and one for their mask, with anything in them."""
        if self._form != (shape, dtype):
            self._form, self._places = (shape, dtype), iter(())
        if (found := next(self._places, None)) is None:
            self._places = iter(())  # the last view of the block, which may be used again
            self._places = zip(*self._lease(shape, dtype), strict=True)
            found = next(self._places)
        return found

    def _lease(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        pixels = math.prod(shape)
        frames = max(_FEW, min(FRAMES, _BLOCK_BYTES // max(1, pixels * (dtype.itemsize + 1))))
        masks_at = frames * pixels * dtype.itemsize
        size = masks_at + frames * pixels
        if size != self._size:  # hardly ever
            if self._coming is not None:
                self._coming.cancel()
            self._size, self._free, self._coming, self._made = size, deque(maxlen=_FREE_BLOCKS), None, 0
        memory = self._free.pop() if self._free else self._new(masks_at)
        lease = _Lease(memory)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        block = np.asarray(lease)
        laid = (frames, *shape)
        return block[:masks_at].view(dtype).reshape(laid), block[masks_at:].view(np.bool_).reshape(laid)

    def _new(self, touched: int) -> NDArray[np.uint8]:
        """Memory for a block; where one has not been enough, the next one is made ready meanwhile."""
        self._made += 1
        coming, self._coming = self._coming, None
        if self._made > 1:
            self._coming = self._ahead.submit(self._touch, self._size, touched)
        return self._memory(self._size) if coming is None else coming.result()

    def _touch(self, size: int, touched: int) -> NDArray[np.uint8]:
        memory = self._memory(size)
        memory[: touched : mmap.PAGESIZE] = 0  # it waits for the system without the interpreter's lock
        return memory


def side_by_side(frames: Sequence[NDArray[Any]], most: int = FRAMES) -> list[tuple[slice, NDArray[Any]]]:
    """Portions of `frames`, in order and of at most `most`, and what is `stacked` of each.

    Each lies in one block, and is a view of it, if it has more than a few frames.
    """
    portions, start = [], 0
    for end in [*_breaks(frames), len(frames)] if frames else []:
        while start < end:
            limit = min(start + most, len(frames))
            stop = min(limit, end) if end - start >= _FEW else limit
            part = frames[start:stop]
            portions.append((slice(start, stop), _block_view(part[0], len(part)) if stop <= end else stacked(part)))
            start = stop
    return portions


def stacked(frames: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(n, h, w) of n arrays (h, w): a view where they lie side by side or are one and the same, else a copy."""
    first = frames[0]
    if len(frames) > 1 and all(frame is first for frame in frames):
        return np.broadcast_to(first, (len(frames), *first.shape))
    return np.stack(frames) if _breaks(frames) else _block_view(first, len(frames))


def block_of(array: NDArray[Any]) -> tuple[NDArray[np.uint8], int] | None:
    """The memory of the block in which an array lies, and the byte of its first element; None if it lies in none."""
    block = array.base
    if not isinstance(block, np.ndarray) or not isinstance(block.base, _Lease):
        return None
    return block.base.memory, _address(array) - _address(block)


def _block_view(first: NDArray[Any], number: int) -> NDArray[Any]:
    """So many frames that lie side by side, by the first of them."""
    if number == 1:
        return first[None]
    block = cast(NDArray[np.uint8], first.base)
    strides = (first.nbytes, *first.strides)
    return np.ndarray((number, *first.shape), first.dtype, block, _address(first) - _address(block), strides)


def _breaks(frames: Sequence[NDArray[Any]]) -> list[int]:
    """Where a frame does not lie behind the one before it in the same block."""
    addresses = [_address(frame) for frame in frames]
    return [
        number
        for number, (one, other) in enumerate(pairwise(frames), 1)
        if addresses[number] != addresses[number - 1] + one.nbytes or not _same_block(one, other)
    ]


def _same_block(one: NDArray[Any], other: NDArray[Any]) -> bool:
    block = one.base
    leased = isinstance(block, np.ndarray) and isinstance(block.base, _Lease)
    alike = (other.shape, other.strides, other.dtype) == (one.shape, one.strides, one.dtype)
    return leased and other.base is block and alike


def _address(array: NDArray[Any]) -> int:
    return array.__array_interface__["data"][0]
