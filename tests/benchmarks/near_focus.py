"""A blind start near focus: `python tests/benchmarks/near_focus.py [--jitter 0.05] [--only swept]`.

HXN's measured probe (64 px, near focus) over the middle 128 px of the paper's object, 289 frames 4 px apart, on whole
pixels or, as encoders find them, up to `--jitter` of a step beside; no noise, no probe given (data: PTYINR_EXTRA_DATA).
Seconds of the processor until the object's phase PSNR is 30 dB, ramp removed, and by the clock. One thread unless told
otherwise: where other programs want the cores, a second thread spends most of its seconds waiting. Looks at the
reconstruction, four in a second, are not counted; the search for the probe is. Rates stay as they are while frames
arrive. `swept`: our settings; `random`: the paper's probe of random weights, all else ours; `paper`: the same without
what we have added to the paper's networks, the object's free pixels; `published`: the published program's settings.
`swept, finished`: the length of the run is known, and rates fall towards its end. `--device cuda` for a GPU: there the
clock tells.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from scans import Score, head, hxn_scan, row, score_of, timed, trainer_of

import ptyinr
from ptyinr.settings import random_start
from ptyinr.simulate import Simulation
from ptyinr.siren import ObjectSettings
from ptyinr_stream.device import choose_device

SIDE, WINDOW, STEP = 128, 64, 4
WANTED_DB = 30.0
LOOK_S = 0.25


class Clock:
    """Seconds by the clock and of the processor, while it is not stopped."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.go()

    def go(self) -> None:
        """Start, or go on."""
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> float:
        """Stop: seconds of the processor until now."""
        self.wall_s += time.perf_counter() - self._began[0]
        self.cpu_s += time.process_time() - self._began[1]
        return self.cpu_s


def until_wanted(
    scan: Simulation, settings: ptyinr.TrainerSettings, seconds: float, device: str
) -> tuple[Clock, Score, int, str]:
    """Train until the phase is as wanted, or for some seconds: clock, last score, steps, and the way there."""
    clock = Clock()
    trainer = trainer_of(scan, settings, device=device)
    looked, way, found = 0.0, [], Score()
    while clock.stop() < seconds and not found.phase >= WANTED_DB:
        if trainer.steps and clock.cpu_s - looked >= LOOK_S:
            looked = clock.cpu_s
            found = score_of(trainer.snapshot(), scan, ramp=True)
            if not way or looked >= 1.6 * way[-1][0]:
                way.append((looked, found.phase))
        clock.go()
        trainer.step()
    return clock, found, trainer.steps, ", ".join(f"{phase:.1f} at {at:.0f} s" for at, phase in way)


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=240.0, help="until a run is given up")
    arguments.add_argument("--finish", type=float, default=60.0, help="seconds of the run whose length is known")
    arguments.add_argument("--jitter", type=float, default=0.0, help="of a step, to each side")
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--only", default="", help="a part of the name of a run")
    arguments.add_argument("--device", default="cpu")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    scan = hxn_scan(SIDE, WINDOW, STEP, chosen.jitter)
    if scan is None:
        return
    ours = ptyinr.TrainerSettings()
    runs = {
        "swept": ours,
        "random": random_start(ours),
        "paper": random_start(replace(ours, object=ObjectSettings(detail=False))),
        "published": ptyinr.upstream_settings(),
    }
    device = choose_device(chosen.device)
    head(["start", "seed", "s to 30 dB", "by the clock", "steps", "object", "probe overlap", "phase PSNR"])
    for name, settings in runs.items():
        for seed in range(chosen.seeds if chosen.only in name else 0):
            clock, found, steps, way = until_wanted(scan, replace(settings, seed=seed), chosen.seconds, device)
            reached = "" if found.phase >= WANTED_DB else "not in "
            at = f"{reached}{clock.cpu_s:.1f}", f"{reached}{clock.wall_s:.1f}"
            cells = f"{found.amplitude:.1f} / {found.phase:.1f}", f"{found.probe_overlap:.4f}"
            row([name, seed, *at, steps, *cells, way])
    for seed in range(chosen.seeds if chosen.only in "swept, finished" else 0):
        trainer, snapshot = timed(scan, replace(ours, seed=seed), chosen.finish, device=device)
        found = score_of(snapshot, scan, ramp=True)
        cells = f"{found.amplitude:.1f} / {found.phase:.1f}", f"{found.probe_overlap:.4f}"
        row(["swept, finished", seed, f"after {chosen.finish:.0f}", "", trainer.steps, *cells, ""])


if __name__ == "__main__":
    main()
