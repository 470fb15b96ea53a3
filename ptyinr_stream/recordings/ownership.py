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
from collections.abc import Callable
from pathlib import Path

from ptyinr_stream.errors import EndpointError, HandoverError, StreamError

_log = logging.getLogger(__name__)

LIVES, LOCK, NEXT = ".daemon", ".lock", ".next"
PATIENCE_S = 200.0
"""How long a process whose daemon is gone may need to work off what it has received."""
LIVES_S = 5.0
"""How long a daemon that lives may need to end."""
_POLL_S = 0.02


class Ownership:
    """The folder is this daemon's, from its construction until `release` or the end of the process.

    A folder that cannot be written, or whose file system knows no locks, is not held: whoever records there says so.

    Args:
        folder: of the recordings.
        given_up: is asked while it waits.

    Raises:
        EndpointError: the daemon of the process that holds it lives.
    """

    def __init__(self, folder: Path, given_up: Callable[[], bool] = lambda: False, lives_s: float = LIVES_S) -> None:
        self._folder, self._given_up = folder, given_up
        self._files: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in (LIVES, LOCK, NEXT):
                self._files[name] = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not self._taken(LIVES, time.monotonic() + lives_s):
                raise EndpointError(f"{folder}: another daemon records there; give each an output folder of its own")
        except StreamError:
            self.release()
            raise
        except OSError as error:
            _log.debug("%s: cannot be locked: %s", folder, error.strerror)
            self.release()

    def take_over(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until a process whose daemon is gone has written everything.

        Raises:
            HandoverError: it has not after `patience_s`, or it was given up.
        """
        if not self._files:
            return
        deadline = time.monotonic() + patience_s
        if not (self._taken(NEXT, deadline) and self._taken(LOCK, deadline)):
            self.release()
            raise HandoverError(f"{self._folder}: a process that a daemon has left behind still records there")
        fcntl.flock(self._files[NEXT], fcntl.LOCK_UN)

    @property
    def held(self) -> bool:
        """Whether it could be locked, and was not released."""
        return bool(self._files)

    @property
    def wanted(self) -> bool:
        """Whether another process waits for it."""
        if not self._files:
            return False
        try:
            fcntl.flock(self._files[NEXT], fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._files[NEXT], fcntl.LOCK_UN)
        return False

    def outlive(self) -> None:
        """The daemon is gone: another one may wait for it."""
        if self._files:
            fcntl.flock(self._files[LIVES], fcntl.LOCK_UN)

    def release(self) -> None:
        """Let others have it."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _taken(self, name: str, deadline: float) -> bool:
        told = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._files[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            if time.monotonic() > deadline or self._given_up():
                return False
            if not told:
                _log.info("%s: waiting until the process that still records there has written everything", self._folder)
            told = True
            time.sleep(_POLL_S)
