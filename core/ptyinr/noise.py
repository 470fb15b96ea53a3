"""How noisy a detector's counts are, read off the counts themselves. numpy only.

A photon counter writes one count a photon. An integrating detector, and the paper's simulations, write `gain` counts a
photon and add a Gaussian of some `variance`; what falls below 0 is clipped. Both numbers decide what a small count is
worth, so the loss needs them (`losses`), and nobody should have to give them.

Until 2026-11-26 the gap above one photon alone told a gain, if a fifth of what was lit was one photon: in nine of 27
simulations of eight frames, with up to ten photons a pixel, somewhat fewer were, and millions of photons were believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_SAMPLE = 2**21
"""Pixels that are looked at."""
STANDS_OUT = 6.0
"""Sigmas: half a photon is then exceeded once in seven hundred times by noise alone."""
DARK_PART = 0.1
"""Of the pixels, the darkest: no photon falls there but by chance."""
FEW = 8
"""Photons up to which the steps between them are looked at."""
TINY_INTENSITY = 1e-6
"""Counts a pixel; keeps the gradient of a predicted amplitude finite where a pattern vanishes (`propagation`)."""
LEAST_SHARE, ASSUMED_SHARE = 0.8, 100.0
"""Photons that share a pixel with a typical photon, itself included: of whole photons it is 1 at least. A simulation
without noise, its counts times 1, 1e-4, 1e-6, with one count a photon 57 / 58, 28 / 23, 25 / 22 dB (2026-11-27)."""
LEAST_LIT = 30
"""Pixels: below that steps may be chance."""


@dataclass(frozen=True)
class Noise:
    """Variance of a count I: `gain * I + variance`.

    Raises:
        ValueError: the gain is not positive or the variance negative.
    """

    gain: float = 1.0
    """Counts a photon."""
    variance: float = 0.0
    """Of the Gaussian part, in counts squared."""

    @property
    def whole_photons(self) -> bool:
        """Whether one photon stands out of the Gaussian noise, so that photons can be counted."""
        return self.variance > 0 and self.gain >= STANDS_OUT * self.variance**0.5

    @property
    def least(self) -> float:
        """Counts that are as good as none: what every predicted pixel has (`propagation`)."""
        return TINY_INTENSITY * min(self.gain, 1.0)

    @property
    def background(self) -> float:
        """Photons that would scatter as the Gaussian noise does; 0 where photons are counted."""
        return 0.0 if self.whole_photons else self.variance / self.gain**2

    def __post_init__(self) -> None:
        if not (np.isfinite(self.gain) and self.gain > 0 and np.isfinite(self.variance) and self.variance >= 0):
            raise ValueError(f"{self}: a detector writes a positive number of counts a photon, with a variance >= 0")


def estimate_noise(counts: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Noise:
    """Estimate the noise of (n, h, w) counts; integers are photons.

    Floats so small that they cannot be photons, of which at least one shares a pixel with a typical one, were divided
    by something; unless they come in steps nobody can tell how many photons they stand for, and many are assumed.

    Gaussian noise clipped at 0 leaves the darkest pixels at 0 half of the time, and what is above has the median
    of a half-normal distribution. A gain shows as gaps: no count lies between those of one photon, of two, of three.

    >>> random = np.random.default_rng(0)
    >>> light = np.ones((50, 1, 1)) * 9 * np.exp(-0.1 * np.hypot(*np.mgrid[-16:16, -16:16]) ** 1.5)
    >>> estimate_noise(random.poisson(light))
    Noise(gain=1.0, variance=0.0)
    >>> estimate_noise(random.poisson(light) * 2.5e3)
    Noise(gain=2500.0, variance=0.0)
    >>> both = estimate_noise((random.poisson(light) * 2.5e3 + random.normal(0, 90, light.shape)).clip(0))
    >>> round(both.gain, -2), round(both.variance**0.5, -1)
    (2500.0, 90.0)
    """
    if np.issubdtype(counts.dtype, np.integer):
        return Noise()
    every = max(1, counts.size // LARGEST_SAMPLE)
    trusted = np.broadcast_to(True if mask is None else mask, counts.shape)[::every]
    counts = counts[::every]
    weight = _smooth(trusted.mean(0))
    mean = _smooth(np.where(trusted, counts, 0).mean(0)) / weight.clip(1e-9)
    seen = trusted.any(0)
    if not seen.any():
        return Noise()
    dark = seen & (mean <= np.quantile(mean[seen], DARK_PART))
    values = counts[:, dark][trusted[:, dark]]
    empty = float((values == 0).mean())
    variance = 0.0
    if 0.35 < empty < 0.65:
        low, middle = np.quantile(values[values > 0], (0.1, 0.5))
        if low < 0.5 * middle:  # 0.19 for a Gaussian; lone photons are all alike
            variance = (float(middle) / 0.6745) ** 2
    gain = _gain(counts[trusted], variance**0.5)
    if gain is None:
        share = float(np.square(counts[trusted]).sum() / max(counts[trusted].sum(), np.finfo(float).tiny))
        gain = 1.0 if share >= LEAST_SHARE or not share else share / ASSUMED_SHARE
    return Noise(gain, variance)


def _smooth(image: NDArray[Any]) -> NDArray[Any]:
    """Sums over 5 x 5 pixels: whether it is dark there shall not be decided by the noise that is to be measured."""
    for axis in (0, 1):
        image = sum((np.roll(image, step, axis) for step in range(-2, 3)), np.zeros_like(image))
    return image


def _gain(values: NDArray[Any], sigma: float) -> float | None:
    """Counts a photon, if the counts of a few photons come in steps.

    They scatter by the Gaussian's `sigma` around whole numbers of photons; an evenly lit aperture, which is a step too,
    by more.
    """
    lit = np.sort(values[values > 8 * sigma]).astype(np.float64)
    if len(lit) < LEAST_LIT:
        return None
    one = float(lit[0])
    for _ in range(2):  # the lowest of many lies some sigmas below one photon
        one = float(np.median(lit[lit < 1.5 * one]))
    few = lit[lit < (FEW + 0.5) * one] / one
    own = 3 * sigma / one
    scatter = own * (1 + few / np.sqrt((few < 1.5).sum())) + 1e-3  # that of one photon is known so well, and no better
    beside = np.abs(few - np.round(few)) > scatter
    return one if len(few) >= LEAST_LIT and own < 0.3 and beside.mean() <= 0.01 else None
