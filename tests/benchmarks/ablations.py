"""The supplement's ablations, and ours: `python tests/benchmarks/ablations.py [--seconds 10] [--only S15]`.

The maze of 96 px, windows of 32 px at 95 % overlap, without noise and with the paper's Poisson noise (10 photons in the
brightest pixel); equal seconds of one core for every row, one seed. Object PSNR amplitude / phase in dB, and overlap of
the probe with the true one; NaN where nothing finite came out. The probe is never given.

* S15: a probe of random weights as in the paper, all else ours: its normalisation and its regularisation (lambda 1e-2
  for 50 steps), for three lenses.
* S16: what represents the object and the probe; `modulation` and `pixels` begin where the blind start ends, unless they
  are called random.
* S17: the loss with all else ours, and w0 of the paper with the network alone, without the pixels beside it (30 on a
  field of 96 px is 0.6 rad/px, the paper's 0.25 on 241 px).
* ours: each of our additions taken away, and all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from scans import GEOMETRY, SIDE, WINDOW, Score, corners_of, flat_score, head, object_of, probe_of, row, score_of, timed

import ptyinr
from ptyinr.losses import LossSettings
from ptyinr.model import ProbeSettings
from ptyinr.settings import random_start
from ptyinr.simulate import SimulatedNoise, Simulation, simulate
from ptyinr.siren import ObjectSettings

LENSES = ("near focus", "defocused", "rectangular")
NOISES = ("none", "poisson")
RANDOM = ProbeSettings(kind="network", normalisation="maximum", centred=True)
HELD = LossSettings(regularisation=1e-2, regularised_steps=50)


def variants(ours: ptyinr.TrainerSettings) -> Iterator[tuple[str, str, ptyinr.TrainerSettings]]:
    """What a row is called, its lens, and its settings."""
    random = replace(random_start(ours), probe=RANDOM, loss=HELD)
    for lens in LENSES:
        for normalisation in ("energy", "maximum", "none"):
            for regularisation in (0.0, 1e-2):
                probe = replace(RANDOM, normalisation=normalisation)
                loss = replace(HELD, regularisation=regularisation)
                name = f"S15 {normalisation}, lambda {regularisation:g}"
                yield name, lens, replace(random, probe=probe, loss=loss)
    for kind, field in (("SIREN", ours.object), ("hash grid", replace(ours.object, kind="hash_grid"))):
        yield f"S16 {kind}, modulation and pixels", "defocused", replace(ours, object=field)
        yield f"S16 {kind}, modulation", "defocused", replace(ours, object=field, probe=ProbeSettings(detail=False))
        yield f"S16 {kind}, network, random", "defocused", replace(random, object=field)
        for start in ("blind", "random"):
            probe = replace(ours, object=field, probe=ProbeSettings(kind="pixels"), start=start)
            yield f"S16 {kind}, pixels" + (", random" if start == "random" else ""), "defocused", probe
    for kind in ("auto", "smooth_l1", "l1", "l2", "poisson"):
        yield f"S17 {kind}", "defocused", replace(ours, loss=replace(ours.loss, kind=kind))
    alone = replace(ours.object, detail=False)
    yield "S17 w0 left to us", "defocused", replace(ours, object=alone)
    for w0 in (30.0, 90.0, 300.0):
        yield f"S17 w0 {w0:.0f}", "defocused", replace(ours, object=replace(alone, w0=w0))
    yield "ours", "defocused", ours
    for name, fewer in (
        ("without the object's pixels", replace(ours, object=alone)),
        ("without the probe's pixels", replace(ours, probe=ProbeSettings(detail=False))),
        ("without rates by the noise", replace(ours, detail_rate=2e-2, probe_detail_rate=5e-3)),
        ("without prior", replace(ours, loss=replace(ours.loss, prior=0.0))),
        ("without the probe's prior", replace(ours, loss=replace(ours.loss, aperture=0.0))),
        ("without likelihood", replace(ours, loss=replace(ours.loss, kind="smooth_l1"))),
        ("without preconditioning", replace(ours, preconditioned=False)),
        ("without averaging", replace(ours, averaging=0.0)),
        ("without a blind start", random),
        ("without any", _plain(random, alone)),
    ):
        yield f"ours {name}", "defocused", fewer


def _plain(random: ptyinr.TrainerSettings, alone: ObjectSettings) -> ptyinr.TrainerSettings:
    loss = replace(random.loss, prior=0.0, aperture=0.0, kind="smooth_l1")
    return replace(random, object=alone, loss=loss, preconditioned=False, averaging=0.0)


def measured(scan: Simulation, settings: ptyinr.TrainerSettings, seconds: float) -> Score:
    """Of one run; nan where training ends in numbers that no snapshot may hold."""
    try:
        _, snapshot = timed(scan, settings, seconds)
    except ValueError as error:
        if "finite" not in str(error):
            raise
        return Score()
    return score_of(snapshot, scan, ramp=True)


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=10.0, help="of the processor, a run")
    arguments.add_argument("--only", default="", help="a part of a row's name, as `S16` or `ours`")
    arguments.add_argument("--object", default="maze", help="maze, star, cells or tungsten")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--noises", default=",".join(NOISES))
    chosen = arguments.parse_args()
    noises = chosen.noises.split(",")
    torch.set_num_threads(1)
    field = object_of(chosen.object, chosen.seed)
    if field is None:
        return
    corners = corners_of(SIDE, WINDOW, 0.95)
    scans = {
        (lens, noise): simulate(GEOMETRY, field, probe_of(lens), corners, noise=SimulatedNoise(noise), seed=chosen.seed)
        for lens in LENSES
        for noise in noises
    }
    head(["", "lens", *(cell for noise in noises for cell in (f"object, {noise}", "probe"))])
    flat = flat_score(scans["defocused", "none"], ramp=True)
    row(["flat object", "", *(f"{flat.amplitude:.1f} / {flat.phase:.1f}", "") * len(noises)])
    for name, lens, settings in variants(ptyinr.TrainerSettings(seed=chosen.seed)):
        if chosen.only not in name:
            continue
        cells = []
        for noise in noises:
            found = measured(scans[lens, noise], settings, chosen.seconds)
            there = np.isfinite(found.amplitude)
            cells += [f"{found.amplitude:.1f} / {found.phase:.1f}" if there else "NaN"]
            cells += [f"{found.probe_overlap:.3f}" if there else "NaN"]
        row([name, lens, *cells])


if __name__ == "__main__":
    main()
