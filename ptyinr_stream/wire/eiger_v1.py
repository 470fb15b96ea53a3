"""DECTRIS' SIMPLON stream, version 1: JSON headers and image bytes as parts of ZeroMQ messages.

An image is `dimage`, `dimage_d`, the bytes, `dconfig`. A detector sends them as one message; HXN's proxy sends each
part as a message of its own, so that a full queue drops single parts; some replays leave out `htype` and `dconfig`.
One state machine over parts reads them all and never needs the boundaries between messages.

`Decoder.counts`: `frames` read; `torn` images whose parts did not all come; `mismatched` images whose bytes are not
those of their header's hash; `unproven` images without the hash of their bytes before any had it, which become
`mismatched` or `frames`; `refused_image` images that are not plausible; `tables` of a detailed header that were
read, `torn_table` that were announced and did not come, `refused_mask` that cannot be one; `bad_header` JSON that lacks
what it must have; `bad_times` of an exposure; `unknown_header` JSON of another type; `orphan_part` parts that nothing
announced, or that belong to an image that was lost; `appendix` JSON that users may add.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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

from . import exposure_ns, is_image_shape, is_number, plain, read_json
from .codecs import decode

_LARGEST_HEADER = 2**20  # bytes: a configuration has some thousand
_UNPROVEN = 8  # images that do not match their hash, and none that did: then it is the hash of something else
_REMEMBERED = 64  # headers whose bytes may come with another one
_DTYPES = {name: np.dtype(name) for name in ("uint8", "uint16", "uint32")}
_TABLE_DTYPES = _DTYPES | {"float32": np.dtype(np.float32)}
_TABLES = ("flatfield", "mask", "countrate")


@dataclass(frozen=True)
class _Spec:
    """What a `dimage_d` or the header of a table says; `size` counts the bytes to come, where it is said."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    encoding: str
    size: int | None


@dataclass
class _OpenImage:
    """An image of which some parts have come."""

    series: int
    frame: int
    hash: str | None
    spec: _Spec | None = None


@dataclass(frozen=True)
class _OpenTable:
    """A table of a detailed header, whose bytes are to come."""

    kind: str
    spec: _Spec | None
    size: int | None


