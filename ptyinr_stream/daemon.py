"""The daemon: reception, engine and publishers put together, and the loop of the main thread.

    documents, frames, positions -> reception -> engine -> publishers
                                    threads,     this     a thread each
                                    or a process

Whatever ends the reception or a thread ends the daemon: `run` raises it. What a publisher cannot deliver ends nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import httpx
import numpy as np

from ptyinr.warming import warm_up
from ptyinr_stream import __version__
from ptyinr_stream.backlog import Backlog
from ptyinr_stream.config import Config, TiledConfig, secret, systemd
from ptyinr_stream.courtesy import give_way
from ptyinr_stream.device import choose_device
from ptyinr_stream.engine import Engine, ScanStatus
from ptyinr_stream.errors import ConfigError, FrameStoreError, PublishError
from ptyinr_stream.frame_store import check_folder
from ptyinr_stream.local_tiled import LocalTiled
from ptyinr_stream.outputs import Output
from ptyinr_stream.probe_file import read_probe
from ptyinr_stream.publishers.base import Publisher, PublisherStatus, PublisherThread
from ptyinr_stream.publishers.files import FilesPublisher
from ptyinr_stream.publishers.steering import SteeringPublisher
from ptyinr_stream.publishers.tiled import TiledPublisher
from ptyinr_stream.reception import Reception, ReceptionStatus
from ptyinr_stream.reception_process import ReceptionProcess
from ptyinr_stream.recordings.resumptions import Attempts
from ptyinr_stream.telemetry import Heart, Telemetry, free_gb
from ptyinr_stream.trace import Trace

_log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.2
"""How long the loop waits for a delivery when there is nothing to train; errors of threads are seen as soon."""
DELIVERY_S = 1.0
"""How long deliveries are taken before the next step, or as long as the last one took: frames that come faster than
they can be kept stop no picture."""
STALLED_S = 2.0
"""A process that receives and has said nothing for so long stands still: training need not wait for it."""
FLUSH_S = 30.0
"""How long finals may take to leave when the daemon stops."""


@dataclass(frozen=True)
class DaemonStatus(ReceptionStatus):
    """How everything stands, for the terminal and for tests."""

    scan: ScanStatus | None = None
    publishers: list[PublisherStatus] = field(default_factory=list)
    disk_free_gb: float | None = None
    """Of the disk that results and recordings go to."""
    backlog: dict[str, float] = field(default_factory=dict)
    """What waits for training: see `Backlog.status`."""
    silent_s: float = 0.0
    """Since the main loop last came round."""
    reception_silent_s: float = 0.0
    """Since the process that receives last said how it stands."""

    def plain(self) -> dict[str, Any]:
        """The same in dictionaries, for `telemetry`."""
        recording = asdict(self.recorder)
        failed = self.recorder.state == "failed"
        return asdict(self) | {"recording": recording | {"error": self.recorder.reason if failed else None}}


class Daemon:
    """Everything between the sockets and the publishers, from `start` to `close`.

    Args:
        config: the whole configuration.
        embedded: the kind of Tiled server to start where the configuration names none; by default one in a thread.
        reception: the kind of reception; by default threads of this process.

    Raises:
        ConfigError: a key, a device, a probe file or a folder is wrong.
        EndpointError: an address is in use, or another daemon records into the same folder.
        PublishError: the Tiled server refuses the key or the access tags.
    """

    def __init__(
        self,
        config: Config,
        embedded: type[LocalTiled] | None = None,
        reception: type[Reception | ReceptionProcess] = Reception,
    ) -> None:
        self._config = config
        self._embedded, self._receive = embedded, reception
        self._device = choose_device(config.training.device)
        if config.training.frames_folder is not None:
            check_folder(config.training.frames_folder)
        probe_file = config.training.probe_file
        self._probe: np.ndarray | None = None if probe_file is None else read_probe(probe_file)
        self._outputs = Backlog[Output](1e6 * config.training.backlog_mb, config.frames_folder)
        self._stop = threading.Event()
        self._cleanup = contextlib.ExitStack()
        self._publishers: list[PublisherThread] = []
        self._reception: Reception | ReceptionProcess | None = None
        output = config.output
        self._trace = Trace(output.folder / "traces") if output.trace and output.folder is not None else None
        self._attempts = Attempts()
        self._failed = False
        self._lost = 0  # frames that the backlog could not give back
        self._heart = Heart(*systemd())
        self.telemetry: Telemetry | None = None
        self.engine: Engine
        self.server: LocalTiled | None = None
        self.tiled_path = config.tiled.path

    def start(self) -> Self:
        """Open everything, innermost first, so that the first message already finds its way."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._release)
            for publisher, name in self._make_publishers(stack):
                thread = PublisherThread(publisher, name).start()
                stack.callback(thread.stop, FLUSH_S)
                self._publishers.append(thread)
            self.engine = Engine(self._config, self._publishers, device=self._device, probe=self._probe)
            stack.callback(self._finish)
            self._reception = self._receive(
                self._config, self._attributes(), self.engine.begun, self._outputs.put, self._attempts.begun
            )
            stack.callback(self._end_reception, self._reception)
            where = self._config.telemetry
            if where.port is not None:
                self.telemetry = Telemetry(self._told, where.host, where.port).start()
                stack.callback(self.telemetry.stop)
            self._warm_up()
            self._cleanup = stack.pop_all()
        self._heart.say(READY="1")
        return self

    def run(self, observe: Callable[[Self], None] | None = None) -> None:
        """Work until `stop` is called; `observe` is called after every step and while waiting.

        Raises:
            StreamError: what ended one of the threads.
        """
        with self._noting_failure():
            worked = 0.0
            while not self._stop.is_set():
                self._heart.beat()
                self._deliver(max(DELIVERY_S, worked))
                give_way(self._late_s, worked)
                began = time.monotonic()
                busy = self.engine.work(time.monotonic)
                worked = time.monotonic() - began
                if not busy:
                    self._take_next(IDLE_WAIT_S)
                self._attempts.finished(status.uid for status in self.engine.history)
                for part in (self._reception, *self._publishers, self.server):
                    if part is not None:
                        part.check()
                if observe is not None:
                    observe(self)

    def stop(self) -> None:
        """End `run` after the step in progress; may be called from anywhere, a signal handler too."""
        self._stop.set()

    def close(self) -> None:
        """Stop receiving, join what has been received, finish the scans, deliver the finals."""
        self._heart.say(STOPPING="1")
        self._cleanup.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoints(self) -> dict[str, str]:
        """The real address of each road: port 0 in the configuration is replaced by the port it became."""
        return self._reception.endpoints if self._reception else {}

    @property
    def status(self) -> DaemonStatus:
        """A copy of everything that is counted."""
        received = self._reception.status if self._reception else ReceptionStatus()
        return DaemonStatus(
            **{each.name: getattr(received, each.name) for each in fields(received)},
            backlog={**self._outputs.status(), "frames_lost": self._lost},
            scan=self.engine.status,
            publishers=[publisher.status for publisher in self._publishers],
            disk_free_gb=free_gb(self._config.output.folder),
            silent_s=self._heart.silent_s,
            reception_silent_s=self._reception.silent_s if self._reception else 0.0,
        )

    def _warm_up(self) -> None:
        """Before the first scan needs the device; what is received meanwhile waits, and is recorded.

        One that fails will say so when a scan needs it: until then it is no reason not to record.
        """
        if self._device == "cpu":
            return
        try:
            warm_up(self._device)
        except Exception as error:  # noqa: BLE001 - a driver may raise anything
            _log.warning("%s fails: %s", self._device, error)

    def _late_s(self) -> float:
        reception = self._reception
        if reception is None or reception.silent_s > STALLED_S or self._stop.is_set():
            return 0.0
        return float(reception.late_s[0])

    def _told(self) -> dict[str, Any]:
        return self.status.plain()

    def _end_reception(self, reception: Reception | ReceptionProcess) -> None:
        """End it; where this life fails and another is to come, what arrives between them is recorded all the same."""
        (reception.leave if self._failed else reception.stop)()

    def _finish(self) -> None:
        with self._noting_failure():
            self._deliver(math.inf)
            self.engine.stop(time.monotonic())

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """What ends this life by an error counts for the scans that it went on with; a stop does not."""
        try:
            yield
        except BaseException:
            self._failed = True
            raise

    def _release(self) -> None:
        if not self._failed:
            self._attempts.stopped()

    def _deliver(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._take_next() and time.monotonic() < until:
            pass

    def _take_next(self, timeout: float = 0.0) -> bool:
        """Take what was delivered first, if there is any."""
        try:
            self._take(self._outputs.get(timeout))
        except queue.Empty:
            return False
        except FrameStoreError as error:
            if not self._lost:
                _log.error("frames that waited for training are lost to it, not to the recording: %s", error)
            self._lost += error.frames
        return True

    def _take(self, output: Output) -> None:
        if self._trace is not None:
            self._trace.take(output)
        self.engine.take(output, time.monotonic())

    def _make_publishers(self, stack: contextlib.ExitStack) -> list[tuple[Publisher, str]]:
        tiled = self._config.tiled
        key = secret(tiled.api_key_env, tiled.api_key_file)
        if tiled.uri is None:
            self.server = (self._embedded or _in_a_thread())(tiled.folder, key, tiled.host, tiled.port)
            stack.enter_context(self.server)
            publisher = TiledPublisher(self.server.uri, tiled.path, self.server.api_key, tiled.access_tags)
        else:
            publisher = TiledPublisher(tiled.uri, tiled.path, required_key(tiled, key), tiled.access_tags)
        try:
            _log.info("%s", publisher.check())
        except PublishError as error:
            # A refused key is a mistake to mend now. A server that is away may be back before the scan has ended.
            if not isinstance(error.__cause__, httpx.TransportError):
                raise
            _log.warning("%s; going on: what is reconstructed is delivered when it is back", error)
        publishers: list[tuple[Publisher, str]] = [(publisher, "tiled")]
        output = self._config.output
        if output.folder is not None:
            publishers.append((FilesPublisher(output.folder, output.every_snapshot, self._attributes()), "files"))
        if self._config.steering.endpoint is not None:
            steering = SteeringPublisher(self._config.steering.endpoint)
            stack.callback(steering.stop)
            publishers.append((steering, "steering"))
        return publishers

    def _attributes(self) -> dict[str, str]:
        return {"version": __version__, "configuration": described(self._config)}


def described(config: Config) -> str:
    """The configuration as JSON, for the files it produced. It holds no secrets, only where they are found."""
    return json.dumps(config.model_dump(mode="json"))


def _in_a_thread() -> type[LocalTiled]:
    from ptyinr_stream.tiled_server import EmbeddedServer  # noqa: PLC0415  270 MB, which a server elsewhere saves

    return EmbeddedServer


def required_key(tiled: TiledConfig, key: str | None) -> str:
    """The API key of an external server.

    Raises:
        ConfigError: there is none.
    """
    if key is None:
        where = f"the environment variable {tiled.api_key_env}"
        raise ConfigError(f"tiled: {tiled.uri} needs an API key: set {where}, or name a file in tiled.api_key_file")
    return key
