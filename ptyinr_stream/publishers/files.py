"""Reconstructions as files: a PNG of every snapshot for people, an HDF5 file of the final result for programs.

<folder>/<run uid>/snapshots/001200.png    by step
<folder>/<run uid>/latest.png
<folder>/<run uid>/result.h5               at the end, see `write_result`
<folder>/<run uid>/report.json             after the end
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptyinr.types import Snapshot
from ptyinr_stream.errors import ConfigError, PublishError
from ptyinr_stream.pictures import picture

from .base import ScanRecord, node_name


@dataclass(frozen=True)
class _Run:
    scan: ScanRecord
    folder: Path
    opened: float


class FilesPublisher:
    """Writes pictures and results below a folder; no file is ever seen half written.

    A scan that is reconstructed again gets `<run uid>-2`, so that nothing is overwritten.

    Args:
        folder: Created if missing.
        every_snapshot: Keep a PNG of every snapshot; otherwise `latest.png` is replaced and only the final one kept.
        attributes: Added to those of `result.h5`: `version`, `configuration`.

    Raises:
        ConfigError: the folder cannot be created or written.
    """

    def __init__(self, folder: Path, every_snapshot: bool = True, attributes: Mapping[str, Any] | None = None) -> None:
        self._folder, self._every_snapshot = Path(folder), every_snapshot
        self._attributes = dict(attributes or {})
        self._runs: dict[str, _Run] = {}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"output.folder: {folder} cannot be created: {error.strerror}") from error
        if not os.access(self._folder, os.W_OK):
            raise ConfigError(f"output.folder: {folder} cannot be written: permission denied")

    def open(self, scan: ScanRecord) -> None:
        """Create the scan's folder, or go on with that of an earlier life.

        Raises:
            PublishError: it cannot be created.
        """
        name = node_name(scan.uid)
        with _translated_errors(self._folder):
            for folder in (self._folder / name, *(self._folder / f"{name}-{n}" for n in range(2, 1000))):
                goes_on = scan.metadata.get("resumed") and not (folder / "report.json").exists()
                if goes_on or not folder.exists():
                    (folder / "snapshots").mkdir(parents=True, exist_ok=True)
                    self._runs[scan.uid] = _Run(scan, folder, time.monotonic())
                    return
        raise PublishError(f"{self._folder} already holds 999 reconstructions of {scan.uid}")

    def publish(self, snapshot: Snapshot) -> None:
        """Write the picture, and the result if the snapshot is final.

        Raises:
            PublishError: a file cannot be written.
        """
        run = self._runs[snapshot.uid]
        png = io.BytesIO()
        picture(snapshot).save(png, "PNG")
        pictures = [run.folder / "latest.png"]
        if self._every_snapshot or snapshot.final:
            pictures.append(run.folder / "snapshots" / f"{snapshot.step:06d}.png")
        for path in pictures:
            with _translated_errors(path):
                _write_atomically(path, lambda part: part.write_bytes(png.getvalue()))
        if snapshot.final:
            about = {"scan_id": run.scan.scan_id, "started_at": run.scan.started_at, **run.scan.metadata}
            seconds = time.monotonic() - run.opened
            write_result(run.folder / "result.h5", snapshot, {**about, "seconds": seconds, **self._attributes})

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """Write the report.

        Raises:
            PublishError: it cannot be written.
        """
        run = self._runs.get(uid)
        if run is not None:
            path = run.folder / "report.json"
            with _translated_errors(path):
                _write_atomically(path, lambda part: part.write_text(json.dumps(report, indent=2) + "\n"))
        self._runs.pop(uid, None)


def write_result(path: Path, snapshot: Snapshot, attributes: Mapping[str, Any]) -> None:
    """Write a reconstruction as HDF5, under a temporary name until it is whole.

    Datasets: `object` (H, W) complex64, `probe` (modes, h, w) complex64, `coverage` (H, W) float32, and in the order of
    the frames `indices` (n,) int64 and `positions_px` (n, 2) float64. Attributes of the file: uid, pixel_m (along
    axis 0, axis 1), frames, steps, the snapshot's metrics, and `attributes`.

    Raises:
        PublishError: the file cannot be written.
    """
    path = Path(path)

    def write(part: Path) -> None:
        with h5py.File(part, "w") as file:
            file["object"] = np.asarray(snapshot.object, np.complex64)
            file["probe"] = np.asarray(snapshot.probe, np.complex64)
            file["coverage"] = np.asarray(snapshot.coverage, np.float32)
            file["indices"] = np.asarray(snapshot.indices, np.int64)
            file["positions_px"] = np.asarray(snapshot.positions_px, np.float64)
            counts = {"frames": snapshot.frames, "steps": snapshot.step}
            own = {"uid": snapshot.uid, "pixel_m": snapshot.pixel_m, **counts}
            file.attrs.update({**snapshot.metrics, **attributes, **own})

    with _translated_errors(path):
        _write_atomically(path, write)


def _write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PublishError(f"{path} cannot be written: {error.strerror or str(error).splitlines()[0]}") from error
