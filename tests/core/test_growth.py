"""Frames beyond the commanded range: the canvas grows, and nothing that was learned is lost or moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr import ScanRange
from ptyinr.geometry import window_corners_px


def small(scan, side_m=2e-7):
    """A commanded range that holds the first two frames only."""
    lower = scan.scan_range.lower_m
    return ScanRange(lower, (lower[0] + side_m, lower[1] + side_m))


def weights(trainer):
    """Of the networks, whose size does not depend on the canvas."""
    state = trainer._trained.state_dict()
    return {name: value.clone() for name, value in state.items() if "detail" not in name}


def take_steps(trainer, steps):
    for _ in range(steps):
        trainer.step()


def grown(scan, trainer_of, steps=5):
    """A trainer of two frames, what it shows, and its canvas, before it gets all others."""
    trainer = trainer_of(scan, slice(0, 2), scan_range=small(scan), steps=steps)
    before, old = trainer.snapshot(), trainer.canvas
    kept = weights(trainer)
    trainer.append(scan.batch(slice(2, 100)))
    return trainer, before, old, kept


def test_the_first_frames_lie_on_the_canvas_and_the_others_do_not(scan, trainer_of):
    """What the tests below rest on."""
    trainer = trainer_of(scan, None, scan_range=small(scan))
    corners = window_corners_px(scan.positions_m, scan.geometry, small(scan))
    assert trainer.canvas.including(corners[:2], scan.geometry.window) == trainer.canvas
    assert trainer.canvas.including(corners, scan.geometry.window) != trainer.canvas


def test_a_canvas_that_grows_costs_no_weight_and_moves_nothing(scan, trainer_of):
    trainer, before, old, kept = grown(scan, trainer_of)
    after, new = trainer.snapshot(), trainer.canvas
    assert new != old
    assert all(torch.equal(value, kept[name]) for name, value in weights(trainer).items())
    first = [o - n for o, n in zip(old.corner, new.corner, strict=True)]
    part = tuple(slice(f, f + n) for f, n in zip(first, old.shape, strict=True))
    seen = (before.coverage > 0) & (after.coverage[part] > 0)
    assert seen.sum() > 400
    np.testing.assert_allclose(after.object[part][seen], before.object[seen], atol=1e-5)
    np.testing.assert_allclose(after.positions_px[:2], before.positions_px + first)


def test_the_free_pixels_grow_with_it(scan, trainer_of):
    trainer, _, old, _ = grown(scan, trainer_of)
    state = trainer._trained.detail.part(trainer.canvas.corner, trainer.canvas.shape)
    inside = trainer._trained.detail.part(old.corner, old.shape)
    assert inside.any()  # something was learned
    assert (state != 0).sum() == (inside != 0).sum()  # and nothing of it lost


def test_training_goes_on_over_the_larger_canvas(scan, trainer_of):
    trainer, _, _, _ = grown(scan, trainer_of)
    before = trainer.snapshot().metrics["heldout_error"]
    take_steps(trainer, 40)
    after = trainer.snapshot(final=True)
    assert after.object.shape == trainer.canvas.shape
    assert after.metrics["heldout_error"] < 0.5 * before


def test_a_canvas_may_grow_with_every_frame(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 2), scan_range=small(scan), steps=1)
    canvases = set()
    for row in range(2, 100, 7):
        trainer.append(scan.batch(slice(row, row + 7)))
        canvases.add(trainer.canvas)
        trainer.step()
        trainer.snapshot()
    assert len(canvases) > 2
    assert trainer.rollbacks == 0


@pytest.mark.parametrize("judged", [False, True])
def test_the_best_state_is_found_again_after_it_has_grown(scan, trainer_of, judged):
    """Returning to it means returning to pixels of the new canvas."""
    trainer, before, old, _ = grown(scan, trainer_of)
    if judged:
        trainer.judge()
    with torch.no_grad():
        for parameter in trainer._trained.field.parameters():
            parameter.mul_(torch.nan)
    trainer.step()
    after = trainer.snapshot()
    assert after.metrics["rollbacks"] == 1
    first = [o - n for o, n in zip(old.corner, trainer.canvas.corner, strict=True)]
    part = tuple(slice(f, f + n) for f, n in zip(first, old.shape, strict=True))
    seen = (before.coverage > 0) & (after.coverage[part] > 0)
    np.testing.assert_allclose(after.object[part][seen], before.object[seen], atol=1e-5)


def test_a_canvas_that_grows_before_training_begins_is_just_larger(scan, trainer_of):
    trainer = trainer_of(scan, scan_range=small(scan), steps=3)
    assert trainer.snapshot().object.shape == trainer.canvas.shape
