"""The growing dataset: amplitudes on the device, positions on the host; frames are appended and never lost."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .types import Batch

DARK = 0.1
"""Of the photons of the median frame: below it a frame is dark."""
BLOCK_PIXELS = 2**20
"""Of the frames that are appended at a time: they stay in the processor's caches, and a batch of 100 MB takes no
1,200 MB in passing. Frames of 256 x 256 pixels: 0.3 ms each; all 800 of a batch at once, 1.1 ms and more."""


class FrameStore(Protocol):
    """Where amplitudes lie: (h, w) float32, DC at the corner, -1 where nothing was measured."""

    def write(self, row: int, amplitudes: NDArray[np.float32]) -> None:
        """Put frames (n, h, w) at the places from `row` on, next to what is there, or over it.

        May raise an error of its own; the dataset then holds none of the batch, and the places are given again.
        """
        ...

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) frames by their places, on the device of the training."""
        ...


class MemoryStore:
    """On the device, doubled when it is full, so that appending costs a constant time a frame."""

    def __init__(self, window: tuple[int, int], device: torch.device) -> None:
        self._frames = torch.empty((0, *window), device=device)

    def write(self, row: int, amplitudes: NDArray[np.float32]) -> None:
        """Put frames (n, h, w) at the places from `row` on."""
        stop = row + len(amplitudes)
        if stop > len(self._frames):
            room = max(stop, 2 * len(self._frames), 256)
            grown = torch.empty((room, *self._frames.shape[1:]), device=self._frames.device)
            grown[:row] = self._frames[:row]  # what is not written yet takes no memory yet
            self._frames = grown
        self._frames[row:stop] = torch.from_numpy(amplitudes).to(self._frames.device)

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) frames by their places."""
        return self._frames[torch.from_numpy(rows).to(self._frames.device)]


class Dataset:
    """Frames in the order they came; what lies beside the frames doubles when it is full."""

    def __init__(
        self, window: tuple[int, int], holdout: int, device: torch.device, store: FrameStore | None = None
    ) -> None:
        """Every frame with `index % holdout == holdout // 2` is held out of training; `holdout=0` holds none out.

        `store` keeps the frames, by default in the memory of the device.
        """
        self.window = window
        self._device = device
        self._store: FrameStore = store or MemoryStore(window, device)
        self.whole = True
        """Whether all counts came as integers."""
        self._holdout = holdout
        self.by_pixel = False
        """Whether pixels of every frame are held out instead of frames."""
        self._corners = np.empty((0, 2))
        self._indices = np.empty(0, np.int64)
        self._held = np.empty(0, np.bool_)
        self._photons = np.empty(0)
        self._trusted = np.empty(0, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, batch: Batch, corners_px: NDArray[np.float64]) -> None:
        """Add frames; `corners_px` (n, 2) are their anchored window corners.

        Raises:
            ValueError: the frames have another shape than the dataset's window; or what the store raises. None of the
                batch is added then.
        """
        if batch.counts.shape[1:] != self.window:
            raise ValueError(f"frames are {batch.counts.shape[1:]} pixels, the dataset holds frames of {self.window}")
        start, stop = self._size, self._size + len(batch.indices)
        self._reserve(stop)
        most = max(1, BLOCK_PIXELS // math.prod(self.window))
        for first in range(start, stop, most):
            rows = slice(first, min(first + most, stop))
            part = slice(rows.start - start, rows.stop - start)
            mask = batch.mask if batch.mask is None or batch.mask.ndim == 2 else batch.mask[part]
            amplitudes, self._photons[rows], self._trusted[rows] = _measured(batch.counts[part], mask)
            self._store.write(first, amplitudes)
        self.whole &= bool(np.issubdtype(batch.counts.dtype, np.integer))
        self._corners[start:stop] = corners_px
        self._indices[start:stop] = batch.indices
        n = self._holdout
        self._held[start:stop] = (batch.indices % n == n // 2) if n else False
        self._size = stop

    @property
    def training(self) -> NDArray[np.int64]:
        """Rows to train on: not those without a trusted pixel."""
        seen = self._trusted[: self._size] > 0
        return np.flatnonzero(seen if self.by_pixel else seen & ~self._held[: self._size])

    @property
    def lit_training(self) -> NDArray[np.int64]:
        """Rows to train on whose frames have at least a tenth of the photons that the median lit frame has."""
        rows = self.training
        photons = self.photons(rows)
        lit = photons[photons > 0]
        return rows[photons >= DARK * np.median(lit)] if len(lit) else rows[:0]

    @property
    def heldout(self) -> NDArray[np.int64]:
        """Rows that measure the error, by all of their pixels or by those held out; one without any tells nothing."""
        seen = self._trusted[: self._size] > 0
        return np.flatnonzero(seen if self.by_pixel else seen & self._held[: self._size])

    def hold_out_pixels(self) -> None:
        """From now on hold out every n-th pixel of every frame instead of every n-th frame."""
        self.by_pixel = self._holdout > 0

    @property
    def corners_px(self) -> NDArray[np.float64]:
        """(n, 2) anchored window corners."""
        return self._corners[: self._size]

    @property
    def indices(self) -> NDArray[np.int64]:
        """(n,) frame numbers."""
        return self._indices[: self._size]

    def rows_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the frames of these numbers that are there, in their order."""
        order = np.argsort(self.indices, kind="stable")
        ranked = self.indices[order]
        where = np.searchsorted(ranked, indices)
        there = where < len(ranked)
        there[there] = ranked[where[there]] == indices[there]
        return order[where[there]]

    def photons(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) trusted photons of each frame."""
        return self._photons[rows]

    def trusted(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) trusted pixels of each frame."""
        return self._trusted[rows]

    def amplitudes(self, rows: NDArray[np.int64]) -> Tensor:
        """(n, h, w) float32 on the device."""
        return self._store.take(rows)

    def shown(self, rows: NDArray[np.int64]) -> Tensor:
        """The same with -1 where only a judge may look."""
        amplitudes = self.amplitudes(rows)
        return torch.where(self._kept_apart(rows), -1, amplitudes) if self.by_pixel else amplitudes

    def judged(self, rows: NDArray[np.int64]) -> Tensor:
        """The same with -1 where training has looked, if pixels are held out."""
        amplitudes = self.amplitudes(rows)
        return torch.where(self._kept_apart(rows), amplitudes, -1) if self.by_pixel else amplitudes

    def _kept_apart(self, rows: NDArray[np.int64]) -> Tensor:
        return pixels_held_out(self._indices[rows], self.window, self._holdout, self._device)

    def _reserve(self, size: int) -> None:
        capacity = len(self._indices)
        if size <= capacity:
            return
        room = max(size, 2 * capacity, 256) - capacity
        self._corners = np.concatenate([self._corners, np.empty((room, 2))])
        self._indices = np.concatenate([self._indices, np.empty(room, np.int64)])
        self._held = np.concatenate([self._held, np.empty(room, np.bool_)])
        self._photons = np.concatenate([self._photons, np.empty(room)])
        self._trusted = np.concatenate([self._trusted, np.empty(room, np.int64)])


