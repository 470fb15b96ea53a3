"""rPIE of many candidates at once (Maiden, Johnson & Li 2017), to find which probe explains some frames.

Where windows hardly overlap (`sparse`) every probe explains the frames, if the object may be as rough as it likes: as
many unknowns as pixels were measured. What tells then is how smooth an object does it (2026-11-26, the paper's
simulations of 96 px with a defocused probe, 25 and 9 frames, 41 candidates): without smoothing the best of them by
pixels kept apart was the wrong sign (overlap 0.16) or nothing near, however many passes were made; with 0.8 px after
each of ten passes the right one was first or second after its own mirror image, and at 50 % first by 15 to 25 % in
error after twenty passes in which probes move too. A smoothing of 0.5 px told less, 1 px lost the maze at 30 %.
With few photons 1.2 to 2 px tell the sign best (`probe_start`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .propagation import shift_ramps

SETTLING_PASSES = 3
"""Over the object alone, before the probe may move."""
ALPHA = 0.1
"""Of rPIE: the part of the brightest intensity in what a step is divided by. 1 where photons are few."""
GROUP = 4
"""Frames whose wishes are put together before the probe moves."""
BACKGROUND = 0.1
"""Of the mean intensity, added to both sides of a likelihood's step: a lone photon in the dark shall not rule it."""
ROUNDS = 6
"""Of `knock_out`; the worse half of the candidates leaves after each, until as few are left as are wanted."""
SPARSE_SWEEPS = 10
"""Passes of a sweep over sparse frames."""
DIM = 0.1
"""Of the mean energy: the least by which a frame's error is divided."""
SMOOTH_PX, SMOOTH_PX_WHERE_DARK = 0.8, 1.5
"""Width of the Gaussian that keeps objects smooth there; the second where photons are few."""
LEAST_LIGHT = 0.01
"""Of the mean intensity, added to what a likelihood judges: a lone photon in the dark shall not decide."""


