"""Recorded scans, one file a format: every module here defines `read_scan(path)`, those of files `write_scan` too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ptyinr.types import ScanGeometry, ScanRange
from ptyinr_stream.plugins import load_plugin


@dataclass(frozen=True)
class Truth:
    """What a simulated scan was made of.

    Raises:
        ValueError: the arrays have other dimensions, or hold numbers that are not finite.
    """

    object: NDArray[np.complex64]
    """(H, W) transmission."""
    probe: NDArray[np.complex64]
    """(modes, h, w) root photons, its middle at [h // 2, w // 2]."""
    positions_px: NDArray[np.float64]
    """(n, 2) row and column of each frame's window corner in `object`, fractional."""

    def __post_init__(self) -> None:
        for name, dimensions in (("object", 2), ("probe", 3), ("positions_px", 2)):
            array = getattr(self, name)
            if array.ndim != dimensions or not np.isfinite(array).all():
                raise ValueError(f"truth: {name} {array.shape} must have {dimensions} dimensions and be finite")


@dataclass(frozen=True)
class RecordedScan:
    """A whole scan: what the detector counted, where, and through which optics.

    Raises:
        ValueError: the arrays do not fit together or to the geometry, or a trusted count is negative or not finite.
    """

    counts: NDArray[Any]
    """(n, h, w) in acquisition order, DC at [h // 2, w // 2]: uint16 or uint32 photons, or float32 where they are not
    whole, as a simulation without photon noise has them and a beamline that divides by the incident flux."""
    positions_m: NDArray[np.float64]
    """(n, 2) metres along (axis 0, axis 1), growing towards larger indices."""
    geometry: ScanGeometry
    angle_deg: float = 0.0
    """Rotation of the sample."""
    name: str = "scan"
    mask: NDArray[np.bool_] | None = None
    """(h, w) True where a pixel may be trusted in every frame; None trusts them all."""
    truth: Truth | None = None
    """Of a simulation."""

    def __post_init__(self) -> None:
        n, dtype = len(self.counts), self.counts.dtype
        if self.counts.ndim != 3 or dtype not in (np.uint16, np.uint32, np.float32) or not n:
            raise ValueError(f"counts are {dtype} {self.counts.shape}, not uint16, uint32 or float32 (n, h, w)")
        if self.counts.shape[1:] != self.geometry.window:
            raise ValueError(f"counts {self.counts.shape} do not fit the geometry's window {self.geometry.window}")
        if self.positions_m.shape != (n, 2) or not np.isfinite(self.positions_m).all():
            raise ValueError(f"positions {self.positions_m.shape} must be ({n}, 2) finite metres")
        if self.mask is not None and (self.mask.shape != self.geometry.window or self.mask.dtype != np.bool_):
            raise ValueError(f"mask {self.mask.dtype} {self.mask.shape} must be bool {self.geometry.window}")
        if not self.whole:
            trusted = self.counts if self.mask is None else self.counts[:, self.mask]
            if not (np.isfinite(trusted).all() and (trusted >= 0).all()):
                raise ValueError("counts are negative or not finite where they are trusted")
        if self.truth is not None:
            shapes = self.truth.probe.shape[1:], self.truth.positions_px.shape
            if shapes != (self.geometry.window, (n, 2)):
                raise ValueError(
                    f"truth: probe and positions_px {shapes} do not fit {n} frames of {self.geometry.window}"
                )

    @property
    def whole(self) -> bool:
        """Whether counts are integers."""
        return self.counts.dtype.kind == "u"

    def rounded(self) -> Self:
        """The same scan with whole counts, as a detector sends them; masked pixels are 0 where they were not counts."""
        if self.whole:
            return self
        counts = np.nan_to_num(self.counts, nan=0, posinf=0, neginf=0).clip(min=0)
        wide = counts.max() >= 2**16 - 1.5  # the largest value marks pixels that carry no measurement
        return replace(self, counts=np.rint(counts).astype(np.uint32 if wide else np.uint16))

    @property
    def scan_range(self) -> ScanRange:
        """The extent of the positions."""
        return ScanRange.of(self.positions_m)


def read_scan(path: Path) -> RecordedScan:
    """Read a recorded scan, whatever it is: a folder is a recording, a file one of the scan files.

    Raises:
        ScanFileError: it is missing, torn or inconsistent.
    """
    name = "recording" if Path(path).is_dir() else "ptyinr_h5"
    return load_plugin("ptyinr_stream.formats", name).read_scan(path)
