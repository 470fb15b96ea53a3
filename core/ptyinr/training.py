"""A whole scan at once: train for a given number of steps or for as long as the caller's clock allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .annealing import annealed
from .settings import TrainerSettings
from .trainer import Trainer
from .types import Batch, ScanGeometry, ScanRange, Snapshot

LOOKS = 20
"""How often the state is judged, so that the end is not worse than the best."""


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
        trainer.step(annealed(done) if trainer.settings.anneal else 1.0)
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
