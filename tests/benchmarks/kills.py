"""A daemon killed in every scan: `tests/benchmarks/kills.py [--scans 20] [--early 6] [--wire multipart] [--all]`.

The measured star, blind, sent by a real replay to `ptyinr-stream run` in a process of its own, which gets SIGKILL once
a scan, at a random moment between the first frame and the middle of the refinement, and is started again at once; the
`--early` first ones in the first three seconds, before the blind start is done. With `--all` the processes that it has
started, the one that receives among them, are killed before it. The first scan is not disturbed: what it gives is what
the others are compared with. `--wire multipart` is a sender that waits for its receiver, `proxy` one that does not.

Prints a row a scan: seconds from the first frame to the kill; the frames sent when it was killed, and whether the blind
start was done; frames recorded and in the result; those without a position, and missing, as the report names them;
whether the recorded ones that have a position are those in the result; containers in Tiled, and whether one says
`resumed`; steps of training, and the phase correlation with the reference over the frames in the result, and by how
much it is below the undisturbed one. At the end medians and the worst.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from math import nan
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import httpx
import numpy as np
from scans import head, row

from ptyinr.metrics import phase_correlation
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.events import FrameArrived
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.recordings.folder import Recording
from ptyinr_stream.replay import HXN_ENCODERS, Endpoints, Replay

ANY = Endpoints("tcp://127.0.0.1:*", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
LONG_S = 600.0
COLUMNS = [
    *("scan", "kill s", "sent", "trained", "recorded", "result", "unplaced", "missing", "all of them", "containers"),
    *("resumed", "steps", "correlation", "below"),
]


class Daemon:
    """One life after the other."""

    def __init__(self, config: Path, log: Path) -> None:
        self._config, self._log = config, log
        self.start()

    def start(self) -> None:
        """Begin a life."""
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "ptyinr_stream", "run", "--config", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, also: bool) -> None:
        """End it as the kernel does, what it has started `also`, and begin the next."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children if also else []:
            os.kill(int(child), signal.SIGKILL)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.start()

    def stop(self) -> None:
        """End it as its operator does."""
        self._process.terminate()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()


@dataclass
class Kill:
    """What was true when the daemon was killed."""

    after_s: float
    sent: int = 0
    """Frames."""
    trained: bool = False


def configured(folder: Path, endpoints: Endpoints, scan: RecordedScan, options: argparse.Namespace) -> Path:
    """The daemon's configuration, as a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    wires = {"documents": "bluesky", "frames": "eiger_v1", "positions": "panda"}
    lines = []
    for road, wire in wires.items():
        lines += [f"[streams.{road}]", f'endpoint = "{getattr(endpoints, road)}"', f'wire = "{wire}"']
        lines += ['socket = "pull"'] if road == "frames" and options.wire == "multipart" else []
    lines += ["[geometry]", f"detector_pixel_um = {1e6 * scan.geometry.detector_pixel_m!r}"]
    for number, axis in enumerate(HXN_ENCODERS.axes):
        lines += [f"[positions.axis{number}]", f'channel = "{axis.channel}"', f"um_per_count = {axis.um_per_count}"]
    lines += [
        "[training]",
        'device = "cpu"',
        f"refine_s = {options.refine}",
        "warm_start = false",
        "checkpoint_s = 5.0",
    ]
    lines += ["[tiled]", f'folder = "{folder}/tiled"', f"port = {port}"]
    lines += ["[output]", f'folder = "{folder}/results"', "every_snapshot = false", "[recording]", "free_gb = 0.1"]
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    options.tiled = f"http://127.0.0.1:{port}/api/v1"
    return path


def containers(tiled: str, uid: str) -> tuple[int, bool]:
    """How many a scan has, and whether the first says that it was resumed."""
    found: list[Any] = []
    for name in (uid, *(f"{uid}-{n}" for n in range(2, 9))):
        answer = httpx.get(f"{tiled}/metadata/processed/ptyinr/{name}", trust_env=False)
        if answer.is_success:
            found.append(answer.json()["data"]["attributes"]["metadata"])
    return len(found), bool(found and found[0].get("resumed"))


def correlation(result: Path, scan: RecordedScan) -> tuple[int, float, list[int]]:
    """Of a result: its steps, the phase correlation of its frames with the reference, and which they are."""
    stored = np.load(siemens_star_reference())
    with h5py.File(result) as file:
        steps = int(file.attrs["steps"])
        field, positions, indices = (np.asarray(file[name]) for name in ("object", "positions_px", "indices"))
    theirs = stored["lsqml_1mode_corners_px"][indices]
    try:
        found = phase_correlation(field, positions, stored["lsqml_1mode_object"], theirs, scan.geometry.window)
    except ValueError:  # a sender that does not wait has left too little of the field
        found = nan
    return steps, found, indices.tolist()


def recorded(folder: Path) -> set[int]:
    """The frames in a recording."""
    with Recording(folder) as recording:
        return {at.event.frame for at in recording.events() if isinstance(at.event, FrameArrived)}


def numbers(ranges: list[str]) -> set[int]:
    """From a report's `3` and `7-9`."""
    ends = [text.split("-") for text in ranges]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


