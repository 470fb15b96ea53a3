"""One process at a time writes recordings into a folder, and lets go when another one waits.

A daemon that dies leaves a process behind that goes on recording what arrives; see `reception_process`. The daemon's
next life says that it is there by waiting, and begins when all that was received before is on disk. Files are locked,
not written: a lock ends with its process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from pathlib import Path

from ptyinr_stream.errors import EndpointError

_log = logging.getLogger(__name__)

LOCK, NEXT = ".lock", ".next"
PATIENCE_S = 100.0
"""How long another process may need to work off what it has received."""
_POLL_S = 0.02


class Ownership:
    """Holds a folder, from its construction until `release` or the end of the process.

    A folder that cannot be written, or whose file system knows no locks, is not held: whoever records there says so.

    Raises:
        EndpointError: another process holds it for longer than `patience_s`.
    """

    def __init__(self, folder: Path, patience_s: float = PATIENCE_S) -> None:
        self._folder = folder
        self._held: int | None = None
        self._next: int | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held, self._next = (
                os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644) for name in (LOCK, NEXT)
            )
            deadline = time.monotonic() + patience_s
            self._await(self._next, deadline)
            self._await(self._held, deadline)
            fcntl.flock(self._next, fcntl.LOCK_UN)
        except EndpointError:
            self.release()
            raise
        except OSError as error:
            _log.debug("%s: cannot be locked: %s", folder, error.strerror)
            self.release()

    @property
    def held(self) -> bool:
        """Whether it could be locked, and was not released."""
        return self._held is not None

    @property
    def wanted(self) -> bool:
        """Whether another process waits for it."""
        if self._next is None:
            return False
        try:
            fcntl.flock(self._next, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._next, fcntl.LOCK_UN)
        return False

    def release(self) -> None:
        """Let others have it."""
        for file in (self._held, self._next):
            if file is not None:
                os.close(file)
        self._held = self._next = None

    def _await(self, file: int, deadline: float) -> None:
        told = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                raise EndpointError(
                    f"{self._folder}: another daemon records there; give each an output folder of its own"
                )
            if not told:
                _log.info("%s: waiting until the process that still records there has written everything", self._folder)
            told = True
            time.sleep(_POLL_S)
