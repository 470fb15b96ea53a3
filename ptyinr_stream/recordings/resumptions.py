"""Which scans a daemon goes on with, and how often: one that ends each life that takes it up is left alone.

A recording's folder keeps in `attempts` how many lives have taken its scan up and have not ended as they should. The
number is on disk before a life begins with it, so that a death of any kind counts; it goes when the scan has been
finished, and is set back when the daemon is stopped.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .folder import Recording

_log = logging.getLogger(__name__)

MOST = 3
"""Attempts."""
ATTEMPTS = "attempts"


@dataclass(frozen=True)
class Resumption:
    """A scan that this life goes on with."""

    uid: str
    folder: Path
    """Of its recording."""
    before: int
    """Attempts of earlier lives."""


class Resumptions:
    """Recordings to go on with, oldest first: each counts from the moment it is iterated to.

    Args:
        recordings: of scans that an earlier life has not finished. They are closed by whoever iterates, but for those
            that are left alone.
        begun: is told of each that is iterated to.
    """

    def __init__(
        self, recordings: Sequence[Recording] = (), begun: Callable[[Resumption], None] = lambda _: None
    ) -> None:
        self.left_alone = 0
        """Recordings."""
        self._begun = begun
        self._chosen: list[Recording] = []
        for recording in recordings:
            if attempts(recording.folder) < MOST:
                self._chosen.append(recording)
                continue
            recording.close()
            self.left_alone += 1
            _log.error(
                "run %s is left alone: %d lives of the daemon have ended while they went on with it. To finish it "
                "offline: ptyinr-stream reconstruct %s",
                *(recording.uid, MOST, recording.folder),
            )

    def __iter__(self) -> Iterator[Recording]:
        for recording in self._chosen:
            resumption = Resumption(recording.uid, recording.folder, attempts(recording.folder))
            self._begun(resumption)
            _note(resumption.folder, resumption.before + 1)
            yield recording


class Attempts:
    """What becomes of the scans that this life goes on with: takes back from their attempts what ended well."""

    def __init__(self) -> None:
        self._open: dict[str, Resumption] = {}  # by uid

    def begun(self, resumption: Resumption) -> None:
        """A scan is gone on with; may be called from another thread."""
        self._open[resumption.uid] = resumption

    def finished(self, uids: Iterable[str]) -> None:
        """Forget the attempts of scans that are over; `uids` are not looked at where there are none."""
        if self._open:
            for uid in set(uids).intersection(list(self._open)):
                _note(self._open.pop(uid).folder, 0)

    def stopped(self) -> None:
        """Take this life back from those that count: it has been stopped, and nothing was wrong with it."""
        while self._open:
            _, resumption = self._open.popitem()
            _note(resumption.folder, resumption.before)


def attempts(folder: Path) -> int:
    """How many lives have gone on with a recording and have not ended as they should."""
    try:
        return max(0, int((folder / ATTEMPTS).read_text()))
    except (OSError, ValueError):  # there is none, or it is torn
        return 0


def _note(folder: Path, number: int) -> None:
    """Put a number on disk in one step; 0 removes it."""
    path = folder / ATTEMPTS
    new = path.with_name(f".{ATTEMPTS}")
    try:
        if not number:
            path.unlink(missing_ok=True)
            return
        with new.open("w") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        _log.warning("%s: cannot be written, attempts are not counted: %s", path, error.strerror)
