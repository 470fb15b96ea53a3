"""Distances of predicted and measured amplitudes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.losses import amplitude_error, smooth_l1


def pair():
    random = np.random.default_rng(0)
    predicted, measured = 3 * random.uniform(0, 1, (2, 4, 5, 6))
    measured[1, 2] = -1
    measured[3] = -1
    return torch.from_numpy(predicted), torch.from_numpy(measured)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_smooth_l1_is_a_square_within_beta_and_straight_beyond(beta):
    predicted, measured = pair()
    total, trusted = 0.0, 0
    for p, m in zip(predicted.flatten().tolist(), measured.flatten().tolist(), strict=True):
        if m >= 0:
            d = abs(p - m)
            total += d * d / (2 * beta) if d < beta else d - beta / 2
            trusted += 1
    assert smooth_l1(predicted, measured, beta).item() == pytest.approx(total / trusted)


def test_a_masked_pixel_pulls_at_nothing():
    predicted, measured = pair()
    predicted.requires_grad_()
    smooth_l1(predicted, measured).backward()
    assert predicted.grad is not None
    assert not predicted.grad[measured < 0].any()
    assert predicted.grad[measured >= 0].all()


def test_frames_without_a_trusted_pixel_cost_nothing():
    predicted = torch.ones(2, 3, 3, requires_grad=True)
    loss = smooth_l1(predicted, torch.full((2, 3, 3), -1.0))
    loss.backward()
    assert loss == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_the_error_of_each_frame_is_the_mean_square_over_its_trusted_pixels():
    predicted, measured = pair()
    expected = [
        (p - m)[m >= 0].square().mean() if (m >= 0).any() else 0 for p, m in zip(predicted, measured, strict=True)
    ]
    np.testing.assert_allclose(amplitude_error(predicted, measured).numpy(), expected)
