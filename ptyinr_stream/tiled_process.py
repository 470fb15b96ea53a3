"""The embedded Tiled server in a process of its own, started again when it dies.

A viewer's large export holds Python's interpreter lock: in the daemon's own process it would cost beamtime. Measured
2026-11-22 on 2 cores while 1024 x 1024 values were exported as CSV: Python beside it ran at a third of its speed with
the server in a thread, at full speed with the server here. To start it takes 3.0 to 3.4 s; in a thread 0.2 s, 0.6 s
with a new folder, after 2.3 to 3.3 s of imports. The parent does without those, and without their 270 MB.

`python -m ptyinr_stream.tiled_process` is that process. A socket, its standard input, joins it to its parent:

    parent to child    one line of JSON: folder, key, host and port. Then nothing: the end says that it is to end
    child to parent    one line of JSON: the port, or the error that kept the server from starting
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Self

from ptyinr_stream.child_process import start_child
from ptyinr_stream.errors import ConfigError, EndpointError, StreamError
from ptyinr_stream.local_tiled import LocalTiled

logger = logging.getLogger(__name__)

# -P: a file `tiled.py` in the folder where the daemon was started is not Tiled.
COMMAND = (sys.executable, "-P", "-m", "ptyinr_stream.tiled_process")
REPORT_S = 90.0
"""How long the process may take to import, to listen and to say so."""
RESTARTS = 5
"""In vain, one after the other, before the server is given up."""
PAUSE_S = 0.5
"""Before the first restart; it doubles with each that was in vain."""
STEADY_S = 60.0
"""A process that has lived this long was not started in vain."""
STOP_S = 5
"""How long the process may take to end, whatever a viewer has asked of it."""
PORT_S = 2.0 * STOP_S
"""How long the port may be in use at the start: the process of a daemon that was killed ends a little after it."""
PORT_POLL_S = 0.1
CHECK_S = 1.0


class ServerProcess(LocalTiled):
    """A Tiled server in a child process, on the same port through all its lives."""

    def __init__(self, folder: Path, api_key: str | None, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(folder, api_key, host, port)
        self._child: _Child | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._error: EndpointError | None = None

    def start(self) -> Self:
        """Start the process, and return when its server answers.

        Raises:
            EndpointError: the address cannot be bound, or the server does not come up.
            ConfigError: the folder cannot be written or belongs to another version of Tiled.
        """
        self._stopping.clear()
        self._error = None
        self._await_port()
        child = self._launch()
        self._thread = threading.Thread(target=self._supervise, args=(child,), name="tiled-process", daemon=True)
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise what kept the server from being started again; a death alone is no error.

        Raises:
            EndpointError: it is given up.
        """
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ask the process to end, and kill it if it does not; a second call does nothing."""
        if self._thread is None or self._child is None:
            return
        with self._lock:
            self._stopping.set()
            self._child.dismiss()
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            self._child.kill()
            self._thread.join(STOP_S)
        self._thread = None

    def _await_port(self) -> None:
        """Wait until the port is free, but not for ever: the process that is started then says what is wrong."""
        deadline, told = time.monotonic() + PORT_S, False
        while self.port and self._in_use() and time.monotonic() < deadline:
            if not told:
                logger.warning(
                    "tiled.port: %s:%d is in use, by the server of a daemon that was killed? Waiting %g s at most",
                    *(self.host, self.port, PORT_S),
                )
            told = True
            self._stopping.wait(PORT_POLL_S)

    def _in_use(self) -> bool:
        try:
            self._listener().close()
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False

    def _launch(self) -> _Child:
        """Start a process and wait until it serves; there is none left if this raises."""
        with self._lock:
            if self._stopping.is_set():
                raise EndpointError("the embedded Tiled server is being stopped")
            self._child = child = _Child(self.folder, self.api_key, self.host, self.port)
        with contextlib.ExitStack() as failed:
            failed.callback(child.wait)
            failed.callback(child.kill)
            self.port = child.port()
            failed.pop_all()
        return child

    def _supervise(self, child: _Child | None) -> None:
        in_vain, pause_s = 0, 0.0
        while not self._stopping.wait(pause_s):
            begun = None
            try:
                child = child or self._launch()
                begun = time.monotonic()
                reason = f"exit status {child.wait()}"
            except StreamError as error:
                reason = str(error)
            child = None
            if self._stopping.is_set():
                return
            in_vain = 0 if begun is not None and time.monotonic() - begun > STEADY_S else in_vain + 1
            if in_vain > RESTARTS:
                self._error = EndpointError(f"the embedded Tiled server has ended {in_vain} times in a row: {reason}")
                return
            pause_s = PAUSE_S * 2**in_vain
            logger.warning("the embedded Tiled server has ended (%s); it is started again in %g s", reason, pause_s)


class _Child:
    """One life of the server's process."""

    def __init__(self, folder: Path, api_key: str, host: str, port: int) -> None:
        try:
            self._process, self._socket = start_child(COMMAND)
        except OSError as error:
            raise EndpointError(f"the embedded Tiled server's process cannot be started: {error}") from error
        settings = {"folder": str(folder), "api_key": api_key, "host": host, "port": port}
        with contextlib.suppress(OSError):  # it has died already: `port` says so
            self._socket.sendall(json.dumps(settings).encode() + b"\n")

    def port(self) -> int:
        """Wait for its report.

        Raises:
            EndpointError, ConfigError: the server did not start.
        """
        self._socket.settimeout(REPORT_S)
        line = ""
        with contextlib.suppress(OSError), self._socket.makefile() as lines:
            line = lines.readline()
        if not line:
            raise EndpointError(
                f"the embedded Tiled server's process has ended, or said nothing for {REPORT_S:g} s; "
                "what it printed says why"
            )
        report = json.loads(line)
        if "error" in report:
            raise {"ConfigError": ConfigError, "EndpointError": EndpointError}[report["error"]](report["message"])
        return report["port"]

    def wait(self) -> int:
        """Return its exit status, once it has ended."""
        with self._socket:
            return self._process.wait()

    def dismiss(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._process.kill()


def main() -> None:
    """Serve until the parent ends the connection, or dies."""
    # A service manager signals every process of a service at once, and the last results are delivered after that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    from ptyinr_stream.tiled_server import EmbeddedServer  # noqa: PLC0415  not before the signals; not in the parent

    with socket.socket(fileno=sys.stdin.fileno()) as parent:
        settings = json.loads(parent.makefile().readline())
        server = EmbeddedServer(Path(settings.pop("folder")), **settings)
        try:
            server.start()
        except (ConfigError, EndpointError) as error:
            parent.sendall(json.dumps({"error": type(error).__name__, "message": str(error)}).encode() + b"\n")
            return
        parent.sendall(json.dumps({"port": server.port}).encode() + b"\n")
        try:
            while not select.select([parent], [], [], CHECK_S)[0]:
                server.check()
        except EndpointError as error:
            sys.exit(str(error))
        finally:
            signal.alarm(STOP_S)  # ends the process even where a viewer's request holds the interpreter
            server.stop()


if __name__ == "__main__":
    main()
