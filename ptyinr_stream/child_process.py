"""Processes that the daemon keeps, each with one end of a pair of sockets as its standard input.

Such a process learns by its end of the pair that the daemon is gone, however that died.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Sequence


def start_child(command: Sequence[str]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a process; gives it, and the other end of its pair.

    Raises:
        OSError: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as failed:
        failed.callback(ours.close)
        # In a session of its own: Ctrl-C must not reach it, for the last results are delivered after that.
        process = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)  # noqa: S603
        failed.pop_all()
    return process, ours
