"""What a scan is made of, off the wire: frozen values, matched with `match`. No sockets, no numbers of any one format.

The three roads (documents, frames, positions) share no clock and no order; each event says only what its own road
knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RunStarted:
    """A Bluesky run has begun: the start document as it came."""

    uid: str
    document: dict[str, Any]


@dataclass(frozen=True)
class BaselineRead:
    """Motor readings before (and after) a run: `dcm_th`, `zpsth`, ..."""

    uid: str
    values: dict[str, Any]


@dataclass(frozen=True)
class RunStopped:
    """The stop document: a hint that no more frames will come, never a proof."""

    uid: str
    exit_status: str = "success"


@dataclass(frozen=True)
class SeriesStarted:
    """A detector series was armed. `expected` is the number of frames it announces, None if it does not say."""

    series: int
    expected: int | None = None
    header: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedImage:
    """One detector image as it came: compressed bytes and how to read them."""

    data: bytes
    shape: tuple[int, int]
    """Rows and columns."""
    dtype: np.dtype[Any]
    encoding: str
    """SIMPLON's name: 'bs16-lz4<', 'lz4<', '<' ..."""


@dataclass(frozen=True)
class FrameArrived:
    """A detector frame; `(series, frame)` is its only identity."""

    series: int
    frame: int
    image: EncodedImage


@dataclass(frozen=True)
class FrameTimed:
    """When a frame was exposed, nanoseconds since its series began: by the detector's own clock."""

    series: int
    frame: int
    start_ns: int
    stop_ns: int


@dataclass(frozen=True, eq=False)
class PixelMaskSent:
    """The detector's own mask of a series."""

    series: int
    trusted: NDArray[np.bool_]
    """(rows, columns) of the image as sent; False for gaps, dead and hot pixels."""


@dataclass(frozen=True)
class FramesCalibrated:
    """What the first frames of a series told of all of them; it goes before them."""

    series: int
    told: dict[str, Any]
    """Flat, for the metadata of outputs: `frame_centre` (row and column in the oriented image) ..."""


@dataclass(frozen=True)
class SeriesEnded:
    """The detector's series is over."""

    series: int


@dataclass(frozen=True)
class CaptureStarted:
    """The position capture was armed: sample numbers begin again at 0."""


@dataclass(frozen=True)
class PositionsArrived:
    """Encoder samples, by absolute sample number; `channels` maps dataset names to (n,) float64 counts."""

    first_sample: int
    channels: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class CaptureEnded:
    """The position capture is over after `messages` messages."""

    messages: int | None = None


Event = (
    RunStarted
    | BaselineRead
    | RunStopped
    | SeriesStarted
    | FrameArrived
    | FrameTimed
    | PixelMaskSent
    | FramesCalibrated
    | SeriesEnded
    | CaptureStarted
    | PositionsArrived
    | CaptureEnded
)
