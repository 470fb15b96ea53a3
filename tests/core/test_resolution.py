"""Fourier ring correlation finds the frequency that two copies share, and a profile the width of an edge."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from ptyinr.resolution import Profile, half_bit, profile, ring_correlation

PIXEL_M = (10e-9, 10e-9)


def noise(random, shape):
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def shared_below(random, shape, pixel_m, period_m):
    """Two fields, equal at periods longer than `period_m` and independent at shorter ones."""
    axes = np.meshgrid(*(np.fft.fftfreq(n, p) for n, p in zip(shape, pixel_m, strict=True)), indexing="ij")
    low = np.hypot(*axes) < 1 / period_m
    common, *rest = (np.fft.fft2(noise(random, shape)) for _ in range(3))
    return [np.fft.ifft2(np.where(low, common, other)) for other in rest]


@pytest.mark.parametrize(("shape", "pixel_m"), [((200, 200), (1e-8, 1e-8)), ((256, 150), (1e-8, 1.3e-8))])
@pytest.mark.parametrize("period_m", [40e-9, 70e-9])
def test_the_shared_frequency_is_found(shape, pixel_m, period_m):
    one, other = shared_below(np.random.default_rng(0), shape, pixel_m, period_m)
    found = ring_correlation(3 * one, other, pixel_m)
    assert found.resolution_m == pytest.approx(period_m, rel=0.1)
    assert found.verdict == f"{1e9 * found.resolution_m:.3g} nm"
    assert found.frequency_per_m[-1] == pytest.approx(1 / (2 * max(pixel_m)), rel=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_independent_noise_never_rises_above_the_threshold(seed):
    random = np.random.default_rng(seed)
    found = ring_correlation(noise(random, (160, 160)), noise(random, (160, 160)), PIXEL_M)
    assert (found.correlation < found.half_bit).all()
    assert 1.2e-6 < found.resolution_m <= 160 * 10e-9
    assert found.verdict == "none: the two have nothing in common"


def test_equal_objects_are_resolved_to_the_pixel():
    one = noise(np.random.default_rng(0), (64, 64))
    found = ring_correlation(one, 2j * one * -1j, PIXEL_M)
    assert found.correlation == pytest.approx(1)
    assert found.resolution_m is None
    assert found.verdict.startswith("two pixels, 20 nm")


def test_a_slow_background_of_one_does_not_hide_what_both_resolve():
    one, other = shared_below(np.random.default_rng(0), (200, 200), PIXEL_M, 50e-9)
    slow = 0.3 * np.exp(1j * np.linspace(0, 2 * np.pi, 200))[:, None]
    found = ring_correlation(one, other + slow, PIXEL_M)
    assert found.correlation[0] < found.half_bit[0]
    assert found.resolution_m == pytest.approx(50e-9, rel=0.1)


def test_added_noise_gives_the_correlation_of_its_share():
    """A signal-to-noise ratio of 1 in each half correlates as 1 / (1 + 1)."""
    random = np.random.default_rng(1)
    signal, a, b = (noise(random, (300, 300)) for _ in range(3))
    assert ring_correlation(signal + a, signal + b, PIXEL_M).correlation[5:].mean() == pytest.approx(0.5, abs=0.02)


def test_half_a_bit_is_what_van_heel_and_schatz_say():
    assert half_bit(np.array([1.0, 4.0, 100.0])) == pytest.approx([1.0, 1.1622 / 1.6622, 0.39812 / 1.29812])
    assert half_bit(np.array([1e15])) == pytest.approx(0.2071 / 1.2071, rel=1e-6)


def test_what_cannot_be_correlated_is_refused():
    one = noise(np.random.default_rng(0), (32, 32))
    with pytest.raises(ValueError, match=r"\(32, 32\) and \(32, 31\)"):
        ring_correlation(one, one[:, 1:], PIXEL_M)
    with pytest.raises(ValueError, match="constant"):
        ring_correlation(one, np.ones((32, 32)), PIXEL_M)


def edge(sigma_px, angle=0.0):
    rows, columns = np.mgrid[:120, :140]
    across = (columns - 70.3) * np.cos(angle) + (rows - 60) * np.sin(angle)
    fine = np.linspace(-200, 200, 8001)
    return np.interp(across, fine, gaussian_filter1d((fine > 0) * 0.8 - 0.3, sigma_px / 0.05))


@pytest.mark.parametrize("sigma_px", [1.5, 4.0])
def test_a_blurred_edge_has_its_width(sigma_px):
    line = profile(edge(sigma_px), PIXEL_M, (500e-9, 400e-9), (500e-9, 1000e-9), width_m=50e-9)
    assert line.distance_m[-1] == pytest.approx(600e-9)
    assert line.edge_m == pytest.approx(2.563 * sigma_px * 10e-9, rel=0.03)  # 10 to 90 % of a Gaussian's integral
    assert line.values[0] == pytest.approx(-0.3, abs=1e-3)
    assert line.values[-1] == pytest.approx(0.5, abs=1e-3)


def test_a_slanted_falling_edge_on_oblong_pixels_has_its_width():
    steep = edge(3.0, 0.5)
    unit = np.array((np.sin(0.5), np.cos(0.5)))
    middle = np.array((60, 70.3))
    stretch = np.array((10e-9, 10e-9))
    start, end = (middle + 30 * unit) * stretch, (middle - 30 * unit) * stretch
    assert profile(steep, PIXEL_M, tuple(start), tuple(end)).edge_m == pytest.approx(2.563 * 30e-9, rel=0.03)
    oblong = profile(np.tile(np.arange(100.0), (50, 1)), (20e-9, 5e-9), (0, 0), (980e-9, 495e-9))
    assert oblong.values == pytest.approx(np.linspace(0, 99, len(oblong.values)), abs=0.1)


def test_the_average_across_a_line_lowers_noise():
    rough = edge(2.0) + np.random.default_rng(0).normal(0, 0.1, (120, 140))
    ends = (600e-9, 800e-9), (600e-9, 1300e-9)
    thin, wide = (profile(rough, PIXEL_M, *ends, width_m=width).values.std() for width in (0.0, 300e-9))
    assert wide < thin / 3


def test_no_edge_has_no_width():
    flat = np.random.default_rng(0).normal(0, 0.1, (50, 50))
    assert profile(flat, PIXEL_M, (0, 0), (400e-9, 400e-9)).edge_m is None
    assert Profile(np.arange(3.0), np.arange(3.0)).edge_m is None


def test_an_unknown_part_has_no_values():
    known = np.ones((120, 140), bool)
    known[:, 100:] = False
    line = profile(edge(2.0), PIXEL_M, (0, 0), (0, 1390e-9), known=known)
    assert np.isfinite(line.values[line.distance_m < 985e-9]).all()
    assert np.isnan(line.values[line.distance_m > 1005e-9]).all()


def test_a_line_outside_of_the_field_is_refused_with_its_limits():
    with pytest.raises(ValueError, match=r"end \(0.5, 2\) um lies outside.*columns from 0 to 1.39 um"):
        profile(edge(2.0), PIXEL_M, (0, 0), (0.5e-6, 2e-6))
    with pytest.raises(ValueError, match="shorter than a pixel"):
        profile(edge(2.0), PIXEL_M, (0, 0), (0, 0))
