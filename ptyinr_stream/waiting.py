"""Frames that wait for their positions, in bounded memory. Pure."""

from __future__ import annotations

from collections import OrderedDict
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
        self.most_bytes = most_bytes
        self._frames: OrderedDict[int, Frame] = OrderedDict()
        self._users: dict[int, int] = {}  # of memory, by the id of the array that owns it
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
            users = self._users.get(id(owner), 0)
            self._users[id(owner)] = users + 1
            if not users:
                self.nbytes += owner.nbytes
        gone: list[int] = []
        while self.nbytes > self.most_bytes and self._frames:
            gone.append(self.pop(next(iter(self._frames))).frame)
        return gone

    def pop(self, number: int) -> Frame:
        """Take a frame out.

        Raises:
            KeyError: it does not wait.
        """
        frame = self._frames.pop(number)
        for owner in _owners(frame):
            users = self._users.pop(id(owner)) - 1
            if users:
                self._users[id(owner)] = users
            else:
                self.nbytes -= owner.nbytes
        return frame

    def clear(self) -> None:
        """Let all go."""
        self._frames.clear()
        self._users.clear()
        self.nbytes = 0


def _owners(frame: Frame) -> tuple[NDArray[Any], ...]:
    """The arrays whose memory a frame lies in: one where counts and mask lie in one block."""
    base = frame.counts.base
    owner = base if isinstance(base, np.ndarray) else frame.counts
    if frame.mask is None or frame.mask.base is owner:
        return (owner,)
    return owner, frame.mask.base if isinstance(frame.mask.base, np.ndarray) else frame.mask
