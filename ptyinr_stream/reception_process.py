"""The reception in a process of its own: what is received, recorded and joined waits for no training, and survives it.

In one process the interpreter's lock is handed over some ten times a frame between receivers, intake and trainer, and
each step of a training holds it again and again. Decoded frames lie in memory that both processes map; see `lending`.
2026-11-26, two cores, the sender on them, 256 x 256 pixels offered at 2,000/s: in threads 1,610 and 1,660 were joined a
second, and 1,150 and 1,360 beside training; in a process, minutes later, 1,970 to 1,980, and 1,750 to 1,980. That the
training stands back (`nice`) did not help, and starved it where something else ran.

When the daemon dies, this process goes on receiving and recording. The next life listens, lets this one close its
recording (`recordings.ownership`), and goes on from there: what both have received is there twice, and counted.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import queue
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

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream import errors
from ptyinr_stream.backlog import Backlog
from ptyinr_stream.checkpoints import Checkpoints
from ptyinr_stream.child_process import start_child
from ptyinr_stream.config import Config
from ptyinr_stream.errors import FrameStoreError, HandoverError, StreamError
from ptyinr_stream.lending import Link, SharedBlocks
from ptyinr_stream.outputs import Output, ScanOpened
from ptyinr_stream.reception import Reception, ReceptionStatus
from ptyinr_stream.recordings.resumptions import Resumption

_log = logging.getLogger(__name__)

# -P: a file `h5py.py` in the folder where the daemon was started is not h5py. Not -m: what is sent is pickled by the
# name of this module, which would then be `__main__`.
COMMAND = (sys.executable, "-P", "-c", "from ptyinr_stream.reception_process import main; main()")
START_S = 240.0
"""How long the process may take to import, to wait for one that still records, and to listen."""
STOP_S = 120.0
"""How long it may take to work off what it has received."""
LINGER_S = 60.0
"""How long it records when the daemon is gone and no other one comes."""
OVERLAP_S = 1.0
"""How long both receive: so long a subscription may take to its publisher, and a message on its way."""
_STATUS_S = 0.2
_USUAL = 100
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
    late_s: NDArray[np.float64] | None
    """None where the system has no memory to share: a copy would stay as it is."""


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
        self._told = time.monotonic()
        try:
            self._process, ours = start_child(COMMAND)
        except OSError as error:
            raise HandoverError(f"the process that receives cannot be started: {error}") from error
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
        self.late_s = np.zeros(1) if ready.late_s is None else ready.late_s
        """(1,) How long the message that is being read had waited, in seconds: as it is, the memory is shared."""
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def silent_s(self) -> float:
        """Since it last said how it stands."""
        return time.monotonic() - self._told

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
        self._link.hang_up()
        self._process.terminate()  # if it has not ended, it would record on
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        self._link.close()

    def _await_ready(self) -> _Ready:
        """Wait until it listens; what else it says by then is taken by the thread, in its order."""
        while True:
            if not select.select([self._link], [], [], START_S)[0]:
                raise HandoverError(f"the process that receives has said nothing for {START_S:g} s")
            try:
                said = self._link.receive()
            except EOFError:
                raise HandoverError(self._ended()) from None
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
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = StreamError(f"what the process that receives has said cannot be taken: {error!r}")
            self._link.hang_up()

    def _take(self, said: Any) -> None:
        match said:
            case None:
                pass
            case ReceptionStatus():
                self.status, self._told = said, time.monotonic()
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


class _Telling:
    """Sends to the daemon, in a thread of its own: what receives and records never waits for it.

    What is not sent yet waits as in `Backlog`. When the daemon is gone, it is dropped.
    """

    def __init__(self, link: Link, config: Config) -> None:
        self._link = link
        self._waiting = Backlog[Any](1e6 * config.training.backlog_mb, config.frames_folder)
        self._thread = threading.Thread(target=self._run, name="tell", daemon=True)
        self._thread.start()

    def __call__(self, value: object) -> None:
        """Send a value, by and by."""
        self._waiting.put(value)

    @property
    def behind(self) -> bool:
        """Whether more waits than is usual."""
        return len(self._waiting) > _USUAL

    def finish(self) -> None:
        """Wait until everything is sent."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        gone = False
        while True:
            try:
                value = self._waiting.get(LINGER_S)
            except queue.Empty:
                continue
            except FrameStoreError as error:
                _log.error("%d frames are lost to the daemon, not to the recording: %s", error.frames, error)
                continue
            if value is None:
                return
            try:
                if not gone:
                    self._link.send(value)
            except (BrokenPipeError, ConnectionResetError):
                gone = True
            except OSError as error:
                _log.error("%s is lost to the daemon: %s", type(value).__name__, error.strerror)