class Decoder:
    """Read SIMPLON 1 messages, however their parts are bundled.

    >>> decoder = Decoder()
    >>> decoder.feed([b'{"htype":"dheader-1.0","series":4,"header_detail":"none"}'])
    [SeriesStarted(series=4, expected=None, header={})]
    >>> _ = decoder.feed([b'{"htype":"dimage-1.0","series":4,"frame":0}'])
    >>> _ = decoder.feed([b'{"htype":"dimage_d-1.0","shape":[9,8],"type":"uint8","encoding":"<","size":72}'])
    >>> [frame] = decoder.feed([bytes(72)])
    >>> frame.series, frame.frame, frame.image.shape
    (4, 0, (8, 9))
    >>> decoder.feed([b'{"htype":"dconfig-1.0","start_time":0,"stop_time":9500,"real_time":9500}'])
    [FrameTimed(series=4, frame=0, start_ns=0, stop_ns=9500)]
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._armed: int | None = None  # a series whose configuration is the next part
        self._detailed: int | None = None  # a series whose tables may follow
        self._table: _OpenTable | None = None
        self._image: _OpenImage | None = None
        self._delivered: tuple[int, int] | None = None  # series and frame of the image that the last part completed
        self._hash_covers_bytes: bool | None = None
        self._claimed: deque[str] = deque(maxlen=_REMEMBERED)  # hashes of the newest headers
        self._held: list[tuple[FrameArrived, str]] = []  # with the hashes of their bytes, until that is known

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read the parts of one message, in order. Never raises."""
        return [event for part in parts for event in self._part(part)]

    def _part(self, part: bytes) -> Iterator[Event]:
        image, table, self._table = self._image, self._table, None
        delivered, self._delivered = self._delivered, None
        spec = image and image.spec
        awaited = table.size if table else spec.size if spec else None
        # Compressed bytes may begin like JSON: where their size is known, it decides.
        header = None if len(part) == awaited else _json(part)
        fits = header is None and awaited in (None, len(part))
        if table and not fits:
            self.counts["torn_table"] += 1
        if header is not None:
            yield from self._header(header, delivered)
        elif table:
            yield from self._read_table(table, part) if fits else ()
        elif image and spec and fits:
            yield from self._pixels(image, spec, part)
        elif image:
            self._close_torn()
        else:
            self.counts["orphan_part"] += 1

    def _header(self, header: dict[str, Any], delivered: tuple[int, int] | None) -> Iterator[Event]:
        kind = header.get("htype")
        kind = kind.partition("-")[0] if isinstance(kind, str) else None
        series, self._armed = self._armed, None
        if series is not None:
            configuration = header if kind is None and "frame" not in header else {}
            yield SeriesStarted(series, _expected(configuration), plain(configuration))
            if configuration:
                return
        if kind == "dimage" or (kind is None and "frame" in header):
            self._open_image(header)
        elif kind == "dimage_d" or (kind is None and self._image is not None and "shape" in header):
            self._specify(header)
        elif kind in ("dheader", "dseries_end"):
            yield from self._series(header, ended=kind == "dseries_end")
        elif kind == "dconfig":
            yield from self._times(header, delivered)
        elif kind is None:
            self.counts["appendix"] += 1
        elif any(name in kind for name in _TABLES):
            self._close_torn()
            self._table = _table(kind, header)
        else:
            self.counts["unknown_header"] += 1

    def _series(self, header: dict[str, Any], ended: bool) -> Iterator[Event]:
        self._close_torn()
        self._detailed = None
        series = header.get("series")
        if not is_number(series):
            self.counts["bad_header"] += 1
        elif ended:
            yield SeriesEnded(series)
        elif header.get("header_detail") in ("basic", "all"):
            self._armed = self._detailed = series
        else:
            yield SeriesStarted(series)

    def _open_image(self, header: dict[str, Any]) -> None:
        self._close_torn()
        self._detailed = None
        if is_number(header.get("series")) and is_number(header.get("frame")):
            self._image = _OpenImage(header["series"], header["frame"], digest := _hash(header))
            if digest is not None:
                self._claimed.append(digest)
                if any(held == digest for _, held in self._held):
                    self._prove()
        else:
            self.counts["bad_header"] += 1

    def _specify(self, header: dict[str, Any]) -> None:
        """Attach a `dimage_d` to the open image, or drop both."""
        if self._image is None:
            self.counts["orphan_part"] += 1
        elif self._image.spec is not None:  # of another image: this one's bytes and that one's header were lost
            self._close_torn()
        else:
            self._image.spec = _spec(header, _DTYPES)
            if self._image.spec is None:
                self._image = None
                self.counts["refused_image"] += 1

    def _pixels(self, image: _OpenImage, spec: _Spec, data: bytes) -> Iterator[Event]:
        self._image = None
        frame = FrameArrived(image.series, image.frame, EncodedImage(data, spec.shape, spec.dtype, spec.encoding))
        if believed := self._believed(frame, image.hash):
            self.counts["frames"] += len(believed)
            self._delivered = (image.series, image.frame)
            yield from believed

    def _believed(self, frame: FrameArrived, digest: str | None) -> list[FrameArrived]:
        """The frames that may go on, this one last.

        Parts that travel alone can be lost four at a time: then the bytes of one image follow the header of another.
        Only the hash tells. What it covers is written nowhere: the first bytes that match it, or that of another
        header, prove that it is the bytes. Until then frames that do not match are held, so that a stream that begins
        with a loss begins with no wrong frame.
        """
        if digest is None:
            return [frame]
        actual = hashlib.md5(frame.image.data, usedforsecurity=False).hexdigest()
        if actual == digest or actual in self._claimed:
            self._prove()
        if actual == digest:
            return [frame]
        if self._hash_covers_bytes:
            self.counts["mismatched"] += 1
            return []
        self.counts["unproven"] += 1
        self._held.append((frame, actual))
        if self._hash_covers_bytes is None and len(self._held) < _UNPROVEN:
            return []
        self._hash_covers_bytes = False
        believed, self._held = [held for held, _ in self._held], []
        return believed

    def _prove(self) -> None:
        """Take it that the hash covers the bytes: then no frame that is held was right."""
        self._hash_covers_bytes = True
        if self._held:
            self.counts["mismatched"] += len(self._held)
            self._held = []

    def _times(self, header: dict[str, Any], delivered: tuple[int, int] | None) -> Iterator[FrameTimed]:
        if self._image is not None:
            self._close_torn()
        elif delivered is None:
            self.counts["orphan_part"] += 1
        elif times_ns := exposure_ns(header.get("start_time"), header.get("stop_time")):
            yield FrameTimed(*delivered, *times_ns)
        else:
            self.counts["bad_times"] += 1

    def _read_table(self, table: _OpenTable, data: bytes) -> Iterator[PixelMaskSent]:
        if "mask" in table.kind:
            trusted = _trusted(table.spec, data)
            if trusted is None or self._detailed is None:
                self.counts["refused_mask"] += 1
                return
            yield PixelMaskSent(self._detailed, trusted)
        self.counts["tables"] += 1

    def _close_torn(self) -> None:
        if self._image is not None:
            self._image = None
            self.counts["torn"] += 1


