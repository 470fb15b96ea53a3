"""What may be chosen, what is refused, and what the published program has."""

from __future__ import annotations

import dataclasses
import inspect
import math

import numpy as np
import pytest
import torch

import ptyinr
from ptyinr.hashgrid import GridSettings
from ptyinr.losses import LossSettings
from ptyinr.model import ProbeSettings
from ptyinr.settings import TrainerSettings, random_start, upstream_settings
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import Trainer
from ptyinr.training import train


@pytest.mark.parametrize(
    "bad",
    [
        {"object_rate": 0},
        {"probe_rate": -1e-3},
        {"table_rate": 0},
        {"detail_rate": 0},
        {"probe_detail_rate": -1e-3},
        {"frames_per_step": 0},
        {"start_frames": 0},
        {"averaging": 1.0},
        {"averaging": -0.1},
    ],
)
def test_a_number_out_of_range_is_refused(bad):
    with pytest.raises(ValueError, match="must be positive and averaging in"):
        TrainerSettings(**bad)


@pytest.mark.parametrize("holdout", [1, -1])
def test_to_hold_everything_out_is_refused_and_what_is_meant_is_told(holdout):
    with pytest.raises(ValueError, match=f"holdout is {holdout}: give 0 to train on all frames, or 2 and more"):
        TrainerSettings(holdout=holdout)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_refused(bad):
    for make in (
        lambda: TrainerSettings(object_rate=bad),
        lambda: TrainerSettings(averaging=bad),
        lambda: LossSettings(beta=bad),
        lambda: LossSettings(prior=bad),
        lambda: ObjectSettings(first_frequency=bad),
        lambda: ObjectSettings(start=bad),
        lambda: GridSettings(growth=bad),
    ):
        with pytest.raises(ValueError, match=r"must be positive|never negative|needs positive sizes"):
            make()


@pytest.mark.parametrize(
    ("make", "bad", "right"),
    [
        (LossSettings, {"kind": "L1"}, "'auto', 'smooth_l1', 'l1', 'l2', 'poisson'"),
        (ObjectSettings, {"kind": "SIREN"}, "'siren', 'hash_grid'"),
        (ProbeSettings, {"kind": "hash_grid"}, "'modulation', 'network', 'pixels'"),
        (ProbeSettings, {"normalisation": "max"}, "'energy', 'maximum', 'none'"),
        (GridSettings, {"backend": "tcnn"}, "'auto', 'torch', 'tinycudann'"),
        (TrainerSettings, {"batch": "mini"}, "'tile', 'random', 'full'"),
        (TrainerSettings, {"precision": "fp16"}, "'auto', 'float32', 'bfloat16'"),
    ],
)
def test_a_word_that_selects_nothing_is_refused_with_those_that_do(make, bad, right):
    ((name, word),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} is '{word}', not one of {right}"):
        make(**bad)


def test_betas_lie_between_nothing_and_one():
    with pytest.raises(ValueError, match=r"betas are \(0.9, 1.0\)"):
        TrainerSettings(betas=(0.9, 1.0))


@pytest.mark.parametrize("rectangular", [False, True])
def test_what_starts_from_random_weights_already_stays_as_it_is(rectangular):
    theirs = upstream_settings(rectangular=rectangular)
    assert random_start(theirs) == theirs
    assert random_start(TrainerSettings()).loss.regularisation == 1e-2


def test_the_published_programs_rates_stay_as_they_are_and_its_adam_is_torchs(scan, monkeypatch):
    factors = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda trainer, factor=1.0: (factors.append(factor), step(trainer, factor))[1])
    small = dataclasses.replace(upstream_settings(), object=ObjectSettings(width=8, depth=1, start=0.0, detail=False))
    for settings, constant in ((small, True), (TrainerSettings(), False)):
        factors.clear()
        trainer = Trainer(scan.geometry, scan.scan_range, settings, probe=None if constant else scan.probe)
        trainer.append(scan.batch(slice(0, 12)))
        train(trainer, lambda trainer=trainer: trainer.steps / 5)
        assert (factors == [1.0] * 5) is constant
    torchs = inspect.signature(torch.optim.Adam).parameters["betas"].default
    assert small.betas == torchs


