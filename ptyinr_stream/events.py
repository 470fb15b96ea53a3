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
    run: str | None = field(default=None, kw_only=True, repr=False)
    """The uid of its run, where that is known: a detector does not know it, a file that documents name does."""


@dataclass(frozen=True)
class EncodedImage:
    """One detector image as it came: compressed bytes and how to read them."""

    data: bytes
    shape: tuple[int, int]
    """Rows and columns."""
    dtype: np.dtype[Any]
    encoding: str
    """SIMPLON's name: 'bs16-lz4<', 'lz4<', '<' ...; the table is in `wire.codecs`."""


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

    armed_at: str = ""
    """When, in the sender's words; they tell one capture from another."""
    run: str | None = field(default=None, kw_only=True, repr=False)
    """The uid of its run, where that is known."""


@dataclass(frozen=True)
class PositionsArrived:
    """Encoder samples, by absolute sample number; `channels` maps dataset names to (n,) float64 counts."""

    first_sample: int
    channels: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class CaptureEnded:
    """The position capture is over after `messages` messages."""

    messages: int | None = None


@dataclass(frozen=True)
class DataResource:
    """A file in which data lies that a run recorded."""

    uid: str
    key: str
    """Data key of the descriptor."""
    uri: str
    """`file://localhost/data/2026/03/01/scan.h5`, as the machine that wrote it knows it."""
    mimetype: str
    parameters: dict[str, Any]
    """How to read it: `dataset` ..."""


@dataclass(frozen=True)
class DataRange:
    """Some of the data in a resource has been written; a datum may be one value or image, or several."""

    resource: str
    """Its uid."""
    run: str
    stream: str
    """Name of the Bluesky stream: `primary` ..."""
    first: int
    """Number of the first datum among those of the stream, from 0."""
    start: int
    """The datums `start` to `stop` of the resource."""
    stop: int
    shape: tuple[int, ...] = ()
    """Of one datum; () for a single value, and where it is not said."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The data of one event, so far as they are in the document itself."""

    run: str
    stream: str
    number: int
    """Of the event in its stream, from 0."""
    data: dict[str, Any]


@dataclass(frozen=True, eq=False)
class FramesMissing:
    """Frames of a run that its detector's stream lost though their positions are known: once, when it has stopped.

    They may be in the file that the documents name; what is found comes back as `FrameFound`.
    """

    uid: str
    """Of the run."""
    indices: NDArray[np.int64]
    """(n,) ascending."""


@dataclass(frozen=True)
class FrameFound:
    """A frame that its detector's stream had lost, from the file that the documents name."""

    uid: str
    """Of the run."""
    frame: int
    image: EncodedImage


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
    | FrameFound
    | DataResource
    | DataRange
    | Reading
)
