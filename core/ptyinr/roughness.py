"""The prior on the object: it changes little from a pixel to the next, and its amplitude as its phase does.

The same noise as in `losses`, ten photons: 24.7 / 28.7 dB without, 31.0 / 29.9 with it; no noise at 50 % overlap: 20.2
/ 20.9 and 24.9 / 25.5; at 95 %: 69 dB and 66 dB (2026-11-25). A change of the amplitude may count more than one of the
phase (`absorption`). Ten photons, seed 1, at 1, 1.5, 2 and 3: 95 % overlap, `tungsten` blind 26.0 / 30.5, 26.4 / 30.5,
25.3 / 28.9, -; known 29.2 / 33.2, 29.8 / 33.6, 29.1 / 33.2, -; `maze` blind 25.0 / 28.4, 26.2 / 28.4, 26.2 / 27.5, -;
known 23.1 / 28.0, 24.8 / 28.5, 25.1 / 27.8, -; 30 %, known, `tungsten` 19.0 / 14.4, -, 22.2 / 17.1, 22.6 / 16.3; `maze`
18.2 / 17.5, -, 19.2 / 17.7, 18.7 / 17.8; 50 % 20.7 / 18.4, -, 21.9 / 19.0, 22.0 / 18.2; 18.6 / 18.5, -, 19.6 / 18.3,
19.0 / 18.4 (2026-11-26).

What one material does to a wave is exp((i delta - beta) k t): where the phase changes the amplitude does, by the same
ratio everywhere. How far an object keeps to that is not assumed but learned (`coupling`): the slope of the amplitude's
changes over the phase's in the object that is there, weighed as the prior weighs them. It says what a change of the
amplitude is expected to be, not how strictly, so that an object that does not keep to it loses nothing.

The paper's simulations with ten photons, probe given, 4 s, means of seeds 0 to 5, without it (absorption 2, prior 0.3),
with it (absorption 3, prior 0.3), and with a weaker prior (0.5, 0.8), which it makes possible (2026-11-26): `maze` 50 %
20.4 / 19.8, 22.7 / 19.4, 22.3 / 20.6, 21.5 / 21.0; 30 % 19.5 / 18.2, 20.8 / 18.2, 20.4 / 19.0, 19.7 / 18.8. `tungsten`,
whose amplitude does not go with its phase (correlation 0.01; what is learned is 0.00 to 0.04), 50 % 21.7 / 18.2 (seeds
3 to 6), 22.1 / 18.1, 21.8 / 19.0, 21.1 / 19.4; 30 % 21.7 / 17.1, 22.2 / 15.7, 21.9 / 16.3, 20.9 / 15.9. Many photons,
30 %, seed 3, without and with it: `maze` 33.5 / 37.2 and 37.7 / 37.9, with Gaussian noise 27.7 / 31.0 and 33.0 / 32.4;
`tungsten` 32.5 / 37.2 and 32.2 / 37.1, 27.4 / 32.0 and 27.3 / 32.4. At 95 % within half a dB either way. Blind, 50 %,
seeds 3 to 6: `maze` 29.7 / 31.3 and 31.4 / 31.0, Gaussian 29.8 / 31.6 and 33.1 / 31.5, ten photons 19.9 / 18.3 and 22.2
/ 18.7; `tungsten` the same; 30 %, where starts are not sure, `tungsten` with Gaussian noise 21.6 / 17.7 and 21.1 /
16.7: so only where they are.

Tried and left, `maze` 50 %, ten photons: the phase's changes taken for given where amplitudes follow them 22.6 / 19.1;
a prior on averages over 2 to 16 px 22.4 / 18.7, over 16 px alone 22.8 / 19.8, but `tungsten` 21.8 / 16.9. What does not
depend on it: two or four networks averaged, in the same time, +-0.2; sqrt(n) + sqrt(n + 1) for sqrt(n), +-0.3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .losses import LossSettings, beside

MEMORY = 0.95
"""Of the coupling from step to step."""
FEW_CHANGES = 10.0
"""Edges as high as the prior that say nothing yet about a coupling."""


def roughness(field: Tensor, settings: LossSettings, measurements: int, coupling: float = 0.0) -> Tensor:
    """What the prior adds to the mean loss of `measurements` pixels that were measured of a field (H, W) complex.

    sum(sqrt(1 + (p^2 + absorption^2 (a - coupling p)^2) / prior^2) - 1) over all differences of neighbours, as a
    negative log-probability; a is their change of the amplitude, p of the phase, across it and in its units.
    """
    prior, cost = settings.prior or 1.0, torch.zeros((), device=field.device)
    turned = settings.absorption not in (None, 1.0) or coupling != 0
    for amplitude, phase in _changes(field, turned=turned):
        cost = cost + ((_squares(amplitude, phase, settings, coupling) / prior**2 + 1).sqrt() - 1).sum()
    return beside(cost, settings, measurements)


def coupling(field: Tensor, settings: LossSettings, before: float) -> float:
    """How many times the phase's changes the amplitude's are in a field (H, W) complex, and were `before`.

    At most 1 / absorption either way: more than that a probe that is not right yet would make of it.
    """
    prior, products, squares = settings.prior or 1.0, 0.0, 0.0
    with torch.no_grad():
        for amplitude, phase in _changes(field):
            weight = (_squares(amplitude, phase, settings, before) / prior**2 + 1).rsqrt()
            products += float((weight * amplitude * phase).sum())
            squares += float((weight * phase.square()).sum())
    most = 1 / (settings.absorption or 1.0)
    found = products / (squares + FEW_CHANGES * prior**2)
    if not math.isfinite(found):  # a step that training is about to take back
        return before
    return MEMORY * before + (1 - MEMORY) * min(max(found, -most), most)


def _changes(field: Tensor, *, turned: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """Of the amplitude and of the phase from each pixel to the next, along both axes; not `turned`, of both anyhow."""
    for one, other in ((field[1:], field[:-1]), (field[:, 1:], field[:, :-1])):
        change = one - other
        if turned:
            change = change * (one + other).detach().sgn().conj()
        yield change.real, change.imag


def _squares(amplitude: Tensor, phase: Tensor, settings: LossSettings, coupling: float) -> Tensor:
    absorption = 1.0 if settings.absorption is None else settings.absorption
    return phase.square() + absorption**2 * (amplitude - coupling * phase).square()
