"""DECTRIS' SIMPLON stream, version 1: JSON headers and image bytes as parts of ZeroMQ messages.

An image is `dimage`, `dimage_d`, the bytes, `dconfig`. A detector sends them as one message; HXN's proxy sends each
part as a message of its own, so that a full queue drops single parts; some replays leave out `htype` and `dconfig`.
One state machine over parts reads them all and never needs the boundaries between messages.

`Decoder.counts`: `frames` delivered; `torn` images whose parts did not all come; `refused_image` images that are not
plausible; `bad_header` JSON that lacks what it must have; `orphan_part` bytes that nothing announced; `appendix` JSON
that users may add.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from ptyinr_stream.events import EncodedImage, Event, FrameArrived, SeriesEnded, SeriesStarted

_MOST_PIXELS = 64 * 2**20  # four times the largest detector of this kind
_LARGEST_NUMBER = 2**32  # series and frames beyond it are garbage, and nothing downstream should allocate by them
_DTYPES = {name: np.dtype(name) for name in ("uint8", "uint16", "uint32")}


@dataclass(frozen=True)
class _Spec:
    """What a `dimage_d` says; `size` counts the bytes to come, where it is said."""

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
    """

    def __init__(self, *, prefix: str = "") -> None:
        del prefix  # only Bluesky's wire has one
        self.counts: Counter[str] = Counter()
        self._armed: int | None = None  # a series whose configuration is the next part
        self._image: _OpenImage | None = None
        self._skip = False  # the next part is the table that the last header announced
        self._hashes_bind = False

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read the parts of one message, in order. Never raises."""
        return [event for part in parts for event in self._part(part, alone=len(parts) == 1)]

    def _part(self, part: bytes, alone: bool) -> Iterator[Event]:
        image, skip, self._skip = self._image, self._skip, False
        spec = image and image.spec
        # Compressed bytes may begin like JSON: where their size is known, it decides.
        header = None if spec and len(part) == spec.size else _json(part)
        if header is not None:
            yield from self._header(header)
        elif image and spec and spec.size in (None, len(part)):
            yield from self._pixels(image, spec, part, alone)
        elif image:
            self._close_torn()
        elif not skip:
            self.counts["orphan_part"] += 1

    def _header(self, header: dict[str, Any]) -> Iterator[Event]:
        kind = header.get("htype")
        kind = kind.rpartition("-")[0] if isinstance(kind, str) else None
        series, self._armed = self._armed, None
        if series is not None:
            configuration = header if kind is None and "frame" not in header else {}
            yield SeriesStarted(series, _expected(configuration), configuration)
            if configuration:
                return
        if kind == "dimage" or (kind is None and "frame" in header):
            self._close_torn()
            if _is_number(header.get("series")) and _is_number(header.get("frame")):
                self._image = _OpenImage(header["series"], header["frame"], _hash(header))
            else:
                self.counts["bad_header"] += 1
        elif kind == "dimage_d" or (kind is None and self._image is not None and "shape" in header):
            self._specify(header)
        elif kind == "dheader":
            self._close_torn()
            if not _is_number(header.get("series")):
                self.counts["bad_header"] += 1
            elif header.get("header_detail") in ("basic", "all"):
                self._armed = header["series"]
            else:
                yield SeriesStarted(header["series"])
        elif kind == "dseries_end":
            self._close_torn()
            if _is_number(header.get("series")):
                yield SeriesEnded(header["series"])
            else:
                self.counts["bad_header"] += 1
        elif kind == "dconfig":
            self._close_torn()  # the exposure times of an image whose bytes were lost
        elif kind is None:
            self.counts["appendix"] += 1
        else:  # flatfield, pixelmask, countrate_table ...
            self._skip = True

    def _specify(self, header: dict[str, Any]) -> None:
        """Attach a `dimage_d` to the open image, or drop both."""
        if self._image is None:
            self.counts["orphan_part"] += 1
        elif self._image.spec is not None:  # of another image: this one's bytes and that one's header were lost
            self._close_torn()
        else:
            self._image.spec = _spec(header)
            if self._image.spec is None:
                self._image = None
                self.counts["refused_image"] += 1

    def _pixels(self, image: _OpenImage, spec: _Spec, data: bytes, alone: bool) -> Iterator[Event]:
        self._image = None
        # Parts that travel alone can be lost four at a time: then the bytes of one image follow the header of another.
        # Only the hash tells, and it binds once one has matched, for it is not said anywhere what it covers.
        if alone and image.hash is not None:
            matches = hashlib.md5(data, usedforsecurity=False).hexdigest() == image.hash
            if self._hashes_bind and not matches:
                self.counts["torn"] += 1
                return
            self._hashes_bind |= matches
        self.counts["frames"] += 1
        yield FrameArrived(image.series, image.frame, EncodedImage(data, spec.shape, spec.dtype, spec.encoding))

    def _close_torn(self) -> None:
        if self._image is not None:
            self._image = None
            self.counts["torn"] += 1


def _json(part: bytes) -> dict[str, Any] | None:
    if part[:1] != b"{":
        return None
    try:
        value = json.loads(part)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_number(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _LARGEST_NUMBER  # not isinstance: true is no frame number


def _hash(header: dict[str, Any]) -> str | None:
    value = header.get("hash")
    return value.lower() if isinstance(value, str) and len(value) == 32 else None


def _spec(header: dict[str, Any]) -> _Spec | None:
    """A `dimage_d`, which says [columns, rows]; None where it is not plausible."""
    shape, kind, size = header.get("shape"), header.get("type"), header.get("size")
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None or not isinstance(shape, list) or not all(map(_is_number, shape)):
        return None
    if len(shape) not in (2, 3) or shape[2:] not in ([], [1]) or not 0 < shape[0] * shape[1] <= _MOST_PIXELS:
        return None
    # Compression may make an image larger by its headers, never twice as large.
    if size is not None and not (_is_number(size) and size <= 2 * shape[0] * shape[1] * dtype.itemsize + 4096):
        return None
    return _Spec((shape[1], shape[0]), dtype, str(header.get("encoding") or ""), size)


def _expected(configuration: dict[str, Any]) -> int | None:
    """How many frames a series announces."""
    enabled = configuration.get("trigger_mode") in ("exte", "inte")  # one image for each trigger
    images, triggers = 1 if enabled else configuration.get("nimages"), configuration.get("ntrigger")
    return (images * triggers or None) if _is_number(images) and _is_number(triggers) else None
