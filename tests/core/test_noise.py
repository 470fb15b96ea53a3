"""The detector's noise, read off counts that were made with a known one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr.noise import ASSUMED_SHARE, LARGEST_SAMPLE, Noise, estimate_noise

FRAMES = 60
RADIUS = np.hypot(*np.mgrid[-16:16, -16:16])
seeds = st.integers(0, 2**32 - 1)


def light(brightest):
    """A pattern that fades to nothing at the rim, as the paper's do."""
    return np.ones((FRAMES, 1, 1)) * brightest * np.exp(-0.1 * RADIUS**1.5)


def measured(random, brightest=10.0, gain=1.0, sigma=0.0):
    counts = random.poisson(light(brightest)) * gain
    return (counts + random.normal(0, sigma, counts.shape)).clip(0) if sigma else counts


@settings(max_examples=25, deadline=None)
@given(st.floats(20, 1e5), st.floats(1e-3, 0.08), st.floats(3, 30), seeds)
def test_gain_and_variance_are_found(gain, spread, brightest, seed):
    noise = estimate_noise(measured(np.random.default_rng(seed), brightest, gain, spread * gain))
    assert noise.gain == pytest.approx(gain, rel=0.05)
    assert noise.variance**0.5 == pytest.approx(spread * gain, rel=0.15)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 1e5), st.floats(3, 30), seeds)
def test_a_gain_alone_is_found_exactly(gain, brightest, seed):
    noise = estimate_noise(measured(np.random.default_rng(seed), brightest, gain))
    assert noise.gain == pytest.approx(gain, rel=1e-6)
    assert noise.variance == 0


@settings(max_examples=25, deadline=None)
@given(st.floats(20, 1e5), st.floats(0, 0.05), st.integers(3, 9), st.floats(0, 2), seeds)
def test_a_gain_is_found_in_a_few_frames_though_most_lit_pixels_have_several_photons(gain, spread, frames, dark, seed):
    random = np.random.default_rng(seed)
    counts = random.poisson(np.where(RADIUS < 9, 6.0, dark * np.exp(-RADIUS / 6)) * np.ones((frames, 1, 1))) * gain
    noise = estimate_noise((counts + spread * gain * random.normal(size=counts.shape)).clip(0))
    assert noise.gain == pytest.approx(gain, rel=0.05)


@settings(max_examples=25, deadline=None)
@given(st.floats(1.0, 300.0), st.floats(1e4, 1e6), seeds)
def test_a_gaussian_alone_is_found(sigma, brightest, seed):
    random = np.random.default_rng(seed)
    counts = (light(brightest) * np.exp(-RADIUS / 2) + random.normal(0, sigma, (FRAMES, 32, 32))).clip(0)
    noise = estimate_noise(counts)
    assert noise.gain == 1
    assert noise.variance**0.5 == pytest.approx(sigma, rel=0.2)


@settings(max_examples=25, deadline=None)
@given(st.floats(3, 1e6), st.booleans())
def test_clean_floats_are_photons(brightest, faded):
    counts = light(brightest) if faded else light(brightest) + brightest
    assert estimate_noise(counts) == Noise(1.0, 0.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-12, 0.7), st.booleans())
def test_floats_that_cannot_be_photons_stand_for_many(brightest, faded):
    """A photon shares its pixel with one at least, itself; such counts were divided by something."""
    counts = light(brightest) if faded else light(brightest) + brightest
    noise = estimate_noise(counts)
    assert (counts**2).sum() / counts.sum() / noise.gain == pytest.approx(ASSUMED_SHARE)
    assert noise.variance == 0


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-9, 0.1), seeds)
def test_photons_that_were_divided_by_something_are_counted_again(part, seed):
    counts = part * np.random.default_rng(seed).poisson(light(20.0))
    assert estimate_noise(counts).gain == pytest.approx(part)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 1e5), seeds)
def test_integers_are_photons(brightest, seed):
    counts = np.random.default_rng(seed).poisson(light(brightest))
    assert estimate_noise(counts) == Noise()
    assert estimate_noise(2 * counts.astype(np.uint32)) == Noise()


def test_photons_written_as_floats_are_photons():
    assert estimate_noise(measured(np.random.default_rng(0)).astype(np.float32)) == Noise()


@settings(max_examples=15, deadline=None)
@given(st.floats(100, 1e5), seeds)
def test_an_evenly_lit_aperture_is_no_photon(brightest, seed):
    disc = np.where(RADIUS < 9, brightest, 0.0) * np.ones((FRAMES, 1, 1))
    assert estimate_noise(np.random.default_rng(seed).poisson(disc).astype(float)) == Noise()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 0.95), seeds)
def test_lone_photons_in_the_dark_are_no_gaussian(darkest, seed):
    counts = np.random.default_rng(seed).poisson(light(200) + darkest).astype(float)
    assert estimate_noise(counts) == Noise()


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -7.0, 1e30, 1.3])
@pytest.mark.parametrize("each", [False, True])
def test_what_stands_in_masked_pixels_has_no_effect(garbage, each):
    random = np.random.default_rng(1)
    counts = measured(random, 10.0, 2500.0, 90.0)
    mask = random.random(counts.shape if each else counts.shape[1:]) > 0.2
    spoiled = np.where(mask, counts, garbage)
    assert estimate_noise(spoiled, mask) == estimate_noise(np.where(mask, counts, 0), mask)
    assert estimate_noise(spoiled, mask).gain == pytest.approx(2500, rel=0.05)


def test_a_large_scan_is_sampled_with_its_mask():
    counts = np.zeros((7, 1024, 1024), np.float32)  # more than three samples, in no whole number of frames
    assert counts.size > 3 * LARGEST_SAMPLE
    counts[:, 500:520, 500:520] = 2.0 * np.random.default_rng(0).poisson(0.5, (7, 20, 20))
    assert estimate_noise(counts, np.ones(counts.shape, bool)) == estimate_noise(counts) == Noise(2.0, 0.0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9)])
@pytest.mark.parametrize("masked", [False, True])
def test_without_light_or_without_a_pixel_there_is_no_noise(shape, masked):
    assert estimate_noise(np.zeros(shape), np.full(shape, not masked)) == Noise()


@pytest.mark.parametrize("bad", [(0.0, 0.0), (-1.0, 0.0), (np.nan, 0.0), (1.0, -1.0), (1.0, np.inf)])
def test_a_noise_that_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="positive number of counts a photon"):
        Noise(*bad)
