"""Daemons that tests talk to: their configurations, processes and sockets, and patience with them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.replay import HXN_ENCODERS


def configuration(folder: Path, *, training: dict[str, Any] | None = None, **sections: Any) -> Config:
    """Of one that listens on ports of its own; Tiled server, results and recordings in the folder, however full."""
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    values = {
        "streams": {
            "documents": {**stream, "wire": "bluesky", "prefix": "hxn"},
            "frames": {**stream, "wire": "eiger_v1", "socket": "pull"},
            "positions": {**stream, "wire": "panda"},
        },
        "geometry": {"detector_pixel_um": 75.0},
        "positions": HXN_ENCODERS.model_dump(),
        "training": {"device": "cpu", "refine_s": 0.5, "snapshot_s": 0.2, **(training or {})},
        "tiled": {"folder": folder / "tiled", "port": 0},
        "output": {"folder": folder / "results"},
        "recording": {"free_gb": 0.0},
    }
    return parse_config({**values, **sections})


def eventually(condition: Callable[[], bool], patience_s: float = 60.0) -> None:
    """Wait for a state that only another thread or process can bring about."""
    ends, pause = time.monotonic() + patience_s, threading.Event()
    while not condition():
        assert time.monotonic() < ends, f"it did not happen in {patience_s:.0f} s"
        pause.wait(0.01)


@contextmanager
def commands(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command line in processes, in a folder; what is left is killed."""
    processes = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "ptyinr_stream", *map(str, arguments)],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


def read_until(process: subprocess.Popen[str], text: str, stream: str = "stdout") -> str:
    """Everything the process says up to some text; from the pipe itself, since a buffer hides lines from `select`."""
    said, pipe = "", getattr(process, stream)
    while text not in said:
        assert select.select([pipe], [], [], 60)[0], f"it only said {said!r}"
        part = os.read(pipe.fileno(), 65536).decode()
        assert part, f"it ended after {said!r}: {process.stderr.read()}"
        said += part
    return said


@contextmanager
def connected(endpoints: dict[str, str]) -> Iterator[dict[str, zmq.Socket[bytes]]]:
    """A sender for each road, which has its receiver."""
    with zmq.Context() as context:
        roads = {}
        try:
            for road, kind in (("documents", zmq.XPUB), ("frames", zmq.PUSH), ("positions", zmq.XPUB)):
                roads[road] = context.socket(kind)
                roads[road].linger = 5000
                roads[road].connect(endpoints[road])
                if kind == zmq.XPUB:
                    assert roads[road].poll(10_000), f"nobody subscribes to the {road}"
                    roads[road].recv()
            yield roads
        finally:
            for socket in roads.values():
                socket.close()
