"""This project's own form: one msgpack map a message, as `ptyinr_stream.wire.native` describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import msgpack
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay.messages import exposure_ns
from ptyinr_stream.wire import codecs


class Encoder:
    """Maps of the types `start`, `frame` and `end`, bitshuffled LZ4."""

    socket: ClassVar[Literal["pub", "push"]] = "push"
    wire: ClassVar[str] = "native"
    carriers: ClassVar[int] = 1

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None:
        del folder  # nothing is written
        self._scan = scan
        self._rate_hz = rate_hz

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Open a series."""
        start = {"type": "start", "series": series, "frames": frames, "header": {"sample": self._scan.name}}
        if (trusted := self._scan.mask) is not None:
            start |= {"shape": list(trusted.shape), "bad_pixels": (~trusted).astype(np.uint8).tobytes()}
        return [_message(start)]

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Spell a frame."""
        start_ns, stop_ns = exposure_ns(frame, self._rate_hz)
        encoding = f"bs{8 * pixels.itemsize}-lz4<"
        image = {
            "type": "frame",
            "series": series,
            "frame": frame,
            "shape": list(pixels.shape),
            "dtype": pixels.dtype.name,
            "encoding": encoding,
            "data": codecs.encode(pixels, encoding),
            "start_ns": start_ns,
            "stop_ns": stop_ns,
        }
        return [_message(image)]

    def end(self, series: int) -> list[list[bytes]]:
        """Close a series."""
        return [_message({"type": "end", "series": series})]


def _message(values: dict[str, Any]) -> list[bytes]:
    return [msgpack.Packer().pack(values)]
