"""What judges a probe is kept apart from what it is fitted to, where windows hardly overlap: pixels, or photons.

Frames cannot be spared there. A tenth of the pixels can, if photons are many. If they are few, it is too little to
judge by; but photons are thinned without leaving a hole: each goes to one of two frames by a throw of a coin, and both
are Poisson distributed and independent of each other. The one that was kept apart then judges by its likelihood.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

PIXELS_APART = 0.1
"""The part of the pixels that judges."""
PHOTONS_APART = 0.2
"""The part of the photons."""


def pixels_apart(amplitudes: Tensor) -> tuple[Tensor, Tensor]:
    """What is shown and what judges, both (n, h, w) root photons, -1 where nothing may be looked at."""
    pixels = torch.from_numpy(np.random.default_rng(0).random(amplitudes.shape) < PIXELS_APART).to(amplitudes.device)
    return amplitudes.where(~pixels, -1), amplitudes.where(pixels, -1)


def photons_apart(amplitudes: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The same, as bright as the frames (n, h, w) were: each photon stands for more than one."""
    photons = amplitudes.clamp(min=0).square().round().cpu().numpy().astype(np.int64)
    judging = random.binomial(photons, PHOTONS_APART)
    parts = (photons - judging) / (1 - PHOTONS_APART), judging / PHOTONS_APART
    roots = (torch.from_numpy(part).sqrt().to(amplitudes) for part in parts)
    shown, judges = (root.where(amplitudes >= 0, -1) for root in roots)
    return shown, judges