def _json(part: bytes) -> dict[str, Any] | None:
    value = read_json(part, _LARGEST_HEADER) if part[:1] == b"{" else None
    return value if isinstance(value, dict) else None


def _hash(header: dict[str, Any]) -> str | None:
    value = header.get("hash")
    return value.lower() if isinstance(value, str) and len(value) == 32 else None


def _spec(header: dict[str, Any], dtypes: dict[str, np.dtype[Any]]) -> _Spec | None:
    """What a header says of the bytes that follow, its shape being [columns, rows]; None where it is not plausible."""
    shape, kind, size = header.get("shape"), header.get("type"), header.get("size")
    dtype = dtypes.get(kind) if isinstance(kind, str) else None
    encoding = header.get("encoding") or ""
    if dtype is None or not isinstance(encoding, str) or not isinstance(shape, list) or shape[2:] not in ([], [1]):
        return None
    if not is_image_shape(shape[:2], dtype):
        return None
    # Compression may make an image larger by its headers, never twice as large.
    if size is not None and not (is_number(size) and size <= 2 * shape[0] * shape[1] * dtype.itemsize + 4096):
        return None
    return _Spec((shape[1], shape[0]), dtype, encoding, size)


def _table(kind: str, header: dict[str, Any]) -> _OpenTable:
    """A table that is to come; its size is None where it is not plausible, or follows from a compression."""
    spec = _spec(header, _TABLE_DTYPES)
    size = spec and spec.size
    if spec and size is None and "lz4" not in spec.encoding:
        size = spec.shape[0] * spec.shape[1] * spec.dtype.itemsize
    return _OpenTable(kind, spec, size)


def _trusted(spec: _Spec | None, data: bytes) -> NDArray[np.bool_] | None:
    """(rows, cols) of a pixel mask, which says 0 where a pixel is good; None where it cannot be one."""
    if spec is None or spec.dtype.kind != "u":
        return None
    try:
        trusted = decode(EncodedImage(data, spec.shape, spec.dtype, spec.encoding)) == 0
    except WireError:
        return None
    return trusted if trusted.any() else None


def _expected(configuration: dict[str, Any]) -> int | None:
    """How many frames a series announces."""
    enabled = configuration.get("trigger_mode") in ("exte", "inte")  # one image for each trigger
    images, triggers = 1 if enabled else configuration.get("nimages"), configuration.get("ntrigger")
    expected = images * triggers if is_number(images) and is_number(triggers) else 0
    return expected if expected and is_number(expected) else None
