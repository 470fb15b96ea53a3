"""A whole scan at once: from arrays to the final snapshot, and what is said of arrays that cannot be a scan."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import ptyinr
from ptyinr.settings import TrainerSettings
from ptyinr.siren import ObjectSettings
from ptyinr.training import reconstruct, train

SMALL = TrainerSettings(object=ObjectSettings(width=32), precision="float32", frames_per_step=16)


def arrays(scan, **changes):
    """What `reconstruct` takes; a probe, so that no time is spent on finding one."""
    usual = {"counts": scan.counts, "positions_m": scan.positions_m, "geometry": scan.geometry, "probe": scan.probe}
    return usual | {"settings": SMALL, "steps": 2} | changes


def refused(scan, **changes):
    """What is said of arrays that cannot be a scan."""
    with pytest.raises(ValueError, match=r"^[^\[]") as error:
        reconstruct(**arrays(scan, **changes))
    assert "zero-size" not in str(error.value)
    assert "broadcast" not in str(error.value)
    return str(error.value)


def test_a_scan_of_arrays_is_reconstructed(scan):
    snapshot = reconstruct(**arrays(scan, steps=40))
    assert (snapshot.step, snapshot.frames, snapshot.final) == (40, 100, True)
    assert snapshot.metrics["heldout_error"] < 1.5
    assert ptyinr.reconstruct is reconstruct


def test_lists_and_a_mask_of_ones_and_zeros_will_do(scan):
    mask = np.ones((32, 32), np.uint8)
    mask[3, 5] = 0
    few = slice(0, 20)
    masked = arrays(scan, counts=scan.counts[few], positions_m=scan.positions_m[few])
    one = reconstruct(**masked | {"mask": mask.astype(bool)})
    other = reconstruct(
        **masked | {"counts": scan.counts[few].tolist(), "positions_m": scan.positions_m[few].tolist()}, mask=mask
    )
    assert np.array_equal(one.object, other.object)


def test_one_mask_or_one_for_each_frame_and_nothing_in_a_masked_pixel_matters(scan):
    mask = np.random.default_rng(0).random((32, 32)) > 0.1
    spoiled = np.where(mask, scan.counts, 60000).astype(np.uint16)
    one = reconstruct(**arrays(scan, mask=mask))
    other = reconstruct(**arrays(scan, counts=spoiled, mask=np.repeat(mask[None], 100, 0)))
    assert np.array_equal(one.object, other.object)


def test_progress_is_asked_before_every_step_and_told_of_each(scan, trainer_of):
    trainer, heard = trainer_of(scan), []

    def progress():
        heard.append(f"asked at {trainer.steps}")
        return trainer.steps / 4

    final = train(trainer, progress, lambda: heard.append(f"took {trainer.steps}"))
    assert heard == [f"{what} {n + (what == 'took')}" for n in range(4) for what in ("asked at", "took")] + [
        "asked at 4"
    ]
    assert (final.step, final.final) == (4, True)


@pytest.mark.parametrize("late", [1.0, 7.0])
def test_a_time_that_is_over_before_it_began_still_gives_a_picture(scan, trainer_of, late):
    trainer = trainer_of(scan)
    assert train(trainer, lambda: late).step == 1


@pytest.mark.parametrize("late", [0.2, 0.9])
def test_training_may_begin_late(scan, trainer_of, late):
    """Some of the time is over before the first step: frames were read, a probe was found."""
    trainer = trainer_of(scan)
    assert train(trainer, lambda: late + trainer.steps / 10).step >= 1


def test_rates_fall_with_the_time(scan, trainer_of, monkeypatch):
    factors, step = [], ptyinr.Trainer.step
    monkeypatch.setattr(ptyinr.Trainer, "step", lambda self, anneal=1.0: factors.append(anneal) or step(self, anneal))
    trainer = trainer_of(scan)
    train(trainer, lambda: trainer.steps / 10)
    assert factors[0] == 1
    assert np.allclose(np.diff(factors), factors[1] - 1)
    assert 0 < factors[-1] < 0.3


def test_the_end_is_not_worse_than_the_best(scan, trainer_of):
    """Noise is thrown into the weights just before the end; the state that was judged before it is shown."""
    trainer, errors = trainer_of(scan), []

    def spoil():
        errors.append(trainer.judge())
        if trainer.steps == 29:
            with torch.no_grad():
                for model in (trainer._trained, trainer._averaged):
                    for parameter in model.field.parameters():
                        parameter.add_(3e-3 * torch.randn_like(parameter))

    train(trainer, lambda: trainer.steps / 30, spoil)
    assert trainer.judge() <= min(errors)


def test_a_scan_that_cannot_be_reconstructed_says_so_before_it_is_tried(scan):
    assert "at least two" in refused(scan, counts=scan.counts[:1], positions_m=scan.positions_m[:1])
    assert "no photons" in refused(scan, counts=np.zeros_like(scan.counts))
    assert "a mask is True where a pixel may be trusted" in refused(scan, mask=np.zeros((32, 32), bool))


def test_no_frames_are_no_scan(scan):
    assert "hold no frames: give (n, 32, 32)" in refused(scan, counts=scan.counts[:0], positions_m=scan.positions_m[:0])
    assert "hold no frames" in refused(scan, counts=np.empty((0,)), positions_m=np.empty((0,)))


@pytest.mark.parametrize("shape", [(100, 1024), (32, 32), (100, 1, 32, 32), ()])
def test_counts_of_another_rank_are_refused(scan, shape):
    assert f"counts {shape} hold no frames: give (n, 32, 32)" in refused(scan, counts=np.ones(shape))


def test_frames_of_another_size_than_the_geometrys_are_refused(scan):
    said = refused(scan, counts=scan.counts[:, 1:])
    assert "(31, 32)" in said
    assert "(32, 32)" in said


@pytest.mark.parametrize(
    ("bad", "words"), [(np.nan, "not finite: mask"), (np.inf, "not finite: mask"), (-3.0, "reach -3")]
)
def test_counts_that_cannot_be_are_refused(scan, bad, words):
    counts = scan.counts.astype(float)
    counts[7, 3, 3] = bad
    assert words in refused(scan, counts=counts)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_position_that_is_no_number_is_named_by_its_frame(scan, bad):
    positions = scan.positions_m.copy()
    positions[17, 1] = bad
    assert "frames [17] are not finite" in refused(scan, positions_m=positions)


@pytest.mark.parametrize("positions", [np.zeros((99, 2)), np.zeros((100, 3)), np.zeros((2, 100)), np.zeros(100)])
def test_positions_that_are_not_two_for_each_frame_are_refused(scan, positions):
    assert "needs counts (100, h, w) and positions (100, 2)" in refused(scan, positions_m=positions)


def test_a_position_far_away_is_refused_before_memory_is(scan):
    positions = scan.positions_m.copy()
    positions[17, 1] += 0.5
    assert "give metres" in refused(scan, positions_m=positions)
    assert "give metres" in refused(scan, positions_m=scan.positions_m * 1e6)


@pytest.mark.parametrize("shape", [(31, 32), (99, 32, 32), (100, 32, 31), (100,)])
def test_a_mask_of_another_shape_is_refused(scan, shape):
    assert "must have the shape of counts (100, 32, 32), or of a frame" in refused(scan, mask=np.ones(shape, bool))


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (np.ones((16, 16)), "the frames need (modes, 32, 32)"),
        (np.full((32, 32), np.nan), "must be finite"),
        (np.zeros((32, 32)), "not zero everywhere"),
    ],
)
def test_a_probe_that_cannot_be_one_is_refused(scan, probe, words):
    assert words in refused(scan, probe=probe)


def test_a_probe_that_is_to_stay_fixed_must_be_given(scan):
    fixed = dataclasses.replace(SMALL, probe=dataclasses.replace(SMALL.probe, fixed=True))
    assert "to stay fixed: give it" in refused(scan, probe=None, settings=fixed)


@pytest.mark.parametrize("steps", [0, -5])
def test_no_steps_are_no_reconstruction(scan, steps):
    assert f"steps is {steps}: give at least one" in refused(scan, steps=steps)


def test_frames_are_numbered_as_they_lie_in_the_array(scan):
    assert reconstruct(**arrays(scan)).indices.tolist() == list(range(100))
