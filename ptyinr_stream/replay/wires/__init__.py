"""How frames are spelled on their way out, one file a form: every module here defines `Encoder`.

| name | as | frames go out | read with `wire` |
|---|---|---|---|
| `hxn` | the beamline today, which is `proxy` | PUB, every part a message of its own | `eiger_v1` |
| `proxy` | HXN's proxy before an Eiger | PUB, every part a message of its own | `eiger_v1` |
| `multipart` | the Eiger itself, SIMPLON 1 | PUSH, one message a frame | `eiger_v1` |
| `holoptycho` | NSLS2/holoptycho's replay | PUB, three parts without types, no series | `eiger_v1` |
| `cbor` | the Eiger itself, SIMPLON 2 | PUSH, one CBOR map a frame | `eiger_v2` |
| `files` | ophyd-async's documents | not: they lie in an HDF5 file that grows | `bluesky`, without a frames' stream |
| `native` | this project's own form, for detectors that have none | PUSH, one msgpack map a frame | `native` |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from ptyinr_stream.formats import RecordedScan


class FrameEncoder(Protocol):
    """What every `Encoder` of this package can do; a message is a list of parts."""

    socket: ClassVar[Literal["pub", "push"] | None]
    """The kind of socket that the original has; None where frames are not sent."""
    wire: ClassVar[str]
    """The decoder that reads it."""
    carriers: ClassVar[int]
    """How many of the messages of an image carry it; those that follow may be lost without harm."""

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None: ...

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Messages that open a series of so many frames."""
        ...

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Messages of a frame (h, w), uint16 or uint32."""
        ...

    def end(self, series: int) -> list[list[bytes]]:
        """Messages that close a series."""
        ...


@runtime_checkable
class FrameFile(FrameEncoder, Protocol):
    """An `Encoder` that writes a file for each series; it has no messages."""

    dataset: ClassVar[str]
    """Where in the file the frames are."""
    uri: str
    """Of the newest file."""

    def flush(self) -> None:
        """Let readers see what has been written."""
        ...
