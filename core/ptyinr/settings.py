"""What training is free to choose. Every default holds for any scan, or is chosen from its data.

Rates of the free pixels and of the probe's networks, 2026-11-25; the paper's simulations of 96 px at 95 % overlap, seed
0, 10 s of a core; object PSNR amplitude / phase in dB, `tungsten` then `maze` (`paper_simulations.py`):

* Object's pixels at 1e-2, 3e-2, 6e-2, 1e-1. No noise, probe known: 80 / 79 and 63 / 69; 92 / 92 and 92 / 92; 94 / 95
  and 98 / 104; 93 / 99 and 100 / 105. Gaussian noise, probe known, 1e-2 and 3e-2: 36 / 41 and 37 / 44; 30 / 37 and
  33 / 40. The Siemens star, seconds of a slow core until a phase correlation of 0.95, blind: 26, 20, 18 s; with its
  probe known: 23, 11, 10 and 11 s. So they learn fast where the counts are good, and slowly where they are noisy.
* Probe without free pixels, with them at 3e-3, 5e-3, 1e-2, the networks' rates a third or a tenth of 3e-3 and 9e-2. No
  noise, blind: 51 / 50 and 45 / 50; 56 / 48 and 47 / 58; 54 / 48 and 47 / 58; 52 / 48 and 40 / 55. Ten photons, blind:
  25 / 25 and 25 / 27; -; 29 / 31 and 25 / 29; 30 / 32 and 25 / 29. The star is the same with and without.
* Ten photons, blind, no free pixels, the networks' rates 1, 0.3, 0.1: 25 / 25 and 25 / 27; 28 / 29 and 24 / 28; 28 / 28
  and 24 / 27. Gaussian noise: 41 / 45 and 32 / 37; 40 / 44 and 32 / 37; 39 / 43 and 32 / 37.
* Gaussian noise, blind, after 200 steps, object and probe, `maze` then `tungsten` (2026-11-26): what is left in the
  probe is white noise that its free pixels walk into. Rate 1e-2: 36 / 43 and 36 / 28; 43 / 46 and 33 / 25. Rates that
  fall with the square or the cube: the same. 1e-3, from a start whose spectrum is cut to where the mean pattern has
  light: 36 / 42 and 41 / 32; 39 / 44 and 40 / 29. A better probe, but not a better object: left as it was. Gradients
  divided by one number for all pixels, instead of one for each: between these two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from .adam import BETAS
from .hashgrid import GridSettings
from .losses import LossSettings
from .model import ProbeSettings
from .siren import ObjectSettings
from .types import all_positive, require_choices


@dataclass(frozen=True)
class TrainerSettings:
    """All of it.

    Raises:
        ValueError: a number is out of range, or a word is none of those that may be chosen.
    """

    object: ObjectSettings = field(default_factory=ObjectSettings)
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    start: Literal["blind", "random"] = "blind"
    """Where no probe is given: `blind` finds one in the first frames; `random` leaves it to the probe's networks."""
    held_steps: int | None = None
    """The first ones, in which the probe stays as it is and the object alone learns. None: some if it was given."""
    object_rate: float = 1e-3
    """Of Adam."""
    probe_rate: float = 1e-3
    """Of the networks behind the probe's hash grids."""
    table_rate: float = 3e-2
    """Of the hash grids' tables, in units of their initial spread."""
    detail_rate: float | None = None
    """Of the object's free pixels; it falls with the square of the others. None: by the noise."""
    probe_detail_rate: float | None = None
    """Of the probe's free pixels, in units of the brightest. None: by the noise."""
    betas: tuple[float, float] = BETAS
    """Adam's memory of gradients and of their squares; that of the object's free pixels stays `adam.BETAS`."""
    anneal: bool = True
    """Let rates fall towards the end where its time is known."""
    preconditioned: bool = True
    """Divide the object's gradient by the light that each pixel received."""
    batch: Literal["tile", "random", "full"] = "tile"
    """The frames of a step: those of a tile of the object, a random sample, or all."""
    attention: Literal["all", "new", "worst"] = "all"
    """Where tiles are laid: over any frame alike, over those that have been seen least, or explained worst."""
    frames_per_step: int | None = None
    """At most; None takes as many as have sixteen times the pixels of the tile."""
    small_steps: int | None = None
    """The first ones, of a third of the frames. None: some where pixels are fast."""
    start_frames: int = 60
    """Frames that the blind start waits for."""
    averaging: float = 0.95
    """Memory of the averaged weights, which snapshots show."""
    holdout: int = 10
    """Every n-th frame (`index % n == n // 2`) only judges; 0 lets all of them train."""
    holdout_of: Literal["auto", "frames", "pixels"] = "auto"
    """What is held out. Where windows hardly overlap a frame that does not train leaves a hole: `auto` then takes every
    n-th pixel of every frame."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the object's hidden layers; auto takes bfloat16 where the processor computes with it and no
    free pixels stand beside them."""
    seed: int = 0

    def __post_init__(self) -> None:
        require_choices(self)
        details = [rate for rate in (self.detail_rate, self.probe_detail_rate) if rate is not None]
        frames = (1 if self.frames_per_step is None else self.frames_per_step, self.start_frames)
        rates = (self.object_rate, self.probe_rate, self.table_rate, *details)
        if not all_positive(*rates, *frames) or not 0 <= self.averaging < 1:
            raise ValueError(f"rates and frame numbers must be positive and averaging in [0, 1): {self}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}: Adam remembers by factors in [0, 1)")
        if min(self.held_steps or 0, self.small_steps or 0) < 0:
            raise ValueError(f"held_steps and small_steps are 0 or more: {self}")
        if self.holdout < 0 or self.holdout == 1:
            raise ValueError(
                f"holdout is {self.holdout}: give 0 to train on all frames, or 2 and more to hold every n-th out"
            )
        if self.start == "random" and self.probe.kind == "modulation":
            raise ValueError("a modulation needs a probe to modulate: start at random with kind 'network' or 'pixels'")


