"""Distances of predicted and measured amplitudes, by their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ptyinr.losses import LossSettings, amplitude_distance, amplitude_error, darkness, root_photons
from ptyinr.noise import Noise

PHOTONS = Noise()
KINDS = ("auto", "smooth_l1", "l1", "l2", "poisson")


def pair():
    random = np.random.default_rng(0)
    predicted, measured = 3 * random.uniform(0, 1, (2, 4, 5, 6))
    measured[1, 2] = -1
    measured[3] = -1
    return torch.from_numpy(predicted), torch.from_numpy(measured)


def one(predicted, measured, noise=PHOTONS, **settings):
    """The loss of a single pixel."""
    pixels = (torch.tensor([[[value]]]) for value in (predicted, measured))
    return amplitude_distance(*pixels, settings_of(**settings), noise)


def settings_of(**changes):
    return LossSettings(**{"kind": "smooth_l1"} | changes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "smooth_l1", "beta": 1.0}, 0.5 * 0.25),
        ({"kind": "smooth_l1", "beta": 0.2}, 0.5 - 0.1),
        ({"kind": "auto", "beta": 0.2}, 0.4),
        ({"kind": "l1"}, 0.5),
        ({"kind": "l2"}, 0.125),
        ({"kind": "poisson"}, 2.5**2 - 4 - 4 * math.log(2.5**2 / 4)),
        ({"kind": "smooth_l1", "beta": 1e-2, "unit": 10.0}, 0.05 - 0.005),
        ({"kind": "l2", "unit": 5.0}, 0.1**2 / 2),
    ],
)
def test_each_kind_is_its_formula(settings, expected):
    assert one(2.5, 2.0, **settings).item() == pytest.approx(expected)


def test_an_empty_pixel_costs_the_likelihood_the_photons_that_were_expected():
    assert one(1.5, 0.0, kind="poisson").item() == pytest.approx(2.25)


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_smooth_l1_is_a_square_within_beta_and_straight_beyond(beta):
    predicted, measured = pair()
    total, trusted = 0.0, 0
    for p, m in zip(predicted.flatten().tolist(), measured.flatten().tolist(), strict=True):
        if m >= 0:
            d = abs(p - m)
            total += d * d / (2 * beta) if d < beta else d - beta / 2
            trusted += 1
    loss = amplitude_distance(predicted, measured, settings_of(beta=beta), PHOTONS)
    assert loss.item() == pytest.approx(total / trusted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [PHOTONS, Noise(3.0), Noise(3.0, 5.0)])
def test_root_photons_are_what_is_compared(kind, noise):
    """a = sqrt(I / gain + variance / gain^2), whatever is then done with it."""
    predicted, measured = 7.0, 4.5
    a, b = (math.sqrt(x**2 / noise.gain + noise.variance / noise.gain**2) for x in (predicted, measured))
    assert one(predicted, measured, noise, kind=kind).item() == pytest.approx(one(a, b, kind=kind).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["auto", "l2"])
@pytest.mark.parametrize("sigmas", [0.0, 0.3, 1.0, 4.0])
def test_what_noise_has_taken_below_zero_and_was_clipped_there_makes_nothing_darker_or_brighter(kind, sigmas):
    """The best explanation of a pixel's counts is the light that fell on it."""
    light = 100.0 * sigmas
    counts = (light + np.random.default_rng(0).normal(0, 100, 100_000)).clip(0)
    measured = torch.from_numpy(np.sqrt(counts))
    tried = np.arange(0.0, 501.0, 5.0)
    losses = [
        amplitude_distance(torch.full_like(measured, p**0.5), measured, settings_of(kind=kind), Noise(1.0, 1e4)).item()
        for p in tried
    ]
    assert tried[int(np.argmin(losses))] == pytest.approx(light, abs=5)


