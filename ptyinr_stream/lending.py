"""Values from one process of this program to another; arrays that lie in shared blocks are lent, not copied.

What is lent comes with the file descriptor of its memory. Who has it gives it back by its number when nobody holds a
view of it any more; until then the lender keeps it from being used again. Such memory has no name and ends with the
last process that maps it, however that ends.

The other end is this program itself, over a pair of sockets that nobody else can reach: so values are pickled.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import mmap
import os
import pickle
import socket
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.frame_blocks import block_of, own_memory

MOST_BLOCKS = 192
"""Shared at a time, two open files each: what lies in others is copied. Processes may open 1,024 as a rule."""
_HEAD = struct.Struct("=QqI")  # bytes that follow, the number of the loan, files
_NO_LOAN = -1
_MOST_FILES = 253  # that Linux hands over at once


class SharedBlocks:
    """Memory for `FrameBlocks` that another process can see. Where the system has none, it is this process's own."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[int, int]] = {}  # number and file of the blocks there are, by address
        self._numbers = itertools.count()
        self._making = threading.Lock()

    def __call__(self, size: int) -> NDArray[np.uint8]:
        """Give so many bytes; any thread may ask."""
        with self._making:
            return self._made(size)

    def _made(self, size: int) -> NDArray[np.uint8]:
        if not size or len(self._files) >= MOST_BLOCKS or not hasattr(os, "memfd_create"):
            return own_memory(size)
        try:
            file = os.memfd_create("frames", os.MFD_CLOEXEC)
        except OSError:  # too many files are open
            return own_memory(size)
        try:
            os.ftruncate(file, size)
            shared = mmap.mmap(file, size)
        except OSError:
            os.close(file)
            return own_memory(size)
        memory = np.frombuffer(shared, np.uint8)
        address = memory.__array_interface__["data"][0]
        self._files[address] = next(self._numbers), file
        # Of the array, which goes before its memory does: afterwards another block may lie at the same address.
        weakref.finalize(memory, self._forget, address).atexit = False
        return memory

    def find(self, array: NDArray[Any]) -> tuple[int, int, int] | None:
        """Number and file of the block that an array lies in, and at which byte; None if it lies in none."""
        if (found := block_of(array)) is None:
            return None
        memory, offset = found
        number, file = self._files.get(memory.__array_interface__["data"][0], (None, -1))
        return None if number is None else (number, file, offset)

    def _forget(self, address: int) -> None:
        os.close(self._files.pop(address)[1])


@dataclass(eq=False)
class _Loan:
    """What goes along with one value; at the other end, what its arrays hold."""

    files: dict[int, int] = field(default_factory=dict)
    """By the number of their block, in the order in which they are sent."""
    arrays: list[NDArray[Any]] = field(default_factory=list)


class _Packer(pickle.Pickler):
    """Names the place of an array that is lent, and says once what a repeated one repeats."""

    def __init__(self, file: io.BytesIO, blocks: SharedBlocks | None, loan: _Loan) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._blocks, self._loan = blocks, loan

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, np.ndarray):
            return None
        if obj.ndim and len(obj) > 1 and not obj.strides[0]:
            return "repeated", obj[0], obj.shape
        found = self._blocks and self._blocks.find(obj)
        if not found:
            return None
        number, file, offset = found
        self._loan.files[number] = file
        self._loan.arrays.append(obj)
        return "lent", number, offset, obj.shape, obj.dtype, obj.strides


class _Borrowed:
    """A block on loan: numpy holds it while there is any view of it."""

    def __init__(self, shared: mmap.mmap, loan: _Loan) -> None:
        self._held = shared, loan
        self.__array_interface__ = np.frombuffer(shared, np.uint8).__array_interface__


class _Unpacker(pickle.Unpickler):
    """The other side of `_Packer`."""

    def __init__(self, data: io.BytesIO, borrow: Callable[[int], NDArray[np.uint8]]) -> None:
        super().__init__(data)
        self._borrow = borrow

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        if pid[0] == "repeated":
            return np.broadcast_to(pid[1], pid[2])
        _, number, offset, shape, dtype, strides = pid
        return np.ndarray(shape, dtype, self._borrow(number), offset, strides)


