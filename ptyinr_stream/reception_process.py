"""The reception in a process of its own: what is received, recorded and joined waits for no training, and survives it.

In one process the interpreter's lock is handed over some ten times a frame between receivers, intake and trainer, and
each step of a training holds it again and again. Decoded frames lie in memory that both processes map; see `lending`.

When the daemon dies, this process goes on receiving and recording. The next life listens, lets this one close its
recording (`recordings.ownership`), and goes on from there: what both have received is there twice, and counted.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ptyinr_stream import errors
from ptyinr_stream.config import Config
from ptyinr_stream.errors import EndpointError, StreamError
from ptyinr_stream.lending import Link, SharedBlocks
from ptyinr_stream.outputs import Output
from ptyinr_stream.reception import Reception, ReceptionStatus
from ptyinr_stream.recordings.resumptions import Resumption

_log = logging.getLogger(__name__)

# -P: a file `h5py.py` in the folder where the daemon was started is not h5py. Not -m: what is sent is pickled by the
# name of this module, which would then be `__main__`.
COMMAND = (sys.executable, "-P", "-c", "from ptyinr_stream.reception_process import main; main()")
START_S = 180.0
"""How long the process may take to import, to wait for one that still records, and to listen."""
STOP_S = 120.0
"""How long it may take to work off what it has received."""
LINGER_S = 60.0
"""How long it records when the daemon is gone and no other one comes."""
OVERLAP_S = 1.0
"""How long both receive: so long a subscription may take to its publisher, and a message on its way."""
_STATUS_S = 0.2
_LOOK_S = 0.1


@dataclass(frozen=True)
class _Begin:
    """What the process needs to know."""

    config: Config
    attributes: Mapping[str, str]
    begun: Collection[str]
    level: int
    """Of its log."""


@dataclass(frozen=True)
class _Ready:
    """It listens."""

    endpoints: dict[str, str]
    status: ReceptionStatus


@dataclass(frozen=True)
class _Failed:
    """It ends, by an error of this class."""

    kind: str
    message: str

    def error(self) -> StreamError:
        found = getattr(errors, self.kind, StreamError)
        return (found if found is not errors.WireError else StreamError)(self.message)


@dataclass(frozen=True)
class _Said:
    """A line of its log."""

    name: str
    level: int
    message: str


@dataclass(frozen=True)
class _Stop:
    """It shall end."""


@dataclass(frozen=True)
class _Over:
    """It has delivered everything."""

    status: ReceptionStatus


class ReceptionProcess:
    """A `Reception` in a child process; the arguments, and what is raised, are the same.

    `deliver` and `resumed` are called in a thread of this process. Arrays that are delivered may lie in memory that is
    used again when nobody holds them any more.
    """

    def __init__(
        self,
        config: Config,
        attributes: Mapping[str, str],
        begun: Collection[str],
        deliver: Callable[[Output], None],
        resumed: Callable[[Resumption], None],
    ) -> None:
        self._deliver, self._resumed = deliver, resumed
        self._error: StreamError | None = None
        self._over = False
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            try:
                # In a session of its own: Ctrl-C must not reach it, what it has received is delivered after that.
                self._process = subprocess.Popen(COMMAND, stdin=theirs.fileno(), start_new_session=True)  # noqa: S603
            except OSError as error:
                raise EndpointError(f"the process that receives cannot be started: {error}") from error
            failed.pop_all()
        self._link = Link(ours)
        with contextlib.ExitStack() as failed:
            failed.callback(self._process.wait)
            failed.callback(self._process.kill)
            failed.callback(self._link.close)
            level = logging.getLogger("ptyinr_stream").getEffectiveLevel()
            with contextlib.suppress(OSError):  # it has died already: `_await_ready` says so
                self._link.send(_Begin(config, dict(attributes), set(begun), level))
            ready = self._await_ready()
            failed.pop_all()
        self.endpoints = ready.endpoints
        """The real address of each road: port 0 in the configuration is replaced by the port it became."""
        self.status = ready.status
        """As it was a moment ago."""
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def check(self) -> None:
        """Raise what ended the process, if anything did."""
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Leave it alone: it records on until another daemon comes; what it delivers is lost here."""
        self._over = True
        self._link.hang_up()
        self._thread.join(STOP_S)
        self._link.close()

    def stop(self) -> None:
        """Let it stop receiving, deliver what has been received, and end."""
        with contextlib.suppress(OSError):  # it has ended
            self._link.send(_Stop())
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            _log.error("the process that receives has not worked off what it has received in %g s", STOP_S)
            self._process.kill()
            self._thread.join(STOP_S)
        self._process.wait()
        self._link.close()

    def _await_ready(self) -> _Ready:
        """Wait until it listens; what else it says by then is taken by the thread, in its order."""
        while True:
            if not select.select([self._link], [], [], START_S)[0]:
                raise EndpointError(f"the process that receives has said nothing for {START_S:g} s")
            try:
                said = self._link.receive()
            except EOFError:
                raise EndpointError(self._ended()) from None
            match said:
                case _Ready():
                    return said
                case _Failed():
                    raise said.error()
                case _:
                    self._take(said)

    def _run(self) -> None:
        try:
            while True:
                if select.select([self._link], [], [], _LOOK_S)[0]:
                    self._take(self._link.receive())
                with contextlib.suppress(OSError):  # it is gone: `receive` says so
                    self._link.give_back()
        except EOFError:
            if not self._over and self._error is None:
                self._error = StreamError(self._ended())

    def _take(self, said: Any) -> None:
        match said:
            case None:
                pass
            case ReceptionStatus():
                self.status = said
            case Resumption():
                self._resumed(said)
            case _Said(name, level, message):
                logging.getLogger(name).log(level, "%s", message)
            case _Failed():
                self._error = said.error()
            case _Over():
                self.status, self._over = said.status, True
            case _:
                self._deliver(said)

    def _ended(self) -> str:
        return f"the process that receives has ended (exit status {self._process.wait()}); what it printed says why"