def test_a_clipped_pixel_costs_the_probability_that_noise_took_it_below_zero():
    """A quarter of it, as half squares of root photons are of the likelihood; in proportion beyond 4 sigmas."""
    noise = Noise(2.0, 9.0)

    def cost(counts):
        sigmas = counts / math.sqrt(2.0 * counts + 9.0)
        near = min(sigmas, 4.0)
        return -math.log(math.erfc(near / math.sqrt(2))) / 4 + sigmas - near

    for counts in (0.0, 1.0, 10.0, 200.0):
        assert one(math.sqrt(counts), 0.0, noise).item() == pytest.approx(cost(counts), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_photons_that_stand_out_of_the_noise_are_counted(kind):
    """A gain of a thousand counts and a sigma of a hundred: 3,100 counts are three photons, 90 are none."""
    noise = Noise(1000.0, 1e4)
    for counts, photons in ((3100.0, 3), (90.0, 0), (0.0, 0)):
        there = one(math.sqrt(1500.0), math.sqrt(counts), noise, kind=kind)
        assert there.item() == pytest.approx(one(math.sqrt(1.5), math.sqrt(photons), kind=kind).item(), rel=1e-5)


def test_what_was_not_measured_stays_so_in_photons():
    measured = torch.tensor([-1.0, 0.0, 10.0])
    for noise in (PHOTONS, Noise(4.0), Noise(4.0, 100.0), Noise(4.0, 0.01)):
        found = root_photons(measured, noise)
        assert (found < 0).tolist() == [True, False, False]
        assert found[2] == pytest.approx(10 / noise.gain**0.5)


def test_the_papers_unit_does_not_look_at_the_noise():
    assert one(7.0, 4.5, Noise(3.0, 5.0), unit=600.0) == one(7.0, 4.5, PHOTONS, unit=600.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [PHOTONS, Noise(40.0, 900.0)])
@pytest.mark.parametrize("measured", [0.5, 3.0, 40.0])
def test_nothing_is_cheaper_than_what_was_measured(kind, noise, measured):
    tried = measured * np.concatenate([np.linspace(0.5, 1.5, 101)])
    losses = [one(p, measured, noise, kind=kind).item() for p in tried]
    assert np.argmin(losses) == 50
    assert losses[50] == pytest.approx(0, abs=1e-5)


def test_the_curvature_of_the_likelihood_is_that_of_least_squares_within_the_noise():
    """4 times: a root photon's noise is 1/2. `roughness` counts on it."""
    near = [one(3.0 + 1e-3, 3.0, kind=kind).double().item() for kind in ("poisson", "smooth_l1")]
    exact = 3.001**2 - 9 - 9 * math.log(3.001**2 / 9)
    assert exact / (0.5e-6) == pytest.approx(4, rel=1e-3)
    assert near[1] == pytest.approx(0.5e-6, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", [PHOTONS, Noise(2.0, 3.0)])
def test_a_masked_pixel_pulls_at_nothing_and_cannot_be_pulled_at(kind, noise):
    predicted, measured = (a.requires_grad_() for a in pair())
    amplitude_distance(predicted, measured, settings_of(kind=kind), noise).backward()
    for gradient in (predicted.grad, measured.grad):
        assert gradient is not None
        assert not gradient[measured < 0].any()
        assert gradient[measured >= 0].all()


@pytest.mark.parametrize("kind", KINDS)
def test_frames_without_a_trusted_pixel_cost_nothing(kind):
    predicted = torch.ones(2, 3, 3, requires_grad=True)
    loss = amplitude_distance(predicted, torch.full((2, 3, 3), -1.0), settings_of(kind=kind), PHOTONS)
    loss.backward()
    assert loss == 0
    assert predicted.grad is not None
    assert not predicted.grad.any()


@pytest.mark.parametrize("kind", ["smooth_l1", "l2", "poisson"])
@pytest.mark.parametrize("noise", [PHOTONS, Noise(2.0, 3.0)])
def test_gradients_of_the_loss_are_those_of_finite_differences(kind, noise):
    predicted, measured = pair()
    settings = settings_of(kind=kind, beta=0.7)
    assert torch.autograd.gradcheck(
        lambda p: amplitude_distance(p, measured, settings, noise), (predicted.add(0.1).requires_grad_(),)
    )


def test_the_error_of_each_frame_is_the_mean_square_over_its_trusted_pixels():
    predicted, measured = pair()
    expected = [
        (p - m)[m >= 0].square().mean() if (m >= 0).any() else 0 for p, m in zip(predicted, measured, strict=True)
    ]
    np.testing.assert_allclose(amplitude_error(predicted, measured).numpy(), expected)


def far_field(*lit):
    """A probe (1, 8, 8) in double precision whose far field is lit there alone."""
    field = torch.zeros((1, 8, 8), dtype=torch.complex128)
    for row, column, value in lit:
        field[0, row, column] = value
    return torch.fft.ifft2(field, norm="ortho")


@pytest.mark.parametrize(("kind", "weight"), [("poisson", 1.0), ("smooth_l1", 4.0)])
def test_darkness_is_its_formula(kind, weight):
    probe = far_field((2, 3, 6.0), (2, 4, 3j), (0, 0, 0.6))
    light = {(2, 3): 36.0, (2, 4): 9.0, (0, 0): 0.36}
    around = {(2, 3): 45 / 9, (2, 4): 45 / 9, (0, 0): 0.36 / 9}
    expected = sum(light[k] / 2 / (around[k] / 2 + 0.03 / 20) for k in light)
    found = darkness(probe, settings_of(kind=kind, aperture=3.0), Noise(2.0), 20, 50)
    assert found.item() == pytest.approx(3 * expected / (50 * weight))


def test_light_that_is_sure_costs_what_it_costs_wherever_it_is_and_what_drowns_in_noise_fades():
    probe = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 1, 16, 16)).view(np.complex128)[..., 0].copy())
    settings = settings_of(kind="poisson", aperture=1.0)
    bright, brighter = (darkness(scale * probe, settings, PHOTONS, 1000, 1).item() for scale in (10.0, 1000.0))
    assert bright == pytest.approx(brighter, rel=1e-4)
    faint = 1e-4 * probe
    assert darkness(faint, settings, PHOTONS, 1000, 1) < 1e-2 * bright


