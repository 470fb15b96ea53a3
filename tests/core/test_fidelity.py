"""Registration takes out what ptychography cannot know, and PSNR measures what is left, by known errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import fourier_shift

from ptyinr.metrics import best_phase, central, object_fidelity, overlap, probe_fidelity
from ptyinr.registration import inner_box, registered

SHAPE = (150, 130)


@pytest.fixture(scope="module")
def truth():
    """Discs with edges sharper than a pixel is wide, on a smooth ground."""
    random = np.random.default_rng(5)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    phase = 0.3 * np.sin(rows / 20) * np.cos(columns / 17)
    for _ in range(60):
        row, column, radius = random.uniform((0, 0, 3), (*SHAPE, 14))
        inside = np.clip(radius - np.hypot(rows - row, columns - column) + 0.5, 0, 1)
        phase = phase - 0.25 * inside
    return np.exp((0.15 + 1j) * phase) * 0.9


@pytest.fixture(scope="module")
def corners():
    return np.random.default_rng(1).uniform(0, 100, (60, 2))


@pytest.fixture(scope="module")
def wave():
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return 2.7 * np.exp(1j * (0.08 * rows - 0.05 * columns + 1.0))


def psnr(field, truth, corners, **options):
    found = registered(field, corners, truth, corners, **options)
    fidelity = object_fidelity(found.object, truth, found.seen)
    return fidelity.amplitude_psnr_db, fidelity.phase_psnr_db


def test_the_centre_is_the_papers():
    assert central((241, 241)) == (slice(30, 211), slice(30, 211))


def test_nothing_differs_from_itself(truth):
    same = object_fidelity(truth, truth)
    assert same.amplitude_psnr_db == math.inf
    assert same.phase_psnr_db > 300
    assert same.amplitude_ssim == same.phase_ssim == 1
    assert same.pixels == 112 * 98


@pytest.mark.parametrize("size", [0.1, 0.01])
def test_a_known_phase_error_has_a_known_psnr(truth, size):
    checkers = (-1.0) ** np.add.outer(np.arange(SHAPE[0]), np.arange(SHAPE[1]))
    fidelity = object_fidelity(truth * np.exp(1j * (size * checkers + 0.7)), truth)
    assert fidelity.phase_psnr_db == pytest.approx(20 * math.log10(math.pi / size), abs=1e-6)
    assert fidelity.amplitude_psnr_db > 200


def test_a_known_amplitude_error_has_a_known_psnr():
    truth = np.full((80, 80), 0.5 + 0j)
    field = truth.copy()
    field[::4, ::4] += 0.1  # a sixteenth of the pixels, so that medians agree
    fidelity = object_fidelity(3j * field, truth)
    assert fidelity.amplitude_psnr_db == pytest.approx(-10 * math.log10(0.01 * 225 / 3600), abs=0.1)
    assert fidelity.phase_psnr_db > 200


def test_amplitudes_above_one_are_clipped_as_in_the_paper():
    truth = np.ones((80, 80), complex)
    field = truth.copy()
    field[::4, ::4] = 1.5
    assert object_fidelity(field, truth).amplitude_psnr_db == math.inf


def test_a_phase_beyond_a_turn_is_no_error():
    truth = np.exp(1j * np.linspace(0, 40, 90)[:, None] * np.ones(70))
    fidelity = object_fidelity(truth * np.exp(3.1j), truth)
    assert fidelity.phase_psnr_db > 200
    assert fidelity.phase_ssim == pytest.approx(1)


def test_the_best_phase_is_the_best_of_all():
    random = np.random.default_rng(3)
    for spread in (0.3, 1.5, 4.0):
        values = random.normal(2.8, spread, 500)
        tried = np.linspace(0, 2 * np.pi, 20001)
        costs = [np.mean(np.angle(np.exp(1j * (values - one))) ** 2) for one in (*tried, best_phase(values))]
        assert costs[-1] <= min(costs[:-1]) + 1e-9


def test_what_is_unseen_is_not_compared(truth):
    field, seen = truth.copy(), np.ones(SHAPE, bool)
    field[60:80, 50:90], seen[60:80, 50:90] = 1j, False
    fidelity = object_fidelity(field, truth, seen)
    assert min(fidelity.amplitude_psnr_db, fidelity.phase_psnr_db) > 300
    assert fidelity.amplitude_ssim == pytest.approx(1)
    assert fidelity.pixels == 112 * 98 - 800
    with pytest.raises(ValueError, match="nothing to compare"):
        object_fidelity(field, truth, np.zeros(SHAPE, bool))


def test_an_object_in_its_place_is_not_touched(truth, corners):
    assert min(psnr(truth, truth, corners)) > 100
    assert min(psnr(truth, truth, corners, ramp=False)) > 100


def test_scale_phase_and_ramp_make_no_difference(truth, corners, wave):
    assert min(psnr(truth * wave, truth, corners)) > 100
    found = registered(truth * wave, corners, truth, corners)
    assert found.ramp_rad_px == pytest.approx((0.08, -0.05), abs=1e-9)
    assert found.shift_px == pytest.approx((0, 0), abs=1e-9)


def test_a_ramp_counts_where_the_probe_was_known(truth, corners, wave):
    assert psnr(truth * wave, truth, corners, ramp=False)[1] < 10
    assert min(psnr(2.7j * truth, truth, corners, ramp=False)) > 100


def test_a_shift_counts_where_the_positions_say_everything(truth, corners):
    assert min(psnr(truth, truth, corners, shift=False)) > 100
    assert min(psnr(2.7j * truth, truth, corners, ramp=False, shift=False)) > 100
    found = registered(np.roll(truth, (1, -2), (0, 1)), corners, truth, corners, shift=False)
    assert found.shift_px == (0, 0)
    assert max(psnr(np.roll(truth, (1, -2), (0, 1)), truth, corners, shift=False)) < 40


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_not_led_farther_than_its_window(truth, corners, seed):
    """It lay as well 27 pixels beside the truth, and that gave an object without content two decibels."""
    random = np.random.default_rng(seed)
    noise = 1 + 0.3 * (random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE))
    found = registered(noise, corners, truth, corners, probe=np.ones((8, 10), complex))
    assert np.abs(found.shift_px[0]) <= 4 + 8  # what least squares may add
    assert np.abs(found.shift_px[1]) <= 5 + 8


@pytest.mark.parametrize("offset", [(3, -5), (-7, 11)])
def test_whole_pixels_make_no_difference(truth, corners, wave, offset):
    assert min(psnr(np.roll(truth * wave, offset, (0, 1)), truth, corners)) > 60


def test_another_canvas_makes_no_difference(truth, corners):
    larger = np.ones((200, 190), complex)
    larger[21 : 21 + SHAPE[0], 33 : 33 + SHAPE[1]] = truth
    found = registered(larger, corners + np.array((21, 33)), truth, corners)
    assert found.shift_px == pytest.approx((0, 0), abs=1e-9)
    assert object_fidelity(found.object, truth, found.seen).phase_psnr_db > 100


@pytest.mark.parametrize("offset", [(0.5, 0.5), (0.25, -0.3), (4.1, 0.05)])
def test_half_pixels_cost_what_interpolation_costs(truth, corners, wave, offset):
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(np.pad(truth, 40, mode="edge")), offset))[40:-40, 40:-40]
    found = registered(moved * wave, corners, truth, corners)
    assert found.shift_px == pytest.approx((-offset[0], -offset[1]), abs=0.01)
    assert min(psnr(moved * wave, truth, corners)) > 48  # 49.8 and more; a straight line between pixels gives 42


def test_noise_is_measured_and_not_smoothed_away(truth, corners, wave):
    random = np.random.default_rng(0)
    noise = 0.02 * (random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE))
    amplitude, _ = psnr((truth + noise) * wave, truth, corners)
    assert amplitude == pytest.approx(-20 * math.log10(0.02), abs=0.3)


def test_the_probe_moves_with_its_object_and_tilts_against_it(truth, corners, wave):
    rows, columns = np.mgrid[-16:16, -12:12]
    probe = np.exp(-(rows**2 + columns**2) / 20 + 0.02j * (rows**2 - columns**2))
    across = np.exp(-1j * (0.08 * rows - 0.05 * columns))
    moved = np.roll(probe * across, (2, -1), (0, 1))
    found = registered(np.roll(truth * wave, (2, -1), (0, 1)), corners, truth, corners, probe=moved / 2.7)
    assert found.probe.shape == (1, 32, 24)
    assert overlap(moved, probe) < 0.9
    assert overlap(found.probe[0], probe) > 0.99999
    assert np.abs(found.probe).max() == pytest.approx(1, abs=1e-3)
    fidelity = probe_fidelity(found.probe[0], probe)
    assert fidelity.amplitude_psnr_db > 60


def test_a_dark_half_does_not_scale_a_probe():
    rows, columns = np.mgrid[-32:32, -32:32]
    truth = np.exp(-(rows**2 + columns**2) / 40.0) + 0j
    # The median lies where there is no light, and is one of noise.
    noisy = truth + 1e-3 * np.random.default_rng(0).normal(size=truth.shape)
    assert probe_fidelity(4 * noisy, truth).amplitude_psnr_db > 55


def test_what_cannot_be_compared_is_refused(truth, corners):
    with pytest.raises(ValueError, match="60 and 59 window corners"):
        registered(truth, corners, truth, corners[1:])
    with pytest.raises(ValueError, match="share less than 16 x 16"):
        registered(truth, corners, truth, corners + 145)
    with pytest.raises(ValueError, match=r"\(150, 130\) and \(150, 129\)"):
        object_fidelity(truth, truth[:, 1:])
    with pytest.raises(ValueError, match="without light"):
        probe_fidelity(np.zeros((8, 8), complex), truth[:8, :8])


def test_the_inner_box_of_a_disc_lies_in_the_disc():
    disc = np.hypot(*np.mgrid[-50:50, -60:60]) < 45
    box = inner_box(disc)
    assert disc[box].mean() > 0.99
    assert disc[box].size > 60 * 60
