"""A dataset of an HDF5 file that somebody else still writes: what of it is there already.

Measured with h5py 3.16: a file that is written for single-writer-multiple-reader access opens with `swmr=True`; one of
another machine on NFS shows what is new only when it is opened again. No lock is ever taken: a writer that finds its
own file locked by a reader fails, and data taking comes first. Nothing is read of a chunk that has no place in the file
yet: HDF5 would give zeros for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import h5py
import hdf5plugin  # noqa: F401  its filters read what detectors compress
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import StreamError
from ptyinr_stream.events import EncodedImage

_BITSHUFFLE, _LZ4 = 32008, 32004  # HDF5's registered filters
_CHUNK_CACHE_BYTES = 64 * 2**20  # of several images each, which would be decompressed for every one of them
_NOT_YET = (OSError, RuntimeError, KeyError)  # what h5py raises of files in the making


def local_path(uri: str, paths: Mapping[str, str]) -> Path:
    """Where a file URI lies on this machine.

    >>> local_path("file://localhost/data/2026/scan.h5", {"/data": "/nsls2/data/hxn/legacy"}).as_posix()
    '/nsls2/data/hxn/legacy/2026/scan.h5'

    Raises:
        StreamError: it is no file.
    """
    parts = urlsplit(uri)
    if parts.scheme != "file" or not parts.path.startswith("/"):
        raise StreamError(f"{uri[:200]}: only files can be read, file://host/path")
    path = PurePosixPath(unquote(parts.path))
    for folder in sorted(paths, key=len, reverse=True):
        if path.is_relative_to(folder):
            return Path(paths[folder]) / path.relative_to(folder)
    return Path(path)


class GrowingDataset:
    """Reads what has been written of a dataset, in portions, and never waits.

    Whatever its leading axes are, its images or values are numbered through in C order: (N, h, w), (1, N, h, w) and
    (N, m, h, w) are sequences of images, (N,), (1, N) and (N, m) of values.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.trouble: str | None = None
        """Why the last attempt gave less than was asked for."""
        self._file: h5py.File | None = None
        self._dataset: h5py.Dataset | None = None

    def images(self, numbers: Sequence[int] | NDArray[np.int64]) -> list[EncodedImage]:
        """The images of these numbers, up to the first that is not there yet; as they are stored where that is known.

        Raises:
            StreamError: the dataset holds no images.
        """
        found: list[EncodedImage] = []
        try:
            dataset = self._open()
            if dataset.ndim < 3:
                raise StreamError(f"{self} is {dataset.ndim}-dimensional: it holds no images")
            lead = dataset.shape[:-2]
            verbatim = _encoding(dataset)
            for number in numbers:
                if number >= math.prod(lead):
                    self._short(f"has {math.prod(lead)} images so far")
                    break
                image = _image(dataset, tuple(map(int, np.unravel_index(number, lead))), verbatim)
                if image is None:
                    self._short(f"has no data yet for image {number}")
                    break
                found.append(image)
        except _NOT_YET as error:
            self._short(str(error))
        return found

    def values(self, first: int, stop: int) -> NDArray[np.float64]:
        """The values from number `first` up to `stop`, or as many as are there.

        Raises:
            StreamError: the dataset holds no numbers.
        """
        try:
            dataset = self._open()
            if dataset.dtype.kind not in "biuf" or not dataset.ndim:
                raise StreamError(
                    f"{self} is {dataset.ndim}-dimensional, of {dataset.dtype}: it holds no sequence of numbers"
                )
            have = min(stop, math.prod(dataset.shape))
            if have < stop:
                self.trouble = f"{self} has {have} values so far"
            if have <= first:
                self.close()
                return np.zeros(0)
            row = max(1, math.prod(dataset.shape[1:]))
            rows = np.asarray(dataset[first // row : -(-have // row)], np.float64).reshape(-1)
            return rows[first % row : first % row + have - first]
        except _NOT_YET as error:
            self._short(str(error))
            return np.zeros(0)

    def close(self) -> None:
        """Let the file go; it is opened again when it is needed."""
        if self._file is not None:
            self._file.close()
        self._file = self._dataset = None

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"

    def _open(self) -> h5py.Dataset:
        if self._dataset is None:
            self.trouble = None
            self._file = h5py.File(
                self.path, "r", libver="latest", swmr=True, locking=False, rdcc_nbytes=_CHUNK_CACHE_BYTES
            )
            dataset = self._file[self.name]
            if not isinstance(dataset, h5py.Dataset):
                raise StreamError(f"{self} is no dataset")
            self._dataset = dataset
        else:
            self._dataset.refresh()
        return self._dataset

    def _short(self, why: str) -> None:
        self.trouble = f"{self} {why}"
        self.close()


def _image(dataset: h5py.Dataset, index: tuple[int, ...], verbatim: str | None) -> EncodedImage | None:
    """One image; None while its chunk is not in the file."""
    rows, cols = dataset.shape[-2:]
    dtype = dataset.dtype.newbyteorder("=")
    if dataset.chunks is not None:
        chunk = dataset.id.get_chunk_info_by_coord((*index, 0, 0))
        if chunk.byte_offset is None:
            return None
        if verbatim is not None and chunk.filter_mask == 0:
            _, data = dataset.id.read_direct_chunk((*index, 0, 0))
            return EncodedImage(data, (rows, cols), dtype, verbatim)
    pixels: NDArray[Any] = dataset[index]
    return EncodedImage(pixels.tobytes(), (rows, cols), dtype, _byte_order(dataset))


def _encoding(dataset: h5py.Dataset) -> str | None:
    """SIMPLON's name for the way in which each image is stored; None if there is none."""
    if dataset.chunks is None or dataset.chunks != (1,) * (dataset.ndim - 2) + dataset.shape[-2:]:
        return None
    settings, order, size = dataset.id.get_create_plist(), _byte_order(dataset), dataset.dtype.itemsize
    filters = [settings.get_filter(number) for number in range(settings.get_nfilters())]
    match filters:
        case []:
            return order
        case [(kind, _, (_, _, element, _, 2, *_), _)] if kind == _BITSHUFFLE and element == size and size in (1, 2, 4):
            return f"bs{8 * size}-lz4{order}"
        case [(kind, *_)] if kind == _LZ4:
            return f"lz4{order}"
    return None


def _byte_order(dataset: h5py.Dataset) -> str:
    return ">" if dataset.dtype.str.startswith(">") else "<"