def test_gradients_of_darkness_pull_each_pixel_by_what_is_around_it():
    """What is around a pixel counts as given."""
    random = np.random.default_rng(1)
    field = torch.from_numpy(random.normal(size=(1, 4, 5)) + 1j * random.normal(size=(1, 4, 5)))
    probe = torch.fft.ifft2(field, norm="ortho").requires_grad_(True)
    darkness(probe, settings_of(kind="poisson", aperture=1.0), PHOTONS, 30, 7).backward()
    power = np.abs(field.numpy()[0]) ** 2
    around = sum(np.roll(power, (r, c), (0, 1)) for r in (-1, 0, 1) for c in (-1, 0, 1)) / 9
    expected = np.fft.ifft2(2 * field.numpy()[0] / (around + 1e-3), norm="ortho") / 7
    np.testing.assert_allclose(probe.grad.numpy()[0], expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [{"beta": 0}, {"beta": -1}, {"unit": 0}, {"unit": -600.0}])
def test_a_loss_without_a_scale_is_refused(bad):
    with pytest.raises(ValueError, match="beta and unit must be positive"):
        LossSettings(**bad)


@pytest.mark.parametrize(
    "bad",
    [{"regularisation": -1e-2}, {"regularised_steps": -1}, {"prior": -0.1}, {"absorption": -1.0}, {"aperture": -1.0}],
)
def test_a_negative_weight_is_refused(bad):
    with pytest.raises(ValueError, match="never negative"):
        LossSettings(**bad)
