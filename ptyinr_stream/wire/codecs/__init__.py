"""Detector images: compressed bytes into arrays and back, by SIMPLON's names of the encodings.

| encoding | bytes |
|---|---|
| `bs8-lz4<`, `bs16-lz4<`, `bs32-lz4<` | a 12 byte header, then bitshuffled LZ4 blocks, as the HDF5 filter writes them |
| `lz4<` | one bare LZ4 block, or the framing of HDF5's LZ4 filter where the bytes begin with the image's size |
| `<`, empty, `raw` | the pixels |

The last sign is the byte order of the pixels, `<` or `>`. Nothing is allocated and nothing is handed to a C library
before the claims of the headers agree with each other and with the bytes that came.
"""

from __future__ import annotations

import re
import struct
from typing import Any, Literal

import lz4.block
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import EncodedImage

from . import bslz4

_GREATEST_RATIO = 255  # one byte of LZ4 cannot stand for more


def decode(image: EncodedImage, only: slice | None = None) -> NDArray[Any]:
    """Decode an image to (rows, cols) of its dtype in native byte order; the array may be read-only.

    Args:
        image: as it came.
        only: the rows to give, `slice(first, last + 1)` within the image; a bitshuffled image costs as much less.

    Raises:
        WireError: of kind 'undecodable'; the bytes are not such an image.
    """
    bits, compressed, order = _parse(image.encoding)
    rows, cols = image.shape
    dtype = image.dtype.newbyteorder(order)
    size = rows * cols * dtype.itemsize
    if bits and bits != 8 * dtype.itemsize:
        raise _undecodable(f"{image.encoding} cannot hold {image.dtype} pixels")
    if size > _GREATEST_RATIO * len(image.data):
        raise _undecodable(f"{len(image.data)} bytes cannot hold {rows} x {cols} pixels of {image.dtype}")
    try:
        if bits:
            pixels = bslz4.decompress(image.data, image.shape, dtype, only)
        else:
            data = _decompress_lz4(image.data, size) if compressed else image.data
            pixels = np.frombuffer(data, dtype).reshape(image.shape)[only or slice(None)]
    except (ValueError, RuntimeError, OSError, struct.error, lz4.block.LZ4BlockError) as error:
        raise _undecodable(f"{image.encoding} image of {rows} x {cols} {image.dtype} pixels: {error}") from error
    return pixels.astype(image.dtype.newbyteorder("="), copy=False)


def encode(pixels: NDArray[Any], encoding: str) -> bytes:
    """Encode (rows, cols) unsigned pixels, the inverse of `decode`.

    Raises:
        WireError: of kind 'undecodable'; the encoding is unknown or does not fit the dtype.
    """
    bits, compressed, order = _parse(encoding)
    if bits and bits != 8 * pixels.itemsize:
        raise _undecodable(f"{encoding} cannot hold {pixels.dtype} pixels")
    ordered = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(order))
    if bits:
        return bslz4.compress(ordered)
    return lz4.block.compress(ordered.tobytes(), store_size=False) if compressed else ordered.tobytes()


def _parse(encoding: str) -> tuple[int, bool, Literal["<", ">"]]:
    """Bits of the bitshuffle (0 without one), whether there is LZ4, and the byte order."""
    match = re.fullmatch(r"(?:bs(8|16|32)-)?(lz4)?([<>]?)", "" if encoding == "raw" else encoding)
    if match is None or (match[1] and not match[2]):
        raise _undecodable(f"encoding {encoding!r} is unknown; there are bs8-lz4<, bs16-lz4<, bs32-lz4<, lz4<, <")
    return int(match[1] or 0), bool(match[2]), ">" if match[3] == ">" else "<"


def _decompress_lz4(data: bytes, size: int) -> bytes:
    if int.from_bytes(data[:8], "big") != size:
        return lz4.block.decompress(data, uncompressed_size=size)
    block_size = int.from_bytes(data[8:12], "big")
    if block_size == 0:
        raise ValueError("the header gives a block size of 0")
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
