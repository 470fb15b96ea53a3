"""What a regular raster leaves open: a factor of the raster's own period may wander from the probe into the object.

For any g with the period of the steps, O(r) g(r) and P(r - x) / g(r - x) explain every frame as O and P do, since
g(r) = g(r - x) for each position x. A sine network is too smooth to take such a factor up; free pixels take it up, and
nothing in the data stops them. So their steps are taken without it. It matters the more the longer one trains:

2026-11-26, object PSNR amplitude / phase and the probe's overlap with the truth, blind, no noise:

* The paper's scan (241 px, a probe of 64 px, steps of 3 px), two cores. Without this 28 / 24 and 0.9991 after 15 s,
  18 / 35 and 0.971 after 114 s, 16 / 38 and 0.886 after 171 s. With it, when the rates have fallen after 300 s, 52 / 42
  and 1.0000. On an NVIDIA H200, 60 s: 69.8 / 59.2; what is left has the period of the raster, and is the sample's own.
* 96 px, steps of 2 px, 10 s of a core: 51 / 49 without, 59 / 62 with it (`tungsten`); 58 / 55 and 64 / 59 (`maze`).
* The factor of a change is taken from its logarithm: taken from the change itself, what early and large steps leave
  added up to 7e-4 of the amplitude.

Encoders that scatter let the data tell, and then nothing is left out: `maze`, steps of 2 px, scatter 0, 0.005, 0.02
and 0.15 px, 400 to 1,000 steps: without this 54 / 54, 68 / 64, 93 / 64, 92 / 63; with it 62 / 60, 64 / 62, 58 / 62,
63 / 63. Hence `LEAST`: positions keep to a raster if they miss it by less than a fifth of a per cent of a step. Rasters
along the axes only; rotated ones and hexagons are not looked for.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 0.9999
"""Of |mean exp(2 pi i f x)|: 1 where all positions lie on a raster of frequency f."""
LEAST_LINES = 4
LEAST_PLACES = 30
"""Fewer may keep to a raster by chance."""
MOST_PLACES = 300
"""That are looked at."""
APART_PX = 0.5
"""Positions that are closer are one place: a stage that stands still says nothing of a raster."""
LARGEST_CHANGE = 0.9
"""Of a pixel in a step, that its logarithm is taken of."""
PIXELS_A_WAVE = 4
"""At least, along an axis of a tile: fewer cannot tell so many waves apart."""

DARK = 1e-2
"""Squared amplitude of the object, below which it is taken for that bright."""
RIM = 2.0
LEAST_RIM_PX = 8.0
"""In which the window falls off, in periods and in pixels: without it edges of what changes slowly look periodic."""

Frequencies = tuple[float, ...]
NOTHING: Frequencies = (0.0,)


def raster_frequencies(positions_px: NDArray[np.float64]) -> tuple[Frequencies, Frequencies]:
    """For each axis the frequencies, in cycles a pixel from 0 to 1/2, of what (n, 2) positions cannot tell.

    >>> rows, columns = np.mgrid[0:60:3, 0:60:10]
    >>> raster_frequencies(np.stack([rows.ravel(), columns.ravel()], 1).astype(float))
    ((0.0, 0.3333333), (0.0, 0.1, 0.2, 0.3, 0.4, 0.5))
    """
    _, first = np.unique(np.round(positions_px / APART_PX), axis=0, return_index=True)
    some = positions_px[first]  # every n-th would be a raster of its own
    if len(some) > MOST_PLACES:
        some = np.random.default_rng(0).choice(some, MOST_PLACES, replace=False)
    return _frequencies(some[:, 0]), _frequencies(some[:, 1])


def _frequencies(positions: NDArray[np.float64]) -> Frequencies:
    lines = len(np.unique(np.round(positions / APART_PX)))
    extent = float(np.ptp(positions))
    if len(positions) < LEAST_PLACES or lines < LEAST_LINES or extent < 2 * (LEAST_LINES - 1):
        return NOTHING
    candidates = np.arange((LEAST_LINES - 1) / extent, 0.5 + 1e-9, 0.25 / extent)
    # Between two candidates the sharpness of an exact raster falls to 0.97.
    near = np.flatnonzero(_sharpness(positions, candidates) >= 0.95)
    if not len(near):
        return NOTHING
    found, reach = candidates[near[0]] + 0.375 / extent, 0.625 / extent
    for _ in range(3):
        finer = found + np.linspace(-reach, reach, 101)
        found, reach = finer[_sharpness(positions, finer).argmax()], reach / 40
    harmonics = np.arange(1, math.floor(0.5 / found + 1e-3) + 1) * found
    known = _sharpness(positions, harmonics) >= LEAST
    return (0.0, *(round(float(f), 7) for f in np.minimum(harmonics[known], 0.5)))


def _sharpness(positions: NDArray[np.float64], frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(np.exp(2j * np.pi * frequencies[:, None] * positions).mean(1))


def without(change: Tensor, field: Tensor, frequencies: tuple[Frequencies, Frequencies]) -> Tensor:
    """A change (H, W) complex of the object `field` (H, W) complex, less the factor that a raster leaves open.

    The factor's logarithm is fitted to that of 1 + change / field, under a window: what changes slowly is no part.
    """
    told = [
        each if PIXELS_A_WAVE * 2 * len(each) <= n else NOTHING
        for n, each in zip(change.shape, frequencies, strict=True)
    ]
    if all(len(each) == 1 for each in told):
        return change
    (rows, row_waves), (columns, column_waves) = (
        _waves(n, each, change.device) for n, each in zip(change.shape, told, strict=True)
    )
    ratio = change * field.conj() / (field.real.square() + field.imag.square()).clamp(min=DARK)
    ratio = ratio * (LARGEST_CHANGE / ratio.abs().clamp(min=LARGEST_CHANGE))
    found = rows.mH @ torch.log(1 + ratio) @ columns.conj()
    found[0, 0] = 0
    return (field + change) * torch.exp(-(row_waves @ found @ column_waves.mT)) - field


@lru_cache(maxsize=64)
def _waves(pixels: int, frequencies: Frequencies, device: torch.device) -> tuple[Tensor, Tensor]:
    """(pixels, m) what finds the parts of waves that are orthonormal under a window, the constant first; the waves."""
    places = torch.arange(pixels, dtype=torch.float64)[:, None]
    rim = torch.minimum(places, pixels - 1 - places) + 1
    width = max([LEAST_RIM_PX, *(RIM / f for f in frequencies if f)])
    window = (torch.pi / 2 * (rim / min(width, pixels / 2)).clamp(max=1)).sin().square()
    turns = torch.tensor([s * f for f in frequencies for s in ((1, -1) if 0 < f < 0.5 - 1e-3 else (1,))])
    waves = torch.polar(torch.ones(()).double(), 2 * torch.pi * places * turns.double())
    orthonormal, triangle = torch.linalg.qr(window.sqrt() * waves)
    waves = torch.linalg.solve_triangular(triangle, waves, upper=True, left=False)
    return tuple(part.to(torch.complex64).to(device) for part in (orthonormal * window.sqrt(), waves))  # type: ignore
