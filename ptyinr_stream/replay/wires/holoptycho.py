"""NSLS2/holoptycho's replay: three parts a frame, the first without a type, no exposure times, no header, no end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay.messages import json_message
from ptyinr_stream.wire import codecs


class Encoder:
    """A series that nothing opens and nothing ends; the size of the bytes is not told."""

    socket: ClassVar[Literal["pub", "push"]] = "pub"
    wire: ClassVar[str] = "eiger_v1"
    carriers: ClassVar[int] = 1

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None:
        del scan, rate_hz, folder  # nothing of it is told

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Say nothing."""
        del series, frames
        return []

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Spell a frame."""
        encoding = f"bs{8 * pixels.itemsize}-lz4<"
        shape = [pixels.shape[1], pixels.shape[0]]
        spec = {"htype": "dimage_d-1.0", "encoding": encoding, "shape": shape, "type": pixels.dtype.name}
        return [[json_message({"frame": frame, "series": series}), json_message(spec), codecs.encode(pixels, encoding)]]

    def end(self, series: int) -> list[list[bytes]]:
        """Say nothing."""
        del series
        return []