class Link:
    """One end of the pair; any thread may send, one receives.

    Args:
        ends: a connected stream socket, which the link closes.
        blocks: what may be lent; None copies everything.
    """

    def __init__(self, ends: socket.socket, blocks: SharedBlocks | None = None) -> None:
        self._socket, self._blocks = ends, blocks
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._lent: dict[int, list[NDArray[Any]]] = {}
        self._over: deque[int] = deque()  # loans to give back: a finalizer may run anywhere, and must not send
        self._seen: weakref.WeakValueDictionary[int, mmap.mmap] = weakref.WeakValueDictionary()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    @property
    def lent(self) -> int:
        """Loans that have not come back."""
        return len(self._lent)

    def send(self, value: Any) -> None:
        """Send a value; waits while the other end does not read.

        Raises:
            OSError: the other end is gone.
        """
        loan, packed = _Loan(), io.BytesIO()
        _Packer(packed, self._blocks, loan).dump(value)
        number = next(self._numbers) if loan.files else _NO_LOAN
        if loan.files:
            self._lent[number] = loan.arrays
        head = _HEAD.pack(packed.tell(), number, len(loan.files))
        try:
            with self._sending:
                socket.send_fds(self._socket, [head], list(loan.files.values()))
                self._socket.sendall(packed.getbuffer())
        except OSError:
            self._lent.pop(number, None)
            raise

    def receive(self) -> Any:
        """Wait for a value.

        Raises:
            EOFError: the other end is gone.
            OSError: this process has too many files open, or no memory.
        """
        try:
            head, files, _, _ = socket.recv_fds(self._socket, _HEAD.size, _MOST_FILES)
            head += self._exactly(_HEAD.size - len(head)) if head else b""
            if len(head) < _HEAD.size:
                raise EOFError
            size, number, announced = _HEAD.unpack(head)
            data = self._exactly(size)
        except OSError as error:
            raise EOFError from error
        if len(data) < size:
            raise EOFError
        if len(files) < announced:
            for file in files:
                os.close(file)
            raise OSError(errno.EMFILE, "frames cannot be mapped: too many files are open")
        return self._unpacked(data, number, files)

    def give_back(self) -> None:
        """Tell the lender what nobody holds any more; to be called by and by.

        Raises:
            OSError: the other end is gone.
        """
        over = [self._over.popleft() for _ in range(len(self._over))]
        if over:
            self.send(_GivenBack(over))

    @property
    def hung_up(self) -> bool:
        """Whether the other end is gone; what it has said before that is still there."""
        with contextlib.suppress(BlockingIOError):
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return False

    def hang_up(self) -> None:
        """Let both ends know that nothing more will come; who waits in `receive` is released."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end."""
        self.hang_up()
        self._socket.close()

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            if not (got := self._socket.recv_into(rest)):
                return data[: size - len(rest)]
            rest = rest[got:]
        return data

    def _unpacked(self, data: bytearray, number: int, files: list[int]) -> Any:
        loan, waiting, borrowed = _Loan(), deque(files), {}
        if files:
            weakref.finalize(loan, self._over.append, number).atexit = False

        def borrow(block: int) -> NDArray[np.uint8]:
            if block not in borrowed:
                file = waiting.popleft()
                if (shared := self._seen.get(block)) is None:
                    shared = self._seen[block] = mmap.mmap(file, 0)
                os.close(file)
                borrowed[block] = np.asarray(_Borrowed(shared, loan))
            return borrowed[block]

        value = _Unpacker(io.BytesIO(data), borrow).load()
        if isinstance(value, _GivenBack):
            for over in value.numbers:
                self._lent.pop(over, None)
            return None
        return value


@dataclass(frozen=True)
class _GivenBack:
    """Loans that are over."""

    numbers: list[int]
