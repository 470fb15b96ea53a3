"""Frames that wait for their positions, in bounded memory. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Frame:
    """A diffraction pattern; `(series, frame)` is its only identity."""

    series: int
    frame: int
    counts: NDArray[Any]
    """(h, w) photon counts, DC in the centre."""
    mask: NDArray[np.bool_] | None = None
    """(h, w) True where trusted; None trusts all."""

    @property
    def nbytes(self) -> int:
        """Memory of its arrays."""
        return self.counts.nbytes + (0 if self.mask is None else self.mask.nbytes)


class Waiting:
    """Frames of one scan by number, in the order in which they came.

    What counts is the memory that they keep: one frame of a block (see `frame_blocks`) keeps the whole block.

    Args:
        most_bytes: beyond which those that have waited longest are let go.
    """

    def __init__(self, most_bytes: float) -> None:
        self._most_bytes = most_bytes
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._users: Counter[int] = Counter()  # of memory, by the id of the array that owns it
        self.nbytes = 0
        """Of memory that they keep."""

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, number: int) -> bool:
        return number in self._frames

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def add(self, frame: Frame) -> list[int]:
        """Let a frame wait that does not wait yet; give the numbers of those that had to go for it."""
        self._frames[frame.frame] = frame
        for owner in _owners(frame):
            if not self._users[id(owner)]:
                self.nbytes += owner.nbytes
            self._users[id(owner)] += 1
        gone: list[int] = []
        while self._frames and self.nbytes > self._most_bytes:
            gone.append(self.pop(next(iter(self._frames))).frame)
        return gone

    def pop(self, number: int) -> Frame:
        """Take a frame out.

        Raises:
            KeyError: it does not wait.
        """
        frame = self._frames.pop(number)
        for owner in _owners(frame):
            self._users[id(owner)] -= 1
            if not self._users[id(owner)]:
                del self._users[id(owner)]
                self.nbytes -= owner.nbytes
        return frame

    def clear(self) -> None:
        """Let all go."""
        self._frames.clear()
        self._users.clear()
        self.nbytes = 0


def _owners(frame: Frame) -> list[NDArray[Any]]:
    """The arrays whose memory a frame lies in: one where counts and mask lie in one block."""
    arrays = (frame.counts,) if frame.mask is None else (frame.counts, frame.mask)
    owners = [array.base if isinstance(array.base, np.ndarray) else array for array in arrays]
    return owners[:1] if owners[-1] is owners[0] else owners
