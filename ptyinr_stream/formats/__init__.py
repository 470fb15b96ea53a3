"""Recorded scans, one file a format: every module here defines `read_scan(path)` and `write_scan(path, scan)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import ScanGeometry, ScanRange


@dataclass(frozen=True)
class RecordedScan:
    """A whole scan: what the detector counted, where, and through which optics.

    Raises:
        ValueError: the arrays do not fit together or to the geometry.
    """

    counts: NDArray[Any]
    """(n, h, w) uint16 or uint32 photon counts in acquisition order, DC at [h // 2, w // 2]."""
    positions_m: NDArray[np.float64]
    """(n, 2) metres along (axis 0, axis 1), growing towards larger indices."""
    geometry: ScanGeometry
    angle_deg: float = 0.0
    """Rotation of the sample."""
    name: str = "scan"

    def __post_init__(self) -> None:
        if self.counts.ndim != 3 or self.counts.dtype not in (np.uint16, np.uint32) or not len(self.counts):
            raise ValueError(f"counts are {self.counts.dtype} {self.counts.shape}, not uint16 or uint32 (n, h, w)")
        if self.counts.shape[1:] != self.geometry.window:
            raise ValueError(f"counts {self.counts.shape} do not fit the geometry's window {self.geometry.window}")
        if self.positions_m.shape != (len(self.counts), 2) or not np.isfinite(self.positions_m).all():
            raise ValueError(f"positions {self.positions_m.shape} must be ({len(self.counts)}, 2) finite metres")

    @property
    def scan_range(self) -> ScanRange:
        """The extent of the positions."""
        lower, upper = self.positions_m.min(axis=0), self.positions_m.max(axis=0)
        return ScanRange((float(lower[0]), float(lower[1])), (float(upper[0]), float(upper[1])))
