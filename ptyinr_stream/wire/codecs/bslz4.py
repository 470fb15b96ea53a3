"""Bitshuffled LZ4 as the HDF5 filter writes it: `>Q bytes, >I block bytes`, then blocks of `>I length` and LZ4.

Three libraries can decode it: `dectris-compression` (the extra `fast`; it is built from source), `bitshuffle`, which
has no wheel for Python 3.13 and later, and HDF5 with hdf5plugin's filter, which holds h5py's global lock. Milliseconds
on one core, 2026-11-25, for the images of `python tests/benchmarks/throughput.py`:

| image | dectris-compression | bitshuffle | h5py and hdf5plugin |
|---|---|---|---|
| 128 x 128 uint16 | 0.017 | 0.046 | 0.56 |
| 256 x 256 uint16 | 0.044 | 0.092 | 0.99 |
| 1062 x 1028 uint16 | 0.59 | 1.26 | 1.95 |
| the same, 256 rows of it | 0.18 | 0.33 | 2.1 |

All trust lengths in the data, bitshuffle and HDF5 beyond its end, so `_check` walks the blocks first.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray


def _found(name: str) -> Any:
    """A library that may be missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


dectris: Any = _found("dectris.compression")
bitshuffle: Any = _found("bitshuffle.ext")

_BLOCK_BYTES = 8192  # what detectors write
_LENGTH = struct.Struct(">I").unpack_from


def decompress(data: bytes, shape: tuple[int, int], dtype: np.dtype[Any], rows: slice | None = None) -> NDArray[Any]:
    """Decompress to an array of `shape` and `dtype`, or to `rows` of it, which cost only the blocks they lie in.

    Raises:
        ValueError: the headers contradict the shape or the length of the data.
        RuntimeError: a block is not LZ4 (dectris-compression and bitshuffle).
        OSError: a block is not LZ4 (HDF5).
    """
    pixels, columns = shape[0] * shape[1], shape[1]
    block_bytes, starts = _check(data, pixels, dtype.itemsize)
    if dectris is None and bitshuffle is None:
        return _decompress_hdf5(data, shape, dtype)[rows or slice(None)]
    block = block_bytes // dtype.itemsize
    if rows is None:
        start, stop, blocks = 0, pixels, slice(starts[0], None)
    else:
        first, last = rows.start * columns // block, -(-rows.stop * columns // block)
        start, stop = first * block, min(last * block, pixels)
        # The pixels that fill no block lie behind the last one.
        blocks = slice(starts[first], starts[last] if stop < pixels else None)
    if dectris is not None:
        header = struct.pack(">QI", (stop - start) * dtype.itemsize, block_bytes)
        wanted = data if data.startswith(header) else header + data[blocks]
        found = np.frombuffer(dectris.decompress(wanted, "bslz4", elem_size=dtype.itemsize), dtype)
    else:
        with _one_thread():
            found = bitshuffle.decompress_lz4(np.frombuffer(data, np.uint8)[blocks], (stop - start,), dtype, block)
    if rows is None:
        return found.reshape(shape)
    return found[rows.start * columns - start : rows.stop * columns - start].reshape(-1, columns)


def compress(pixels: NDArray[Any]) -> bytes:
    """Compress (rows, cols) pixels as they lie in memory, C order."""
    if bitshuffle is None:
        return _compress_hdf5(pixels)
    with _one_thread():
        blocks = bitshuffle.compress_lz4(pixels, _BLOCK_BYTES // pixels.itemsize)
    return struct.pack(">QI", pixels.nbytes, _BLOCK_BYTES) + blocks.tobytes()


def _check(data: bytes, pixels: int, itemsize: int) -> tuple[int, list[int]]:
    """Walk the blocks without decompressing them; return their uncompressed size in bytes, and where they start."""
    size, block_bytes = struct.unpack_from(">QI", data)
    if size != pixels * itemsize:
        raise ValueError(f"the header announces {size} bytes, the image has {pixels * itemsize}")
    step = 8 * itemsize  # bitshuffle works on eight pixels at a time; fewer at the end are stored as they are
    if block_bytes == 0 or block_bytes % step:
        raise ValueError(f"blocks of {block_bytes} bytes are no multiple of {step}")
    whole, rest = divmod(size, block_bytes)
    end, starts = 12, []
    for _ in range(whole + (rest >= step)):
        starts.append(end)
        end += 4 + _LENGTH(data, end)[0]
        if end > len(data):
            break
    starts.append(end)
    if end + rest % step != len(data):
        raise ValueError(f"the blocks do not end where the {len(data)} bytes do")
    # A block may be vast and hold the whole image; bitshuffle takes it as an int, which may not.
    return min(block_bytes, size + -size % step), starts


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let bitshuffle's OpenMP use one thread, in the calling thread only.

    Wheels of bitshuffle carry their own OpenMP with a pool as large as the machine. A second thread saves 0.02 ms of
    0.05 ms, and beside a training loop on all cores a call has been seen to take 7 ms. OMP_NUM_THREADS would slow torch
    as well; OpenMP's own setting belongs to the calling thread and is put back, in case torch shares the library.
    """
    openmp = _openmp()
    if openmp is None:
        yield
        return
    threads = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(threads)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that bitshuffle is linked to, None if it is built without."""
    # It finds the symbols of the libraries it links, too. Calls of a CDLL would each let go of the interpreter's lock.
    library = ctypes.PyDLL(bitshuffle.__file__)
    return library if hasattr(library, "omp_set_num_threads") else None


def _decompress_hdf5(data: bytes, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    with h5py.File(io.BytesIO(), "w") as file:
        dataset = file.create_dataset("image", shape, dtype, chunks=shape, **hdf5plugin.Bitshuffle(cname="lz4"))
        dataset.id.write_direct_chunk((0, 0), data)
        return dataset[()]


def _compress_hdf5(pixels: NDArray[Any]) -> bytes:
    with h5py.File(io.BytesIO(), "w") as file:
        filtered = hdf5plugin.Bitshuffle(cname="lz4", nelems=_BLOCK_BYTES // pixels.itemsize)
        dataset = file.create_dataset("image", data=pixels, chunks=pixels.shape, **filtered)
        _, data = dataset.id.read_direct_chunk((0, 0))
        return data
