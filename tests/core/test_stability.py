"""How training guards what it has learned: jumps and numbers that are none send it back, and the end is the best."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ptyinr.siren import ObjectSettings
from ptyinr.trainer import JUMP


def take_steps(trainer, steps, anneal=1.0):
    for _ in range(steps):
        report = trainer.step(anneal)
    return report


def spoil(trainer, by=0.3, averaged=True):
    """Shake the weights, as a diverging optimiser would."""
    with torch.no_grad():
        for model in (trainer._trained, *([trainer._averaged] if averaged else [])):
            for parameter in model.field.parameters():
                parameter.add_(by * torch.randn_like(parameter))


def caution(trainer):
    """The last step's rates, in units of the full ones."""
    factors = [group.rate / group.full_rate for group in trainer._optimiser.groups]
    assert factors == pytest.approx(factors[:1] * len(factors))
    return factors[0]


def weights(trainer):
    return {name: value.clone() for name, value in trainer._trained.state_dict().items()}


def test_looking_does_not_disturb_training(scan, trainer_of):
    watched, alone = trainer_of(scan), trainer_of(scan)
    for _ in range(6):
        assert watched.step().loss == alone.step().loss
        watched.snapshot()


@pytest.mark.parametrize("detail", [True, False])
@pytest.mark.parametrize("judged", [True, False])
def test_a_loss_that_is_no_number_sends_training_back_to_the_best_state(scan, trainer_of, detail, judged):
    trainer = trainer_of(scan, object=ObjectSettings(width=32, detail=detail))
    trainer.step()
    first = trainer.snapshot()
    take_steps(trainer, 10)
    before = trainer.snapshot() if judged else first
    spoil(trainer, math.nan, averaged=False)
    assert math.isnan(trainer.step().loss)
    assert trainer.rollbacks == 1
    after = trainer.snapshot()
    np.testing.assert_array_equal(after.object, before.object)
    np.testing.assert_array_equal(after.probe, before.probe)
    assert after.metrics["rollbacks"] == 1
    assert "loss" not in after.metrics  # it is no number
    assert math.isfinite(trainer.step().loss)
    assert (trainer.rollbacks, caution(trainer)) == (1, 0.5)


def test_a_loss_that_is_no_number_before_anything_was_judged_sends_training_back_to_the_start(scan, trainer_of):
    trainer, fresh = trainer_of(scan, steps=1), trainer_of(scan, steps=1)
    spoil(trainer, math.nan)
    trainer.step()
    assert trainer.rollbacks == 1
    assert all(torch.isfinite(torch.view_as_real(v) if v.is_complex() else v).all() for v in weights(trainer).values())
    take_steps(trainer, 20)
    assert trainer.snapshot().metrics["heldout_error"] < fresh.snapshot().metrics["heldout_error"]


@pytest.mark.parametrize("by", [0.3, math.nan])
def test_a_divergence_between_snapshots_is_undone(scan, trainer_of, by):
    trainer = trainer_of(scan, steps=15)
    before = trainer.snapshot()
    spoil(trainer, by)
    after = trainer.snapshot()
    assert after.metrics["rollbacks"] == trainer.rollbacks == 1
    assert after.metrics["heldout_error"] == before.metrics["heldout_error"]
    np.testing.assert_array_equal(after.object, before.object)
    take_steps(trainer, 3)
    assert caution(trainer) == 0.5
    assert trainer.snapshot().metrics["heldout_error"] < JUMP * before.metrics["heldout_error"]


def test_every_fall_halves_the_rates_and_every_success_gives_some_back(scan, trainer_of):
    trainer = trainer_of(scan, steps=15)
    trainer.judge()
    for _ in range(2):
        spoil(trainer)
        trainer.judge()
    trainer.step()
    assert (trainer.rollbacks, caution(trainer)) == (2, 0.25)
    seen = []
    for _ in range(30):
        take_steps(trainer, 2)
        seen.append(caution(trainer))
        trainer.judge()
    assert seen == sorted(seen)  # never down again
    assert seen[-1] > 0.5
    assert max(seen) <= 1


@pytest.mark.parametrize("detail", [True, False])
def test_after_a_fall_training_takes_the_path_of_an_optimiser_without_memory(scan, trainer_of, detail):
    """A step of Adam without memory is as long as its rate: half of the full one, in every weight that learns."""
    trainer = trainer_of(scan, steps=15, object=ObjectSettings(width=32, detail=detail), detail_rate=0.02)
    trainer.judge()
    spoil(trainer)
    trainer.judge()
    before = weights(trainer)
    trainer.step()
    after = weights(trainer)
    rates = {"field": trainer.settings.object_rate, "detail": trainer.settings.detail_rate}
    for name, value in after.items():
        rate = rates.get(name.split(".")[0])
        if rate is not None:
            assert (value - before[name]).abs().max().item() == pytest.approx(rate / 2, rel=1e-2)


def test_weights_that_are_no_numbers_are_never_the_best(scan, trainer_of):
    """With nothing to return to a snapshot cannot be taken; but nothing is remembered of it either."""
    trainer = trainer_of(scan, steps=15)
    spoil(trainer, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        trainer.snapshot()
    trainer.step()  # its loss is no number, and sends it back
    assert math.isfinite(trainer.snapshot().metrics["heldout_error"])


@pytest.mark.parametrize("holdout", [10, 0])
def test_the_final_snapshot_is_the_best_even_if_nothing_has_jumped(scan, trainer_of, holdout):
    trainer = trainer_of(scan, steps=25, holdout=holdout)
    best = trainer.judge()
    for by in np.geomspace(1e-4, 1e-2, 20):  # until it is worse, but not by as much as a jump
        spoil(trainer, by)
        worse = trainer.judge()
        if worse > 1.02 * best:
            break
    assert (worse > best, trainer.rollbacks) == (True, 0)
    assert trainer.snapshot(final=True).metrics["rollbacks"] == 0
    assert trainer.judge() <= best


def test_without_anything_held_out_training_is_judged_on_the_frames_it_has(scan, trainer_of):
    trainer = trainer_of(scan, steps=15, holdout=0)
    assert "heldout_error" not in trainer.snapshot().metrics
    spoil(trainer)
    assert trainer.snapshot().metrics["rollbacks"] == 1


def test_judgement_begins_anew_with_new_frames(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 30), steps=60)
    first = trainer.snapshot().metrics["heldout_error"]
    trainer.append(scan.batch(slice(30, 100)))
    second = trainer.snapshot()  # of places where nothing was learned yet
    assert second.metrics["heldout_error"] > JUMP * first
    assert second.metrics["rollbacks"] == 0


def test_a_divergence_is_undone_while_frames_arrive(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 90), steps=20)
    before = trainer.snapshot().metrics["heldout_error"]
    spoil(trainer)
    trainer.append(scan.batch(slice(90, 100)))
    after = trainer.snapshot().metrics
    assert after["rollbacks"] == 1
    assert after["heldout_error"] < 2 * before
