"""What a step costs as the field grows: `python tests/benchmarks/step_cost.py [--sides 128,256,512,1024]`.

Windows of 64 px some 7 px apart, 64 frames a step in a tile of 128 px, a given probe: a field of 128 px is one tile.
Steps of all sizes are taken in turn, in one process, so that a busy machine hurts all alike; medians of milliseconds
and the ratio to the smallest field. Frames hold random photons: only time is measured.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from scans import PHOTONS, head, row

import ptyinr
from ptyinr.optics import ZonePlate, focused_probe
from ptyinr.scans import jittered

WINDOW, STEP, FRAMES = 64, 7, 64
BLOCK = 2048
"""Frames that are drawn at a time."""
GEOMETRY = ptyinr.ScanGeometry(
    wavelength_m=0.1239797e-9, distance_m=0.5, detector_pixel_m=55e-6, window=(WINDOW, WINDOW)
)


def trainer_of(side: int, device: str) -> ptyinr.Trainer:
    """Ready for its first step."""
    random = np.random.default_rng(0)
    corners = jittered((side - WINDOW, side - WINDOW), (STEP, STEP), random)
    positions = corners * GEOMETRY.pixel_m
    probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), GEOMETRY, defocus_m=4e-4, photons=PHOTONS)
    mean = np.fft.fftshift(np.square(np.abs(np.fft.fft2(probe, norm="ortho"))))
    settings = ptyinr.TrainerSettings(frames_per_step=FRAMES, batch="tile", holdout=0)
    upper = (side - WINDOW) * GEOMETRY.pixel_m[0]
    trainer = ptyinr.Trainer(
        GEOMETRY, ptyinr.ScanRange((0.0, 0.0), (upper, upper)), settings, probe=probe, device=device
    )
    for start in range(0, len(corners), BLOCK):
        indices = np.arange(start, min(start + BLOCK, len(corners)))
        counts = random.poisson(np.broadcast_to(mean, (len(indices), WINDOW, WINDOW))).astype(np.uint16)
        trainer.append(ptyinr.Batch(indices, counts, positions[indices]))
    return trainer


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sides", default="128,256,512,1024")
    arguments.add_argument("--rounds", type=int, default=40)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="cpu")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    trainers = {int(side): trainer_of(int(side), chosen.device) for side in chosen.sides.split(",")}
    spent: dict[int, list[float]] = {side: [] for side in trainers}
    for turn in range(chosen.rounds + 2):
        for side, trainer in trainers.items():
            began = time.perf_counter()
            report = trainer.step()  # reads its loss, so that a GPU has finished
            if report.frames != FRAMES:
                raise SystemExit(f"a tile of the field of {side} px held {report.frames} frames, not {FRAMES}")
            if turn > 1:  # the first ones allocate
                spent[side].append(1e3 * (time.perf_counter() - began))
    head(["field (px)", "frames", "ms a step, median", "least", "to the smallest field"])
    smallest = median(spent[min(spent)])
    for side, times in spent.items():
        frames = len(trainers[side].dataset)
        row([side, frames, f"{median(times):.1f}", f"{min(times):.1f}", f"{median(times) / smallest:.2f}"])


if __name__ == "__main__":
    main()
