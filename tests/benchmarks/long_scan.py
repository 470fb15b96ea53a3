"""Memory of a long scan that is trained while it is taken: `python tests/benchmarks/long_scan.py [--frames 64000]
[--rate 2000] [--after 60] [--device cpu] [--in-memory] [--cold] [--folder FOLDER]`.

Simulated frames of 256 x 256 uint16 come at `--rate` frames/s in portions of 800 (a position message of HXN's PandA)
into the daemon's backlog, from where its engine takes them as in the daemon: for a second or as long as the last step
took, then there is a step. When all are there it refines for `--after` seconds. Snapshots go to a sink that drops them;
checkpoints are written. The amplitudes (17 GB of 64,000 frames) lie in an unnamed file in `--folder`, by default that
for temporary files, as the daemon keeps them on a CPU; `--in-memory` keeps them in the memory of the process instead,
and on a GPU they lie in its own; `--cold` drops the page cache of these files before each step, as if the scan were far
larger than the machine's memory. The object repeats itself every 64 px, so that 256 distinct frames are all there are,
and yet each fits its place.

Prints a row at each eighth of the scan and one at the end, the figures since the row before: frames, seconds since the
start, steps, seconds a step (median and longest) and a snapshot (with its judging; longest), milliseconds a frame for
appending, memory of the process in MB that is not in a file (`RssAnon`, with shared memory) now and at the most, of its
files (`RssFile`: page cache that is mapped), what the machine still has available, MB on disk of the store and of the
backlog, frames that wait in it, and the snapshots so far.
"""

from __future__ import annotations

import argparse
import os
import queue
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scans
import torch
from live import report
from scans import head, row

import ptyinr
from ptyinr.phantoms import phantom
from ptyinr.simulate import SimulatedNoise, simulate
from ptyinr_stream.assembler import Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.backlog import Backlog
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.daemon import DELIVERY_S
from ptyinr_stream.engine import Engine
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay import HXN_ENCODERS

WINDOW, STEP, PERIOD, COLUMNS = 256, 4, 64, 250
PORTION = 800
GEOMETRY = replace(scans.GEOMETRY, window=(WINDOW, WINDOW))
PROBE = scans.probe_of("defocused", GEOMETRY)
SAMPLED_S = 0.02
"""Between two looks at the memory."""