class Bench:
    """A sender, a daemon, and scans one after the other."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.scan = read_scan(siemens_star())
        self.sent = 0
        self.begun = threading.Event()
        self.replay = Replay(
            self.scan, ANY, wire=options.wire, rate_hz=options.rate, wait_s=LONG_S, progress=self._progress
        )
        self.daemon = Daemon(configured(folder, self.replay.endpoints, self.scan, options), folder / "daemon.log")

    def run(self, uid: str, kill: Kill | None) -> list[object]:
        """Send a scan and give its row."""
        self.sent = 0
        self.begun.clear()
        sender = threading.Thread(target=self.replay.run, args=(uid,))
        sender.start()
        if kill is not None:
            self.begun.wait()
            time.sleep(kill.after_s)
            kill.sent = self.sent
            kill.trained = any((self.folder / "results" / "checkpoints" / uid).glob("*.pt"))
            self.daemon.kill(self.options.all)
        sender.join()
        report = self.folder / "results" / uid / "report.json"
        ends = time.monotonic() + LONG_S
        while not report.exists():
            if time.monotonic() > ends:
                return [uid, "no result"]
            time.sleep(0.2)
        time.sleep(1.0)  # Tiled's own publisher
        return self._row(uid, kill, json.loads(report.read_text()))

    def _progress(self, sent: int) -> None:
        self.sent = sent
        self.begun.set()

    def _row(self, uid: str, kill: Kill | None, report: dict[str, Any]) -> list[object]:
        results = self.folder / "results"
        unplaced, missing = numbers(report["unplaced_frames"]), numbers(report["missing_frames"])
        steps, score, indices = correlation(results / uid / "result.h5", self.scan)
        kept = recorded(results / "recordings" / uid)
        number, resumed = containers(self.options.tiled, uid)
        return [
            uid,
            "-" if kill is None else f"{kill.after_s:.1f}",
            "-" if kill is None else kill.sent,
            "-" if kill is None else kill.trained,
            len(kept),
            len(indices),
            len(unplaced),
            len(missing),
            set(indices) == kept - unplaced,
            number,
            resumed,
            steps,
            f"{score:.4f}",
        ]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--early", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=40.0)
    parser.add_argument("--refine", type=float, default=40.0)
    parser.add_argument("--wire", choices=("multipart", "proxy"), default="multipart")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep everything here")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    chance = random.Random(options.seed)
    folder = (options.folder or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, options)
    try:
        report(bench, options, chance)
    finally:
        bench.daemon.stop()
        bench.replay.close()


def report(bench: Bench, options: argparse.Namespace, chance: random.Random) -> None:
    """Run all scans, and print."""
    head(COLUMNS)
    undisturbed = bench.run("whole", None)
    row(undisturbed)
    longest = len(bench.scan.counts) / options.rate + options.refine / 2
    rows = []
    for number in range(options.scans):
        moment = chance.uniform(0.2, 3.0) if number < options.early else chance.uniform(0.2, longest)
        found = bench.run(f"cut-{number:02d}", Kill(moment))
        if len(found) > 2:
            found.append(f"{float(str(undisturbed[-1])) - float(str(found[-1])):.4f}")
            rows.append(found)
        row(found)
    lost = [len(bench.scan.counts) - int(str(found[5])) for found in rows]
    below = [float(str(found[-1])) for found in rows]
    print(f"frames lacking: median {median(lost)}, worst {max(lost)}, none in {lost.count(0)} of {len(rows)} scans")
    print(f"correlation below the undisturbed: median {median(below):.4f}, worst {max(below):.4f}")


if __name__ == "__main__":
    main()
