"""The comparison of two reconstructions is blind to what ptychography cannot know, and to nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ptyinr.metrics import phase_correlation, without_ramp

WINDOW = (24, 32)


def smooth(random, shape, sigma=3.0):
    noise = gaussian_filter(random.standard_normal(shape), sigma)
    return noise / noise.std()


@pytest.fixture(scope="module")
def field():
    """A canvas of 160 x 170 pixels, scanned from (20, 25) to (140, 145)."""
    random = np.random.default_rng(0)
    phase = 0.4 * smooth(random, (160, 170))
    return (0.8 + 0.1 * np.tanh(smooth(random, (160, 170)))) * np.exp(1j * phase)


@pytest.fixture(scope="module")
def corners():
    places = np.random.default_rng(1).uniform([20, 25], [140 - 24, 145 - 32], (60, 2))
    places[:2] = [20, 25], [140 - 24, 145 - 32]
    return places


def test_an_object_correlates_with_itself(field, corners):
    assert phase_correlation(field, corners, field, corners, WINDOW) > 0.9999


def test_a_ramp_a_phase_and_a_scale_make_no_difference(field, corners):
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    other = 3.7 * field * np.exp(1j * (0.21 * rows - 0.13 * columns + 2.0))
    assert phase_correlation(other, corners, field, corners, WINDOW) > 0.999
    assert phase_correlation(field, corners, other, corners, WINDOW) > 0.999


@pytest.mark.parametrize("offset", [(2, -3), (-1, 1)])
def test_a_shift_of_object_against_positions_makes_no_difference(field, corners, offset):
    moved = np.roll(field, offset, (0, 1))
    assert phase_correlation(moved, corners, field, corners, WINDOW) > 0.99


def test_another_canvas_makes_no_difference(field, corners):
    larger = np.ones((220, 200), complex)
    larger[31 : 31 + 160, 7 : 7 + 170] = field
    assert phase_correlation(larger, corners + np.array((31, 7)), field, corners, WINDOW) > 0.999


def test_noise_conjugate_and_another_object_do_not_correlate(field, corners):
    random = np.random.default_rng(2)
    noise = np.exp(1j * random.standard_normal(field.shape))
    other = np.exp(0.4j * smooth(random, field.shape))
    assert abs(phase_correlation(noise, corners, field, corners, WINDOW)) < 0.1
    assert abs(phase_correlation(other, corners, field, corners, WINDOW)) < 0.3
    assert phase_correlation(field.conj(), corners, field, corners, WINDOW) < 0.3


def test_what_is_half_noise_correlates_in_part(field, corners):
    noise = np.exp(0.4j * smooth(np.random.default_rng(3), field.shape))
    value = phase_correlation(field * noise, corners, field, corners, WINDOW)
    assert 0.5 < value < 0.85  # 0.71 for equal parts


def test_objects_of_different_scans_are_not_compared(field, corners):
    with pytest.raises(ValueError, match="60 and 59 frames"):
        phase_correlation(field, corners, field, corners[:-1], WINDOW)


def test_a_field_that_is_all_rim_is_not_compared(field, corners):
    small = 20 + (corners - 20) / 8
    with pytest.raises(ValueError, match="has no middle"):
        phase_correlation(field, small, field, small, WINDOW)


@pytest.mark.parametrize("slope", [(0.0, 0.0), (2.9, -3.0), (0.004, 0.01)])
def test_a_ramp_is_taken_out_however_steep_it_is(field, slope):
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    tilted = field * np.exp(1j * (slope[0] * rows + slope[1] * columns - 1.0))
    assert np.abs(without_ramp(tilted, field) - field).max() < 1e-6
