"""What the assembler gives: frozen values, matched with `match`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ptyinr.types import Batch, ScanRange
from ptyinr_stream.events import FramesMissing
from ptyinr_stream.motors import Layout
from ptyinr_stream.scan_report import ScanReport


@dataclass(frozen=True)
class ScanOpened:
    """A run has begun that can be reconstructed."""

    uid: str
    document: dict[str, Any]
    """Its start document."""
    layout: Layout
    """How it lies over the object array."""
    resumed: bool = False
    """Whether an earlier life of the daemon has begun it."""

    @property
    def expected(self) -> int:
        """Frames."""
        return self.layout.plan.expected

    @property
    def range(self) -> ScanRange:
        """Commanded, along the axes of the object array."""
        return self.layout.plan.range


@dataclass(frozen=True)
class BaselineAdded:
    """Motor readings of an open scan."""

    uid: str
    values: dict[str, Any]


@dataclass(frozen=True)
class SeriesBound:
    """A detector series has turned out to be the scan's; armed again, a scan has another one."""

    uid: str
    series: int
    header: dict[str, Any] = field(default_factory=dict)
    """What the detector said when it was armed."""


@dataclass(frozen=True)
class CalibrationAdded:
    """What an open scan's first frames told of all of them, before its first `Joined`."""

    uid: str
    values: dict[str, Any]


@dataclass(frozen=True)
class CaptureBound:
    """The position capture has turned out to be the scan's."""

    uid: str


@dataclass(frozen=True)
class Joined:
    """Frames of a scan that have found their positions."""

    uid: str
    batch: Batch
    at: float = 0.0
    """When they were joined, in seconds of the clock that the assembler is given."""


@dataclass(frozen=True)
class ScanClosed:
    """A scan is over: exactly one for each `ScanOpened`, after its last `Joined`."""

    uid: str
    report: ScanReport


Output = (
    ScanOpened | BaselineAdded | CalibrationAdded | SeriesBound | CaptureBound | Joined | FramesMissing | ScanClosed
)
