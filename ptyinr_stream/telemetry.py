"""How the daemon does, over HTTP and to systemd: one status, three readers.

| path | answers |
|---|---|
| `/healthz` | 200 while all is well, 503 with a line a problem |
| `/status` | the whole status as JSON: streams, scan, training, publishers, recording, disk |
| `/metrics` | numbers for Prometheus |

Each is computed when it is asked for, from a status that threads only copy.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ptyinr_stream.errors import EndpointError

_log = logging.getLogger(__name__)

STALLED_S = 60.0
"""Without a beat of the main loop after which the daemon is not well; a blind start on two busy cores takes ten."""
DEAF_S = 10.0
"""Without a word of the process that receives after which the daemon is not well."""
LEAST_FREE_GB = 2.0
"""Of the disk that results and recordings go to."""

Status = dict[str, Any]


class Heart:
    """Beats when the training loop comes round, and tells systemd so where systemd wants to know."""

    def __init__(self, notify_socket: str | None = None, watchdog_s: float | None = None) -> None:
        """`notify_socket` is systemd's, None without one; it wants a beat every `watchdog_s`."""
        self._address = notify_socket
        self._period_s = None if watchdog_s is None else watchdog_s / 3
        self._told = self._beaten = time.monotonic()

    def say(self, **state: str) -> None:
        """Send `READY="1"`, `STATUS=...`; what systemd cannot be told is lost."""
        if self._address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in state.items())
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as there:
                there.sendto(text.encode(), address)
        except OSError as error:
            _log.debug("systemd was not told %s: %s", text, error)

    def beat(self, status: str = "") -> None:
        """Say that the loop is alive, as often as it is wanted."""
        self._beaten = time.monotonic()
        if self._period_s is not None and self._beaten - self._told >= self._period_s:
            self._told = self._beaten
            self.say(WATCHDOG="1", **({"STATUS": status} if status else {}))

    @property
    def silent_s(self) -> float:
        """Since the last beat."""
        return time.monotonic() - self._beaten


def problems(status: Status) -> list[str]:
    """What is wrong, a line each; streams that are silent or away between scans are not."""
    found = []
    if status["silent_s"] > STALLED_S:
        found.append(f"training has not come round for {status['silent_s']:.0f} s")
    if status["reception_silent_s"] > DEAF_S:
        found.append(f"the process that receives has said nothing for {status['reception_silent_s']:.0f} s")
    found += [
        f"stream {stream['road']}: {stream['state']}"
        for stream in status["streams"]
        if stream["state"] == "handshake failed"
    ]
    found += [f"publisher {one['name']}: {one['last_error']}" for one in status["publishers"] if one["last_error"]]
    if (scan := status["scan"]) and scan["error"]:
        found.append(f"scan {scan['uid']}: {scan['error']}")
    if (recording := status.get("recording")) and recording.get("error"):
        found.append(f"recording: {recording['error']}")
    if (free := status["disk_free_gb"]) is not None and free < LEAST_FREE_GB:
        found.append(f"the disk has {free:.1f} GB left")
    return found


class Telemetry:
    """A server of the three paths, in a thread, from `start` to `stop`.

    Args:
        status: gives plain values; called in the server's threads.
        host: the interface to listen on.
        port: 0 takes any free one.
    """

    def __init__(self, status: Callable[[], Status], host: str, port: int) -> None:
        self._status, self._host, self._port = status, host, port
        self._registry = CollectorRegistry()
        self._registry.register(_Numbers(status))
        self._server: WSGIServer | None = None

    def start(self) -> Self:
        """Listen.

        Raises:
            EndpointError: the address is in use.
        """
        try:
            self._server = make_server(self._host, self._port, self._answer, _Server, _Handler)
        except OSError as error:
            raise EndpointError(f"telemetry: {self._host}:{self._port} cannot be bound: {error.strerror}") from error
        threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True).start()
        return self

    @property
    def url(self) -> str:
        """Where it answers."""
        if self._server is None:
            raise EndpointError("telemetry has not been started")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}"

    def stop(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        code, kind = "200 OK", "text/plain; charset=utf-8"
        if path == "/healthz":
            wrong = problems(self._status())
            code = "503 Service Unavailable" if wrong else code
            body = ("\n".join(wrong) or "ok") + "\n"
        elif path == "/status":
            body, kind = json.dumps(self._status(), indent=2, default=str) + "\n", "application/json"
        elif path == "/metrics":
            body = generate_latest(self._registry).decode()
        else:
            code, body = "404 Not Found", "there are /healthz, /status and /metrics\n"
        start_response(code, [("Content-Type", kind)])
        return [body.encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class names it)
        _log.debug(format, *args)


class _Numbers(Collector):
    """The numbers of a status, by their place in it: `ptyinr_scan_frames`, `ptyinr_stream_messages{road="frames"}`."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """All of them."""
        status = self._status()
        yield _gauge("ptyinr_healthy", "1 while nothing is wrong", not problems(status))
        yield _gauge("ptyinr_silent_seconds", "since training last came round", status["silent_s"])
        yield _gauge("ptyinr_reception_silent_seconds", "since reception last spoke", status["reception_silent_s"])
        if status["disk_free_gb"] is not None:
            yield _gauge("ptyinr_disk_free_gigabytes", "where results go", status["disk_free_gb"])
        scan = status["scan"] or {}
        numbers = {name: value for name, value in scan.items() if isinstance(value, int | float)}
        numbers |= dict(scan.get("metrics", {}))
        for name, value in numbers.items():
            if not name.endswith("_at"):  # of a clock that means nothing elsewhere
                yield _gauge(f"ptyinr_scan_{name}", "of the scan in training", value)
        yield from _labelled("ptyinr_stream", "road", status["streams"])
        yield from _labelled("ptyinr_publisher", "name", status["publishers"])
        yield from _labelled("ptyinr_recording", "kind", [{"kind": "disk", **(status.get("recording") or {})}])
        counts = GaugeMetricFamily("ptyinr_counts", "messages and frames by what became of them", labels=["kind"])
        for kind, value in status["counts"].items():
            counts.add_metric([kind], value)
        yield counts


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=float(value))


def _labelled(prefix: str, label: str, rows: list[dict[str, Any]]) -> Iterator[Metric]:
    names = sorted({name for row in rows for name, value in row.items() if isinstance(value, int | float)})
    for name in names:
        family = GaugeMetricFamily(f"{prefix}_{name}", f"by {label}", labels=[label])
        for row in rows:
            if isinstance(row.get(name), int | float):
                family.add_metric([str(row[label])], float(row[name]))
        yield family


def free_gb(folder: Path | None) -> float | None:
    """Of the disk that a folder lies on, or will; None without a folder."""
    if folder is None:
        return None
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path("/"))
    return shutil.disk_usage(there).free / 1e9
