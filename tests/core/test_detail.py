"""Free pixels beside the network: Adam's rule on those that are visited, and nothing on the others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr.adam import BETAS
from ptyinr.detail import Detail, grown
from ptyinr.geometry import Canvas

CPU = torch.device("cpu")
CANVAS = Canvas((20, 30), (-8, -12))


def noise(seed, *shape):
    random = np.random.default_rng(seed)
    return torch.from_numpy((random.standard_normal(shape) + 1j * random.standard_normal(shape)).astype(np.complex64))


def whole(detail, canvas=CANVAS):
    return detail.part(canvas.corner, canvas.shape)


def test_pixels_start_at_nothing():
    assert not whole(Detail(CANVAS, CPU)).any()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_step_is_adams(scale):
    """On the same gradients, with a rate that falls, as torch's own."""
    detail, theirs = Detail(CANVAS, CPU), torch.zeros(20, 30, 2, requires_grad=True)
    optimiser = torch.optim.Adam([theirs], betas=BETAS, eps=1e-12)
    for step in range(40):
        gradient, rate = scale * noise(step, 20, 30), 0.1 / (1 + step)
        detail.learn(CANVAS.corner, gradient, rate)
        theirs.grad = torch.view_as_real(gradient).clone()
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
    torch.testing.assert_close(torch.view_as_real(whole(detail)), theirs.detach(), rtol=2e-5, atol=2e-6)


def test_each_pixel_has_its_own_time():
    """One that is visited seldom takes the steps it would have taken alone."""
    often, seldom = Detail(CANVAS, CPU), Detail(CANVAS, CPU)
    for step in range(12):
        gradient = noise(step, 4, 5)
        often.learn((0, 0), noise(100 + step, 3, 3), 0.1)
        for detail in (often, seldom):
            if step % 3 == 0:
                detail.learn((5, 6), gradient, 0.1)
    assert torch.equal(often.part((5, 6), (4, 5)), seldom.part((5, 6), (4, 5)))


def test_a_pixel_that_is_not_visited_keeps_still():
    detail = Detail(CANVAS, CPU)
    detail.learn(CANVAS.corner, noise(0, 20, 30), 0.1)
    before = whole(detail)
    for step in range(5):
        detail.learn((-2, 3), noise(step, 4, 5), 0.1)
    moved = (whole(detail) != before).nonzero()
    assert moved.min(0).values.tolist() == [6, 15]
    assert moved.max(0).values.tolist() == [9, 19]


def test_what_is_handed_out_is_a_copy():
    detail = Detail(CANVAS, CPU)
    part = detail.part((0, 0), (4, 4))
    detail.learn((0, 0), noise(0, 4, 4), 0.1)
    assert not part.any()
    part += 1
    assert (detail.part((0, 0), (4, 4)) != part).all()


def test_forgetting_keeps_the_pixels_and_begins_adam_anew():
    detail = Detail(CANVAS, CPU)
    for step in range(5):
        detail.learn(CANVAS.corner, noise(step, 20, 30), 0.1)
    before = whole(detail)
    detail.forget()
    assert torch.equal(whole(detail), before)
    detail.learn(CANVAS.corner, torch.full((20, 30), 3.0 - 2.0j), 0.1)
    torch.testing.assert_close(whole(detail) - before, torch.full((20, 30), -0.1 + 0.1j))


margins = st.tuples(*[st.integers(0, 9)] * 4)


@settings(max_examples=25, deadline=None)
@given(margins)
def test_growing_loses_nothing_and_moves_nothing(margin):
    top, left, bottom, right = margin
    larger = Canvas((20 + top + bottom, 30 + left + right), (-8 - top, -12 - left))
    still, growing = Detail(CANVAS, CPU), Detail(CANVAS, CPU)
    for step in range(6):
        for detail in (still, growing):
            detail.learn((-3, 2), noise(step, 5, 6), 0.1)
        if step == 2:
            growing.cover(larger)
    assert torch.equal(whole(growing), whole(still))  # its moments too, or the later steps would differ
    beside = whole(growing, larger)
    beside[top : top + 20, left : left + 30] = 0
    assert not beside.any()
    growing.learn(larger.corner, noise(0, *larger.shape), 0.1)
    assert whole(growing, larger).all()


def test_grown_pixels_are_where_they_were():
    pixels = torch.arange(24.0).reshape(3, 4, 2)
    total = grown(pixels, Canvas((3, 4), (-1, -2)), Canvas((6, 9), (-3, -5)))
    assert torch.equal(total[2:5, 3:7], pixels)
    assert total.sum() == pixels.sum()


def test_only_the_pixels_are_part_of_the_weights():
    assert set(Detail(CANVAS, CPU).state_dict()) == {"values"}
