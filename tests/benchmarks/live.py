"""A scan that is trained while its frames arrive: `python tests/benchmarks/live.py [--seeds 3] [--only NAME] [--wall]`.

The measured star at 10 frames/s, blind, through the daemon's engine, whose time is an argument: here the seconds that
this process has used its one thread, times `--speed` (2 cores train 1.7 times as fast as one), so that policies can be
compared on a busy machine. `--wall` takes the clock on the wall and all cores, as a scan does. Snapshots are saved and
scored afterwards: phase correlation with the reference when the last frame arrives, 30 s and 60 s later; at 50 and 75 %
of the scan over the rows all of whose frames had arrived 5 s before; and the seconds after the last frame until 0.965.
Prints a row a seed and the medians for each policy.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, nan
from statistics import median
from typing import Any

import numpy as np
import torch
from scans import head, row

from ptyinr.metrics import RIM, phase_correlation
from ptyinr.settings import TrainerSettings
from ptyinr.types import Batch, Snapshot
from ptyinr_stream.assembler import Joined, ScanClosed, ScanOpened, ScanReport
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.engine import Engine
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.optics import scan_plan
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import run_documents

RATE_HZ = 10.0
ENOUGH = 0.965
POLICIES = {
    "default": TrainerSettings(),
    "attention to new frames": TrainerSettings(attention="new"),
    "attention to badly explained frames": TrainerSettings(attention="worst"),
}
"""By name."""


@dataclass
class Film:
    """A sink that keeps every snapshot with the time at which it was there."""

    clock: Callable[[], float]
    frames: list[tuple[float, Snapshot]] = field(default_factory=list)

    def open(self, scan: object) -> None:
        """Nothing to keep."""

    def publish(self, snapshot: Snapshot) -> None:
        """Keep it."""
        self.frames.append((self.clock(), snapshot))

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """Nothing to keep."""

    def at(self, moment: float) -> Snapshot | None:
        """The newest snapshot that was there at a moment."""
        return next((snapshot for when, snapshot in reversed(self.frames) if when <= moment), None)


def config_of(scan: RecordedScan, seed: int) -> Config:
    """A daemon's, for the star."""
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    wires = {"documents": "bluesky", "frames": "eiger_v1", "positions": "panda"}
    return parse_config(
        {
            "streams": {road: {**stream, "wire": wire} for road, wire in wires.items()},
            "geometry": {
                "detector_pixel_um": 1e6 * scan.geometry.detector_pixel_m,
                "distance_m": scan.geometry.distance_m,
                "energy_kev": scan.geometry.energy_kev,
            },
            "positions": HXN_ENCODERS.model_dump(),
            "training": {"device": "cpu", "seed": seed, "refine_s": 70.0, "snapshot_s": 3.0},
        }
    )


def film(
    scan: RecordedScan, config: Config, settings: TrainerSettings, clock: Callable[[], float], rate_hz: float = RATE_HZ
) -> Film:
    """Run one scan; its first frame has been exposed at 1 / rate."""
    taken = Film(clock)
    engine = Engine(config, [taken], device="cpu", settings=settings)
    _, document = next(run_documents(scan, HXN_ENCODERS, "live", 1, rate_hz))
    plan = scan_plan(document, HXN_ENCODERS)
    engine.take(ScanOpened("live", document, plan.expected, plan.range), clock())
    sent, total = 0, len(scan.counts)
    # Positions come in portions of 0.4 s, and frames are joined with them.
    portion = max(1, round(0.4 * rate_hz))
    while sent < total:
        due = int(clock() * rate_hz) // portion * portion
        due = total if clock() * rate_hz >= total else due
        if due > sent:
            part = slice(sent, due)
            engine.take(Joined("live", Batch(np.arange(sent, due), scan.counts[part], scan.positions_m[part])), clock())
            sent = due
        if not engine.work(clock):
            wait(clock)
    engine.take(ScanClosed("live", report(total)), clock())
    while engine.status is not None and not engine.history:
        engine.work(clock)
    return taken


def wait(clock: Callable[[], float]) -> None:
    """Let a little time pass, of the wall or of the processor."""
    until = clock() + 0.02
    while clock() < until:
        pass


def report(frames: int) -> ScanReport:
    """Of a scan without a loss."""
    values = dict.fromkeys(ScanReport.__dataclass_fields__, 0)
    return ScanReport(**{**values, "expected": frames, "frames": frames, "paired": frames, "exit_status": "success"})  # type: ignore[arg-type]


def correlation(scan: RecordedScan, snapshot: Snapshot | None, until: int | None = None) -> float:
    """With the reference; of the rows that all of the frames before `until` have covered, where it is given."""
    if snapshot is None:
        return nan
    stored = np.load(siemens_star_reference())
    corners, window = stored["lsqml_1mode_corners_px"], scan.geometry.window
    known = snapshot.indices if until is None else snapshot.indices[snapshot.indices < until]
    if not len(known):
        return nan
    mine = snapshot.positions_px[np.searchsorted(snapshot.indices, known)]
    theirs = corners[known]
    rows = None
    if until is not None:  # a row is covered when frames that begin below it have come
        rows = (0, int(np.ptp(theirs[:, 0])) - int(RIM * window[0]))
    return phase_correlation(snapshot.object, mine, stored["lsqml_1mode_object"], theirs, window, rows=rows)


def scores(scan: RecordedScan, taken: Film) -> list[float]:
    """Of one run."""
    last = len(scan.counts) / RATE_HZ
    found = [correlation(scan, taken.at(last + after)) for after in (0.0, 30.0, 60.0)]
    for share in (0.5, 0.75):
        moment = share * last
        found.append(correlation(scan, taken.at(moment), int((moment - 5.0) * RATE_HZ)))
    return [*found, reached(scan, taken, last) - last]


def reached(scan: RecordedScan, taken: Film, after: float) -> float:
    """When the correlation of snapshots from a moment on first was `ENOUGH`."""
    return next((when for when, shot in taken.frames if when >= after and correlation(scan, shot) >= ENOUGH), inf)


def clock_of(wall: bool, speed: float) -> Callable[[], float]:
    """Seconds since now."""
    if wall:
        began = time.monotonic()
        return lambda: time.monotonic() - began
    used = time.process_time()
    return lambda: (time.process_time() - used) / speed


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", default="", help="a part of a policy's name")
    arguments.add_argument("--wall", action="store_true", help="the clock on the wall, all cores")
    arguments.add_argument("--speed", type=float, default=1.7, help="of all cores, in units of one")
    chosen = arguments.parse_args()
    if not chosen.wall:
        torch.set_num_threads(1)
    scan = read_scan(siemens_star())
    head(["policy", "seed", "last frame", "+30 s", "+60 s", "half", "three quarters", f"s to {ENOUGH}"])
    for name, settings in POLICIES.items():
        if chosen.only not in name:
            continue
        rows = []
        for seed in range(chosen.seeds):
            taken = film(scan, config_of(scan, seed), settings, clock_of(chosen.wall, chosen.speed))
            rows.append(scores(scan, taken))
            row([name, seed, *(f"{value:.3f}" for value in rows[-1])])
        row([name, "median", *(f"{median(column):.3f}" for column in zip(*rows, strict=True))])


if __name__ == "__main__":
    main()
