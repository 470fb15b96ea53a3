"""Encoder samples of one capture, placed by absolute sample number, and the positions of frames they give.

A hole is a hole, never a shift: frame f lies at the mean of samples [f * S, (f + 1) * S), whatever came before.

Samples are held as they came, by the name of their channel: which channels are the axes, how many samples make a frame
and what a count is worth may be learnt later, from the run that the capture turns out to belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.motors import Layout

MOST_SAMPLES = 2**22
"""6 times HXN's longest scan, 64,000 frames of 10: a garbled sample number must not allocate without bound."""
_FIRST_SAMPLES = 2**16
# Beyond the integers of a float64 there are no encoder counts.
_LARGEST_COUNT = 2.0**53
_MOST_CHANNELS = 16

Channels = Mapping[str, NDArray[np.float64]]


class SampleTable:
    """Raw samples of every channel, dense, growing. The first of its number counts."""

    def __init__(self) -> None:
        self._rows: dict[str, NDArray[np.float64]] = {}
        self._capacity = _FIRST_SAMPLES
        self.extent = 0
        """One more than the highest sample number held."""

    def contradicts(self, first: int, channels: Channels) -> bool:
        """Tell whether a sample differs from what is held under its number."""
        for name, values in channels.items():
            held = self.row(name, first, first + len(values))
            values = values[: len(held)]  # noqa: PLW2901
            known = np.isfinite(held) & _are_counts(values)
            if (held[known] != values[known]).any():
                return True
        return False

    def lacks(self, first: int, channels: Channels) -> bool:
        """Tell whether any of the samples is new."""
        if any(len(values) for values in channels.values()) and first >= self.extent:
            return True
        for name, values in channels.items():
            held = self.row(name, first, first + len(values))
            if len(held) < len(values) or np.isnan(held).any():
                return True
        return False

    def place(self, first: int, channels: Channels, end: int | None = None) -> int:
        """Store samples that begin at number `first`; those held already and those that are no counts change nothing.

        Args:
            first: sample number of the first value.
            channels: (n,) values by channel.
            end: sample numbers from here on are surplus and not stored.

        Returns:
            The number of surplus samples.
        """
        end = MOST_SAMPLES if end is None else min(end, MOST_SAMPLES)
        surplus = 0
        for name, values in channels.items():
            kept = values[: max(0, end - first)]
            surplus = max(surplus, len(values) - len(kept))
            if not len(kept) or (name not in self._rows and len(self._rows) >= _MOST_CHANNELS):
                continue
            self._reserve(name, first + len(kept))
            held = self._rows[name][first : first + len(kept)]
            new = np.isnan(held) & _are_counts(kept)
            held[new] = kept[new]
        return surplus

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def row(self, name: str, first: int = 0, end: int | None = None) -> NDArray[np.float64]:
        """Samples [first, end) of a channel as far as the table reaches, NaN where there is none. A view."""
        end = self.extent if end is None else min(end, self.extent)
        found = self._rows.get(name)
        return np.full(max(0, end - first), np.nan) if found is None else found[first:end]

    def _reserve(self, name: str, samples: int) -> None:
        if samples > self._capacity:
            # Pages are taken when they are touched, and nothing moves again. A table that doubled and was copied kept
            # 800 frames waiting for 0.04 to 0.14 s in the middle of a scan of 64,000 (2026-11-26).
            self._capacity = MOST_SAMPLES
            for other, row in self._rows.items():
                self._rows[other] = np.empty(self._capacity)
                self._rows[other][: self.extent] = row[: self.extent]
        if name not in self._rows:
            self._rows[name] = np.empty(self._capacity)
            self._rows[name][: self.extent] = np.nan
        for row in self._rows.values():
            row[self.extent : samples] = np.nan
        self.extent = max(self.extent, samples)


class FramePositions:
    """Positions of a scan's frames from the samples of its capture.

    This is the one place where the layout of a scan's encoders meets their counts. Along an axis that no encoder reads
    frames lie where they were commanded.

    Args:
        table: of the capture; it may grow.
        layout: channels and scale of both axes.
        per_frame: samples of a frame.
        expected: frames.
    """

    def __init__(self, table: SampleTable, layout: Layout, per_frame: int, expected: int) -> None:
        self._table = table
        self._axes = np.flatnonzero(layout.measured)
        self._channels = [axis.channel for axis in layout.axes if axis.channel is not None]
        self._m_per_count = 1e-6 * np.array([layout.axes[axis].um_per_count for axis in self._axes])
        self._expected = expected
        self._at = np.full((expected, 2), np.nan)  # metres, of complete frames
        if not all(layout.measured):
            self._at[:] = layout.plan.commanded_m(np.arange(expected))
        self.per_frame = per_frame
        self.complete = np.zeros(expected, np.bool_)
        """(expected,) whether a frame has all its samples on the axes that are read."""

    def update(self, first: int, end: int) -> NDArray[np.int64]:
        """Take notice of samples [first, end); return the frames, ascending, that have all their samples by them."""
        low = first // self.per_frame
        # A frame at the end of the table that lacks samples is not complete.
        high = min(-(-end // self.per_frame), self._table.extent // self.per_frame, self._expected)
        if low >= high:
            return np.zeros(0, np.int64)
        if not self._channels:
            return np.zeros(0, np.int64)
        means = np.stack([self._blocks(name, low, high).mean(axis=1) for name in self._channels], axis=1)
        new = np.isfinite(means).all(axis=1) & ~self.complete[low:high]
        frames = low + np.flatnonzero(new)
        self.complete[frames] = True
        self._at[frames[:, None], self._axes] = means[new] * self._m_per_count
        return frames

    def known_frames(self) -> NDArray[np.int64]:
        """Numbers of the frames that have at least one sample on each axis that is read, ascending."""
        if not self._channels:
            return np.arange(self._expected)
        end = min(-(-self._table.extent // self.per_frame), self._expected)
        known = [np.isfinite(self._blocks(name, 0, end)).any(axis=1) for name in self._channels]
        return np.flatnonzero(np.all(known, axis=0))

    def positions_m(self, frames: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """Positions (n, 2) of complete frames, in metres along (axis 0, axis 1), as the encoders read."""
        return self._at[frames]

    def settle(self, frames: NDArray[np.int64]) -> None:
        """Give frames that are known but not complete the mean of what samples they have."""
        for frame in frames.tolist():
            means = [np.nanmean(self._blocks(name, frame, frame + 1)) for name in self._channels]
            self._at[frame, self._axes] = np.array(means) * self._m_per_count

    def _blocks(self, channel: str, low: int, high: int) -> NDArray[np.float64]:
        """(high - low, S) samples of frames [low, high); frames may reach beyond the table."""
        row = self._table.row(channel, low * self.per_frame, high * self.per_frame)
        short = (high - low) * self.per_frame - len(row)
        return (np.pad(row, (0, short), constant_values=np.nan) if short else row).reshape(-1, self.per_frame)


def _are_counts(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(values) < _LARGEST_COUNT
