"""Saturated, dead and missing pixels have no say: whatever stands in them, training is the same to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr import Batch
from ptyinr.losses import LossSettings
from ptyinr.simulate import faulty_detector


def detector(scan, each):
    """A module gap, dead pixels, and, if each frame has its own mask, the saturated ones."""
    mask = faulty_detector((32, 32), np.random.default_rng(0), dead=0.02, gap_px=3)
    return mask & (scan.counts < np.quantile(scan.counts, 0.999)) if each else mask


def spoiled(scan, mask, garbage, dtype):
    counts = scan.counts.astype(dtype)
    return Batch(np.arange(100), np.where(mask, counts, np.asarray(garbage).astype(dtype)), scan.positions_m, mask)


def losses(trainer, steps=4):
    return [trainer.step().loss for _ in range(steps)]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_what_stands_in_masked_pixels_changes_no_bit(scan, trainer_of, known, each):
    mask = detector(scan, each)
    one, other = (
        trainer_of(scan, spoiled(scan, mask, garbage, np.uint32), given=known, start_frames=20)
        for garbage in (0, 2**32 - 1)
    )
    assert losses(one) == losses(other)
    for name in ("object", "probe", "coverage"):
        assert np.array_equal(getattr(one.snapshot(), name), getattr(other.snapshot(), name))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, -5.0, 1e30])
def test_no_number_in_a_masked_pixel_is_harmful(scan, trainer_of, garbage):
    mask = detector(scan, each=False)
    clean, other = (trainer_of(scan, spoiled(scan, mask, value, np.float64)) for value in (0.0, garbage))
    assert losses(clean) == losses(other)
    assert clean.snapshot().metrics == other.snapshot().metrics


@pytest.mark.parametrize("kind", ["smooth_l1", "l1", "l2", "poisson"])
def test_no_loss_looks_at_a_masked_pixel(scan, trainer_of, kind):
    mask, loss = detector(scan, each=True), LossSettings(kind=kind)
    one, other = (trainer_of(scan, spoiled(scan, mask, g, np.uint32), loss=loss) for g in (0, 2**32 - 1))
    assert losses(one) == losses(other)


def test_one_mask_for_all_frames_is_the_same_mask_for_each(scan, trainer_of):
    mask = detector(scan, each=False)
    one, other = (
        trainer_of(scan, dataclasses.replace(scan.batch(), mask=m)) for m in (mask, np.repeat(mask[None], 100, 0))
    )
    assert losses(one) == losses(other)


def test_a_trusted_pixel_does_count(scan, trainer_of):
    """What the tests above rest on."""
    mask = detector(scan, each=False)
    counts = scan.counts.copy()
    row, column = np.argwhere(mask & (scan.counts.max(0) > 10))[0]
    counts[:, row, column] += 50
    plain = dataclasses.replace(scan.batch(), mask=mask)
    one, other = trainer_of(scan, plain), trainer_of(scan, dataclasses.replace(plain, counts=counts))
    assert losses(one) != losses(other)


def test_a_scan_with_a_gap_is_learned(scan, trainer_of):
    mask = detector(scan, each=True)
    trainer = trainer_of(scan, spoiled(scan, mask, 65535, np.uint16), steps=40)
    assert trainer.snapshot().metrics["heldout_error"] < 1.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
def test_the_gradient_at_masked_measurements_is_exactly_nothing(seed, part):
    from ptyinr.losses import amplitude_distance
    from ptyinr.noise import Noise

    random = torch.manual_seed(seed)
    predicted = (torch.rand(3, 8, 8, generator=random) * 5).requires_grad_()
    mask = torch.rand(3, 8, 8, generator=random) < part
    measured = torch.where(mask, torch.rand(3, 8, 8, generator=random) * 5 + 0.1, -1.0).requires_grad_()
    amplitude_distance(predicted, measured, LossSettings(), Noise(2.0, 3.0)).backward()
    for gradient in (predicted.grad, measured.grad):
        assert not gradient[~mask].any()
        assert gradient[mask].all()


@pytest.mark.parametrize("each", [True, False])
def test_the_prior_weighs_against_trusted_pixels_alone(scan, trainer_of, each):
    mask = np.broadcast_to(detector(scan, each), scan.counts.shape)
    trainer = trainer_of(scan, spoiled(scan, mask, 0, np.uint32), steps=1)
    corner, shape = trainer.canvas.corner, trainer.canvas.shape
    assert trainer._measured_in(corner, shape) == mask[trainer.dataset.training].sum()


def test_frames_without_a_trusted_pixel_judge_nothing(scan, trainer_of):
    """Their error is 0, and no later state would ever be better."""
    mask = np.ones(scan.counts.shape, bool)
    mask[5::20] = False  # half of those that are held out
    trainer = trainer_of(scan, dataclasses.replace(scan.batch(), mask=mask), steps=3)
    judged = trainer.snapshot(final=True)
    assert judged.judges.tolist() == list(range(15, 100, 20))
    assert (judged.judged > 0).all()
    mask[15::20] = False  # all of them
    left = trainer_of(scan, dataclasses.replace(scan.batch(), mask=mask), steps=3).snapshot(final=True)
    assert len(left.judges) == 90
    assert (left.judged > 0).all()
    assert "heldout_error" not in left.metrics  # nothing that is held out has told one
