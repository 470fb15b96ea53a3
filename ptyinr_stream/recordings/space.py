"""How much a recorder may write: a cap on all recordings, a floor of free space, and what gives way."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Set
from pathlib import Path

from ptyinr_stream.config import RecordingConfig

from .folder import recordings
from .master import read_standing

_log = logging.getLogger(__name__)

_FORGOTTEN_S = 86_400.0  # an unfinished recording this old is no longer waiting for a daemon to go on with it


class Space:
    """Room in the folder of the recordings.

    Args:
        folder: of all recordings; whatever else lies in it is left alone.
        config: cap, floor, and what to do at them.
    """

    def __init__(self, folder: Path, config: RecordingConfig) -> None:
        self._folder = folder
        self._config = config
        self._elders: dict[Path, int] = {}

    def survey(self, growing: Set[Path]) -> None:
        """Measure the recordings that are not `growing`; once for each run, as it takes a look at every file."""
        self._elders = {path: _size(path) for path in recordings(self._folder) if path not in growing}

    def shortage(self, growing_bytes: int) -> str | None:
        """Why nothing more may be written, None if something may; with `delete_oldest` it makes room first.

        Args:
            growing_bytes: of the recordings that are being written.

        Raises:
            OSError: the disk does not answer.
        """
        while (reason := self._lacking(growing_bytes)) is not None:
            oldest = next((path for path in self._elders if _is_over(path)), None)
            if self._config.when_full == "stop" or oldest is None:
                return reason
            _log.info("%s is deleted: %s", oldest, reason)
            shutil.rmtree(oldest)
            del self._elders[oldest]
        return None

    def _lacking(self, growing_bytes: int) -> str | None:
        held = sum(self._elders.values()) + growing_bytes
        if held > 1e9 * self._config.cap_gb:
            return f"{self._folder} holds {held / 1e9:.3g} GB, recording.cap_gb allows {self._config.cap_gb:g}"
        free = shutil.disk_usage(self._folder).free
        if free < 1e9 * self._config.free_gb:
            return f"{self._folder} has {free / 1e9:.3g} GB free, recording.free_gb keeps {self._config.free_gb:g}"
        return None


def _size(folder: Path) -> int:
    return sum(file.st_size for file in _files(folder))


def _is_over(folder: Path) -> bool:
    standing = read_standing(folder)
    if standing is not None and standing.state in ("complete", "incomplete"):
        return True
    return time.time() - max(file.st_mtime for file in _files(folder)) > _FORGOTTEN_S


def _files(folder: Path) -> Iterator[os.stat_result]:
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # what `resumptions` keeps there goes when a scan is finished
            yield file.stat()
