"""What became of everything that arrived for a scan."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.alignment import Alignment
from ptyinr_stream.supersampling import Supersampling

Reason = Literal["complete", "settled", "superseded", "idle", "stopped"]

Ranges = tuple[tuple[int, int], ...]
"""First and last of each run of consecutive numbers, ascending."""


@dataclass(frozen=True)
class ScanReport:
    """What became of everything that arrived for a scan.

    `frames` is the sum of `paired`, `duplicates`, `surplus`, `misfits`, `without_position` and `gated`.
    """

    expected: int
    frames: int
    """Received, of whatever fate."""
    paired: int
    duplicates: int
    """Dropped: the first of its number counts."""
    surplus: int
    """Dropped: numbered beyond `expected`, as noise on the trigger line makes them."""
    misfits: int
    """Dropped: of another shape or data type than the scan's first frame."""
    without_position: int
    """Dropped: their position is not known, or came when they were gone."""
    without_frame: int
    """Positions whose frame never came."""
    partial_positions: int
    """Of `paired`, those whose position is the mean of fewer samples than there should be."""
    surplus_samples: int
    """Encoder samples beyond the last frame's: many of them mean a wrong `samples_per_frame`."""
    foreign: int
    """Frames that were dropped while the scan was open because they belonged to no open run."""
    exit_status: str | None
    """Of the stop document; None if there was none."""
    reason: Reason
    gated: int = 0
    """Dropped: taken while the stages had not settled, see `gate`."""
    gated_frames: Ranges = ()
    missing_frames: Ranges = ()
    """Of the expected ones, those that never came."""
    unplaced_frames: Ranges = ()
    """Those `without_position`."""
    dropped_for_memory: int = 0
    """Of `without_position`, those that waited until `assembly.waiting_mb` were full."""
    partial_start: bool = False
    """Reception began in the middle of the scan: the header of its series and its first frames were never seen."""
    gate: Literal["off", "on", "given up"] = "off"
    """Given up: too many frames lay where the scan did not command them, so that the command was not believed."""
    alignment: Alignment = field(default_factory=Alignment)
    supersampling: Supersampling = field(default_factory=Supersampling)
    span_ratios: tuple[float | None, float | None] = (None, None)
    """How far frames lie apart, by how far they were commanded to, along axis 0 and axis 1: `motors.span_ratios`."""

    @property
    def lost(self) -> int:
        """Frames that never came."""
        return self.expected - self.paired - self.without_position - self.gated


def ranges(chosen: NDArray[np.bool_]) -> Ranges:
    """Where a row of truths is true.

    >>> ranges(np.array([True, True, False, True]))
    ((0, 1), (3, 3))
    """
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    return tuple((int(first), int(end) - 1) for first, end in edges.reshape(-1, 2))
