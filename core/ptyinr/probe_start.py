"""A probe from the data alone.

The mean diffraction pattern is the probe's far-field intensity, smeared by the object; its phase is, to first order, one
number: the defocus. So each of some forty defoci gives a candidate, P(z) = F^-1{ sqrt(mean I) exp(i pi wavelength z |nu|^2) }. Each
candidate reconstructs a few dozen neighbouring frames for a few ePIE passes (Maiden & Rodenburg 2009), all of them at
once; the one that explains its frames best wins and is refined by further passes over object and probe.

Bounds of the sweep come from the pattern itself: less than a radian at the rim of the aperture is no defocus at all, and
more than fills the window with the defocused disc cannot be sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .propagation import free_space_phase, shift_probe
from .types import ScanGeometry

CANDIDATES = 20
"""Of each sign."""
SWEEP_PASSES = 3
REFINE_PASSES = 30
"""Overlap with the converged probe of the Siemens star: 0.73 after none, 0.86 after 20, 0.88 after 60 (2026-11-22)."""


@dataclass(frozen=True)
class ProbeStart:
    """A starting probe and how it was found."""

    probe: Tensor
    """(1, h, w) complex64 in root photons, its centre of mass in the middle."""
    defocus_m: float
    errors: dict[float, float]
    """Relative amplitude error of each candidate, by defocus in metres."""

    @property
    def contrast(self) -> float:
        """Median error over the least: how far the winner stands out."""
        values = sorted(self.errors.values())
        return values[len(values) // 2] / max(values[0], 1e-12)


def blind_start(amplitudes: Tensor, corners_px: Tensor, geometry: ScanGeometry, random: np.random.Generator) -> ProbeStart:
    """Find a starting probe.

    Args:
        amplitudes: (n, h, w) root photons, DC at the corner, -1 where nothing was measured; some 60 overlapping frames.
        corners_px: (n, 2) their window corners in any frame of reference.
        geometry: gives the scale of the defocus.
        random: order of the frames.

    Raises:
        ValueError: the frames hold no photons.
    """
    intensity = amplitudes.clamp(min=0).square()
    trusted = (amplitudes >= 0).sum(0).clamp(min=1)
    mean = intensity.sum(0) / trusted
    if float(mean.sum()) <= 0:
        raise ValueError("the frames of the blind start hold no photons: a probe cannot be found in them")
    phase = free_space_phase(geometry.window, geometry.pixel_m, geometry.wavelength_m).to(mean.device)
    defoci = [0.0, *sweep_range(mean, phase)]
    candidates = torch.stack([centred(_defocused(mean, phase, z)) for z in defoci])
    errors = _epie(candidates, amplitudes, corners_px, SWEEP_PASSES, random)[1].tolist()
    best = int(np.argmin(errors))
    probe, _ = _epie(candidates[best : best + 1], amplitudes, corners_px, REFINE_PASSES, random)
    return ProbeStart(centred(probe[0])[None], defoci[best], dict(zip(defoci, errors, strict=True)))


def sweep_range(mean: Tensor, phase: Tensor) -> list[float]:
    """Defoci of both signs, in metres, geometric between the two bounds that the mean pattern sets."""
    rim = 2 * float((mean * phase).sum() / mean.sum())  # radians a metre; exact for an evenly lit disc
    steepest = max(2 * (rim * k) ** 0.5 + k for k in (float(phase[1, 0]), float(phase[0, 1])))  # from pixel to pixel
    nearest = 1 / rim
    farthest = max(torch.pi / steepest, 4 * nearest)
    steps = np.geomspace(nearest, farthest, CANDIDATES)
    return [float(sign * z) for z in steps for sign in (1, -1)]


def _defocused(mean: Tensor, phase: Tensor, defocus_m: float) -> Tensor:
    wave = torch.polar(mean.double().sqrt(), phase * defocus_m)
    return torch.fft.fftshift(torch.fft.ifft2(wave, norm="ortho")).to(torch.complex64)


def centred(probe: Tensor) -> Tensor:
    """(h, w) rolled by whole pixels so that its intensity's centre of mass (on the circle) lies in the middle."""
    intensity = probe.real.square() + probe.imag.square()
    shifts = []
    for axis, n in enumerate(probe.shape):
        angle = 2 * torch.pi * torch.arange(n, device=probe.device) / n
        profile = intensity.sum(1 - axis)
        mean = torch.atan2((profile * angle.sin()).sum(), (profile * angle.cos()).sum())
        shifts.append(n // 2 - round(float(mean) / (2 * np.pi) * n))
    return torch.roll(probe, shifts, (0, 1))


def _epie(
    probes: Tensor, amplitudes: Tensor, corners_px: Tensor, passes: int, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """`passes` ePIE passes of each probe (k, h, w) with an object of its own: refined probes and relative errors (k,)."""
    h, w = probes.shape[-2:]
    corners = corners_px - corners_px.floor().min(0).values
    whole = corners.floor().long()
    offsets = (corners - corners.floor()).to(probes.device, torch.float32)
    shape = (whole.max(0).values + torch.tensor([h, w])).tolist()
    field = torch.ones((len(probes), *shape), dtype=probes.dtype, device=probes.device)
    probes = probes.clone()
    error = torch.zeros(len(probes), device=probes.device)
    for step in range(passes):
        error.zero_()
        for j in random.permutation(len(amplitudes)).tolist():
            measured = amplitudes[j]
            row, column = whole[j].tolist()
            window = field[:, row : row + h, column : column + w]
            shifted = shift_probe(probes, offsets[j : j + 1])[0]
            waves = torch.fft.fft2(shifted * window, norm="ortho")
            predicted = waves.abs()
            wanted = torch.where(measured >= 0, measured, predicted)
            error += ((predicted - wanted).square().sum((1, 2))) / measured.clamp(min=0).square().sum().clamp(min=1e-12)
            change = torch.fft.ifft2((wanted / predicted.clamp(min=1e-6) - 1) * waves, norm="ortho")
            brightest = shifted.abs().square().amax((1, 2), keepdim=True)
            densest = window.abs().square().amax((1, 2), keepdim=True)
            update = window.conj() * change / densest
            window += shifted.conj() * change / brightest
            if step:  # the first pass gives the object a chance
                probes += shift_probe(update, -offsets[j : j + 1])[0]
    return probes, error / len(amplitudes)
