"""One segment: an HDF5 file that one life of the daemon appends to, in SWMR mode, and that anybody may read meanwhile.

Appending only notes; `flush` writes. Its order is what a reader relies on, during the scan and after a kill: what an
event points to is flushed before the event's own row.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.events import EncodedImage, Event, FrameArrived, FrameTimed

from . import FORMAT, VERSION
from .packing import pack, unpack

PACKED, CHUNK, EXPOSURE = 1, 2, 3
"""Kinds of rows; 0 is a row that was announced and never written."""

ROW = np.dtype([("order", "<i8"), ("time", "<f8"), ("kind", "u1"), ("start", "<i8"), ("length", "<i8")])
_EXPOSURE = np.dtype([("series", "<i8"), ("frame", "<i8"), ("start_ns", "<i8"), ("stop_ns", "<i8")])
_BYTES_CHUNK = 2**17
_ATTEMPTS = 24

WRITE_ERRORS = (OSError, RuntimeError)
"""What h5py raises when a disk is full, read-only or gone."""


class SegmentWriter:
    """A new file; the frames that `first` stands for are kept as chunks, all others packed.

    It gets its name when others may read it: until then it is locked, and one who tries could keep it from being so.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, attributes: Mapping[str, str], first: FrameArrived | None = None) -> None:
        self.path = path
        self.frames = 0
        self.pending_bytes = 0
        """Noted and not yet written."""
        self._rows: list[tuple[int, float, int, int, int]] = []
        self._packed: list[bytes] = []
        self._exposures: list[tuple[int, int, int, int]] = []
        self._chunks: list[bytes] = []
        self._ids: list[tuple[int, int]] = []
        self._like = None if first is None or _pixels(first.image) is None else _like(first)
        self._lengths = {"bytes": 0, "exposures": 0, "frames/data": 0}
        new = path.with_name(f".{path.name}")
        self._file: Any = h5py.File(new, "w", libver="latest")
        try:
            self._create(attributes)
            os.replace(new, path)
        except WRITE_ERRORS:
            self.abandon()
            new.unlink(missing_ok=True)
            raise

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def append(self, order: int, time: float, event: Event) -> None:
        """Note an event, to be written at the next `flush`."""
        match event:
            case FrameArrived():
                self.frames += 1
                if self._like is not None and _fills(event.image) and _like(event) == self._like:
                    self._note(order, time, CHUNK, "frames/data", 1, len(event.image.data))
                    self._chunks.append(event.image.data)
                    self._ids.append((event.series, event.frame))
                    return
            case FrameTimed(series, frame, start_ns, stop_ns) if max(abs(start_ns), abs(stop_ns)) < 2**63:
                self._note(order, time, EXPOSURE, "exposures", 1, _EXPOSURE.itemsize)
                self._exposures.append((series, frame, start_ns, stop_ns))
                return
        packed = pack(event)
        self._note(order, time, PACKED, "bytes", len(packed), len(packed))
        self._packed.append(packed)

    def flush(self) -> None:
        """Write what was noted; it survives the end of the process from here on.

        Raises:
            OSError: it cannot be written; nothing more can be.
            RuntimeError: likewise.
        """
        if not self._rows:
            return
        if self._packed:
            _extend(self._file["bytes"], np.frombuffer(b"".join(self._packed), np.uint8))
        if self._exposures:
            _extend(self._file["exposures"], np.array(self._exposures, _EXPOSURE))
        if self._chunks:
            data = self._file["frames/data"]
            first = data.shape[0]
            data.resize(first + len(self._chunks), axis=0)
            for number, chunk in enumerate(self._chunks, first):
                data.id.write_direct_chunk((number, 0, 0), chunk)
            data.flush()
            _extend(self._file["frames/id"], np.array(self._ids, np.int64))
        _extend(self._file["events"], np.array(self._rows, ROW))
        for noted in (self._rows, self._packed, self._exposures, self._chunks, self._ids):
            noted.clear()
        self.pending_bytes = 0

    def move(self, path: Path) -> None:
        """Give the file another name in the same file system; writing goes on."""
        os.rename(self.path, path)
        self.path = path

    def close(self) -> None:
        """Write what was noted and close the file.

        Raises:
            OSError: as `flush`.
            RuntimeError: as `flush`.
        """
        try:
            self.flush()
            self._file.close()
        except WRITE_ERRORS:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Let go of the file as it is."""
        for noted in (self._rows, self._packed, self._exposures, self._chunks, self._ids):
            noted.clear()
        self.pending_bytes = 0
        with contextlib.suppress(*WRITE_ERRORS, ValueError):
            self._file.close()

    def _create(self, attributes: Mapping[str, str]) -> None:
        file = self._file
        write_attributes(file, {"format": FORMAT, "format_version": str(VERSION), **attributes})
        file.create_dataset("events", (0,), ROW, maxshape=(None,), chunks=(1024,))
        file.create_dataset("bytes", (0,), np.uint8, maxshape=(None,), chunks=(_BYTES_CHUNK,))
        file.create_dataset("exposures", (0,), _EXPOSURE, maxshape=(None,), chunks=(1024,))
        if self._like is not None:
            shape = self._like.image.shape
            form = {"maxshape": (None, *shape), "chunks": (1, *shape)}
            if "lz4" in self._like.image.encoding:
                form |= hdf5plugin.Bitshuffle(cname="lz4")
            data = file.create_dataset("frames/data", (0, *shape), _pixels(self._like.image), **form)
            data.attrs["event"] = np.frombuffer(pack(self._like), np.uint8)
            file.create_dataset("frames/id", (0, 2), np.int64, maxshape=(None, 2), chunks=(1024, 2))
        file.swmr_mode = True

    def _note(self, order: int, time: float, kind: int, where: str, size: int, length: int) -> None:
        self._rows.append((order, time, kind, self._lengths[where], length))
        self._lengths[where] += size
        self.pending_bytes += length


class SegmentReader:
    """A segment as it is now, also one that is being written or whose writer was killed.

    Raises:
        ScanFileError: it is no segment, or torn.
    """

    rows: NDArray[Any]
    """Of type `ROW`."""
    unwritten: int
    """Rows that were announced and are not there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._like: FrameArrived | None = None
        self._file: Any = None
        try:
            self._file = opened(path)
            self._open(self._file)
        except (*WRITE_ERRORS, KeyError, ValueError) as error:
            self.close()
            raise ScanFileError(f"{path}: not a segment of a recording, or torn: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def event(self, index: int) -> Event:
        """The event of a row, frames with the bytes that came.

        Raises:
            ScanFileError: it cannot be read.
        """
        _, _, kind, start, length = self.rows[index].item()
        try:
            if kind == CHUNK:
                return self._frame(start, length)
            if kind == EXPOSURE:
                return FrameTimed(*self._exposures[start].item())
            return unpack(self._bytes[start : start + length].tobytes())
        except (*WRITE_ERRORS, IndexError, ValueError) as error:
            raise ScanFileError(f"{self.path}: event {index} cannot be read: {error}") from error

    def _open(self, file: Any) -> None:
        self.attributes = read_attributes(file)
        if self.attributes["format"] != FORMAT or int(self.attributes["format_version"]) > VERSION:
            raise ValueError(f"of format {self.attributes['format']} {self.attributes['format_version']}")
        rows = self._table(file, "events")
        # The file may have been extended, and its writer killed, before the rows were there.
        written = rows["kind"] != 0
        self.rows = rows if written.all() else rows[: int(np.argmin(written))]
        self.unwritten = file["events"].shape[0] - len(self.rows)
        # Opened after the rows: what a row points to is there.
        self._bytes = file["bytes"]
        self._exposures = self._table(file, "exposures")
        if "frames" in file:
            self._data = file["frames/data"]
            self._ids = self._table(file, "frames/id")
            self._like = unpack(self._data.attrs["event"].tobytes())

    def _table(self, file: Any, name: str) -> NDArray[Any]:
        """The rows before the first that are not in the file: beyond its end HDF5 reads zeros."""
        rows, table = file[name][()], file[name].id
        for number in range(table.get_num_chunks()):
            chunk = table.get_chunk_info(number)
            if self._is_cut(chunk):
                rows = rows[: chunk.chunk_offset[0]]
        return rows

    def _is_cut(self, chunk: Any) -> bool:
        return chunk.byte_offset is None or chunk.byte_offset + chunk.size > self.path.stat().st_size

    def _frame(self, start: int, length: int) -> FrameArrived:
        if self._like is None:
            raise ValueError("there are no frames")
        series, frame = self._ids[start].tolist()
        if self._is_cut(self._data.id.get_chunk_info_by_coord((start, 0, 0))):
            raise ValueError("the file ends before it")
        _, data = self._data.id.read_direct_chunk((start, 0, 0))
        if len(data) != length:
            raise ValueError(f"frame {frame} of series {series} has {len(data)} of {length} bytes")
        return replace(self._like, series=series, frame=frame, image=replace(self._like.image, data=data))


def opened(path: Path) -> Any:
    """A file as far as its writer has flushed it: an `h5py.File`, whose types do not say what is inside.

    Raises:
        OSError: it is missing, no HDF5 file or torn.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_LATEST, h5py.h5f.LIBVER_LATEST)
    # A reader that comes in the middle of a write finds a wrong checksum, and tries again. In a torn file it stays
    # wrong: HDF5's hundred attempts, each after twice the pause of the last, would take for ever; these take 20 ms.
    ctypes.CDLL(h5py.h5p.__file__).H5Pset_metadata_read_attempts(ctypes.c_int64(access.id), ctypes.c_uint(_ATTEMPTS))
    flags = h5py.h5f.ACC_RDONLY | h5py.h5f.ACC_SWMR_READ
    return h5py.File(h5py.h5f.open(str(path).encode(), flags, access))


def write_attributes(file: Any, attributes: Mapping[str, str]) -> None:
    """Write texts in UTF-8 as strings of fixed length: in a torn file, HDF5 has searched for others without end."""
    for name, text in attributes.items():
        file.attrs[name] = np.bytes_(text.encode() or b" ")


def read_attributes(file: Any) -> dict[str, str]:
    """The texts that `write_attributes` wrote."""
    return {name: value.decode().strip() for name, value in file.attrs.items() if isinstance(value, bytes)}


def frames_of(paths: list[Path]) -> Iterator[tuple[Path, tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each file's frames now; files that have none, or cannot be read, are passed over."""
    for path in paths:
        with contextlib.suppress(*WRITE_ERRORS, KeyError), opened(path) as file:
            if "frames" in file:
                yield path, file["frames/data"].shape, file["frames/data"].dtype


def _extend(dataset: Any, values: NDArray[Any]) -> None:
    first = dataset.shape[0]
    dataset.resize(first + len(values), axis=0)
    dataset[first:] = values
    dataset.flush()


def _like(frame: FrameArrived) -> FrameArrived:
    """What frames of one form have in common."""
    return replace(frame, series=0, frame=0, image=replace(frame.image, data=b""))


def _pixels(image: EncodedImage) -> np.dtype[Any] | None:
    """The type of pixels that HDF5 finds in such an image's bytes; None where it finds none."""
    match = re.fullmatch(r"(?:bs(8|16|32)-lz4|raw)?([<>]?)", image.encoding)
    if match is None or (match[1] and int(match[1]) != 8 * image.dtype.itemsize):
        return None
    return image.dtype.newbyteorder(">" if match[2] == ">" else "<")


def _fills(image: EncodedImage) -> bool:
    """Whether the bytes are a chunk of the dataset; HDF5's filter would trust a wrong size."""
    size = image.shape[0] * image.shape[1] * image.dtype.itemsize
    if "lz4" not in image.encoding:
        return len(image.data) == size
    return len(image.data) > 12 and int.from_bytes(image.data[:8], "big") == size