def pixels_held_out(
    indices: NDArray[np.int64], window: tuple[int, int], holdout: int, device: torch.device | None = None
) -> Tensor:
    """(n, h, w) True at one pixel in `holdout` of frames of these numbers, DC at the corner.

    A lattice without neighbours that moves from frame to frame.
    """
    start, row, column = (
        torch.as_tensor(axis, device=device) for axis in (indices, np.arange(window[0]), np.arange(window[1]))
    )
    return (start[:, None, None] + (3 - holdout % 2) * row[:, None] + column) % holdout == holdout // 2


def _measured(
    counts: NDArray[Any], mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float32], NDArray[np.float64], int | NDArray[np.int64]]:
    """Amplitudes (n, h, w) as a store keeps them; photons and numbers of trusted pixels of each frame."""
    light = counts.astype(np.float32, order="C")
    masked = None if mask is None else ~np.broadcast_to(mask, counts.shape)
    if masked is not None:  # anything may stand there
        np.copyto(light, 0, where=masked)
    photons = light.sum((1, 2), dtype=np.float64)
    amplitudes = np.sqrt(light, out=light)
    if masked is None:
        return np.fft.ifftshift(amplitudes, axes=(1, 2)), photons, math.prod(counts.shape[1:])
    np.copyto(amplitudes, -1, where=masked)
    return np.fft.ifftshift(amplitudes, axes=(1, 2)), photons, (~masked).sum((1, 2))