def random_start(settings: TrainerSettings) -> TrainerSettings:
    """The same with a probe of random weights as the paper has it: normalised, centred, regularised at first.

    Settings that start from random weights already stay as they are.
    """
    if settings.start == "random" and settings.probe.kind == "network":
        return settings
    probe = replace(settings.probe, kind="network", normalisation="maximum", centred=True)
    loss = replace(settings.loss, regularisation=1e-2)
    return replace(settings, start="random", probe=probe, loss=loss, probe_rate=3e-3, table_rate=9e-2)


def upstream_settings(*, rectangular: bool = False, seed: int = 0) -> TrainerSettings:
    """The published program's settings: paper, supplement and `parameters.py`, for simulated scans.

    Two SIRENs of 3 hidden layers of 512, w0 = 30; a probe of random weights, 16 levels, normalised by its maximum and
    centred; SmoothL1 with beta 1e-2 of amplitudes divided by 600, |P| regularised by 1e-2 for 50 steps (not for
    `rectangular` probes); Adam at 2e-5 and 1e-5 from the first step to the last, with torch's betas; all frames in
    every step.
    """
    grid = GridSettings(levels=16)
    return TrainerSettings(
        object=ObjectSettings(width=512, depth=3, w0=30.0, shared=False, detail=False, start=0.0),
        probe=ProbeSettings(kind="network", grid=grid, normalisation="maximum", centred=True),
        loss=LossSettings(
            kind="smooth_l1", beta=1e-2, unit=600.0, regularisation=0.0 if rectangular else 1e-2, prior=0.0
        ),
        start="random",
        object_rate=2e-5,
        probe_rate=1e-5,
        table_rate=1e-5 / 1e-4,
        betas=(0.9, 0.999),
        anneal=False,
        held_steps=0,
        preconditioned=False,
        batch="full",
        averaging=0.0,
        holdout=0,
        precision="float32",
        seed=seed,
    )
