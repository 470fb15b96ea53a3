"""What training minimises: the distance of predicted and measured amplitudes, in the noise that the detector has.

With `gain` counts a photon and a Gaussian `variance` (`noise.Noise`), `(I + variance / gain) / gain` is as good as
Poisson distributed, photons from the sample and from the noise together (Snyder et al. 1995), and its root has a noise
of 1/2 whatever it is. So amplitudes are compared as `a = sqrt(I / gain + variance / gain^2)`, in root photons.

SmoothL1 with beta = 1 is then least squares within the noise and forgiving beyond it; beta 0.2 was within 0.01 of it in
held-out error and in phase correlation on the Siemens star (2026-11-22). Below some five photons a pixel amplitudes are
biased (the mean root of a few photons is not the root of their mean), and the likelihood itself is better: ten photons
in the brightest pixel of a simulated scan, 95 % overlap, 20 s: object PSNR amplitude / phase 26.9 / 21.8 dB with the
paper's loss, 28.1 / 27.0 with SmoothL1 in root photons, 30.4 / 30.0 with the likelihood (2026-11-25).

Noise that took a count below 0, where it was clipped, has left a pixel that says "at most" and no more. Taken for a 0
it leaves the noise of the others uncontradicted: everything dark seems lit by 0.4 sigma, and probe and object learn a
grain that explains it. So a clipped pixel costs the probability of that (a censored observation), and where one photon
stands out of the noise photons are counted, and there is no noise. The paper's simulations at 95 % overlap, seed 0, 240
steps, object and probe before and after (2026-11-26): Gaussian noise, `maze`, blind 38.1 / 44.8 and 35.7 / 29.0, 38.7 /
45.1 and 52.8 / 40.8; known 37.2 / 44.0, 39.7 / 46.4; `tungsten` blind 42.8 / 45.8 and 33.8 / 24.5, 43.3 / 46.3 and
46.6 / 35.9; known 34.6 / 40.5, 42.4 / 46.0; ten photons and Gaussian noise, `tungsten` blind 30.4 / 32.2 and 29.5 /
18.5, 30.6 / 32.5 and 36.6 / 27.9; known 27.0 / 31.6, 29.7 / 33.4.

The loss is a likelihood, so a prior has a natural weight beside it and matters only where data are few: the object's is
in `roughness`.

A lens has an aperture, so the far field of the probe is dark over much of the detector. The frames say so only as well
as their noise lets them, since the sample scatters light there: left alone the probe learns a white noise (`darkness`).
Blind, seed 0, object and probe without and with this prior (2026-11-26): 95 % overlap, ten photons, `maze`, 300 steps
28.4 / 31.8 and 31.4 / 22.2, 28.5 / 32.1 and 38.7 / 28.3, the error of what is held out falls from 994 to 987;
`tungsten`, 240 steps, 29.8 / 32.7 and 35.9 / 27.1, 29.9 / 32.7 and 39.5 / 30.4; Gaussian noise, `maze`, 38.8 / 45.1 and
52.6 / 40.8, 38.8 / 45.1 and 59.4 / 47.7; no noise 56.4 / 43.8 and 56.5 / 43.9 of the probe; 50 %, Gaussian noise,
`tungsten` 30.7 / 33.3 and 31.7 / 23.6, 30.9 / 33.3 and 35.9 / 29.8. Ten photons with 0.3, 0.03 and 0.003 in place of
`_LEAST_LIGHT`: 35.7 / 27.4, 38.7 / 28.3, 35.4 / 26.0; with three times the weight 35.8 / 22.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .noise import Noise
from .types import all_positive, require_choices

FAR_BELOW = 4.0
"""Sigmas from which on a count that was clipped costs in proportion, as other distances do."""
_LEAST_LIGHT = 0.03
"""Photons over the number of frames: a far field so dark costs nothing to speak of."""
FEW_PHOTONS = 10.0
"""That share a pixel with a typical photon, itself included: below it the likelihood is the loss."""


@dataclass(frozen=True)
class LossSettings:
    """A loss in the terms of the paper (eq. 2).

    Raises:
        ValueError: a number is out of range, or the kind is none.
    """

    kind: Literal["auto", "smooth_l1", "l1", "l2", "poisson"] = "auto"
    """`poisson` is the likelihood; auto takes it where photons are few, else `smooth_l1`."""
    beta: float = 1.0
    """Of SmoothL1, in root photons, or in `unit`."""
    unit: float | None = None
    """Root counts that count as 1, without regard to the noise: what the published program divides amplitudes by. None
    compares root photons."""
    regularisation: float = 0.0
    """lambda: weight of the mean |P| over max |P|, for the first `regularised_steps` (k). 1e-2 and 50 in the paper: it
    holds a probe of random weights together."""
    regularised_steps: int = 50
    prior: float | None = None
    """Change of the object from a pixel to the next that is nothing unusual; larger ones cost in proportion, as edges
    do in total variation. 0 is no prior; None takes 0.1, or 0.03 where windows hardly overlap, or 0.3 there if photons
    are few, and 0.4 if the probe is known as well."""
    absorption: float | None = None
    """How many times less usual than a change of the phase a change of the amplitude is: hard X-rays are delayed more
    than absorbed. None takes 1, or 1.5 where photons are few, or 2 where windows hardly overlap, or 3 if both."""
    coupled: bool | None = None
    """Learn how the amplitude changes where the phase does, and count what differs from that, once the probe is sure.
    None: where windows hardly overlap."""
    aperture: float | None = None
    """Weight of the prior that the probe's far field is dark where nothing shows that it is lit. None takes 1, which is
    that of a likelihood, or 0 with a `unit`."""

    def __post_init__(self) -> None:
        require_choices(self)
        if not all_positive(self.beta, 1.0 if self.unit is None else self.unit):
            raise ValueError(f"beta and unit must be positive: {self}")
        weights = (self.prior or 0.0, self.absorption or 0.0, self.aperture or 0.0)
        if not all(0 <= weight < math.inf for weight in (self.regularisation, self.regularised_steps, *weights)):
            raise ValueError(f"a regularisation, its steps, priors and an absorption are never negative: {self}")


def amplitude_distance(predicted: Tensor, measured: Tensor, settings: LossSettings, noise: Noise) -> Tensor:
    """The mean loss over the trusted pixels.

    Args:
        predicted: (n, h, w) root counts.
        measured: (n, h, w) root counts; pixels below 0 carry no measurement and no weight.
        settings: which loss; `auto` counts as `smooth_l1`.
        noise: of the detector.
    """
    trusted, clipped = measured >= 0, None
    if settings.unit is None:
        background = noise.background
        clipped = measured == 0 if background else None
        predicted, measured = predicted / noise.gain**0.5, root_photons(measured, noise)
        if background:
            predicted, measured = ((a.square() + background).sqrt() for a in (predicted, measured))
    else:
        predicted, measured = predicted / settings.unit, measured / settings.unit
    if settings.kind == "poisson":
        p, m = predicted.square(), measured.square()
        loss = p - m - torch.xlogy(m, p / m.clamp(min=1e-12))
    else:
        distance = (predicted - measured).abs()
        if settings.kind == "l1":
            loss = distance
        elif settings.kind == "l2":
            loss = distance.square() / 2
        else:
            beta = settings.beta
            loss = torch.where(distance < beta, distance.square() / (2 * beta), distance - beta / 2)
        if clipped is not None and settings.kind in ("auto", "smooth_l1", "l2"):
            loss = torch.where(clipped, _below(predicted, noise.background), loss)
    return torch.where(trusted, loss, 0).sum() / trusted.sum().clamp(min=1)


def _below(predicted: Tensor, background: float) -> Tensor:
    """What it costs that noise has taken a count below 0, where it was clipped: -log(2 Phi(-I / sigma(I))) / 4.

    Args:
        predicted: roots of photons and `background`.
        background: photons that the noise counts as.
    """
    sigmas = (predicted.square() - background) / predicted
    near = sigmas.clamp(max=FAR_BELOW)
    # log(2 Phi(-x)); torch's log_ndtr takes ten times as long.
    return (sigmas - near) - torch.erfc(near / 2**0.5).log() / 4


def root_photons(measured: Tensor, noise: Noise) -> Tensor:
    """Root photons of root counts, of whole photons where noise cannot hide one; -1 where nothing was measured."""
    whole = noise.whole_photons
    roots = (measured.square() / noise.gain).round().sqrt() if whole else measured / noise.gain**0.5
    return torch.where(measured < 0, -1, roots)


def darkness(probe: Tensor, settings: LossSettings, noise: Noise, frames: int, measurements: int) -> Tensor:
    """What a second prior adds to the mean loss of `measurements` pixels in so many frames.

    sum(|F P|^2 / s) over the far field of a probe (modes, h, w) in root counts, as a negative log-probability; `s` is
    the mean of |F P|^2 over a pixel and its neighbours, as they are at the moment. Light that a pixel and those around
    it are sure of costs 1 wherever it is, and what they are not sure of fades: each pass makes the next one stricter
    (MacKay's evidence framework, 1992). The noise of a pixel of the far field is a photon in as many frames as there
    are, if the object is clear.
    """
    light = torch.fft.fft2(probe, norm="ortho").abs().square() / noise.gain
    around = nn.functional.avg_pool2d(nn.functional.pad(light.detach()[None], (1, 1, 1, 1), mode="circular"), 3, 1)[0]
    cost = (settings.aperture or 0.0) * (light / (around + _LEAST_LIGHT / max(frames, 1))).sum()
    return beside(cost, settings, measurements)


def beside(cost: Tensor, settings: LossSettings, measurements: int) -> Tensor:
    """A negative log-probability in the units of a mean loss."""
    # A root photon's noise is 1/2: squares of distances weigh 2, and half squares 4, as much as the likelihood does.
    return cost / (max(measurements, 1) * (1.0 if settings.kind == "poisson" else 4.0))


def photons_a_pixel(amplitudes: Tensor) -> float:
    """Photons that share a pixel with a typical photon: (n, h, w) root photons, below 0 where nothing was measured."""
    photons = amplitudes.clamp(min=0).square().double()
    return float(photons.square().sum() / photons.sum().clamp(min=1e-12))


def amplitude_error(predicted: Tensor, measured: Tensor) -> Tensor:
    """Mean squared amplitude difference of each frame over its trusted pixels: (n, h, w) twice to (n,)."""
    trusted = measured >= 0
    squares = (predicted - measured).square() * trusted
    return squares.sum((1, 2)) / trusted.sum((1, 2)).clamp(min=1)
