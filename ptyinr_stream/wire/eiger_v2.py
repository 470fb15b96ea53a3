"""DECTRIS' SIMPLON stream, version 2: one CBOR map a message, of type `start`, `image` or `end`.

An image may hold several channels (energy thresholds) of one exposure. One of them is read: the configured one, else
`threshold_1`, else the only one there is.

Arrays are typed arrays (RFC 8746) under a tag for their shape, row by row or column by column; the bytes of each may be
compressed, under DECTRIS' own tag. They are handed on as they came.

`Decoder.counts`: `frames` delivered; `other_channel` images of channels that are not read; `no_channel` messages
without the one that is; `refused_image`, `refused_mask` and `bad_times` that are not plausible; `bad_message` without
the type and numbers it must have; `undecodable` bytes that are no such map; `version_1` messages of the older stream:
the detector's stream `format` is `legacy` and must be `cbor`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import cbor2
import numpy as np
from numpy.typing import NDArray

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
from .codecs import decode

_SELF_DESCRIBED = b"\xd9\xd9\xf7"  # a tag that says that this is CBOR
_DATE, _BY_ROWS, _BY_COLUMNS, _COMPRESSED = 0, 40, 1040, 56500
_DTYPES = {
    64: "u1",
    65: ">u2",
    66: ">u4",
    67: ">u8",
    68: "u1",  # clamped, which concerns writers
    69: "<u2",
    70: "<u4",
    71: "<u8",
    72: "i1",
    73: ">i2",
    74: ">i4",
    75: ">i8",
    77: "<i2",
    78: "<i4",
    79: "<i8",
    80: ">f2",
    81: ">f4",
    82: ">f8",
    84: "<f2",
    85: "<f4",
    86: "<f8",
}  # 83 and 87 are floats of 16 bytes, which numpy has not
_TAGS = {_DATE, _BY_ROWS, _BY_COLUMNS, _COMPRESSED, *_DTYPES, 83, 87}
_MOST_ITEMS = 2**16
_DEEPEST = 16
_TABLES = ("countrate_correction_lookup_table", "flatfield", "pixel_mask")
_MALFORMED = (cbor2.CBORDecodeError, OverflowError, RecursionError, TypeError, ValueError)


class Decoder:
    """Read SIMPLON 2 messages.

    >>> decoder = Decoder()
    >>> decoder.feed([cbor2.dumps({"type": "start", "series_id": 4, "number_of_images": 9, "incident_energy": 12e3})])
    [SeriesStarted(series=4, expected=9, header={'number_of_images': 9, 'incident_energy': 12000.0})]
    >>> pixels = cbor2.CBORTag(40, [[8, 9], cbor2.CBORTag(69, bytes(144))])
    >>> [frame] = decoder.feed(
    ...     [cbor2.dumps({"type": "image", "series_id": 4, "image_id": 0, "data": {"threshold_1": pixels}})]
    ... )
    >>> frame.series, frame.frame, frame.image.shape, frame.image.dtype, frame.image.encoding
    (4, 0, (8, 9), dtype('uint16'), '<')
    """

    def __init__(self, *, channel: str | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._configured = channel
        self._announced: tuple[int, str] | None = None  # the channel to read of the series that was armed last

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read one message. Never raises."""
        return read_messages(parts, lambda part: self._message(_read(part)), self.counts)

    def _message(self, message: dict[Any, Any]) -> Iterator[Event]:
        match message:
            case {"type": "start", "series_id": series} if is_number(series):
                yield from self._start(series, message)
            case {"type": "image", "series_id": series, "image_id": frame, "data": dict() as channels} if is_number(
                series
            ) and is_number(frame):
                yield from self._image(series, frame, channels, message)
            case {"type": "end", "series_id": series} if is_number(series):
                yield SeriesEnded(series)
            case _:
                raise WireError("bad_message", "a message needs a type (start, image, end) and the numbers of it")

    def _start(self, series: int, message: dict[Any, Any]) -> Iterator[Event]:
        expected, channels, masks = (message.get(key) for key in ("number_of_images", "channels", "pixel_mask"))
        channel = self._choose(channels if isinstance(channels, list) else [])
        self._announced = None if channel is None else (series, channel)
        header = {key: value for key, value in message.items() if key not in ("type", "series_id", *_TABLES)}
        yield SeriesStarted(series, expected if is_number(expected) and expected else None, plain(header))
        if isinstance(masks, dict) and masks:
            chosen = channel or self._choose(masks)
            if chosen not in masks:
                if len(masks) > 1:
                    raise WireError("no_channel", "no mask is of the channel that is read")
                (chosen,) = masks
            yield PixelMaskSent(series, _trusted(masks[chosen]))

    def _image(
        self, series: int, frame: int, channels: dict[Any, Any], message: dict[Any, Any]
    ) -> Iterator[FrameArrived | FrameTimed]:
        announced = self._announced
        channel = announced[1] if announced and announced[0] == series else self._choose(channels)
        if others := len(channels) - (channel in channels):
            self.counts["other_channel"] += others
        if channel not in channels:
            raise WireError("no_channel", "the image has not the channel that is read")
        image = _array(channels[channel])
        self.counts["frames"] += 1
        yield FrameArrived(series, frame, image)
        start, stop = message.get("start_time"), message.get("stop_time")
        if start is not None or stop is not None:
            yield FrameTimed(series, frame, *_times(start, stop))

    def _choose(self, names: Iterable[Any]) -> str | None:
        """The channel to read of those there are; None where that cannot be told."""
        if self._configured is not None:
            return self._configured
        found = [name for name in names if isinstance(name, str)]
        return "threshold_1" if "threshold_1" in found else found[0] if len(found) == 1 else None


