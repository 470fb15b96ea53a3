"""The Eiger itself, SIMPLON 1: all parts of a frame in one message, handed round to whoever pulls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay.messages import image_parts, json_message, series_header_parts


class Encoder:
    """Frames as `dimage`, `dimage_d`, bytes and `dconfig`, bitshuffled LZ4."""

    socket: ClassVar[Literal["pub", "push"]] = "push"
    wire: ClassVar[str] = "eiger_v1"
    carriers: ClassVar[int] = 1

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None:
        del folder  # nothing is written
        self._scan = scan
        self._rate_hz = rate_hz

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Open a series."""
        return [series_header_parts(self._scan, series, self._rate_hz, frames)]

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Spell a frame."""
        return [image_parts(pixels, series, frame, self._rate_hz)]

    def end(self, series: int) -> list[list[bytes]]:
        """Close a series."""
        return [[json_message({"htype": "dseries_end-1.0", "series": series})]]