class _Log(logging.Handler):
    """Hands what is logged to the daemon, whose log it is."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send it."""
        self._tell(_Said(record.name, record.levelno, self.format(record)))


def main() -> None:
    """Receive until the daemon says that it is enough; when it is gone, until another one waits."""
    # A service manager signals every process of a service at once; the daemon, while it lives, says when to end.
    told_to_end = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    blocks = SharedBlocks()
    link = Link(socket.socket(fileno=sys.stdin.fileno()), blocks)
    begin: _Begin = link.receive()
    tell = _Telling(link, begin.config)
    log, handler = logging.getLogger("ptyinr_stream"), _Log(tell)
    log.addHandler(handler)
    log.setLevel(begin.level)
    log.propagate = False

    def given_up() -> bool:
        return told_to_end.is_set() or link.hung_up

    try:
        reception = Reception(
            begin.config, begin.attributes, begin.begun, _noting(tell, begin.config), tell, blocks, given_up
        )
    except StreamError as error:
        tell(_Failed(type(error).__name__, str(error)))
        tell.finish()
        return
    # What is there now stays there: to go through 200,000 objects again and again costs 50 ms each time.
    gc.collect()
    gc.freeze()
    late_s = reception.late_s
    tell(_Ready(reception.endpoints, reception.status, late_s if blocks.find(late_s) else None))
    try:
        try:
            _attend(link, reception, tell)
        except EOFError:
            log.removeHandler(handler)
            log.propagate = True  # to the standard error, which is still there
            _log.warning("the daemon is gone; its scans are recorded on for %g s, or until it is back", LINGER_S)
            _bridge(reception, told_to_end)
    except StreamError as error:
        tell(_Failed(type(error).__name__, str(error)))
    except Exception as error:  # noqa: BLE001 - the daemon raises it
        _log.error("a defect of the process that receives", exc_info=error)
        tell(_Failed("StreamError", f"a defect of the process that receives: {error!r}"))
    finally:
        reception.stop()
        tell(_Over(reception.status))
        tell.finish()


def _noting(tell: Callable[[object], None], config: Config) -> Callable[[Output], None]:
    """Notes which scans have begun, as training would: the daemon may be gone by then, or die before it hears of it."""
    checkpoints = Checkpoints(config.checkpoints) if config.checkpoints else None

    def deliver(output: Output) -> None:
        if checkpoints is not None and isinstance(output, ScanOpened):
            checkpoints.begin(output.uid)
        tell(output)

    return deliver


def _attend(link: Link, reception: Reception, tell: _Telling) -> None:
    """Say how things stand until it is stopped."""
    due = 0.0
    while True:
        reception.check()
        if (wait := due - time.monotonic()) <= 0:
            if not tell.behind:
                tell(reception.status)
            due = time.monotonic() + (wait := _STATUS_S)
        if select.select([link], [], [], wait)[0] and isinstance(link.receive(), _Stop):
            return


def _bridge(reception: Reception, told_to_end: threading.Event) -> None:
    """The daemon is gone: record on until its next life is there."""
    reception.outlive()
    ends, wanted = time.monotonic() + LINGER_S, False
    # Not `told_to_end.wait`: it holds the lock that the signal's handler takes, and both are this thread's.
    while reception.records and time.monotonic() < ends and not told_to_end.is_set():
        time.sleep(_LOOK_S)
        reception.check()
        if reception.wanted and not wanted:
            ends, wanted = time.monotonic() + OVERLAP_S, True