class _Log(logging.Handler):
    """Hands what is logged to the daemon, whose log it is."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send it; nobody reads it when the daemon is gone."""
        with contextlib.suppress(OSError):
            self._link.send(_Said(record.name, record.levelno, self.format(record)))


def main() -> None:
    """Receive until the daemon says that it is enough; when it is gone, until another one waits."""
    # A service manager signals every process of a service at once; the daemon, while it lives, says when to end.
    told_to_end = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    blocks = SharedBlocks()
    link = Link(socket.socket(fileno=sys.stdin.fileno()), blocks)
    begin: _Begin = link.receive()
    log = logging.getLogger("ptyinr_stream")
    log.addHandler(_Log(link))
    log.setLevel(begin.level)
    log.propagate = False

    def tell(value: object) -> None:
        with contextlib.suppress(OSError):  # the daemon is gone: what is recorded is what counts
            link.send(value)

    try:
        reception = Reception(begin.config, begin.attributes, begin.begun, tell, tell, blocks)
    except StreamError as error:
        tell(_Failed(type(error).__name__, str(error)))
        return
    # What is there now stays there: to go through 200,000 objects again and again costs 50 ms each time.
    gc.collect()
    gc.freeze()
    tell(_Ready(reception.endpoints, reception.status))
    try:
        try:
            _attend(link, reception, tell)
        except EOFError:
            _bridge(reception, told_to_end)
    except StreamError as error:
        tell(_Failed(type(error).__name__, str(error)))
    except Exception as error:  # noqa: BLE001 - the daemon raises it
        _log.error("a defect of the process that receives", exc_info=error)
        tell(_Failed("StreamError", f"a defect of the process that receives: {error!r}"))
    finally:
        reception.stop()
        tell(_Over(reception.status))


def _attend(link: Link, reception: Reception, tell: Callable[[object], None]) -> None:
    """Say how things stand until it is stopped."""
    due = 0.0
    while True:
        reception.check()
        if (wait := due - time.monotonic()) <= 0:
            tell(reception.status)
            due = time.monotonic() + (wait := _STATUS_S)
        if select.select([link], [], [], wait)[0] and isinstance(link.receive(), _Stop):
            return


def _bridge(reception: Reception, told_to_end: threading.Event) -> None:
    """The daemon is gone: record on until its next life is there."""
    ends = time.monotonic() + LINGER_S
    while reception.records and time.monotonic() < ends:
        reception.check()
        if reception.wanted:
            ends = min(ends, time.monotonic() + OVERLAP_S)
        if told_to_end.wait(_LOOK_S):
            return
