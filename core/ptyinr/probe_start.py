"""A probe from the data alone, and how sure it is.

The mean diffraction pattern is the probe's far-field intensity, smeared by the object: a zone plate's ring or a Laue
lens's rectangle. Its phase is, to first order, one defocus along each axis (they are one for a round lens without
astigmatism). So each pair (z0, z1) gives a candidate,
P = F^-1{ sqrt(mean I) exp(i pi wavelength (z0 nu0^2 + z1 nu1^2)) }.

1. Sweep: a candidate goes once through a few dozen overlapping frames with rPIE (Maiden, Johnson & Li 2017) and is
   judged by how well each frame was predicted *before* it was used: first z0 = z1, both signs and focus, then one axis
   at a time. All candidates run at once.
2. The best of them, no two alike, and focus are refined over object and probe, and judged by frames kept apart.
3. The winner is refined at full resolution. How much worse the best answer that is a different one predicts the frames
   kept apart is how sure the start is.

Bounds of the sweep come from the pattern itself: less than a radian at the rim of the aperture is no defocus at all,
and more than fills the window with the defocused disc cannot be sampled.

What decided (2026-11-25; the Siemens star, and simulated HXN probes near focus in windows of 32 and 64 px):

* Errors on frames that were used prefer the wrong probe the more passes are made: on sixty random frames of the star
  the true defocus was first of 41 after one pass (error 0.035, next 0.045), eleventh after three, nineteenth after
  eight, pixels kept apart or not.
* Near focus nothing is decided in the first pass (all within 10 %), but whatever is chosen converges when it is
  refined, if dim pixels learn too: with ePIE (alpha 1) to overlaps of 0.4 to 0.7 with the truth, with alpha 0.1 to
  0.94 to 0.99.
* Ten photons in the brightest pixel (285 a frame): steps towards the measured amplitudes found overlaps of 0.66 to 0.97
  (alpha 1) or diverged (alpha 0.1); steps along the likelihood, alpha 1, found 0.91 to 0.97 in eight scans of eight.
* At window overlaps of 50 and 30 % every probe explains the frames, and the best was often wrong (overlap 0.2 to 0.5);
  until 2026-11-26 focus was taken there. Now pixels kept apart judge objects that are kept smooth (`rpie`), along both
  axes alike: a lens astigmatic by nothing but chance won otherwise. A probe that lights more pixels has more of them to
  explain the frames with, so that a defocus of either sign beat probes near focus; whether it is near focus the width
  of the exit waves tells (`_widths`): of focus to that of the best defocus 0.90 to 0.95 near focus, 0.74 to 0.82
  defocused by what lights half of the window, 0.88 to 0.91 a pair of Laue lenses between the two. The paper's
  simulations blind, 10 s of a busy core, before and now: `tungsten` 50 % 15.8 / 12.0 and 35.1 / 34.9, 30 % 14.6 / 13.5
  and 20.7 / 23.6; `maze` 14.5 / 15.9 and 28.0 / 31.0, 13.3 / 14.5 and 14.8 / 18.0; near focus as before.
* Where photons are few besides (400 a frame), a tenth of the pixels found the sign in 21 of 24 scans at 50 % and in 13
  of 24 at 30 %, where a coin finds 12. Now photons are thinned (`apart`), eight times, and their likelihood judges
  objects fitted under probes that do not move: 24 of 24, and 18 of 24 (2026-11-26; noise and mazes that nothing was
  chosen by: twelve seeds of `tungsten` and of `maze`). Of the right probe and its mirror image, both known, the
  thinned likelihoods differ by 2 to 8 nats at 50 %, by 0.3 at 30 % with `tungsten`, which is nothing. Probes that move
  meanwhile found 21 of 24 at 50 %. Smoothing by 0.8, 1.2, 2 px: 23, 24, 24. All 41 candidates thinned take 2.6 s
  instead of 1.0 and find no more; nor do they with the agreement of widths added.
* The probe moves after four frames, not after each: overlap with the truth at 300, 1,000, 3,000, 30,000 photons a
  frame 0.47, 0.26, 0.70, 0.995 with each, 0.39, 0.96, 0.99, 0.998 with eight (four was not tried there); near focus
  0.91 to 0.97 with each, 0.96 to 0.99 with eight; the star 0.85 to 0.94 and 0.78 to 0.88, and the same after 40 s of
  training. With eight an astigmatic lens was missed (0.80; 0.998 with four).
* That the last refinement goes on from the coarse one of the shortlist, with 12 passes instead of 30, takes 0.6 s less
  near focus, and 30 dB come at the same time: left as it was (2026-11-26).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .apart import PHOTONS_APART, photons_apart, pixels_apart
from .light import SPARSE, windows_a_pixel
from .losses import FEW_PHOTONS, photons_a_pixel
from .propagation import free_space_phases
from .rpie import Rpie
from .types import ScanGeometry

CANDIDATES = 20
"""Of each sign."""
SHORTLIST = 6
SHORT_PASSES, SPARSE_PASSES = 12, 20
"""Of the shortlist; the second where windows hardly overlap."""
REFINE_PASSES = 30
"""Overlap with the converged probe of the Siemens star: 0.73 after none, 0.86 after 20, 0.88 after 60 (2026-11-22)."""
JUDGES = 6
"""Every sixth frame is kept apart."""
SAME = 0.7
"""Overlap from which on two refined probes are one answer."""
ALIKE = 0.9
"""Overlap from which on two candidates are not worth refining both."""
ANOTHER = 0.5
"""Overlap below which a candidate is another answer from the beginning."""
SURE = 0.06
"""Confidence from which on a start is trusted without more frames."""
CONTRADICTED = 1.1
"""Disagreement from which on a probe of an earlier scan is refused."""
NATS = 50.0
"""A likelihood of kept photons smaller by so many powers of e counts as an error larger by one. Three make it sure."""
THINNINGS = 8
"""Of the photons: what the shortlist is judged by where windows hardly overlap and photons are few."""
RIVALS = 3
"""Candidates that a doubtful probe is compared with after refinement."""
COARSE = 64
"""Window from which on candidates are compared at a coarser pixel where windows hardly overlap, too."""
NEAR_FOCUS = 0.86
"""There focus is taken, if its width agrees so well with that of the exit waves, compared with the best defocus."""
FAR_APART = 0.45
"""Of the window: pixels so far apart tell what noise alone does."""


@dataclass(frozen=True)
class ProbeStart:
    """A starting probe and how it was found."""

    probe: Tensor
    """(1, h, w) complex64 in root photons, its centre of mass in the middle."""
    defocus_m: tuple[float, float]
    """Along rows and columns; they differ by the astigmatism."""
    confidence: float
    """0: a different probe explains the frames as well; towards 1: no other comes near."""
    frames: int
    """It was found in."""

    def describe(self) -> str:
        """For people: the defocus, along both axes if they differ, and how sure it is."""
        rows, columns = (f"{1e6 * z:.3g}" for z in self.defocus_m)
        where = rows if rows == columns else f"{rows} / {columns}"
        return f"defocus {where} um, {'sure' if self.confidence >= SURE else 'not sure'} ({self.confidence:.2f})"


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
    mean, phases, coarse, few = _set_up(amplitudes, corners_px, geometry)
    sparse = windows_a_pixel(corners_px.numpy(), geometry.window) < SPARSE
    if sparse and max(geometry.window) < COARSE:
        coarse = _Coarse(amplitudes, corners_px, mean, phases)
    sweep = [0.0, *sweep_range(mean, phases[0] + phases[1])]
    tried: dict[tuple[float, float], float] = {}

    def best(pairs: list[tuple[float, float]]) -> tuple[float, float]:
        new = [pair for pair in pairs if pair not in tried]
        probes = _defocused(coarse.mean, coarse.phases, new)
        errors = _swept(probes, coarse, few, sparse, random)
        tried.update(zip(new, errors.tolist(), strict=True))
        return min(tried, key=lambda pair: tried[pair])

    near = sparse and _near_focus(amplitudes, _defocused(mean, phases, [(z, z) for z in sweep]))
    pair = best([(z, z) for z in ([0.0] if near else sweep)])
    if not sparse:
        pair = best([(z, pair[1]) for z in sweep])
        best([(pair[0], z) for z in sweep])
    answers = _shortlist(tried, coarse.mean, coarse.phases)
    shortlist = _defocused(coarse.mean, coarse.phases, answers)
    if sparse and few:
        sweeps = [_swept(shortlist, coarse, few, sparse, random) for _ in range(THINNINGS)]
        errors = PHOTONS_APART * torch.stack(sweeps).mean(0) / NATS
        errors = (errors - errors.min()).exp()
    else:
        shown, judging = _kept_apart(coarse.amplitudes, few, sparse, random)
        engine = Rpie(shortlist, shown, coarse.corners, few, JUDGES, sparse, judging)
        engine.refine(SPARSE_PASSES if sparse else SHORT_PASSES, random)
        errors, shortlist = engine.judged(), engine.probes
    first = int(errors.argmin())
    apart = overlaps(shortlist[first : first + 1], shortlist)[0].cpu() < SAME
    rival = float(errors[apart].min()) if apart.any() else float("inf")
    confidence = max(0.0, 1.0 - float(errors[first]) / max(rival, 1e-12))
    if near or len(amplitudes) <= JUDGES:
        # Nothing was compared, or only by frames that a probe was fitted to: any explains those.
        confidence = 0.0

    engine = Rpie(_defocused(mean, phases, answers[first : first + 1]), amplitudes, corners_px, few, sparse=sparse)
    engine.refine(SPARSE_PASSES if sparse else REFINE_PASSES, random)
    probe = centred(engine.probes[0])[None]
    # The engine is free to move brightness between probe and object; the model's object starts at 1.
    probe = probe * (mean.sum() / probe.abs().square().sum()).sqrt()
    return ProbeStart(probe, answers[first], confidence, len(amplitudes))


@_one_thread()
def disagreement(
    probe: Tensor, amplitudes: Tensor, corners_px: Tensor, geometry: ScanGeometry, random: np.random.Generator
) -> float:
    """How a probe that was good elsewhere explains frames: its error over that of the sweep's best candidates.

    Below 1 no defocus of the mean pattern comes near it; see `CONTRADICTED`. If one does in the first pass, as they do
    near focus, it and the next best are refined like the probe, and judged by frames kept apart. Costs a tenth to a
    third of a blind start.

    The converged probe of the Siemens star on four times sixty of its frames: 0.71 to 0.84; out of focus by 0.03, 0.1,
    0.2, 0.5 mm 0.79, 0.93, 1.5, 5; its complex conjugate 5.6. HXN's probe near focus: 0.99 to 1.22, 0.03 mm out of
    focus 0.88 to 1.08, 0.1 mm 1.1 to 2.3 (after one pass 1.23 to 1.37, and 1.44 to 1.58). One per cent of the star's
    photons: 0.98, and 1.1 to 1.3 for what is wrong. A probe that is refused in vain costs a blind start (2026-11-25).

    That half of the candidates leave after each sixth of the frames changes none of sixteen such answers on the star
    and takes 0.13 to 0.20 s instead of 0.37 to 0.46, with refinement 0.8 to 1.0 instead of 1.1 to 1.5 (2026-11-26).

    Args:
        probe: (h, w) complex.
        amplitudes: (n, h, w) root photons, DC at the corner, -1 where nothing was measured.
        corners_px: (n, 2) their window corners.
        geometry: gives the scale of the defocus.
        random: order of the frames.
    """
    mean, phases, coarse, few = _set_up(amplitudes, corners_px, geometry)
    pairs = [(z, z) for z in (0.0, *sweep_range(mean, phases[0] + phases[1]))]
    spectrum = torch.fft.fft2(probe.to(mean.device), norm="ortho")
    given = torch.fft.ifft2(_middle(spectrum, list(coarse.mean.shape)), norm="ortho")
    given = given * (coarse.mean.sum() / given.abs().square().sum()).sqrt()
    probes = torch.cat([given[None].to(torch.complex64), _defocused(coarse.mean, coarse.phases, pairs)])
    left, errors = Rpie(probes, coarse.amplitudes, coarse.corners, few).knock_out(random, 1 + RIVALS)
    if errors[0] < errors[1:].min():
        return float(errors[0] / errors[1:].min().clamp(min=1e-12))
    engine = Rpie(probes[left], coarse.amplitudes, coarse.corners, few, judges=JUDGES)
    engine.refine(SHORT_PASSES, random)
    errors = engine.judged()
    return float(errors[0] / errors[1:].min().clamp(min=1e-12))


@dataclass(frozen=True)
class _Coarse:
    """The bright middle of the patterns, at a coarser sample pixel: to rank candidates it is enough."""

    amplitudes: Tensor
    corners: Tensor
    mean: Tensor
    phases: list[Tensor]


def _swept(probes: Tensor, coarse: _Coarse, few: bool, sparse: bool, random: np.random.Generator) -> Tensor:
    """(k,) how badly each probe explains what it has not seen: errors, or -log likelihoods of sparse photons."""
    shown, judging = _kept_apart(coarse.amplitudes, few, sparse, random)
    return Rpie(probes, shown, coarse.corners, few, sparse=sparse, judging=judging).sweep(random)


def _kept_apart(
    amplitudes: Tensor, few: bool, sparse: bool, random: np.random.Generator
) -> tuple[Tensor, Tensor | None]:
    """What is shown, and what judges where that is not whole frames; (n, h, w) both."""
    if not sparse:
        return amplitudes, None
    return photons_apart(amplitudes, random) if few else pixels_apart(amplitudes)


def _set_up(
    amplitudes: Tensor, corners_px: Tensor, geometry: ScanGeometry
) -> tuple[Tensor, list[Tensor], _Coarse, bool]:
    """The mean pattern, what a metre of defocus does to it, both coarser, and whether photons are few.

    Raises:
        ValueError: the frames hold no photons.
    """
    mean = _mean_intensity(amplitudes)
    if float(mean.sum()) <= 0:
        raise ValueError("the frames of the blind start hold no photons: a probe cannot be found in them")
    phases = [p.to(mean.device) for p in free_space_phases(geometry.window, geometry.pixel_m, geometry.wavelength_m)]
    n = [_bright(mean.sum(1 - axis)) for axis in (0, 1)]
    bright = _middle(amplitudes, n)
    coarse = _Coarse(
        amplitudes=bright,
        corners=corners_px * torch.tensor([n[0] / mean.shape[0], n[1] / mean.shape[1]]),
        mean=_mean_intensity(bright),
        phases=[_middle(phases[0].flatten(), n[:1])[:, None], _middle(phases[1].flatten(), n[1:])[None, :]],
    )
    return mean, phases, coarse, photons_a_pixel(amplitudes) < FEW_PHOTONS


def _shortlist(
    tried: dict[tuple[float, float], float], mean: Tensor, phases: list[Tensor]
) -> list[tuple[float, float]]:
    """Focus, the best of what was tried, no two alike, and last the best that is quite another answer.

    Without that one nothing might speak against the winner: frames that all come from one place are explained by any
    probe, and the best of them were alike.
    """
    ranked = [(0.0, 0.0), *sorted(tried, key=lambda pair: tried[pair])]
    probes = _defocused(mean, phases, ranked)
    kept: list[int] = []
    nearest = torch.zeros(len(ranked), device=probes.device)  # overlap with the most alike of those that are kept
    while len(kept) < SHORTLIST:
        left = nearest < (ALIKE if len(kept) < SHORTLIST - 1 else ANOTHER)
        if not left.any():
            break
        kept.append(int(left.nonzero()[0]))
        nearest = torch.maximum(nearest, overlaps(probes[kept[-1:]], probes)[0])
    return [ranked[k] for k in kept]


def overlaps(some: Tensor, others: Tensor) -> Tensor:
    """|<P, Q>| / (|P| |Q|) at the best shift: (k, h, w) and (m, h, w) complex to (k, m)."""
    a, b = torch.fft.fft2(some, norm="ortho"), torch.fft.fft2(others, norm="ortho")
    norms = torch.linalg.vector_norm(a, dim=(1, 2))[:, None] * torch.linalg.vector_norm(b, dim=(1, 2))
    products = [torch.fft.ifft2(one.conj() * b, norm="forward").abs().amax((1, 2)) for one in a]
    return torch.stack(products) / norms


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


def _defocused(mean: Tensor, phases: list[Tensor], defoci_m: list[tuple[float, float]]) -> Tensor:
    """One centred probe a pair of defoci: (k, h, w)."""
    z = torch.tensor(defoci_m, dtype=phases[0].dtype, device=mean.device)
    turns = z[:, 0, None, None] * phases[0] + z[:, 1, None, None] * phases[1]
    waves = torch.polar(mean.double().sqrt().expand_as(turns), turns)
    probes = torch.fft.fftshift(torch.fft.ifft2(waves, norm="ortho"), dim=(1, 2)).to(torch.complex64)
    return torch.stack([centred(probe) for probe in probes])


def _near_focus(amplitudes: Tensor, probes: Tensor) -> bool:
    """Whether the exit waves are nearly as wide as the first probe, in focus, and not as one of the others."""
    agreeing = _widths(amplitudes, probes)
    return bool(agreeing[0] >= NEAR_FOCUS * agreeing.max())


def _widths(amplitudes: Tensor, probes: Tensor) -> Tensor:
    """How well the width of each probe (k, h, w) agrees with that of the exit waves: (k,), at most 1.

    A pattern's Fourier transform is the autocorrelation of its exit wave. What of it changes from frame to frame
    reaches as far as the probe is wide, whatever the sample: with a random one |dA(r)|^2 goes as the autocorrelation of
    |P|^2. So this needs no overlap; it does not tell the sign of a defocus. White noise is the same for all r.
    """
    intensities = amplitudes.clamp(min=0).square()
    changes = torch.where(amplitudes >= 0, intensities - _mean_intensity(amplitudes), 0)
    measured = torch.fft.ifft2(changes).abs().square().mean(0)
    h, w = measured.shape
    apart = (torch.fft.fftfreq(h)[:, None].square() + torch.fft.fftfreq(w)[None, :].square()).to(measured.device)
    measured = (measured - measured[apart > FAR_APART**2].quantile(0.2)).clamp(min=0)
    expected = torch.fft.ifft2(torch.fft.fft2(probes.abs().square()).abs().square()).real.clamp(min=0)
    measured, expected = (each.sqrt() * (apart > 0) for each in (measured, expected))
    norms = torch.linalg.vector_norm(expected, dim=(1, 2)) * torch.linalg.vector_norm(measured)
    return ((expected * measured).sum((1, 2)) / norms.clamp(min=1e-30)).cpu()


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
