"""Frames that are not sent: an HDF5 file for each series, which grows as a detector's file plugin lets it grow.

Documents name the file and say how far it has come, as ophyd-async's do. The file is in SWMR mode: it can be read, with
`swmr=True`, while it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import h5py
import hdf5plugin
from numpy.typing import NDArray

from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.wire import codecs


class Encoder:
    """Writes `<folder>/replay-<series>.h5`, bitshuffled LZ4, one chunk a frame; the files stay."""

    socket: ClassVar[Literal["pub", "push"] | None] = None
    wire: ClassVar[str] = "bluesky"
    carriers: ClassVar[int] = 0
    dataset: ClassVar[str] = "/entry/data/data"

    def __init__(self, scan: RecordedScan, rate_hz: float, folder: Path) -> None:
        del rate_hz
        self._scan = scan
        self._folder = folder.absolute()
        self._file: h5py.File | None = None
        self.uri = ""

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Create the file of a series.

        Raises:
            ScanFileError: it exists, or cannot be written.
        """
        del frames
        path = self._folder / f"replay-{series}.h5"
        h, w = self._scan.counts.shape[1:]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(path, "x", libver="latest")
        except OSError as error:
            raise ScanFileError(f"{path}: cannot be written: {error}") from error
        layout: dict[str, Any] = {"maxshape": (None, h, w), "chunks": (1, h, w), **hdf5plugin.Bitshuffle(cname="lz4")}
        self._file.create_dataset(self.dataset, (0, h, w), self._scan.counts.dtype, **layout)
        self._file.swmr_mode = True
        self.uri = f"file://localhost{quote(str(path))}"
        return []

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Write a frame."""
        del series
        images = self._images
        images.resize(frame + 1, axis=0)
        images.id.write_direct_chunk((frame, 0, 0), codecs.encode(pixels, f"bs{8 * pixels.itemsize}-lz4<"))
        return []

    def flush(self) -> None:
        """Let readers see what has been written."""
        self._images.flush()

    def end(self, series: int) -> list[list[bytes]]:
        """Close the file."""
        del series
        self._images.file.close()
        return []

    @property
    def _images(self) -> h5py.Dataset:
        if self._file is None:
            raise ValueError("no series has been armed")
        images = self._file[self.dataset]
        if not isinstance(images, h5py.Dataset):
            raise TypeError(f"{self.dataset} is a {type(images).__name__}")
        return images