def test_a_random_start_has_no_probe_to_modulate():
    with pytest.raises(ValueError, match="start at random with kind 'network' or 'pixels'"):
        TrainerSettings(start="random")
    for kind in ("network", "pixels"):
        assert TrainerSettings(start="random", probe=ProbeSettings(kind=kind)).start == "random"


def test_the_published_programs_settings_are_the_papers():
    theirs = upstream_settings(seed=4)
    assert (theirs.object.width, theirs.object.depth, theirs.object.w0) == (512, 3, 30.0)
    assert (theirs.object.shared, theirs.object.detail, theirs.object.start) == (False, False, 0.0)
    assert (theirs.probe.kind, theirs.probe.grid.levels, theirs.probe.normalisation) == ("network", 16, "maximum")
    assert theirs.probe.centred
    assert (theirs.loss.kind, theirs.loss.beta, theirs.loss.unit) == ("smooth_l1", 1e-2, 600.0)
    assert (theirs.loss.regularisation, theirs.loss.regularised_steps, theirs.loss.prior) == (1e-2, 50, 0.0)
    assert (theirs.object_rate, theirs.probe_rate, theirs.table_rate * 1e-4) == pytest.approx((2e-5, 1e-5, 1e-5))
    assert (theirs.start, theirs.batch, theirs.preconditioned) == ("random", "full", False)
    assert (theirs.averaging, theirs.holdout, theirs.seed) == (0.0, 0, 4)


def test_a_rectangular_probe_is_not_regularised():
    square, rectangular = upstream_settings(), upstream_settings(rectangular=True)
    assert rectangular.loss.regularisation == 0
    assert dataclasses.replace(rectangular, loss=square.loss) == square


def narrow():
    """Upstream's, small enough for a test."""
    theirs = upstream_settings()
    return dataclasses.replace(theirs, object=dataclasses.replace(theirs.object, width=32))


def test_the_published_programs_settings_train_from_random_weights(scan):
    trainer = Trainer(scan.geometry, scan.scan_range, narrow())
    trainer.append(scan.batch())
    reports = [trainer.step() for _ in range(12)]
    assert {report.frames for report in reports} == {100}  # all, in every step
    assert reports[-1].loss < reports[0].loss
    snapshot = trainer.snapshot()  # which is finite, or it would not be one
    assert (snapshot.metrics["rollbacks"], snapshot.probe.shape) == (0, (1, 32, 32))
    assert np.unravel_index(np.abs(snapshot.probe[0]).argmax(), (32, 32)) == (16, 16)
    assert trainer.start is None


@pytest.mark.parametrize("batch", ["tile", "random", "full"])
@pytest.mark.parametrize("kind", ["network", "pixels"])
def test_a_random_start_learns_with_any_batch(scan, batch, kind):
    settings = TrainerSettings(
        object=dataclasses.replace(TrainerSettings().object, width=32),
        probe=ProbeSettings(kind=kind),
        start="random",
        batch=batch,
        frames_per_step=16,
        precision="float32",
    )
    trainer = Trainer(scan.geometry, scan.scan_range, settings)
    trainer.append(scan.batch())
    reports = [trainer.step() for _ in range(25)]
    frames = {report.frames for report in reports}
    assert frames == {90} if batch == "full" else max(frames) <= 16
    assert np.mean([r.loss for r in reports[-5:]]) < 0.9 * np.mean([r.loss for r in reports[:5]])
    assert np.isfinite(trainer.snapshot().metrics["heldout_error"])


def test_everything_can_be_chosen_where_the_package_is_imported():
    assert ptyinr.TrainerSettings is TrainerSettings
    assert ptyinr.upstream_settings is upstream_settings
    assert ptyinr.Trainer is Trainer
    assert all(hasattr(ptyinr, name) for name in ptyinr.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'reconstrct'"):
        _ = ptyinr.reconstrct
