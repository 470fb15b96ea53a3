"""How far a reconstruction is from what was measured, on frames that it has never seen. Plain numpy, no gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .simulate import expected_counts

_BLOCK = 64  # frames at a time


@dataclass(frozen=True)
class Misfit:
    """Mean squared differences of amplitudes, in photons; 0.25 for a perfect model and Poisson noise."""

    heldout: float | None
    """Over the frames that were held out of training; None if none were."""
    trained: float
    """Over the others."""
    scale: float
    """By which modelled amplitudes were multiplied, fitted on the frames that were trained on."""
    frames: NDArray[np.float64]
    """(n,) of every frame."""


def misfit(
    field: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    counts: NDArray[Any],
    heldout: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None = None,
) -> Misfit:
    """Mean over pixels of (sqrt(I) - s |FFT(P O)|)^2, s one scale for all frames.

    Args:
        field: (H, W) object.
        probe: (modes, h, w) or (h, w).
        positions_px: (n, 2) window corners in the object.
        counts: (n, h, w) of the same frames, DC in the centre.
        heldout: (n,) True for frames that were not trained on.
        mask: (h, w) True where a pixel may be trusted; None trusts them all.

    Raises:
        ValueError: the numbers of frames differ, or no frame was trained on.
    """
    n = len(counts)
    if positions_px.shape != (n, 2) or heldout.shape != (n,):
        raise ValueError(f"{n} frames need as many positions and marks, not {positions_px.shape} and {heldout.shape}")
    if heldout.all():
        raise ValueError("every frame was held out: none is left to fit the scale on")
    trusted = np.ones(counts.shape[1:], bool) if mask is None else mask
    # Of each frame: the sums of measured^2, measured * modelled and modelled^2, of which any scale gives the error.
    sums = np.empty((3, n))
    for first in range(0, n, _BLOCK):
        part = slice(first, first + _BLOCK)
        modelled = np.sqrt(expected_counts(field, probe, positions_px[part]))[:, trusted]
        measured = np.sqrt(counts[part][:, trusted], dtype=np.float64)
        sums[:, part] = (measured**2).sum(1), (measured * modelled).sum(1), (modelled**2).sum(1)
    own = sums[:, ~heldout].sum(1)
    scale = float(own[1] / own[2]) if own[2] > 0 else 0.0
    frames = (sums[0] - 2 * scale * sums[1] + scale**2 * sums[2]) / trusted.sum()
    return Misfit(
        heldout=float(frames[heldout].mean()) if heldout.any() else None,
        trained=float(frames[~heldout].mean()),
        scale=scale,
        frames=frames,
    )