def _read(part: bytes) -> dict[Any, Any]:
    if part[:2] == b'{"':
        raise WireError("version_1", "JSON: the detector's stream `format` is `legacy`, and must be `cbor`")
    data = part.removeprefix(_SELF_DESCRIBED)
    _check(data)
    try:
        message = cbor2.loads(data)
    except _MALFORMED as error:
        raise WireError("undecodable", f"not CBOR: {error}") from error
    if not isinstance(message, dict):
        raise WireError("undecodable", f"a {type(message).__name__} is not a message")
    return message


def _check(data: bytes) -> None:
    """Walk the items without making them: all lie inside the bytes, and they are as many and as deep as is plausible.

    No tag passes that this stream has not: cbor2 would compile regular expressions and parse mail for others.
    """
    at, items = 0, 0
    missing = [1]  # items to come at each level; negative where a break ends them
    while missing:
        if missing[-1] == 0:
            missing.pop()
            continue
        items += 1
        if items > _MOST_ITEMS or len(missing) > _DEEPEST or at >= len(data):
            raise WireError("undecodable", "the items of the message are too many, too deep or not all there")
        major, low = data[at] >> 5, data[at] & 31
        at += 1
        if major == 7 and low == 31 and missing[-1] < 0:
            missing.pop()
            continue
        missing[-1] -= 1
        length = 1 << (low - 24) if 24 <= low < 28 else 0
        value = int.from_bytes(data[at : at + length], "big") if length else low
        at += length
        if low >= 28 and not (low == 31 and 2 <= major <= 5):
            raise WireError("undecodable", f"no item begins with {data[at - 1]}")
        if low == 31:
            missing.append(-1)
        elif major in (2, 3):
            at += value
        elif major in (4, 5):
            missing.append(value * (major - 3))
        elif major == 6:
            if value not in _TAGS:
                raise WireError("undecodable", f"tag {value} is not of this stream")
            missing.append(1)
    if at != len(data):
        raise WireError("undecodable", f"the message ends at byte {at} of {len(data)}")


def _array(value: Any) -> EncodedImage:
    """An array of numbers, as it came."""
    match value:
        case cbor2.CBORTag(tag=(40 | 1040) as order, value=[shape, cbor2.CBORTag(tag=kind, value=content)]) if (
            kind in _DTYPES
        ):
            dtype = np.dtype(_DTYPES[kind])
        case _:
            raise WireError("refused_image", "an array needs tag 40 or 1040, its dimensions and a typed array")
    if not is_image_shape(shape, dtype):
        raise WireError("refused_image", "dimensions must be [rows, columns] and not too large")
    sign = ">" if dtype.byteorder == ">" else "<"
    match content:
        case bytes() as data:
            encoding = sign
        case cbor2.CBORTag(tag=56500, value=["bslz4", dtype.itemsize, bytes() as data]):
            encoding = f"bs{8 * dtype.itemsize}-lz4{sign}"
        case cbor2.CBORTag(tag=56500, value=["lz4", _, bytes() as data]):
            encoding = f"lz4{sign}"
        case _:
            raise WireError("refused_image", "pixels are bytes, or compressed by bslz4 (in elements of a pixel) or lz4")
    by_columns = "F" if order == _BY_COLUMNS else ""
    return EncodedImage(data, (shape[0], shape[1]), dtype.newbyteorder("="), encoding + by_columns)


def _trusted(value: Any) -> NDArray[np.bool_]:
    """(rows, cols) of a pixel mask, which says 0 where a pixel is good."""
    try:
        trusted = decode(_array(value)) == 0
    except WireError as error:
        raise WireError("refused_mask", str(error)) from error
    if not trusted.any():
        raise WireError("refused_mask", "no pixel could be trusted")
    return trusted


def _times(*rationals: Any) -> tuple[int, int]:
    """Nanoseconds of [numerator, denominator] in seconds."""
    match rationals:
        case ([int(start), int(start_base)], [int(stop), int(stop_base)]) if start_base > 0 and stop_base > 0:
            if times_ns := exposure_ns(start * 10**9 // start_base, stop * 10**9 // stop_base):
                return times_ns
    raise WireError("bad_times", "an exposure needs a start_time and a stop_time after it, each two whole numbers")
