"""What judges has not been seen by what is judged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.apart import PHOTONS_APART, PIXELS_APART, photons_apart, pixels_apart


@pytest.fixture
def amplitudes():
    """Roots of a few photons; the first row was not measured."""
    found = torch.from_numpy(np.random.default_rng(0).poisson(1.3, (20, 32, 32))).float().sqrt()
    found[:, 0] = -1
    return found


def test_a_pixel_is_shown_or_judges_and_never_both(amplitudes):
    shown, judging = pixels_apart(amplitudes)
    assert not ((shown >= 0) & (judging >= 0)).any()
    assert torch.equal(torch.maximum(shown, judging), amplitudes)
    assert float((judging >= 0).sum() / (amplitudes >= 0).sum()) == pytest.approx(PIXELS_APART, rel=0.1)


def test_a_photon_is_shown_or_judges_and_both_are_as_bright_as_the_frames(amplitudes):
    shown, judging = photons_apart(amplitudes, np.random.default_rng(1))
    trusted = amplitudes >= 0
    assert torch.equal(shown >= 0, trusted)
    assert torch.equal(judging >= 0, trusted)
    kept, apart = (1 - PHOTONS_APART) * shown.square(), PHOTONS_APART * judging.square()
    torch.testing.assert_close((kept + apart)[trusted], amplitudes.square()[trusted])
    torch.testing.assert_close(apart[trusted], apart[trusted].round())
    for part in (shown, judging):
        mean = part[trusted].square().mean()
        torch.testing.assert_close(mean, amplitudes[trusted].square().mean(), rtol=0.03, atol=0)


def test_what_judges_says_nothing_of_the_chance_in_what_is_shown(amplitudes):
    """A photon more here is not one less there: the covariance of the two would be -0.2 for a fixed number."""
    shown, judging = photons_apart(amplitudes, np.random.default_rng(2))
    trusted = amplitudes >= 0
    parts = np.stack([shown[trusted].square().numpy(), judging[trusted].square().numpy()])
    assert abs(np.corrcoef(parts)[0, 1]) < 0.03
