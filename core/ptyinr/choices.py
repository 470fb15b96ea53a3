"""What the settings leave open, decided by the first frames or the device, and probes that no search has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .losses import FEW_PHOTONS, LossSettings, photons_a_pixel
from .model import ProbeSettings
from .noise import Noise
from .settings import TrainerSettings
from .siren import FREQUENCY, FREQUENCY_WHERE_DARK, WIDTH, WIDTH_BESIDE_PIXELS

PRIOR, PRIOR_WHERE_SPARSE = 0.1, 0.03
PRIOR_WHERE_SPARSE_AND_DARK, PRIOR_WHERE_THE_PROBE_IS_KNOWN = 0.3, 0.4
"""In a smooth L1 of amplitudes. 2026-11-25, the paper's simulations with ten photons, 50 and 30 % overlap, probe given,
5 s, PSNR amplitude / phase. The likelihood and 0.1, likelihood and 0.3, smooth L1 and 0.3: `tungsten` 21 / 15
and 22 / 13, 20 / 18 and 19 / 15, 20 / 19 and 19 / 14; `maze` 20 / 16 and 18 / 15, 18 / 18 and 16 / 16, 19 / 19 and
17 / 17. The error of what is held out falls by a tenth and by a fifth, too. At 95 % it harms.
Blind, since the probe is found (2026-11-26, 50 %, 10 s), without and with it: 21 / 13 and 21 / 18, 18 / 15 and 20 / 18.
At 1 instead of 0.3, blind, medians of three seeds: `tungsten` 30 % 18.8 / 13.9 and 21.2 / 13.8, 50 % 19.7 / 14.9 and
21.3 / 16.9; `maze` 30 % 17.3 / 16.5 and 18.0 / 16.2; with an absorption of 4 as well 20.4 / 14.0, -, 18.2 / 16.7.
Since amplitudes are coupled to phases (`roughness`) a known probe does with a weaker one: at 0.3, 0.4, 0.5, medians of
three seeds, `tungsten` 50 % 22.1 / 18.3, 21.8 / 18.3, 21.6 / 18.5; `maze` 22.3 / 17.3, 21.9 / 19.8, 21.9 / 19.5.
"""
ABSORPTION_WHERE_DARK, ABSORPTION_WHERE_SPARSE, ABSORPTION_WHERE_SPARSE_AND_DARK = 1.5, 2.0, 3.0
"""See `roughness`. Where windows hardly overlap and photons are many, at 1, 2 and 4, medians of three seeds
(2026-11-26): 30 % overlap, 200 steps, `tungsten` with Gaussian noise, blind 18.5 / 15.0, 21.2 / 16.1, 22.2 / 16.8;
known 28.1 / 31.5, 27.4 / 31.9, 25.1 / 29.6; `maze` without noise, blind 15.9 / 17.8, 16.9 / 18.6, -; known 21.0 /
25.2, 24.5 / 27.6, 26.2 / 31.1; 50 %, blind, 130 steps, 1 and 2: `tungsten` without noise 30.5 / 31.3, 30.3 / 31.5;
`maze` 23.0 / 25.5, 25.9 / 27.0. Ten photons as well, blind, at 2, 2.5, 3 and 4, medians of seeds 5 to 8, which
nothing else was chosen by (2026-11-26): 30 %, `tungsten` 21.1 / 13.3, 21.4 / 13.3, 21.6 / 13.3, 21.7 / 13.2; `maze`
18.2 / 15.6, 19.0 / 15.6, 19.3 / 15.6, 19.1 / 15.6; 50 % 21.3 / 16.9, 21.6 / 16.7, 21.7 / 16.4, 21.6 / 16.0; 19.7 /
17.1, 19.5 / 17.2, 19.4 / 17.2, 19.1 / 17.2. With half or two thirds of the prior, or with a likelihood, phases are
worse; a probe that is held all the time is worse at 50 %. Pixels beside the network there: probe given, `maze`, 3 s,
seeds 3 to 6, without and with them 30 % 19.3 / 18.5 and 19.6 / 18.3, 50 % 20.5 / 20.3 and 21.0 / 20.3; but 5 s,
seeds 0 to 2, 50 % 19.8 / 19.1 and 19.9 / 18.9, blind 18.7 / 17.5 and 19.0 / 16.5: left as it was. Where a start is
not sure the probe might be held: 30 %, medians of six seeds, object and probe, `maze` 19.1 / 16.2, 17.7 / 6.1 and
18.9 / 16.1, 17.3 / 7.0, `tungsten` 21.6 / 13.4, 17.1 / 7.2 and 21.5 / 13.4, 17.2 / 9.7; but without noise 17.2 /
18.2 and 16.7 / 17.3, 26.1 / 29.3 and 18.2 / 16.0: not held.
"""
DETAIL_RATE, DETAIL_RATE_OF_NOISE = 6e-2, 1e-2
PROBE_DETAIL_RATE, PROBE_DETAIL_RATE_OF_NOISE = 3e-3, 1e-2
"""See `settings`."""
SMALL_STEPS = 60
"""While everything is to be learned small steps (`samplers`) teach more a second, but not if each frame says little.
`maze`, 95 % overlap, PSNR amplitude / phase after 160 steps, with and without them: no noise, blind 52 / 54 in 5.5 s
and 45 / 55 in 7.1 s (networks of width 16 and 32); probe given, Gaussian noise 32.4 / 38.1 and 34.2 / 40.7, ten photons
23.6 / 27.0 and 24.0 / 27.7 (2026-11-26).
"""

CHOSEN_OF_THE_OBJECT = ("detail", "width", "first_frequency")
CHOSEN = ("holdout_of", "small_steps", "detail_rate", "probe_detail_rate")


def decided(settings: TrainerSettings, amplitudes: Tensor, noise: Noise, sparse: bool) -> TrainerSettings:
    """The settings without `auto` and None.

    Args:
        settings: as the user gave them.
        amplitudes: (n, h, w) root counts of the first frames, below 0 where nothing was measured.
        noise: of the detector.
        sparse: whether windows hardly overlap.
    """
    few = photons_a_pixel(amplitudes) / noise.gain < FEW_PHOTONS
    loss, objects, of = settings.loss, settings.object, settings.holdout_of
    if loss.kind == "auto":
        loss = replace(loss, kind="poisson" if few and not sparse else "smooth_l1")
    if loss.prior is None:
        where_both = PRIOR_WHERE_THE_PROBE_IS_KNOWN if settings.probe.fixed else PRIOR_WHERE_SPARSE_AND_DARK
        where_sparse = where_both if few else PRIOR_WHERE_SPARSE
        loss = replace(loss, prior=where_sparse if sparse else PRIOR)
    if loss.absorption is None:
        where_sparse = ABSORPTION_WHERE_SPARSE_AND_DARK if few else ABSORPTION_WHERE_SPARSE
        where_dense = ABSORPTION_WHERE_DARK if few else 1.0
        loss = replace(loss, absorption=where_sparse if sparse else where_dense)
    if loss.coupled is None:
        loss = replace(loss, coupled=sparse)
    if loss.aperture is None:
        loss = replace(loss, aperture=1.0 if loss.unit is None else 0.0)
    if objects.detail is None:
        objects = replace(objects, detail=not sparse and not few)
    if objects.first_frequency is None:
        objects = replace(objects, first_frequency=FREQUENCY_WHERE_DARK if few and not sparse else FREQUENCY)
    noisy = few or noise.variance > 0
    if objects.width is None:
        objects = replace(objects, width=WIDTH if noisy or not objects.detail else WIDTH_BESIDE_PIXELS)
    if of == "auto":
        of = "pixels" if sparse else "frames"
    detail, probe_detail = settings.detail_rate, settings.probe_detail_rate
    if detail is None:
        detail = DETAIL_RATE_OF_NOISE if noisy else DETAIL_RATE
    if probe_detail is None:
        probe_detail = PROBE_DETAIL_RATE_OF_NOISE if noisy else PROBE_DETAIL_RATE
    small = settings.small_steps
    if small is None:
        small = SMALL_STEPS if objects.detail and not noisy else 0
    return replace(
        settings,
        loss=loss,
        object=objects,
        holdout_of=of,
        small_steps=small,
        detail_rate=detail,
        probe_detail_rate=probe_detail,
    )


def chosen(decided: TrainerSettings) -> dict[str, Any]:
    """What can be left open and has been `decided`: numbers and text, to go on with elsewhere."""
    of_object = {name: getattr(decided.object, name) for name in CHOSEN_OF_THE_OBJECT}
    rest = {name: getattr(decided, name) for name in CHOSEN}
    return {"loss": asdict(decided.loss), "object": of_object, "rest": rest}


def with_choices(settings: TrainerSettings, choices: Mapping[str, Any]) -> TrainerSettings:
    """The settings with what has been `chosen`.

    Raises:
        KeyError, TypeError: the choices are torn.
    """
    of_object = {name: choices["object"][name] for name in CHOSEN_OF_THE_OBJECT}
    rest = {name: choices["rest"][name] for name in CHOSEN}
    return replace(settings, loss=LossSettings(**choices["loss"]), object=replace(settings.object, **of_object), **rest)


def random_reference(amplitudes: Tensor, settings: ProbeSettings, random: np.random.Generator) -> Tensor:
    """(1, h, w) complex of a probe that random weights will make: as bright as the frames (n, h, w) in root counts.

    It fills a spot that diffracts as widely as they do; free pixels start at random around that brightness.
    """
    mean = amplitudes.clamp(min=0).square().mean(0)
    lit = float(mean.sum().square() / mean.square().sum().clamp(min=1e-12))
    brightness = float(mean.sum() / max(1.0, mean.numel() / lit)) ** 0.5
    shape = (1, *mean.shape)
    if settings.kind == "network":
        return torch.full(shape, brightness, dtype=torch.complex64, device=mean.device)
    values = random.normal(size=(*shape, 2)).astype(np.float32)
    return torch.view_as_complex(torch.from_numpy(values)).to(mean.device) * brightness


def checked_probe(probe: np.ndarray, window: tuple[int, int]) -> Tensor:
    """(modes, h, w) complex64.

    Raises:
        ValueError: it has another size than the window, is not finite, or is zero everywhere.
    """
    modes = np.asarray(probe)
    modes = modes[None] if modes.ndim == 2 else modes
    if modes.ndim != 3 or modes.shape[1:] != window:
        raise ValueError(f"the probe has shape {np.shape(probe)}: the frames need (modes, {window[0]}, {window[1]})")
    if not np.isfinite(modes).all() or not np.abs(modes).any():
        raise ValueError("the probe must be finite and not zero everywhere")
    return torch.from_numpy(modes.astype(np.complex64))


def compute_dtype(precision: str, device: torch.device, detail: bool | None) -> torch.dtype:
    """Of the object's hidden layers: what `precision` names, or bfloat16 where a processor computes with it.

    Not where free pixels stand beside the network (`detail`): they learn to mend what a bfloat16 rounds, which
    snapshots do not. The paper's simulations at 95 %, no noise, probe known, 10 s of a processor with bfloat16
    arithmetic: object 62.7 / 68.5 dB (598 steps) and 63.7 / 70.3, in float32 106.6 / 113.1 (637 steps) and 104.6 /
    112.0 (2026-11-27); a GPU, NVIDIA H200, 29.4 ms a step, 30.4 in bfloat16, and 69.8 dB (amplitude) instead of 64.4
    (2026-11-26).
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda" or detail:
        return torch.float32
    # Without the instructions bfloat16 is emulated, slower than float32. Older torch cannot tell.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32
