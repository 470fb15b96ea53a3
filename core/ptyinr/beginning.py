"""Where a reconstruction begins: what the first frames say of noise and probe, and whether more frames take it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .choices import checked_probe, decided, random_reference
from .dataset import Dataset
from .light import SPARSE, windows_a_pixel
from .losses import root_photons
from .model import energy
from .noise import Noise, estimate_noise
from .probe_start import CONTRADICTED, SAME, SURE, ProbeStart, blind_start, disagreement, overlaps
from .settings import TrainerSettings
from .types import ScanGeometry

MOST_TRIES = 3
"""Of the blind start, each with twice the frames of the one before, while it is not sure."""

POSSIBLE = 1e-3, 4.0
"""Of a known probe's energy: what a mean frame may hold, from a sample that absorbs nearly all to one that is missing
while the probe was measured through a filter. P / max|P|, as probes are often published, is off by thousands."""

HELD_STEPS = 60
"""Of a given probe. What is missing at first is the object; a probe that was good elsewhere only drifts meanwhile, and
without its gradient a step is shorter. The Siemens star with the probe of another reconstruction, seeds 0 to 2, seconds
until a phase correlation of 0.95: held 1.5, 1.6, 1.6 (48, 50, 52 steps of 67 ms of a core), at once 2.3, 2.5, 2.4 (50,
52, 54 steps of 90 ms). `maze`, its probe given, PSNR amplitude / phase and overlap of the probe after 160 steps:
Gaussian noise, held 33.5 / 40.3, 0.9995, at once 34.2 / 40.7, 0.9990; ten photons 23.4 / 27.5, 0.9961, and 24.0 / 27.7,
0.9949: half a decibel of the object for a better probe and shorter steps (2026-11-26).
"""


class Beginning:
    """The probe that training starts from: given, random, or found; and second thoughts about it."""

    def __init__(
        self,
        geometry: ScanGeometry,
        settings: TrainerSettings,
        random: np.random.Generator,
        probe: NDArray[np.complexfloating] | None,
        *,
        check_probe: bool,
    ) -> None:
        """See `Trainer`.

        Raises:
            ValueError: the probe has another size than the window, is not finite, is missing though it is fixed, or is
                given to networks of random weights.
        """
        self.geometry, self.settings, self._random = geometry, settings, random
        self.given = None if probe is None else checked_probe(probe, geometry.window)
        if self.given is None and settings.probe.fixed:
            raise ValueError("the probe is to stay fixed: give it")
        if self.given is not None and settings.probe.kind == "network" and not settings.probe.fixed:
            raise ValueError(
                "a probe of kind 'network' begins with random weights and cannot begin with a given probe: take kind "
                "'modulation' or 'pixels', or let it stay fixed"
            )
        self.to_check = check_probe and probe is not None and not settings.probe.fixed
        self.start: ProbeStart | None = None
        """How a probe was found, if one was."""
        self.disagreement: float | None = None
        """How the given probe explained the first frames, once that has been checked: see `CONTRADICTED`."""
        self.noise = Noise()

    def enough(self, dataset: Dataset, complete: bool) -> bool:
        """Whether there are frames enough to begin; a given probe needs two lit ones, to be scaled to them."""
        lit = len(dataset.lit_training)
        needed = self.settings.start_frames if self.given is None else 2
        return lit >= needed or (complete and len(dataset.training) > 0)

    def look(self, dataset: Dataset, device: torch.device) -> tuple[TrainerSettings, Tensor]:
        """The settings without what was left to the data, and the probe (modes, h, w) in root counts.

        Raises:
            ValueError: there are no two frames to train on, or no light in them.
        """
        if len(dataset) > 1 and not dataset.trusted(np.arange(len(dataset))).any():
            raise ValueError("every pixel of the first frames is masked: a mask is True where a pixel may be trusted")
        usable = len(dataset.lit_training) or len(dataset.training)
        if usable < 2:
            raise ValueError(
                f"frames to train on: {usable}; those that are dark or wholly masked do not count; ptychography "
                f"compares frames that overlap: append at least two"
            )
        rows = self._first_rows(dataset)
        amplitudes = dataset.amplitudes(rows)
        if not dataset.whole:
            trusted = (amplitudes >= 0).cpu().numpy()
            counts = amplitudes.clamp(min=0).square().double().cpu().numpy()
            self.noise = estimate_noise(counts, trusted)
        sparse = windows_a_pixel(dataset.corners_px[rows], self.geometry.window) < SPARSE
        choices = decided(self.settings, amplitudes, self.noise, sparse)
        if choices.holdout_of == "pixels":
            dataset.hold_out_pixels()
        if self.given is not None:
            reference = self.given.to(device)
            photons = float(dataset.photons(rows).mean())
            if photons <= 0:
                raise ValueError("the first frames hold no photons: the probe cannot be scaled to them")
            if not self.settings.probe.fixed:
                reference = reference * (photons / energy(reference)).sqrt()
            else:
                _require_counts(float(energy(reference)), photons)
        elif self.settings.start == "random":
            reference = random_reference(amplitudes, self.settings.probe, self._random)
        else:
            self.start = self._blind_start(dataset, rows)
            reference = self.start.probe
        return choices, reference

    def holds(self, step: int) -> bool:
        """Whether the probe stays as it is in a step, the first of which is 0."""
        steps = self.settings.held_steps
        if steps is None:
            steps = HELD_STEPS if self.given is not None and self.start is None else 0
        return step < steps

    def reconsider(self, dataset: Dataset, trained: Callable[[], Tensor]) -> Tensor | None:
        """A better probe to begin anew with, None while there is none.

        A given probe is checked once there are frames enough; a start that was not sure is tried again with twice as
        many. `trained` gives what has become of the probe.
        """
        if self.to_check and len(dataset.lit_training) >= self.settings.start_frames:
            self.to_check = False
            return self._checked(dataset, trained())
        start = self.start
        if (
            start is None
            or start.confidence >= SURE
            or start.frames >= self.settings.start_frames * 2 ** (MOST_TRIES - 1)
        ):
            return None
        if len(dataset.lit_training) < 2 * start.frames:
            return None
        found = self._blind_start(dataset, self._first_rows(dataset, 2 * start.frames))
        same = float(overlaps(found.probe, trained()[:1])[0, 0]) >= SAME
        better = found.confidence > start.confidence
        self.start = found if same or better else replace(start, frames=found.frames)
        return found.probe if better and not same else None

    def _checked(self, dataset: Dataset, probe: Tensor) -> Tensor | None:
        rows = self._first_rows(dataset)
        photons, corners = self._in_photons(dataset, rows)
        self.disagreement = disagreement(probe[0], photons, corners, self.geometry, self._random)
        if self.disagreement <= CONTRADICTED:
            return None
        self.start = self._blind_start(dataset, rows)
        return self.start.probe

    def _blind_start(self, dataset: Dataset, rows: NDArray[np.int64]) -> ProbeStart:
        """A start in counts, found in photons."""
        photons, corners = self._in_photons(dataset, rows)
        start = blind_start(photons, corners, self.geometry, self._random)
        return replace(start, probe=start.probe * self.noise.gain**0.5)

    def _in_photons(self, dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return root_photons(dataset.shown(rows), self.noise), torch.from_numpy(dataset.corners_px[rows])

    def _first_rows(self, dataset: Dataset, most: int | None = None) -> NDArray[np.int64]:
        """Frames that a probe is found in, or scaled to: neighbours around the middle one of those that came.

        Dark ones, before a shutter opened, tell nothing.
        """
        lit = dataset.lit_training
        rows = lit if len(lit) else dataset.training
        if not len(rows):
            return rows
        corners = dataset.corners_px[rows]
        middle = corners[np.abs(corners - np.median(corners, 0)).max(1).argmin()]
        near = np.abs(corners - middle).max(1).argsort(kind="stable")
        return rows[np.sort(near[: most or self.settings.start_frames])]


def _require_counts(of_probe: float, of_frames: float) -> None:
    """Refuse a known probe in other units.

    Raises:
        ValueError: the counts of a mean frame cannot have come through an object that this probe lights.
    """
    low, high = POSSIBLE
    if not low * of_probe <= of_frames <= high * of_probe:
        raise ValueError(
            f"a known probe is given in root counts, but this one's intensity sums up to {of_probe:.3g}, and a mean "
            f"frame holds {of_frames:.3g} counts: multiply it by {(of_frames / of_probe) ** 0.5:.3g}, or let it be "
            f"scaled and refined"
        )