class Rpie:
    """rPIE of k independent reconstructions at once; the probes are kept as spectra, where a shift is a product."""

    def __init__(
        self,
        probes: Tensor,
        amplitudes: Tensor,
        corners_px: Tensor,
        few_photons: bool,
        judges: int = 0,
        sparse: bool = False,
        judging: Tensor | None = None,
    ) -> None:
        """`probes` (k, h, w), `amplitudes` (n, h, w), `corners_px` (n, 2); every `judges`-th frame is kept apart.

        Where frames are `sparse` that would leave holes: `judging` (n, h, w) is what was kept apart (`apart`), and
        objects are kept smooth.
        With few photons a step follows their likelihood instead of replacing amplitudes.
        """
        self._likelihood, self._alpha = few_photons, 1.0 if few_photons else ALPHA
        corners = corners_px - corners_px.floor().min(0).values
        whole = corners.floor()
        self._corners: list[tuple[int, int]] = [(int(row), int(column)) for row, column in whole.tolist()]
        offsets = (corners - whole).to(probes.device, torch.float32)
        self._ramps = shift_ramps(offsets, probes.shape[-2], probes.shape[-1])
        self._amplitudes = amplitudes
        self._judging = amplitudes if judging is None else judging
        self._sparse = sparse
        frames = np.arange(len(amplitudes))
        self._apart = frames < 0
        if judging is None and judges and len(amplitudes) > judges:
            self._apart = frames % judges == judges // 2
        self._energies, self._energies_judging = (_energies(each) for each in (self._amplitudes, self._judging))
        self._spectra = torch.fft.fft2(probes)
        shape = [int(last) + side for last, side in zip(whole.max(0).values, probes.shape[-2:], strict=True)]
        self._fields = torch.ones((len(probes), *shape), dtype=probes.dtype, device=probes.device)

    @property
    def probes(self) -> Tensor:
        """(k, h, w) complex64."""
        return torch.fft.ifft2(self._spectra)

    def sweep(self, random: np.random.Generator) -> Tensor:
        """Show the object every frame once, in random order: (k,) mean errors before each was used.

        Sparse frames say nothing about those that are not shown yet: they are shown some times, and what was kept apart
        judges.
        """
        if self._sparse:
            for _ in range(SPARSE_SWEEPS):
                self._shown(random.permutation(len(self._amplitudes)))
                self._smooth()
            return self.unlikelihood() if self._likelihood else self.judged()
        return self._shown(random.permutation(len(self._amplitudes))).cpu() / len(self._amplitudes)

    def knock_out(self, random: np.random.Generator, least: int) -> tuple[Tensor, Tensor]:
        """As `sweep`, but the worse half of the candidates leaves in every round until `least` are left.

        The first never leaves. Returns which are left, (m,), and their errors, (m,).
        """
        left = torch.arange(len(self._spectra))
        total = torch.zeros(len(left))
        for part in np.array_split(random.permutation(len(self._amplitudes)), ROUNDS):
            total = total + self._shown(part).cpu()
            better = 1 + total[1:].argsort()[: max(least, len(left) // 2) - 1].sort().values
            stay = torch.cat([torch.zeros(1, dtype=torch.long), better])
            left, total = left[stay], total[stay]
            self._spectra, self._fields = (each[stay.to(each.device)] for each in (self._spectra, self._fields))
        return left, total / len(self._amplitudes)

    def _shown(self, frames: NDArray[np.int64]) -> Tensor:
        """Show the object some frames: (k,) sums of the errors before each was used."""
        total = torch.zeros(len(self._spectra), device=self._spectra.device)
        for j in frames.tolist():
            window, probes, change = self._changed(j)
            total += self._errors(self._energies[j])
            window += probes.conj() * change / self._softened(probes.real.square() + probes.imag.square())
        return total

    def refine(self, passes: int, random: np.random.Generator) -> None:
        """Update objects, then probes too, with the frames that are not kept apart."""
        shown = np.flatnonzero(~self._apart)
        for step in range(SETTLING_PASSES + passes):
            moving = step >= SETTLING_PASSES
            for group in np.array_split(random.permutation(shown), -(-len(shown) // GROUP)):
                wanted, power = torch.zeros_like(self._spectra), torch.zeros_like(self._spectra.real)
                for j in group.tolist():
                    window, probes, change = self._changed(j)
                    if moving:
                        wanted += torch.fft.fft2(window.conj() * change) * self._ramps[j].conj()
                        power += window.real.square() + window.imag.square()
                    window += probes.conj() * change / self._softened(probes.real.square() + probes.imag.square())
                if moving:
                    self._spectra += torch.fft.fft2(torch.fft.ifft2(wanted) / self._softened(power))
            if self._sparse:
                self._smooth()

    def _smooth(self) -> None:
        """Take from the objects what is too fine."""
        h, w = self._fields.shape[1:]
        squares = torch.fft.fftfreq(h)[:, None].square() + torch.fft.fftfreq(w)[None, :].square()
        width = SMOOTH_PX_WHERE_DARK if self._likelihood else SMOOTH_PX
        kept = torch.exp(-2 * (torch.pi * width) ** 2 * squares).to(self._fields.device)
        for field in self._fields:  # one at a time: forty of them may be large
            field.copy_(torch.fft.ifft2(torch.fft.fft2(field) * kept))

    def judged(self) -> Tensor:
        """Relative squared errors (k,) of the frames or pixels kept apart, or of all if there are none."""
        frames = np.flatnonzero(self._apart) if self._apart.any() else np.arange(len(self._amplitudes))
        total = torch.zeros(len(self._spectra), device=self._spectra.device)
        for j in frames.tolist():
            self._predict(j, self._judging[j])
            total += self._errors(self._energies_judging[j])
        return total.cpu() / len(frames)

    def unlikelihood(self) -> Tensor:
        """(k,) -log of the likelihood of the photons kept apart, without a constant, as if they were as many as all."""
        total = torch.zeros(len(self._spectra), dtype=torch.float64, device=self._spectra.device)
        for j, judging in enumerate(self._judging):
            self._predict(j, judging)
            photons, intensity = judging.square(), self._predicted.square()
            intensity = intensity + LEAST_LIGHT * intensity.mean((1, 2), keepdim=True) + 1e-12
            nats = torch.where(judging >= 0, intensity - torch.xlogy(photons, intensity), 0)
            total += nats.sum((1, 2), dtype=torch.float64)
        return total.cpu()

    def _predict(self, j: int, measured: Tensor) -> tuple[Tensor, Tensor]:
        """The window of the fields and the probes that frame `j` sees; and what it should look like."""
        row, column = self._corners[j]
        h, w = measured.shape
        window = self._fields[:, row : row + h, column : column + w]
        probes = torch.fft.ifft2(self._spectra * self._ramps[j])
        self._waves = torch.fft.fft2(probes * window, norm="ortho")
        self._predicted = self._waves.abs()
        self._wanted = torch.where(measured >= 0, measured, self._predicted)
        return window, probes

    def _errors(self, energy: Tensor) -> Tensor:
        """Of the last prediction, (k,), relative to a frame's energy."""
        return (self._predicted - self._wanted).square().sum((1, 2)) / energy

    def _changed(self, j: int) -> tuple[Tensor, Tensor, Tensor]:
        """What frame `j` sees, as `_predict`, and how its exit waves (k, h, w) ought to change."""
        window, probes = self._predict(j, self._amplitudes[j])
        if self._likelihood:
            intensity = self._predicted.square()
            background = BACKGROUND * intensity.mean((1, 2), keepdim=True) + 1e-12
            factor = ((self._wanted.square() + background) / (intensity + background) - 1) / 2
        else:
            factor = self._wanted / self._predicted.clamp(min=1e-6) - 1
        return window, probes, torch.fft.ifft2(factor * self._waves, norm="ortho")

    def _softened(self, power: Tensor) -> Tensor:
        """What a step is divided by: the brightness of the other factor (k, h, w), nowhere near 0."""
        return torch.lerp(power.amax((1, 2), keepdim=True), power, 1 - self._alpha)


def _energies(amplitudes: Tensor) -> Tensor:
    """Photons of each frame (n, h, w), or what errors are divided by.

    A frame that came without light, or whose judging pixels did, shall not decide by the light that is predicted.
    """
    energies = amplitudes.clamp(min=0).square().sum((-2, -1))
    return energies.clamp(min=max(1e-12, DIM * float(energies.mean())))
