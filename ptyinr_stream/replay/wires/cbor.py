"""The Eiger itself, SIMPLON 2: every message one CBOR map, handed round to whoever pulls.

Arrays are RFC 8746's: tag 40 `[[rows, columns], typed array]`, the typed array's bytes compressed under DECTRIS' own
tag 56500.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import cbor2
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay.messages import exposure_ns
from ptyinr_stream.wire import codecs

_TYPED = {np.dtype("<u2"): 69, np.dtype("<u4"): 70}  # RFC 8746
_CHANNEL = "threshold_1"
_TICKS_HZ = 10**9  # in which exposure times are counted


class Encoder:
    """Maps of the types `start`, `image` and `end`, bitshuffled LZ4."""

    socket: ClassVar[Literal["pub", "push"]] = "push"
    wire: ClassVar[str] = "eiger_v2"
    carriers: ClassVar[int] = 1

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None:
        del folder  # nothing is written
        self._scan = scan
        self._rate_hz = rate_hz
        self._armed = datetime.now(UTC)

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Open a series."""
        scan = self._scan
        h, w = scan.counts.shape[1:]
        trusted = np.ones((h, w), bool) if scan.mask is None else scan.mask
        self._armed = datetime.now(UTC)
        start = {
            "arm_date": self._armed,
            "beam_center_x": w / 2,
            "beam_center_y": h / 2,
            "channels": [_CHANNEL],
            "count_time": 1 / self._rate_hz,
            "frame_time": 1 / self._rate_hz,
            "image_dtype": scan.counts.dtype.name,
            "image_size_x": w,
            "image_size_y": h,
            "incident_energy": 1e3 * scan.geometry.energy_kev,
            "incident_wavelength": 1e10 * scan.geometry.wavelength_m,
            "number_of_images": frames,
            "pixel_mask": {_CHANNEL: _array((~trusted).astype(np.uint32))},
            "pixel_mask_enabled": True,
            "pixel_size_x": scan.geometry.detector_pixel_m,
            "pixel_size_y": scan.geometry.detector_pixel_m,
            "saturation_value": int(np.iinfo(scan.counts.dtype).max) - 1,
            "user_data": None,
        }
        return [_message("start", series, start)]

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Spell a frame."""
        start, stop = exposure_ns(frame, self._rate_hz)
        image = {
            "data": {_CHANNEL: _array(pixels)},
            "image_id": frame,
            "real_time": [stop - start, _TICKS_HZ],
            "series_date": self._armed,
            "start_time": [start, _TICKS_HZ],
            "stop_time": [stop, _TICKS_HZ],
            "user_data": None,
        }
        return [_message("image", series, image)]

    def end(self, series: int) -> list[list[bytes]]:
        """Close a series."""
        return [_message("end", series, {})]


def _message(kind: str, series: int, values: dict[str, Any]) -> list[bytes]:
    series_of = {"type": kind, "series_id": series, "series_unique_id": f"replay-{series}"}
    return [cbor2.dumps({**series_of, **values})]


def _array(pixels: NDArray[Any]) -> cbor2.CBORTag:
    little = pixels.dtype.newbyteorder("<")
    data = codecs.encode(pixels, f"bs{8 * little.itemsize}-lz4<")
    compressed = cbor2.CBORTag(56500, ["bslz4", little.itemsize, data])
    return cbor2.CBORTag(40, [list(pixels.shape), cbor2.CBORTag(_TYPED[little], compressed)])
