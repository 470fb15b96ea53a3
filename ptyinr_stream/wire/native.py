r"""This project's own form, for detectors that have none: one msgpack map a ZeroMQ message, with text keys.

| `type` | must have | may have |
|---|---|---|
| `start` | `series` | `frames` that are to come; a `header` for people; `shape` and `bad_pixels` |
| `frame` | `series`, `frame`, `shape`, `dtype`, `data` | `encoding`; `start_ns` and `stop_ns` |
| `end` | `series` | |

`series` and `frame` are whole numbers below 2**32 and the frame's only identity: frames of a series count from 0, and
may come in any order. `shape` is [rows, columns]. `dtype` is numpy's name: `uint8` to `uint64`, `int8` to `int64`,
`float32`, `float64`. `data` are the pixels, encoded as `encoding` says: a name from the table of `wire.codecs`, by
default `<`, which is not compressed and little endian. `bad_pixels` are rows x columns bytes, one a pixel, 0 where it
can be trusted. Times are nanoseconds since the series began, by the detector's own clock. `header` is a map of what
JSON can say. Keys that are not named here are passed over; no list or map has more than 1024 items, and none of an
extension type. `start` and `end` may be left out.

A sender, less `socket.send(frame(number, pixels))`:

>>> def frame(number, pixels):
...     head = {"type": "frame", "series": 1, "frame": number}
...     image = {"shape": pixels.shape, "dtype": pixels.dtype.name, "data": pixels.astype("<u2").tobytes()}
...     return msgpack.packb(head | image)
>>> [arrived] = Decoder().feed([frame(7, np.arange(6, dtype="uint16").reshape(2, 3))])
>>> arrived.series, arrived.frame, arrived.image.shape
(1, 7, (2, 3))

`Decoder.counts`: `frames` delivered; `undecodable` messages that are not such a map; `bad_message` of an unknown type
or without the numbers it must have; `refused_image`, `refused_mask` and `bad_times` that are not plausible.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import (
    EncodedImage,
    Event,
    FrameArrived,
    FrameTimed,
    PixelMaskSent,
    SeriesEnded,
    SeriesStarted,
)

from . import exposure_ns, is_image_shape, is_number, plain, read_messages

_DTYPES = {
    name: np.dtype(name)
    for name in (*(f"{sign}int{bits}" for sign in ("u", "") for bits in (8, 16, 32, 64)), "float32", "float64")
}
_BYTE = np.dtype(np.uint8)
# A map of arrays of arrays is thousands of times larger in memory than on the wire; the header needs no more.
_LIMITS = {"max_array_len": 1024, "max_map_len": 1024, "max_ext_len": 0}
_MALFORMED = (OverflowError, RecursionError, TypeError, ValueError, msgpack.exceptions.UnpackException)


class Decoder:
    """Read messages of the native form."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read one message. Never raises."""
        return read_messages(parts, lambda part: self._message(_unpack(part)), self.counts)

    def _message(self, message: dict[Any, Any]) -> Iterator[Event]:
        match message:
            case {"type": "start", "series": series} if is_number(series):
                expected = message.get("frames")
                yield SeriesStarted(series, expected if is_number(expected) and expected else None, _header(message))
                if "bad_pixels" in message:
                    yield _mask(series, message)
            case {"type": "frame", "series": series, "frame": frame} if is_number(series) and is_number(frame):
                image = _image(message)
                self.counts["frames"] += 1
                yield FrameArrived(series, frame, image)
                if "start_ns" in message or "stop_ns" in message:
                    yield _times(series, frame, message)
            case {"type": "end", "series": series} if is_number(series):
                yield SeriesEnded(series)
            case _:
                raise WireError("bad_message", "a message needs a type (start, frame, end) and the numbers of it")


def _unpack(part: bytes) -> dict[Any, Any]:
    try:
        message = msgpack.unpackb(part, strict_map_key=True, **_LIMITS)
    except _MALFORMED as error:
        raise WireError("undecodable", f"not msgpack: {error}") from error
    if not isinstance(message, dict):
        raise WireError("undecodable", f"a {type(message).__name__} is not a message")
    return message


def _header(message: dict[Any, Any]) -> dict[str, Any]:
    header = message.get("header")
    return plain(header) if isinstance(header, dict) else {}


def _image(message: dict[Any, Any]) -> EncodedImage:
    shape, name, data = (message.get(key) for key in ("shape", "dtype", "data"))
    encoding = message.get("encoding", "<")
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None or not is_image_shape(shape, dtype):
        raise WireError("refused_image", "shape must be [rows, columns], dtype one of the list, and all not too large")
    if not (isinstance(data, bytes) and isinstance(encoding, str)):
        raise WireError("refused_image", "an image needs data in bytes, and the name of its encoding in text")
    return EncodedImage(data, (shape[0], shape[1]), dtype, encoding)


def _mask(series: int, message: dict[Any, Any]) -> PixelMaskSent:
    shape, data = message.get("shape"), message["bad_pixels"]
    if not (is_image_shape(shape, _BYTE) and isinstance(data, bytes) and len(data) == shape[0] * shape[1]):
        raise WireError("refused_mask", "bad_pixels need one byte for each pixel of shape")
    trusted = np.frombuffer(data, _BYTE).reshape(shape) == 0
    if not trusted.any():
        raise WireError("refused_mask", "no pixel could be trusted")
    return PixelMaskSent(series, trusted)


def _times(series: int, frame: int, message: dict[Any, Any]) -> FrameTimed:
    times_ns = exposure_ns(message.get("start_ns"), message.get("stop_ns"))
    if times_ns is None:
        raise WireError("bad_times", "an exposure ends after it begins, at whole nanoseconds")
    return FrameTimed(series, frame, *times_ns)
