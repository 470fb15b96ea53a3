"""What the trainer shows, and how it guards what it has learned."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ptyinr import Batch
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import JUMP, Trainer, TrainerSettings, _bounding_box, _illumination

SMALL = TrainerSettings(object=ObjectSettings(width=32), precision="float32", frames_per_step=16)


def trainer_of(scan, settings=SMALL, order=None):
    trainer = Trainer(scan.geometry, scan.scan_range, settings, uid="a scan", probe=scan.probe)
    trainer.append(scan.batch(slice(None) if order is None else order))
    return trainer


def take_steps(trainer, steps):
    for _ in range(steps):
        trainer.step()


def spoil(trainer, by=0.3, averaged=True):
    """Shake the weights, as a diverging optimiser would."""
    with torch.no_grad():
        for model in (trainer._trained, *([trainer._averaged] if averaged else [])):
            for parameter in model.object.parameters():
                parameter.add_(by * torch.randn_like(parameter))


def rates(trainer):
    return [group["full_rate"] for group in trainer._optimiser.param_groups]


def shifted(field, offset):
    """By fractions of a pixel towards larger indices."""
    nu = [np.fft.fftfreq(n) for n in field.shape]
    ramp = np.exp(-2j * np.pi * (nu[0][:, None] * offset[0] + nu[1][None, :] * offset[1]))
    return np.fft.ifft2(np.fft.fft2(field) * ramp)


def test_a_snapshot_is_what_its_documentation_says(scan):
    order = np.random.default_rng(0).permutation(100)
    trainer = trainer_of(scan, order=order)
    take_steps(trainer, 3)
    snapshot = trainer.snapshot()
    assert (snapshot.uid, snapshot.step, snapshot.frames, snapshot.final) == ("a scan", 3, 100, False)
    assert snapshot.object.shape == snapshot.coverage.shape == trainer.canvas.shape
    assert snapshot.probe.shape == (1, 32, 32)
    assert (snapshot.object.dtype, snapshot.probe.dtype) == (np.complex64, np.complex64)
    assert (snapshot.coverage.dtype, snapshot.positions_px.dtype) == (np.float32, np.float64)
    assert snapshot.pixel_m == scan.geometry.pixel_m
    assert set(snapshot.metrics) == {"loss", "rollbacks", "heldout_error"}
    assert trainer.snapshot(final=True).final
    for name in ("object", "probe", "coverage", "indices", "positions_px"):
        array = getattr(snapshot, name)
        assert np.isfinite(array).all()
        assert not array.flags.writeable
    # Whatever order the frames came in, the positions are in the order of their numbers.
    np.testing.assert_array_equal(snapshot.indices, np.arange(100))
    pixel = np.array(scan.geometry.pixel_m)
    steps = (scan.positions_m - scan.positions_m[0]) / pixel
    np.testing.assert_allclose(snapshot.positions_px - snapshot.positions_px[0], steps, atol=1e-6)


def test_coverage_is_light_and_where_there_is_none_the_object_is_one(scan):
    trainer = trainer_of(scan)
    take_steps(trainer, 2)
    snapshot = trainer.snapshot()
    assert snapshot.coverage.min() == 0
    assert snapshot.coverage.max() == 1
    assert (snapshot.object[snapshot.coverage == 0] == 1).all()
    assert (snapshot.object[snapshot.coverage > 0.1] != 1).mean() > 0.99
    # The middle of every window is lit, and nothing beyond all windows is.
    middles = np.round(snapshot.positions_px + 16).astype(int)
    assert (snapshot.coverage[middles[:, 0], middles[:, 1]] > 0).all()
    inside = np.zeros(snapshot.coverage.shape, bool)
    for row, column in np.floor(snapshot.positions_px).astype(int):
        inside[row : row + 32, column : column + 32] = True
    assert not snapshot.coverage[~inside].any()


def test_a_stage_that_stood_still_does_not_wipe_out_the_rest_of_the_picture(scan):
    trainer = trainer_of(scan)
    take_steps(trainer, 2)
    before = trainer.snapshot()
    still = np.repeat(scan.positions_m[-1:], 1000, axis=0)
    trainer.append(Batch(np.arange(100, 1100), np.repeat(scan.counts[-1:], 1000, axis=0), still))
    after = trainer.snapshot()
    assert (after.coverage > 0).sum() >= 0.95 * (before.coverage > 0).sum()


def test_object_and_probe_of_a_snapshot_predict_the_frames(scan):
    """The scale and the conventions that are published: |FFT(probe * object)| / sqrt(h w), DC at the corner."""
    trainer = trainer_of(scan, TrainerSettings(precision="float32"))
    take_steps(trainer, 50)
    snapshot = trainer.snapshot()
    errors = []
    for index in range(5, 100, 10):  # the frames that were held out
        position = snapshot.positions_px[index]
        row, column = np.floor(position).astype(int)
        view = snapshot.object[row : row + 32, column : column + 32]
        wave = np.fft.fft2(shifted(snapshot.probe[0], position - (row, column)) * view) / 32
        measured = np.sqrt(np.fft.ifftshift(scan.counts[index].astype(float)))
        errors.append(((np.abs(wave) - measured) ** 2).mean())
        assert (np.abs(wave) ** 2).sum() == pytest.approx(scan.counts[index].sum(), rel=0.1)
    assert np.mean(errors) == pytest.approx(snapshot.metrics["heldout_error"], rel=0.05)
    assert np.mean(errors) < 0.5  # root photons squared; the noise is some 0.2


def test_looking_does_not_disturb_training(scan):
    watched, alone = trainer_of(scan), trainer_of(scan)
    for _ in range(6):
        assert watched.step().loss == alone.step().loss
        watched.snapshot()


def test_without_held_out_frames_training_is_judged_on_the_others(scan):
    trainer = trainer_of(scan, TrainerSettings(object=ObjectSettings(width=32), precision="float32", holdout=0))
    take_steps(trainer, 15)
    assert "heldout_error" not in trainer.snapshot().metrics
    spoil(trainer)
    assert trainer.snapshot().metrics["rollbacks"] == 1


def test_a_loss_that_is_no_number_sends_training_back_to_the_averaged_weights(scan):
    trainer = trainer_of(scan)
    take_steps(trainer, 5)
    before, full = trainer.snapshot(), rates(trainer)
    spoil(trainer, math.nan, averaged=False)
    assert math.isnan(trainer.step().loss)
    assert trainer.rollbacks == 1
    assert rates(trainer) == [rate / 2 for rate in full]
    after = trainer.snapshot()
    np.testing.assert_array_equal(after.object, before.object)
    assert "loss" not in after.metrics  # it is no number
    assert math.isfinite(trainer.step().loss)
    assert trainer.rollbacks == 1


@pytest.mark.parametrize("by", [0.3, math.nan])
def test_a_divergence_between_snapshots_is_undone(scan, by):
    trainer = trainer_of(scan)
    take_steps(trainer, 15)
    before, full = trainer.snapshot(), rates(trainer)
    spoil(trainer, by)
    after = trainer.snapshot()
    assert after.metrics["rollbacks"] == trainer.rollbacks == 1
    assert after.metrics["heldout_error"] == before.metrics["heldout_error"]
    np.testing.assert_array_equal(after.object, before.object)
    assert rates(trainer) == [rate / 2 for rate in full]
    take_steps(trainer, 3)
    assert trainer.snapshot().metrics["heldout_error"] < JUMP * before.metrics["heldout_error"]


def test_weights_that_are_no_numbers_are_never_the_best(scan):
    """With nothing to return to a snapshot cannot be taken; but nothing is remembered of it either."""
    trainer = trainer_of(scan)
    take_steps(trainer, 15)
    good = {name: value.clone() for name, value in trainer._averaged.state_dict().items()}
    spoil(trainer, math.nan)
    with pytest.raises(ValueError, match="not finite"):
        trainer.snapshot()
    trainer._averaged.load_state_dict(good)
    trainer.step()  # its loss is no number, and sends it back to the averaged weights
    assert math.isfinite(trainer.snapshot().metrics["heldout_error"])


def test_the_final_snapshot_is_the_best_even_if_nothing_has_jumped(scan):
    trainer = trainer_of(scan)
    take_steps(trainer, 25)
    best = trainer.snapshot()
    for by in np.geomspace(1e-4, 1e-2, 20):  # until it is worse, but not by as much as a jump
        spoil(trainer, by)
        worse = trainer.snapshot()
        assert worse.metrics["rollbacks"] == 0
        if worse.metrics["heldout_error"] > 1.02 * best.metrics["heldout_error"]:
            break
    assert worse.metrics["heldout_error"] > best.metrics["heldout_error"]
    final = trainer.snapshot(final=True)
    assert final.metrics["heldout_error"] <= best.metrics["heldout_error"]
    assert final.metrics["rollbacks"] == 0


def test_judgement_begins_anew_with_new_frames(scan):
    trainer = trainer_of(scan, order=slice(0, 30))
    take_steps(trainer, 60)
    first = trainer.snapshot().metrics["heldout_error"]
    trainer.append(scan.batch(slice(30, 100)))
    second = trainer.snapshot()  # of places where nothing was learned yet
    assert second.metrics["heldout_error"] > JUMP * first
    assert second.metrics["rollbacks"] == 0


def test_a_mask_may_cover_what_the_detector_wrote(scan):
    mask = np.ones(scan.counts.shape, bool)
    mask[:, :, 20:23] = False
    counts = np.where(mask, scan.counts, 65535).astype(np.uint16)
    trainer = Trainer(scan.geometry, scan.scan_range, SMALL, probe=scan.probe)
    trainer.append(Batch(np.arange(100), counts, scan.positions_m, mask))
    take_steps(trainer, 40)
    assert trainer.snapshot().metrics["heldout_error"] < 1.5


@pytest.mark.parametrize(
    "corners",
    [
        [[-33.5, 0.0], [-1e-17, 0.0]],
        [[-1e-17, -1e-17], [-1e-17, 0.0]],
        [[0.3, -7.2], [64.9, 3.0]],
        [[-58.0, -58.0], [-58.0, -58.0]],
    ],
)
def test_a_bounding_box_holds_every_window_and_hardly_more(corners):
    corners = np.array(corners)
    first, shape = _bounding_box(corners, (8, 10))
    rows = np.floor(corners - first).astype(int)
    assert (rows >= 0).all()
    assert (rows + np.array((8, 10)) <= shape).all()
    assert (shape - rows.max(0) - (8, 10) == 0).all()


def test_illumination_is_the_sum_of_the_probes(scan):
    random = np.random.default_rng(0)
    corners = random.uniform(0, [40, 25], (30, 2))
    corners[0] = 0, 0
    probe = random.standard_normal((2, 9, 7)) + 1j * random.standard_normal((2, 9, 7))
    expected = np.zeros((49, 32))
    for row, column in np.floor(corners).astype(int):
        expected[row : row + 9, column : column + 7] += (np.abs(probe) ** 2).sum(0)
    light = _illumination(corners, torch.from_numpy(probe), (49, 32)).numpy()
    np.testing.assert_allclose(light, expected / expected.max(), atol=1e-5)
    assert light.max() == 1


def test_a_divergence_is_undone_while_frames_arrive(scan):
    trainer = trainer_of(scan, order=slice(0, 90))
    take_steps(trainer, 20)
    before = trainer.snapshot().metrics["heldout_error"]
    spoil(trainer)
    trainer.append(scan.batch(slice(90, 100)))
    after = trainer.snapshot().metrics
    assert after["rollbacks"] == 1
    assert after["heldout_error"] < 2 * before