class Frames:
    """A raster of 250 columns over a periodic object, drawn when asked for."""

    def __init__(self, frames: int) -> None:
        self.total = frames
        places = np.arange(PERIOD // STEP, dtype=np.float64)
        corners = STEP * np.stack(np.meshgrid(places, places, indexing="ij"), -1).reshape(-1, 2)
        repeats = (PERIOD + WINDOW) // PERIOD
        field = np.tile(phantom("cells", (PERIOD, PERIOD)), (repeats, repeats))
        self._distinct = simulate(GEOMETRY, field, PROBE, corners, photons=1e6, noise=SimulatedNoise("photons")).counts

    def document(self) -> dict[str, Any]:
        """The start document of a scan whose rows are the slow axis."""
        pixel_um = [1e6 * pixel for pixel in GEOMETRY.pixel_m]
        across, down = STEP * pixel_um[1] * COLUMNS, STEP * pixel_um[0] * self.rows
        scan_input = [-across / 2, across / 2, float(COLUMNS), -down / 2, down / 2, float(self.rows)]
        return {
            "uid": "long",
            "time": 0.0,
            "scan_id": 1,
            "shape": [COLUMNS, self.rows],
            "scan": {"type": "2D_FLY_PANDA", "scan_input": scan_input},
        }

    @property
    def rows(self) -> int:
        """Of the raster."""
        return self.total // COLUMNS

    def batch(self, start: int, stop: int) -> ptyinr.Batch:
        """Frames and their positions."""
        indices = np.arange(start, stop)
        at, period = np.stack([indices // COLUMNS, indices % COLUMNS], 1), PERIOD // STEP
        middle = np.array([self.rows - 1, COLUMNS - 1]) / 2
        which = at % period
        counts = self._distinct[which[:, 0] * period + which[:, 1]]
        return ptyinr.Batch(indices, counts, (at - middle) * STEP * GEOMETRY.pixel_m)


class Feed(threading.Thread):
    """Puts the scan into a backlog as it is taken."""

    def __init__(self, frames: Frames, rate: float, backlog: Backlog[Output]) -> None:
        super().__init__(daemon=True)
        self._frames, self._rate, self._backlog = frames, rate, backlog
        self.sent = 0

    def run(self) -> None:
        """To the end of the scan."""
        began, total = time.monotonic(), self._frames.total
        while self.sent < total:
            stop = min(self.sent + PORTION, total)
            if self._rate and (ahead := began + stop / self._rate - time.monotonic()) > 0:
                time.sleep(ahead)
            self._backlog.put(Joined("long", self._frames.batch(self.sent, stop)))
            self.sent = stop
        self._backlog.put(ScanClosed("long", report(total)))


class Memory(threading.Thread):
    """Watches what the process holds outside of files."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._over.wait(SAMPLED_S):
            self.most = max(self.most, self.now()[0])

    def stop(self) -> None:
        """And wait."""
        self._over.set()
        self.join()

    @staticmethod
    def now() -> tuple[float, float]:
        """MB outside of files, and of mapped files."""
        held = _kilobytes("/proc/self/status")
        return (held["RssAnon"] + held["RssShmem"]) / 1e3, held["RssFile"] / 1e3


def _kilobytes(path: str) -> dict[str, float]:
    lines = (line.split() for line in Path(path).read_text().splitlines())
    return {words[0].rstrip(":"): 1.024 * float(words[1]) for words in lines if words[-1] == "kB"}


def unnamed(folder: Path) -> list[int]:
    """Descriptors of this process's files there that have no name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            name = str(link.readlink())
        except FileNotFoundError:  # of the listing itself
            continue
        if name.startswith(str(folder.resolve())) and name.endswith("(deleted)"):
            found.append(int(link.name))
    return found


class Dropped:
    """A sink that counts."""

    snapshots = 0

    def open(self, scan: object) -> None:
        """Nothing to keep."""

    def publish(self, snapshot: ptyinr.Snapshot) -> None:
        """Count it."""
        self.snapshots += 1

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """Nothing to keep."""


@dataclass
class Spent:
    """Seconds since the last row."""

    steps: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    """Of steps with a snapshot."""
    appending: list[float] = field(default_factory=list)


def config_of(chosen: argparse.Namespace, folder: Path) -> Config:
    """A daemon's."""
    wires = {"documents": "bluesky", "frames": "eiger_v1", "positions": "panda"}
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    return parse_config(
        {
            "streams": {road: {**stream, "wire": wire} for road, wire in wires.items()},
            "geometry": {
                "detector_pixel_um": 1e6 * GEOMETRY.detector_pixel_m,
                "distance_m": GEOMETRY.distance_m,
                "energy_kev": GEOMETRY.energy_kev,
            },
            "positions": HXN_ENCODERS.model_dump(),
            "training": {
                "device": chosen.device,
                "refine_s": chosen.after,
                **({"frames_on_disk_above_mb": 10**9} if chosen.in_memory else {}),
            },
            "output": {"folder": folder},
        }
    )


def run(chosen: argparse.Namespace, folder: Path) -> None:
    """One scan."""
    frames, sink, memory, spent = Frames(chosen.frames), Dropped(), Memory(), Spent()
    config = config_of(chosen, folder)
    engine = Engine(config, [sink], device=chosen.device, probe=PROBE)
    backlog = Backlog[Output](1e6 * config.training.backlog_mb, config.frames_folder)
    feed, began, taken, eighths, took = Feed(frames, chosen.rate, backlog), time.monotonic(), 0, 0, 0.0

    def tell() -> None:
        status = engine.status
        anonymous, mapped = memory.now()
        cells = [
            taken,
            f"{time.monotonic() - began:.0f}",
            status.steps if status else 0,
            f"{median(spent.steps or [nan]):.2f}",
            f"{max(spent.steps, default=nan):.2f}",
            f"{max(spent.shown, default=nan):.2f}",
            f"{1e3 * sum(spent.appending) / max(1, PORTION * len(spent.appending)):.2f}",
            *(f"{mb:.0f}" for mb in (anonymous, max(memory.most, anonymous), mapped)),
            f"{_kilobytes('/proc/meminfo')['MemAvailable'] / 1e3:.0f}",
            f"{sum(512 * os.fstat(file).st_blocks for file in unnamed(folder)) / 1e6:.0f}",
            f"{backlog.status()['file_mb']:.0f}",
            feed.sent - taken,
            sink.snapshots,
        ]
        row(cells)
        memory.most = 0.0
        for times in (spent.steps, spent.shown, spent.appending):
            times.clear()

    document = frames.document()
    engine.take(ScanOpened("long", document, resolve(document, {}, HXN_ENCODERS)), began)
    memory.start()
    feed.start()
    tell()
    while not engine.history:
        delivering = time.monotonic()
        while time.monotonic() < delivering + max(DELIVERY_S, took):
            try:
                output = backlog.get()
            except queue.Empty:
                break
            before = time.monotonic()
            engine.take(output, before)
            if isinstance(output, Joined):
                spent.appending.append(time.monotonic() - before)
                taken += len(output.batch.indices)
            if taken >= (eighths + 1) * frames.total / 8:
                eighths += 1
                tell()
        for file in unnamed(folder) if chosen.cold else ():
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        before, shown = time.monotonic(), sink.snapshots
        busy = engine.work(time.monotonic)
        took = time.monotonic() - before
        if busy:
            (spent.shown if sink.snapshots > shown else spent.steps).append(took)
        else:
            time.sleep(0.01)
    tell()
    memory.stop()
    print(f"{engine.history[-1].phase}: {engine.history[-1].metrics}")


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--frames", type=int, default=64_000, help=f"whole rows of {COLUMNS}")
    arguments.add_argument("--rate", type=float, default=2000.0, help="0 puts all there at once")
    arguments.add_argument("--after", type=float, default=60.0)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--in-memory", action="store_true")
    arguments.add_argument("--cold", action="store_true", help="drop the page cache of the frames before each step")
    arguments.add_argument("--folder", type=Path, help="on a disk with room for the frames")
    arguments.add_argument("--threads", type=int, default=1)
    chosen = arguments.parse_args()
    if chosen.frames % COLUMNS:
        arguments.error(f"--frames {chosen.frames}: give a multiple of {COLUMNS}")
    torch.set_num_threads(chosen.threads)
    head(
        [
            *("frames", "s", "steps", "s a step", "longest", "with a snapshot", "ms a frame appended"),
            *("MB outside files", "at most", "MB in files", "MB available", "MB on disk", "of backlog", "waiting"),
            "snapshots",
        ]
    )
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        run(chosen, Path(folder))


if __name__ == "__main__":
    main()
