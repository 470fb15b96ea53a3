"""Detector images: compressed bytes into arrays and back, by SIMPLON's names of the encodings.

| encoding | bytes |
|---|---|
| `bs8-lz4<`, `bs16-lz4<`, `bs32-lz4<` | a 12 byte header, then bitshuffled LZ4 blocks, as the HDF5 filter writes them |
| `lz4<` | one bare LZ4 block, or the framing of HDF5's LZ4 filter, which begins with the image's size |
| `<`, empty, `raw` | the pixels |

The sign is the byte order of the pixels, `<` or `>`. After it, an `F` (numpy's name for this order, and not SIMPLON's)
says that the pixels lie column by column. No bare LZ4 block begins as the framing does: three zero bytes would have it
repeat what lies zero bytes back, before there is anything.

Nothing is allocated and nothing is handed to a C library before the claims of the headers agree with each other and
with the bytes that came.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import lz4.block
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import EncodedImage

from . import bslz4

_GREATEST_RATIO = 255  # one byte of LZ4 cannot stand for more


class _Layout(NamedTuple):
    """What the name of an encoding says."""

    bits: int
    """Of the bitshuffle; 0 without one."""
    compressed: bool
    order: Literal["<", ">"]
    by_columns: bool


def decode(image: EncodedImage, only: slice | None = None) -> NDArray[Any]:
    """Decode an image to (rows, cols) of its dtype in native byte order; the array may be read-only.

    Args:
        image: as it came.
        only: the rows to give, `slice(first, last + 1)` within the image; a bitshuffled image costs as much less.

    Raises:
        WireError: of kind 'undecodable'; the bytes are not such an image.
    """
    layout = _parse(image.encoding)
    rows, cols = image.shape
    stored = (cols, rows) if layout.by_columns else (rows, cols)
    dtype = image.dtype.newbyteorder(layout.order)
    size = rows * cols * dtype.itemsize
    if layout.bits not in (0, 8 * dtype.itemsize):
        raise _undecodable(f"{image.encoding} cannot hold {image.dtype} pixels")
    if size > _GREATEST_RATIO * len(image.data):
        raise _undecodable(f"{len(image.data)} bytes cannot hold {rows} x {cols} pixels of {image.dtype}")
    try:
        if layout.bits:
            pixels = bslz4.decompress(image.data, stored, dtype, None if layout.by_columns else only)
        else:
            data = _decompress_lz4(image.data, size) if layout.compressed else image.data
            pixels = np.frombuffer(data, dtype).reshape(stored)
            pixels = pixels if layout.by_columns else pixels[only or slice(None)]
    except (ValueError, RuntimeError, OSError, struct.error, lz4.block.LZ4BlockError) as error:
        raise _undecodable(f"{image.encoding} image of {rows} x {cols} {image.dtype} pixels: {error}") from error
    native = pixels.astype(image.dtype.newbyteorder("="), copy=False)
    return native.T[only or slice(None)] if layout.by_columns else native


def encode(pixels: NDArray[Any], encoding: str) -> bytes:
    """Encode (rows, cols) pixels, the inverse of `decode`.

    Raises:
        WireError: of kind 'undecodable'; the encoding is unknown or does not fit the dtype.
    """
    layout = _parse(encoding)
    if layout.bits not in (0, 8 * pixels.itemsize):
        raise _undecodable(f"{encoding} cannot hold {pixels.dtype} pixels")
    stored = pixels.T if layout.by_columns else pixels
    ordered = np.ascontiguousarray(stored, pixels.dtype.newbyteorder(layout.order))
    if layout.bits:
        return bslz4.compress(ordered)
    return lz4.block.compress(ordered.tobytes(), store_size=False) if layout.compressed else ordered.tobytes()


@lru_cache
def _parse(encoding: str) -> _Layout:
    match = re.fullmatch(r"(?:bs(8|16|32|64)-)?(lz4)?([<>]?)(F?)", "" if encoding == "raw" else encoding)
    if match is None or (match[1] and not match[2]):
        known = "bs8-lz4<, bs16-lz4<, bs32-lz4<, lz4<, <"
        raise _undecodable(f"encoding {encoding[:40]!r} is unknown; there are {known}")
    return _Layout(int(match[1] or 0), bool(match[2]), ">" if match[3] == ">" else "<", bool(match[4]))


def _decompress_lz4(data: bytes, size: int) -> bytes:
    if data[:3] != b"\0\0\0":
        return lz4.block.decompress(data, uncompressed_size=size)
    said, block_size = struct.unpack_from(">QI", data)
    if said != size or block_size == 0:
        raise ValueError(f"the header announces {said} bytes in blocks of {block_size}, the image has {size}")
    blocks, at = [], 12
    for start in range(0, size, block_size):
        plain = min(block_size, size - start)
        (length,) = struct.unpack_from(">I", data, at)
        block = data[at + 4 : at + 4 + length]
        at += 4 + length
        # A block that LZ4 could not shrink is stored as it is.
        blocks.append(block if length == plain else lz4.block.decompress(block, uncompressed_size=plain))
    return b"".join(blocks)


def _undecodable(message: str) -> WireError:
    return WireError("undecodable", message)
