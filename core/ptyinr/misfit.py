"""How far a reconstruction is from what was measured, on frames that it has never seen. Plain numpy, no gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from .simulate import expected_counts

_BLOCK = 64  # frames at a time


@dataclass(frozen=True)
class Misfit:
    """Mean squared differences of amplitudes, in photons."""

    heldout: float | None
    """Over the frames, or the pixels, that were held out of training; None if none were."""
    trained: float
    """Over the others."""
    scale: float
    """By which modelled amplitudes were multiplied, fitted on what was trained on."""
    photon_noise: float
    """What would be left if the model were right and counts were photons, from some frames: see `photon_noise`."""
    frames: NDArray[np.float64]
    """(n,) of every frame; where pixels were held out, over its others."""
    pixels: NDArray[np.float64] | None = None
    """(n,) of every frame over its pixels that were held out; None if none were."""


def misfit(
    field: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    counts: NDArray[Any],
    heldout: NDArray[np.bool_],
    mask: NDArray[np.bool_] | None = None,
    kept_apart: Callable[[slice], NDArray[np.bool_]] | None = None,
) -> Misfit:
    """Mean over pixels of (sqrt(I) - s |FFT(P O)|)^2, s one scale for all frames.

    Args:
        field: (H, W) object.
        probe: (modes, h, w) or (h, w).
        positions_px: (n, 2) window corners in the object.
        counts: (n, h, w) of the same frames, DC in the centre.
        heldout: (n,) True for frames that were not trained on.
        mask: (h, w) True where a pixel may be trusted; None trusts them all.
        kept_apart: gives (k, h, w) True at the pixels of some frames that were not trained on, where pixels were held
            out instead of frames.

    Raises:
        ValueError: the numbers of frames differ, or no frame was trained on.
    """
    n = len(counts)
    if positions_px.shape != (n, 2) or heldout.shape != (n,):
        raise ValueError(f"{n} frames need as many positions and marks, not {positions_px.shape} and {heldout.shape}")
    if heldout.all():
        raise ValueError("every frame was held out: none is left to fit the scale on")
    trusted = np.ones(counts.shape[1:], bool) if mask is None else mask
    # Of each frame, of its own pixels and of those kept apart: the sums of measured^2, measured * modelled, modelled^2
    # and the number of pixels, of which any scale gives the error.
    sums = np.zeros((2, 4, n))
    for part in (slice(first, first + _BLOCK) for first in range(0, n, _BLOCK)):
        modelled = np.sqrt(expected_counts(field, probe, positions_px[part]))[:, trusted]
        measured = np.sqrt(counts[part][:, trusted], dtype=np.float64)
        terms = np.stack([measured**2, measured * modelled, modelled**2, np.ones_like(measured)])
        sums[0, :, part] = terms.sum(2)
        if kept_apart is not None:
            sums[1, :, part] = (terms * kept_apart(part)[:, trusted]).sum(2)
    sums[0] -= sums[1]
    own = sums[0][:, ~heldout].sum(1)
    scale = float(own[1] / own[2]) if own[2] > 0 else 0.0
    frames, pixels = (sums[:, 0] - 2 * scale * sums[:, 1] + scale**2 * sums[:, 2]) / sums[:, 3].clip(1)
    judges = pixels if kept_apart is not None else frames[heldout]
    some = np.unique(np.linspace(0, n - 1, _BLOCK).astype(int))
    expected = scale**2 * expected_counts(field, probe, positions_px[some])[:, trusted]
    return Misfit(
        heldout=float(judges.mean()) if len(judges) else None,
        trained=float(frames[~heldout].mean()),
        scale=scale,
        photon_noise=float(photon_noise(expected).mean()),
        frames=frames,
        pixels=None if kept_apart is None else pixels,
    )


def photon_noise(expected: NDArray[np.floating]) -> NDArray[np.float64]:
    """E (sqrt(n) - sqrt(x))^2, n Poisson of mean x, any shape: x in the dark, 0.45 for one photon, 0.25 for many.

    >>> photon_noise(np.array([0.0, 0.01, 1.0, 1e6])).round(3).tolist()
    [0.0, 0.018, 0.454, 0.25]
    """
    means = np.geomspace(1e-6, 60, 400)
    counts = np.arange(160.0)
    likely = np.exp(xlogy(counts, means[:, None]) - means[:, None] - gammaln(counts + 1))
    errors = 2 * means - 2 * np.sqrt(means) * (likely @ np.sqrt(counts))
    inside = np.interp(expected, np.append(0, means), np.append(0, errors))
    return np.where(expected < means[-1], inside, 0.25 + 0.11 / np.maximum(expected, 1))
