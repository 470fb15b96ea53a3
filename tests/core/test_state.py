"""Going on from where training was: a state holds everything but the frames."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from ptyinr import ScanRange
from ptyinr.trainer import Trainer


def saved(trainer):
    """A state after a way through a file that pickles nothing."""
    file = io.BytesIO()
    torch.save(trainer.state(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def again(scan, trainer, trainer_of, **changes):
    """A new trainer with the state of another, before its first frame."""
    other = trainer_of(scan, None, **changes)
    other.restore(saved(trainer))
    return other


@pytest.mark.parametrize(("given", "attention"), [(True, "all"), (True, "worst"), (False, "new")])
def test_the_steps_after_a_restart_are_those_that_would_have_come(scan, trainer_of, given, attention):
    trainer = trainer_of(scan, given=given, attention=attention, steps=12)
    trainer.judge()
    other = again(scan, trainer, trainer_of, given=given, attention=attention)
    assert not other.ready()
    other.append(scan.batch())
    assert other.ready()
    assert [other.step().loss for _ in range(5)] == [trainer.step().loss for _ in range(5)]
    mine, theirs = other.snapshot(), trainer.snapshot()
    np.testing.assert_array_equal(mine.object, theirs.object)
    np.testing.assert_array_equal(mine.probe, theirs.probe)
    assert (mine.step, mine.metrics) == (theirs.step, theirs.metrics)


def test_what_the_raster_leaves_open_is_looked_for_after_a_restart_when_it_would_have_been(scan, trainer_of):
    trainer = trainer_of(scan, None, held_steps=0)
    trainer.append(scan.batch(slice(0, 80)))
    trainer.step()
    trainer.append(scan.batch(slice(80, 95)))
    for _ in range(3):
        trainer.step()
    other = again(scan, trainer, trainer_of, held_steps=0)
    other.append(scan.batch(slice(0, 95)))
    assert saved(trainer)["raster"][0] == saved(other)["raster"][0] == 80
    assert [other.step().loss for _ in range(3)] == [trainer.step().loss for _ in range(3)]


def test_frames_may_come_again_in_another_order(scan, trainer_of):
    trainer = trainer_of(scan, steps=12)
    before = trainer.snapshot()
    other = again(scan, trainer, trainer_of)
    backwards = np.arange(len(scan.counts))[::-1]
    for portion in np.array_split(backwards, 7):
        other.append(scan.batch(portion))
    after = other.snapshot()
    np.testing.assert_allclose(after.object, before.object, atol=1e-5)
    assert after.metrics["heldout_error"] == pytest.approx(before.metrics["heldout_error"], rel=1e-4)


def test_training_that_has_gone_wrong_after_a_restart_returns_to_the_best_state_before_it(scan, trainer_of):
    trainer = trainer_of(scan, steps=12)
    best = trainer.judge()
    other = again(scan, trainer, trainer_of)
    other.append(scan.batch())
    with torch.no_grad():
        for model in (other._trained, other._averaged):
            for parameter in model.field.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    assert other.judge() == pytest.approx(best, rel=1e-4)
    assert other.rollbacks == 1


def test_a_canvas_that_has_grown_is_taken_over(scan, trainer_of):
    lower = scan.scan_range.lower_m
    small = ScanRange(lower, (lower[0] + 2e-7, lower[1] + 2e-7))
    trainer = trainer_of(scan, scan_range=small, steps=5)
    other = again(scan, trainer, trainer_of, scan_range=small)
    assert other.canvas == trainer.canvas
    other.append(scan.batch())
    np.testing.assert_array_equal(other.snapshot().object, trainer.snapshot().object)


def test_a_state_of_something_else_is_refused(scan, trainer_of, simulate):
    state = saved(trainer_of(scan, steps=2))
    elsewhere = simulate(grid=(6, 6), step_m=3e-7)
    with pytest.raises(ValueError, match="the state is of"):
        trainer_of(elsewhere, None).restore(state)
    with pytest.raises(ValueError, match="100 frames are there already"):
        trainer_of(scan).restore(state)
    with pytest.raises(ValueError, match="another version"):
        trainer_of(scan, None).restore({**state, "version": 1})
    with pytest.raises(ValueError, match="another version"):
        trainer_of(elsewhere, None).restore({**state, "version": 1})
    for part, instead in (("averaged", None), ("optimiser", None), ("optimiser", {"0.0.mean": torch.zeros(1)})):
        with pytest.raises(ValueError, match=r"torn|mean is \(1,\)"):
            trainer_of(scan, None).restore({**state, part: instead})
    del state["averaged"]
    with pytest.raises(ValueError, match="torn"):
        trainer_of(scan, None).restore(state)


def test_there_is_no_state_before_the_first_step(scan, trainer_of):
    with pytest.raises(ValueError, match="not begun"):
        trainer_of(scan).state()


def test_a_repeat_begins_with_the_object_of_the_scan_before(scan, trainer_of):
    before = trainer_of(scan, steps=150)
    fresh = trainer_of(scan, slice(0, 40), steps=1)
    repeat = Trainer(
        scan.geometry, scan.scan_range, before.settings, probe=before.snapshot().probe, previous=saved(before)
    )
    repeat.append(scan.batch(slice(0, 40)))
    repeat.step()
    assert repeat.continued
    assert repeat.judge() < 0.5 * fresh.judge()


def test_an_object_that_the_frames_contradict_is_dropped(scan, simulate, trainer_of):
    before, other = trainer_of(scan, steps=150), simulate(seed=5)
    fresh = trainer_of(other, steps=1)
    repeat = Trainer(other.geometry, other.scan_range, before.settings, probe=other.probe, previous=saved(before))
    repeat.append(other.batch())
    repeat.step()
    assert not repeat.continued
    assert repeat.judge() == pytest.approx(fresh.judge(), rel=1e-3)


def test_what_a_dropped_object_was_made_of_is_dropped_with_it(scan, simulate, trainer_of):
    dark = trainer_of(simulate(photons=1000.0, seed=5), steps=200)
    alone = trainer_of(scan, steps=1)
    assert dark._decided.object.first_frequency != alone._decided.object.first_frequency
    repeat = Trainer(scan.geometry, scan.scan_range, dark.settings, probe=scan.probe, previous=saved(dark))
    repeat.append(scan.batch())
    repeat.step()
    assert not repeat.continued
    assert repeat._decided == alone._decided


def test_another_region_is_refused_at_once(scan, simulate, trainer_of):
    state = saved(trainer_of(scan, steps=2))
    other = simulate(grid=(6, 6), step_m=3e-7)
    with pytest.raises(ValueError, match="the state is of"):
        Trainer(other.geometry, other.scan_range, trainer_of(scan, None).settings, previous=state)
