"""Encoder samples of one capture, placed by absolute sample number, and the positions of frames they give.

A hole is a hole, never a shift: frame f lies at the mean of samples [f * S, (f + 1) * S), whatever came before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import PositionsConfig

# 26 times HXN's longest scan, 64,000 frames of 10 samples: a garbled sample number must not allocate without bound.
_MOST_SAMPLES = 2**24
# Beyond the integers of a float64 there are no encoder counts.
_LARGEST_COUNT = 2.0**53

Channels = tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]
"""(n,) counts along axis 0 and axis 1; None where a message carries only the other."""


def select(positions: PositionsConfig, channels: Mapping[str, NDArray[np.float64]]) -> Channels | None:
    """Pick the two configured channels from a message; None if it carries neither."""
    axis0, axis1 = channels.get(positions.axis0.channel), channels.get(positions.axis1.channel)
    return None if axis0 is None and axis1 is None else (axis0, axis1)


class SampleTable:
    """Samples of both axes, dense, growing. Each sample costs once, whatever the order they come in."""

    def __init__(self, positions: PositionsConfig) -> None:
        self._um_per_count = np.array([positions.axis0.um_per_count, positions.axis1.um_per_count])
        self._per_frame = positions.samples_per_frame
        self._samples = np.full((2, 0), np.nan)
        self._missing = np.zeros(0, np.int64)  # by frame, of both axes together
        self.extent = 0
        """One more than the highest sample number."""
        self.completed = 0
        """How many frames have all their samples."""

    def contradicts(self, first: int, values: Channels) -> bool:
        """Tell whether a sample differs from what is held under its number."""
        for held, all_values in self._held(first, values):
            row = all_values[: len(held)]
            known = ~np.isnan(held) & _are_counts(row)
            if (held[known] != row[known]).any():
                return True
        return False

    def lacks(self, first: int, values: Channels) -> bool:
        """Tell whether any of the samples is new."""
        return any(len(held) < len(row) or bool(np.isnan(held).any()) for held, row in self._held(first, values))

    def place(self, first: int, values: Channels, end: int | None = None) -> tuple[NDArray[np.int64], int]:
        """Store samples that begin at number `first`; those held already and those that are no counts change nothing.

        Args:
            first: sample number of the first value.
            values: counts along both axes.
            end: sample numbers from here on are surplus and not stored.

        Returns:
            The frames, ascending, that have just got their last sample, and the number of surplus samples.
        """
        end = _MOST_SAMPLES if end is None else min(end, _MOST_SAMPLES)
        touched, surplus = [], 0
        for axis, row in enumerate(values):
            if row is None:
                continue
            kept = row[: max(0, end - first)]
            surplus = max(surplus, len(row) - len(kept))
            if not len(kept):
                continue
            self._reserve(first + len(kept))
            held = self._samples[axis, first : first + len(kept)]
            new = np.isnan(held) & _are_counts(kept)
            held[new] = kept[new]
            frames, samples = np.unique((first + np.flatnonzero(new)) // self._per_frame, return_counts=True)
            self._missing[frames] -= samples
            touched.append(frames)
        if not touched:
            return np.zeros(0, np.int64), surplus
        frames = touched[0] if len(touched) == 1 else np.union1d(*touched)
        complete = frames[self._missing[frames] == 0]
        self.completed += len(complete)
        return complete, surplus

    def is_complete(self, frame: int) -> bool:
        """Whether a frame has all its samples on both axes."""
        return frame < len(self._missing) and self._missing[frame] == 0

    def complete_frames(self) -> NDArray[np.int64]:
        """Numbers of the frames that have all their samples, ascending."""
        return np.flatnonzero(self._missing == 0)

    def known_frames(self) -> NDArray[np.int64]:
        """Numbers of the frames that have at least one sample on each axis, ascending."""
        by_frame = np.isfinite(self._samples).reshape(2, len(self._missing), self._per_frame)
        return np.flatnonzero(by_frame.any(axis=2).all(axis=0))

    def positions_m(self, frames: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Encoder positions (n, 2) of frames that are known, in metres along (axis 0, axis 1)."""
        numbers = np.asarray(frames, np.int64)[:, None] * self._per_frame + np.arange(self._per_frame)
        samples = self._samples[:, numbers]  # (2, n, S)
        present = ~np.isnan(samples)
        mean = np.where(present, samples, 0).sum(axis=2) / present.sum(axis=2)
        return mean.T * self._um_per_count * 1e-6

    def _held(self, first: int, values: Channels) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        return [
            (self._samples[axis, first : first + len(row)], row) for axis, row in enumerate(values) if row is not None
        ]

    def _reserve(self, samples: int) -> None:
        self.extent = max(self.extent, samples)
        frames, have = -(-samples // self._per_frame), len(self._missing)
        if frames <= have:
            return
        more = max(frames, 2 * have, 1024) - have
        self._missing = np.concatenate([self._missing, np.full(more, 2 * self._per_frame)])
        blank = np.full((2, more * self._per_frame), np.nan)
        self._samples = np.concatenate([self._samples, blank], axis=1)


def _are_counts(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(values) < _LARGEST_COUNT
