"""A probe from the data alone.

The mean diffraction pattern is the probe's far-field intensity, smeared by the object; its phase is, to first order,
one number: the defocus. So each of some forty defoci gives a candidate, P(z) = F^-1{ sqrt(mean I) exp(i pi wavelength z
|nu|^2) }. Each candidate reconstructs a few dozen neighbouring frames for a few ePIE passes (Maiden & Rodenburg 2009),
all of them at once; the one that explains its frames best wins and is refined by further passes over object and probe.

Bounds of the sweep come from the pattern itself: less than a radian at the rim of the aperture is no defocus at all,
and more than fills the window with the defocused disc cannot be sampled.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .propagation import free_space_phase, shift_ramps
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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread for a while: the start is made of thousands of small operations.

    Where another program shared the processor, waiting for a second thread at the end of each operation made the start
    take 20 to 90 s instead of 5 (2 cores, 2026-11-22).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def blind_start(
    amplitudes: Tensor, corners_px: Tensor, geometry: ScanGeometry, random: np.random.Generator
) -> ProbeStart:
    """Find a starting probe.

    Args:
        amplitudes: (n, h, w) root photons, DC at the corner, -1 where nothing was measured; some 60 overlapping frames.
        corners_px: (n, 2) their window corners in any frame of reference.
        geometry: gives the scale of the defocus.
        random: order of the frames.

    Raises:
        ValueError: the frames hold no photons, or none but at the zero frequency.
    """
    mean = _mean_intensity(amplitudes)
    if float(mean.sum()) <= 0:
        raise ValueError("the frames of the blind start hold no photons: a probe cannot be found in them")
    phase = free_space_phase(geometry.window, geometry.pixel_m, geometry.wavelength_m).to(mean.device)
    defoci = torch.tensor([0.0, *sweep_range(mean, phase)])

    # The sweep only has to rank: the bright middle of the patterns does, at a coarser sample pixel.
    n = [_bright(mean.sum(1 - axis)) for axis in (0, 1)]
    coarse = _middle(amplitudes, n)
    scale = torch.tensor([n[0] / mean.shape[0], n[1] / mean.shape[1]])
    candidates = _defocused(_mean_intensity(coarse), _middle(phase, n), defoci)
    errors = _Epie(candidates, coarse, corners_px * scale).run(1, random)
    hopeful = errors.argsort()[: -(-len(errors) // 3)]
    errors[hopeful] = _Epie(candidates[hopeful], coarse, corners_px * scale).run(SWEEP_PASSES, random)

    best = int(hopeful[errors[hopeful].argmin()])
    engine = _Epie(_defocused(mean, phase, defoci[best : best + 1]), amplitudes, corners_px)
    engine.run(REFINE_PASSES, random)
    found = dict(zip(defoci.tolist(), errors.tolist(), strict=True))
    return ProbeStart(centred(engine.probes[0])[None], defoci.tolist()[best], found)


def _mean_intensity(amplitudes: Tensor) -> Tensor:
    trusted = (amplitudes >= 0).sum(0).clamp(min=1)
    return amplitudes.clamp(min=0).square().sum(0) / trusted


def _bright(profile: Tensor) -> int:
    """The smallest of n/2, 3n/4 and n frequencies around DC (at the corner) that hold nine tenths of a profile."""
    n = len(profile)
    total = float(profile.sum())
    return next(m for m in (n // 4 * 2, n * 3 // 8 * 2, n) if float(_middle(profile, [m]).sum()) >= 0.9 * total)


def _middle(patterns: Tensor, shape: list[int]) -> Tensor:
    """The lowest `shape` frequencies of the last axes, DC at the corner before and after."""
    for axis, m in zip(range(-len(shape), 0), shape, strict=True):
        patterns = torch.cat([patterns.narrow(axis, 0, (m + 1) // 2), patterns.narrow(axis, -(m // 2), m // 2)], axis)
    return patterns


def sweep_range(mean: Tensor, phase: Tensor) -> list[float]:
    """Defoci of both signs, in metres, geometric between the two bounds that the mean pattern sets."""
    rim = 2 * float((mean * phase).sum() / mean.sum())  # radians a metre; exact for an evenly lit disc
    if rim <= 0:
        raise ValueError("all photons lie at the zero frequency: such a pattern has no aperture, and no defocus")
    steepest = max(2 * (rim * k) ** 0.5 + k for k in (float(phase[1, 0]), float(phase[0, 1])))  # from pixel to pixel
    nearest = 1 / rim
    farthest = max(torch.pi / steepest, 4 * nearest)
    steps = np.geomspace(nearest, farthest, CANDIDATES)
    return [float(sign * z) for z in steps for sign in (1, -1)]


def _defocused(mean: Tensor, phase: Tensor, defoci_m: Tensor) -> Tensor:
    """One centred probe a defocus: (k, h, w)."""
    waves = torch.polar(mean.double().sqrt(), phase * defoci_m.to(phase)[:, None, None])
    probes = torch.fft.fftshift(torch.fft.ifft2(waves, norm="ortho"), dim=(1, 2)).to(torch.complex64)
    return torch.stack([centred(probe) for probe in probes])


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


class _Epie:
    """ePIE of k independent reconstructions at once; the probes are kept as spectra, where a shift is a product."""

    def __init__(self, probes: Tensor, amplitudes: Tensor, corners_px: Tensor) -> None:
        """`probes` (k, h, w), `amplitudes` (n, h, w), `corners_px` (n, 2)."""
        corners = corners_px - corners_px.floor().min(0).values
        self._corners = corners.floor().long()
        offsets = (corners - corners.floor()).to(probes.device, torch.float32)
        self._ramps = shift_ramps(offsets, probes.shape[-2], probes.shape[-1])
        self._amplitudes = amplitudes
        self._spectra = torch.fft.fft2(probes)
        shape = (self._corners.max(0).values + torch.tensor(probes.shape[-2:])).tolist()
        self._fields = torch.ones((len(probes), *shape), dtype=probes.dtype, device=probes.device)

    @property
    def probes(self) -> Tensor:
        """(k, h, w) complex64."""
        return torch.fft.ifft2(self._spectra)

    def run(self, passes: int, random: np.random.Generator) -> Tensor:
        """Go through the frames `passes` times in random order: the relative amplitude errors (k,) of the last pass."""
        errors = torch.zeros(len(self._spectra), device=self._spectra.device)
        for step in range(passes):
            errors.zero_()
            for j in random.permutation(len(self._amplitudes)).tolist():
                errors += self._update(j, with_probe=step > 0)  # the first pass gives the object a chance
        return errors.cpu() / len(self._amplitudes)

    def _update(self, j: int, with_probe: bool) -> Tensor:
        measured, ramp = self._amplitudes[j], self._ramps[j]
        (row, column), (h, w) = self._corners[j].tolist(), measured.shape
        window = self._fields[:, row : row + h, column : column + w]
        probes = torch.fft.ifft2(self._spectra * ramp)
        waves = torch.fft.fft2(probes * window, norm="ortho")
        predicted = waves.abs()
        wanted = torch.where(measured >= 0, measured, predicted)
        change = torch.fft.ifft2((wanted / predicted.clamp(min=1e-6) - 1) * waves, norm="ortho")
        if with_probe:
            brightest = window.abs().amax((1, 2), keepdim=True).square()
            self._spectra += torch.fft.fft2(window.conj() * change / brightest) * ramp.conj()
        window += probes.conj() * change / probes.abs().amax((1, 2), keepdim=True).square()
        return (predicted - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2)).clamp(min=1e-12)
