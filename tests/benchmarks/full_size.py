"""The paper's simulation as it is, for `paper_simulations.py --full-size`: scores as time goes on.

The object of 241 px, HXN's probe cropped to 64 px, a raster of 3 px (95 % overlap, 3,600 frames), no noise, no probe
given; data: PTYINR_EXTRA_DATA. The published notebook has 64.5 / 28.3 dB for the object and 70.5 / 17.1 for the probe
after 6,000 full-batch steps.
"""

from __future__ import annotations

import time
from dataclasses import replace

from scans import head, hxn_scan, row, score_of, trainer_of

import ptyinr
from ptyinr.training import annealed
from ptyinr_stream.device import choose_device

SIDE, WINDOW, STEP = 241, 64, 3
FIRST_LOOK_S = 10.0


def run_full_size(name: str, seconds: float, device: str, seed: int) -> None:
    """Train with our or the published settings; seconds by the clock, looks not counted."""
    scan = hxn_scan(SIDE, WINDOW, STEP)
    if scan is None:
        return
    settings = ptyinr.TrainerSettings() if name == "ours" else ptyinr.upstream_settings()
    trainer = trainer_of(scan, replace(settings, seed=seed), device=choose_device(device))
    print(f"{name}, {trainer.device}, {len(scan.counts)} frames, seed {seed}\n")
    head(["seconds", "steps", "object amplitude / phase", "probe amplitude / phase", "probe overlap"])
    spent, look, began = 0.0, FIRST_LOOK_S, time.perf_counter()
    while spent < seconds:
        trainer.step(annealed(spent / seconds) if settings.anneal else 1.0)  # reads its loss: a GPU has finished
        now = time.perf_counter()
        spent, began = spent + now - began, now
        if spent >= min(look, seconds):
            look *= 1.5
            found = score_of(trainer.snapshot(final=spent >= seconds), scan, ramp=True)
            objects, probes = (found.amplitude, found.phase), (found.probe_amplitude, found.probe_phase)
            pairs = (f"{amplitude:.1f} / {phase:.1f}" for amplitude, phase in (objects, probes))
            row([f"{spent:.0f}", trainer.steps, *pairs, f"{found.probe_overlap:.4f}"])
            began = time.perf_counter()
