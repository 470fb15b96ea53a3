"""A whole scan at once: train for a given number of steps or for as long as the caller's clock allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .annealing import annealed
from .optics import ZonePlate, focused_probe
from .phantoms import phantom
from .scans import jittered
from .settings import TrainerSettings
from .simulate import simulate
from .trainer import Trainer
from .types import Batch, ScanGeometry, ScanRange, Snapshot

LOOKS = 20
"""How often the state is judged, so that the end is not worse than the best."""
_WARM_FRAMES = 12


def train(trainer: Trainer, progress: Callable[[], float], each: Callable[[], object] | None = None) -> Snapshot:
    """Train until `progress`, from 0 to 1 and asked before every step, says that the time is over.

    Args:
        trainer: with all frames appended.
        progress: which part of the given time is over.
        each: called after every step.

    Returns:
        The final snapshot: the best of the states that were judged.

    Raises:
        ValueError: the scan cannot be reconstructed; it says why.
    """
    look = 1.0 / LOOKS
    while (done := progress()) < 1.0 or not trainer.steps:
        if done >= look and trainer.steps:
            trainer.judge()
            look = done + 1.0 / LOOKS
        trainer.step(annealed(done))
        if each is not None:
            each()
    return trainer.snapshot(final=True)


def reconstruct(
    counts: np.ndarray,
    positions_m: np.ndarray,
    geometry: ScanGeometry,
    *,
    steps: int = 1000,
    probe: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    settings: TrainerSettings | None = None,
    device: str | torch.device = "cpu",
) -> Snapshot:
    """Reconstruct a scan from arrays.

    Args:
        counts: (n, h, w) photon counts, DC in the centre.
        positions_m: (n, 2) metres along (axis 0, axis 1), growing towards larger indices.
        geometry: the optics.
        steps: of training.
        probe: (modes, h, w) or (h, w) complex to start from; None finds it in the data.
        mask: (h, w) or (n, h, w), True where a pixel may be trusted.
        settings: None chooses all of them.
        device: torch's name.

    Returns:
        The final snapshot.

    Raises:
        ValueError: an array cannot be what it should be, or the scan cannot be reconstructed; it says why.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: give at least one")
    counts, mask = np.asarray(counts), None if mask is None else np.asarray(mask, np.bool_)
    if counts.ndim != 3 or not counts.size:
        raise ValueError(f"counts {counts.shape} hold no frames: give (n, {geometry.window[0]}, {geometry.window[1]})")
    batch = Batch(np.arange(len(counts)), counts, np.asarray(positions_m, np.float64), mask)
    trainer = Trainer(geometry, ScanRange.of(batch.positions_m), settings, probe=probe, device=device)
    trainer.append(batch)
    return train(trainer, lambda: trainer.steps / steps)


def warm_up(device: str | torch.device = "cpu") -> None:
    """Reconstruct next to nothing, so that the first scan does not wait for what torch loads when it is first used.

    On an NVIDIA H100 that is 3.4 s of the 6.5 until a first step near focus, on one core 0.2 of 2.1 (2026-11-26).

    Raises:
        RuntimeError: the device fails.
    """
    geometry = ScanGeometry(wavelength_m=1.24e-10, distance_m=0.5, detector_pixel_m=55e-6, window=(32, 32))
    probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), geometry, defocus_m=4e-4, photons=1e6)
    corners = jittered((16, 16), (4, 4), np.random.default_rng(0))[:_WARM_FRAMES]
    scan = simulate(geometry, phantom("cells", (64, 64)), probe, corners)
    reconstruct(scan.counts, scan.positions_m, geometry, steps=2, device=device)
