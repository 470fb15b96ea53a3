"""A scan that is trained while its frames arrive: `python tests/benchmarks/live.py [--seeds 3] [--only NAME] [--wall]
[--device cuda]`.

The measured star at 10 frames/s, blind, through the daemon's engine, whose time is an argument: here the seconds that
this process has used its one thread, times `--speed` (2 cores train 1.7 times as fast as one), so that policies can be
compared on a busy machine. `--wall` takes the clock on the wall and all cores, as a scan does. Snapshots are saved and
scored afterwards: phase correlation with the reference when the last frame arrives, 30 s and 60 s later; at 50 and 75 %
of the scan over the rows all of whose frames had arrived 5 s before; at the end of refinement, 70 s after the last
frame; and the seconds after the last frame until 0.965. Prints a row a seed and the medians for each policy: the
default, and what becomes of it without one of its choices. `--more` prints for each seed instead: the seconds until
0.965 of a cold start on all frames; the seconds until 0.95 of a scan whose frames come at 500/s, and of the same scan
again, which begins with the first one's probe; and what becomes of the rows that lie in the commanded range when 40 %
of the scan turn out to lie beyond it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, nan
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scans import head, row

from ptyinr.annealing import annealed
from ptyinr.choices import DETAIL_RATE_OF_NOISE, PROBE_DETAIL_RATE_OF_NOISE
from ptyinr.metrics import RIM, phase_correlation
from ptyinr.model import ProbeSettings
from ptyinr.settings import TrainerSettings
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import Trainer
from ptyinr.types import Batch, ScanRange, Snapshot
from ptyinr_stream import refinement
from ptyinr_stream.assembler import Joined, ScanClosed, ScanOpened, ScanReport
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.engine import Engine
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import run_documents

RATE_HZ = 10.0
FAST_HZ = 500.0
"""A scan of a second, so that the time it takes does not hide that of training."""
ENOUGH = 0.965
ALWAYS = 10**9


@dataclass(frozen=True)
class Policy:
    """What a scan is trained by."""

    settings: TrainerSettings = field(default_factory=TrainerSettings)
    annealing: Callable[[float], float] = annealed
    """Factor on the rates over the end of refinement."""


SLOW = TrainerSettings(detail_rate=DETAIL_RATE_OF_NOISE, probe_detail_rate=PROBE_DETAIL_RATE_OF_NOISE)
POLICIES = {
    "default": Policy(),
    "attention to new frames": Policy(TrainerSettings(attention="new")),
    "attention to badly explained frames": Policy(TrainerSettings(attention="worst")),
    "the probe as it was found": Policy(TrainerSettings(held_steps=ALWAYS)),
    "without small steps at first": Policy(TrainerSettings(small_steps=0)),
    "without averaged weights": Policy(TrainerSettings(averaging=0.0)),
    "without rates by the noise": Policy(SLOW),
    "without the object's pixels": Policy(TrainerSettings(object=ObjectSettings(detail=False))),
    "without the probe's pixels": Policy(TrainerSettings(probe=ProbeSettings(detail=False))),
    "without division by the light": Policy(TrainerSettings(preconditioned=False)),
    "without falling rates": Policy(annealing=lambda progress: 1.0),
}
"""By name: the default, and one choice otherwise. `--more` has what a known probe is worth."""


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


def config_of(scan: RecordedScan, seed: int, device: str = "cpu") -> Config:
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
            "training": {"device": device, "seed": seed, "refine_s": 70.0, "snapshot_s": 3.0},
        }
    )


def film(
    scan: RecordedScan,
    config: Config,
    policy: Policy,
    clock: Callable[[], float],
    rate_hz: float = RATE_HZ,
    engine: Engine | None = None,
    uid: str = "live",
) -> Film:
    """Run one scan, with an engine that knows scans before it if one is given; its first frame is there at 1 / rate."""
    taken = Film(clock)
    engine = engine or Engine(config, [], device=config.training.device, settings=policy.settings)
    engine._sinks = [taken]
    before = len(engine.history)
    _, document = next(run_documents(scan, HXN_ENCODERS, uid, 1, rate_hz))
    engine.take(ScanOpened(uid, document, resolve(document, {}, HXN_ENCODERS)), clock())
    sent, total = 0, len(scan.counts)
    # Positions come in portions of 0.4 s, and frames are joined with them.
    portion = max(1, round(0.4 * rate_hz))
    while sent < total:
        due = int(clock() * rate_hz) // portion * portion
        due = total if clock() * rate_hz >= total else due
        if due > sent:
            part = slice(sent, due)
            engine.take(Joined(uid, Batch(np.arange(sent, due), scan.counts[part], scan.positions_m[part])), clock())
            sent = due
        if not engine.work(clock):
            wait(clock)
    engine.take(ScanClosed(uid, report(total)), clock())
    with patch.object(refinement, "annealed", policy.annealing):
        while len(engine.history) == before:
            engine.work(clock)
    return taken


def wait(clock: Callable[[], float]) -> None:
    """Let a little time pass, of the wall or of the processor."""
    until = clock() + 0.02
    while clock() < until:
        pass


def report(frames: int) -> ScanReport:
    """Of a scan without a loss."""
    return ScanReport(frames, frames, frames, 0, 0, 0, 0, 0, 0, 0, 0, "success", "complete")


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
    found.append(correlation(scan, taken.frames[-1][1]))
    return [*found, reached(scan, taken, last) - last]


def reached(scan: RecordedScan, taken: Film, after: float, enough: float = ENOUGH) -> float:
    """When the correlation of snapshots from a moment on first was `enough`."""
    return next((when for when, shot in taken.frames if when >= after and correlation(scan, shot) >= enough), inf)


def cold(scan: RecordedScan, config: Config, clock: Callable[[], float]) -> float:
    """Seconds until `ENOUGH` if training starts when the last frame has come."""
    return reached(scan, film(scan, config, Policy(), clock, rate_hz=1e6), 0.0)


def twice(scan: RecordedScan, config: Config, clock_of_run: Callable[[], Callable[[], float]]) -> tuple[float, float]:
    """Seconds until 0.95 of a fast scan, and of the same again with the probe of the first."""
    engine = Engine(config, [], device=config.training.device)
    found = []
    for uid in ("first", "second"):
        clock = clock_of_run()
        found.append(reached(scan, film(scan, config, Policy(), clock, FAST_HZ, engine, uid), 0.0, 0.95))
    return found[0], found[1]


def exceeded(scan: RecordedScan, seconds: float, device: str, clock: Callable[[], float]) -> tuple[float, float, float]:
    """Correlation of the commanded 60 % before the others come, at once afterwards, and as long afterwards again."""
    inside = int(0.6 * len(scan.counts))
    trainer = Trainer(scan.geometry, ScanRange.of(scan.positions_m[:inside]), device=device)
    found = []
    for part in (slice(0, inside), slice(inside, None)):
        trainer.append(Batch(np.arange(len(scan.counts))[part], scan.counts[part], scan.positions_m[part]))
        if found:
            found.append(correlation(scan, trainer.snapshot(), inside))
        until = clock() + seconds
        while clock() < until:
            trainer.step()
        found.append(correlation(scan, trainer.snapshot(), inside))
    return found[0], found[1], found[2]


def more(scan: RecordedScan, seeds: int, wall: bool, speed: float, device: str) -> None:
    """Print what `--more` asks for."""
    head(
        [
            "seed",
            f"cold: s to {ENOUGH}",
            "first: s to 0.95",
            "second",
            "ratio",
            "60 % alone",
            "and at once",
            "and later",
        ]
    )
    for seed in range(seeds):
        config = config_of(scan, seed, device)
        first, second = twice(scan, config, lambda: clock_of(wall, speed))
        numbers = [cold(scan, config, clock_of(wall, speed)), first, second, second / first]
        numbers += exceeded(scan, 20.0, device, clock_of(wall, speed))
        row([seed, *(f"{number:.3f}" for number in numbers)])


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
    arguments.add_argument("--more", action="store_true", help="cold starts, second scans, exceeded ranges")
    arguments.add_argument("--wall", action="store_true", help="the clock on the wall, all cores")
    arguments.add_argument("--speed", type=float, default=1.7, help="of all cores, in units of one")
    arguments.add_argument("--device", default="cpu", help="torch's name; of a GPU with --wall")
    chosen = arguments.parse_args()
    if not chosen.wall:
        torch.set_num_threads(1)
    scan = read_scan(siemens_star())
    if chosen.more:
        more(scan, chosen.seeds, chosen.wall, chosen.speed, chosen.device)
        return
    head(["policy", "seed", "last frame", "+30 s", "+60 s", "half", "three quarters", "end", f"s to {ENOUGH}"])
    for name, policy in POLICIES.items():
        if chosen.only not in name:
            continue
        rows = []
        for seed in range(chosen.seeds):
            taken = film(scan, config_of(scan, seed, chosen.device), policy, clock_of(chosen.wall, chosen.speed))
            rows.append(scores(scan, taken))
            row([name, seed, *(f"{value:.3f}" for value in rows[-1])])
        row([name, "median", *(f"{median(column):.3f}" for column in zip(*rows, strict=True))])


if __name__ == "__main__":
    main()
