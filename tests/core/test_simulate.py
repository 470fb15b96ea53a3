"""The simulated measurement: against the model that is trained, against sums of photons, and against statistics."""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptyinr.geometry import ROUNDED, window_corners_px
from ptyinr.optics import ZonePlate, focused_probe
from ptyinr.phantoms import phantom
from ptyinr.propagation import TINY_INTENSITY, predicted_amplitude
from ptyinr.scans import jittered, overlap_step, raster, snake, spiral
from ptyinr.simulate import MOST_COUNTS, SimulatedNoise, expected_counts, faulty_detector, simulate
from ptyinr.types import HC_KEV_M, ScanGeometry, ScanRange

GEOMETRY = ScanGeometry(HC_KEV_M / 10, 0.5, 55e-6, (48, 64))
PROBE = focused_probe(ZonePlate(240e-6, 40e-9, 60e-6), GEOMETRY, defocus_m=2e-5, photons=1e4)
OBJECT = phantom("maze", (110, 120))
CORNERS = jittered((62, 56), (9.0, 8.5), np.random.default_rng(0))


def measured(**more):
    return simulate(GEOMETRY, OBJECT, PROBE, CORNERS, **more)


# The model


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize("modes", [1, 3])
def test_it_is_the_model_that_is_trained(modes, dtype, tolerance):
    probe = np.stack([PROBE * f for f in (1, 0.3j * np.linspace(-1, 1, 64), 0.2)[:modes]])
    corners = np.concatenate([CORNERS, [(0, 0), (62, 56), (61.5, 0.25)]])
    expected = np.sqrt(expected_counts(OBJECT, probe, corners) + TINY_INTENSITY)
    field, modes_ = (torch.from_numpy(np.asarray(a)).to(dtype) for a in (OBJECT, probe))
    amplitude = np.fft.fftshift(predicted_amplitude(field, modes_, torch.from_numpy(corners)).numpy(), axes=(1, 2))
    assert np.abs(amplitude - expected).max() < tolerance * expected.max()


def test_for_a_square_window_it_is_the_transform_divided_by_its_side():
    probe, field = PROBE[:, :48], OBJECT[:48, :48]
    expected = np.abs(np.fft.fftshift(np.fft.fft2(probe * field))) ** 2 / 48**2
    assert np.allclose(expected_counts(field, probe, np.zeros((1, 2)))[0], expected)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 61), st.floats(0, 55))
def test_without_an_object_every_photon_arrives_and_the_pattern_does_not_depend_on_the_position(row, column):
    nothing = np.ones((110, 120), complex)
    still, moved = expected_counts(nothing, PROBE, np.array([(0.0, 0.0), (row, column)]))
    assert moved.sum() == pytest.approx(1e4)
    assert np.allclose(moved, still, rtol=0, atol=1e-9 * still.max())


def test_moving_the_object_by_whole_pixels_and_the_window_with_it_changes_nothing():
    rolled = np.roll(OBJECT, (3, -2), (0, 1))
    corners = np.array([(20.3, 20.9)])
    moved = expected_counts(rolled, PROBE, corners + np.array([3, -2]))
    assert np.allclose(moved, expected_counts(OBJECT, PROBE, corners))


def test_a_smooth_object_moved_by_a_fraction_is_seen_where_the_fraction_says():
    rows = np.arange(110)[:, None] + np.zeros(120)
    gratings = [1 + 0.5 * np.cos(2 * np.pi * 3 * (rows - shift) / 48) for shift in (0.0, 0.4)]
    window = np.hanning(48)[:, None] ** 4 * np.hanning(64) ** 4
    still = expected_counts(gratings[0], window, np.array([(10.0, 10.0)]))
    moved = expected_counts(gratings[1], window, np.array([(10.4, 10.0)]))
    assert np.abs(moved - still).max() < 1e-3 * still.max()
    assert np.abs(moved - expected_counts(gratings[1], window, np.array([(10.0, 10.0)]))).max() > 1e-2 * still.max()


def test_the_zero_frequency_is_in_the_centre():
    (frame,) = expected_counts(np.ones((48, 64), complex), np.ones((48, 64)), np.zeros((1, 2)))
    assert np.unravel_index(frame.argmax(), frame.shape) == (24, 32)
    assert frame[24, 32] == pytest.approx(48 * 64)


@pytest.mark.parametrize("corner", [(-0.5, 0), (63, 0), (0, 57)])
def test_a_window_that_leaves_the_object_is_named(corner):
    complaint = r"windows \[1\] of 48 x 64 pixels leave the object of 110 x 120: .* in 0..62, 0..56"
    with pytest.raises(ValueError, match=complaint):
        expected_counts(OBJECT, PROBE, np.array([(0.0, 0.0), corner]))


# What is measured


def test_a_simulation_holds_the_scan_and_its_truth():
    one = measured(photons=5e4, noise=SimulatedNoise("photons"))
    assert (one.counts.shape, one.counts.dtype) == ((len(CORNERS), 48, 64), np.uint16)
    assert (one.object.dtype, one.probe.shape) == (np.complex64, (1, 48, 64))
    assert np.abs(one.object).max() == 1
    assert one.counts.sum() / len(CORNERS) == pytest.approx(5e4, rel=0.01)
    assert np.array_equal(one.positions_px, CORNERS)
    again = expected_counts(one.object, one.probe, one.positions_px)
    assert again.sum() / len(CORNERS) == pytest.approx(5e4)


def test_positions_are_metres_from_the_middle_of_the_object_and_give_the_corners_back():
    one = measured()
    size = np.array(OBJECT.shape) * GEOMETRY.pixel_m / 2
    corners = window_corners_px(one.positions_m, GEOMETRY, ScanRange(tuple(-size), tuple(size)))
    np.testing.assert_allclose(corners + np.array(OBJECT.shape) / 2, CORNERS, rtol=0, atol=10.0**-ROUNDED)


def test_the_probe_is_taken_as_given_unless_photons_are_wanted():
    assert np.array_equal(measured().probe[0], PROBE)
    assert measured().counts.sum() < 1e4 * len(CORNERS)  # the object absorbs


def test_a_seed_is_a_scan():
    one, same, other = (measured(noise=SimulatedNoise("mixed"), seed=seed).counts for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_masked_pixels_hold_garbage_and_the_others_what_they_would_without_a_mask():
    mask = faulty_detector(GEOMETRY.window, np.random.default_rng(0), dead=0.01, gap_px=3)
    one, whole = measured(noise=SimulatedNoise("photons"), mask=mask), measured(noise=SimulatedNoise("photons"))
    assert np.array_equal(one.counts[:, mask], whole.counts[:, mask])
    assert (one.counts[:, ~mask] != whole.counts[:, ~mask]).mean() > 0.9
    batch = one.batch()
    assert batch.mask is not None
    assert np.array_equal(batch.mask[5], mask)
    assert whole.batch().mask is None


def test_a_faulty_detector_has_a_gap_and_its_share_of_dead_pixels():
    mask = faulty_detector((200, 300), np.random.default_rng(1), dead=0.01, gap_px=4)
    gap = ~mask.any(0)
    assert np.flatnonzero(gap).tolist() == [187, 188, 189, 190]
    assert (~mask[:, ~gap]).mean() == pytest.approx(0.01, rel=0.2)
    assert faulty_detector((20, 30), np.random.default_rng(1), dead=0).all()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"probe": PROBE[:40]}, r"probe \(40, 64\) must have the rows and columns of the window, \(48, 64\)"),
        ({"mask": np.ones((48, 48), bool)}, r"mask \(48, 48\) must have"),
        ({"mask": np.ones((48, 64), int)}, "mask is int64: give bool, True where a pixel may be trusted"),
        ({"probe": PROBE * 0}, "the mean frame holds 0.0 photons"),
        ({"field": OBJECT * np.nan}, "the mean frame holds nan photons"),
        ({"positions_px": np.zeros((0, 2))}, "the mean frame holds 0.0 photons"),
        ({"photons": 0.0}, "photons is 0.0"),
        ({"photons": 1e-9, "noise": SimulatedNoise("photons")}, "not a photon arrives in a trusted pixel"),
        ({"noise": SimulatedNoise("poisson", alpha=1e-9)}, "noise is 'poisson' and alpha 1e-09: give more photons"),
        ({"noise": SimulatedNoise("photons"), "mask": np.zeros((48, 64), bool)}, "not a photon arrives"),
        ({"noise": SimulatedNoise("gaussian", sigma=1e10)}, r"sigma 1e\+10, a pixel counts \S+: at most 2.15e\+09"),
        ({"noise": SimulatedNoise("mixed", sigma=1e38)}, r"sigma 1e\+38, a pixel counts"),
        ({"photons": 1e15}, r"the brightest pixel would count \S+ photons: at most 2.15e\+09 fit"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes, complaint):
    given = {"field": OBJECT, "probe": PROBE, "positions_px": CORNERS} | changes
    with pytest.raises(ValueError, match=complaint):
        simulate(GEOMETRY, **given)


# SimulatedNoise


def flat(mean=400.0):
    """Frames whose mean is known; one pixel, the brightest of all, is twice as bright."""
    expected = np.full((40, 32, 32), mean)
    expected[3, 0, 0] = 2 * mean
    return expected


def spread(counts):
    """Mean and variance of all frames but that with the brightest pixel."""
    counts = np.delete(counts.astype(float), 3, 0)
    return counts.mean(), counts.var()


def test_without_noise_counts_are_what_is_expected():
    counts = SimulatedNoise().added_to(flat(), np.random.default_rng(0))
    assert counts.dtype == np.float32
    assert np.array_equal(counts, flat())


def test_counted_photons_are_whole_and_vary_by_their_root():
    counts = SimulatedNoise("photons").added_to(flat(), np.random.default_rng(0))
    assert counts.dtype == np.uint16
    assert spread(counts) == (pytest.approx(400, rel=0.001), pytest.approx(400, rel=0.02))
    assert SimulatedNoise("photons").added_to(flat(40_000.0), np.random.default_rng(0)).dtype == np.uint32


@pytest.mark.parametrize("alpha", [10.0, 1000.0])
def test_poisson_noise_counts_alpha_photons_in_the_brightest_pixel_of_all_frames(alpha):
    counts = SimulatedNoise("poisson", alpha=alpha).added_to(flat(), np.random.default_rng(0))
    photons = counts * alpha / 800
    assert np.abs(photons - np.rint(photons)).max() < 1e-3
    assert spread(photons) == (pytest.approx(alpha / 2, rel=0.01), pytest.approx(alpha / 2, rel=0.03))


def test_gaussian_noise_has_its_sigma_and_nothing_below_zero():
    counts = SimulatedNoise("gaussian", sigma=20.0).added_to(flat(), np.random.default_rng(0))
    assert spread(counts) == (pytest.approx(400, abs=0.4), pytest.approx(400, rel=0.02))
    dark = SimulatedNoise("gaussian", sigma=20.0).added_to(0 * flat(), np.random.default_rng(0))
    assert dark.min() == 0
    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert dark.mean() == pytest.approx(20 / np.sqrt(2 * np.pi), rel=0.02)


@pytest.mark.parametrize("kind", ["none", "photons", "poisson"])
def test_as_many_as_fit_are_counted(kind):
    counts = SimulatedNoise(kind, alpha=1e9).added_to(flat(MOST_COUNTS / 2 - 1e6), np.random.default_rng(0))
    assert counts.max() == pytest.approx(MOST_COUNTS, rel=1e-3)


def test_mixed_noise_is_both():
    counts = SimulatedNoise("mixed", alpha=1000, sigma=50).added_to(flat(), np.random.default_rng(0))
    assert spread(counts) == (pytest.approx(400, rel=0.01), pytest.approx(400 * 0.8 + 50**2, rel=0.03))
    assert SimulatedNoise("mixed").added_to(flat(), np.random.default_rng(0)).min() == 0


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "shot"}, "noise 'shot' is unknown; there are: none, photons, poisson, gaussian, mixed"),
        ({"alpha": 0.0}, "alpha is 0.0: it must be positive"),
        ({"sigma": np.nan}, "sigma is nan"),
    ],
)
def test_a_wrong_noise_is_named(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        SimulatedNoise(**values)


# Scans


def test_steps_are_those_of_the_published_overlaps():
    assert [overlap_step(64, overlap) for overlap in (0.95, 0.5, 0.3)] == [3, 32, 45]
    assert [len(raster((241 - 64, 241 - 64), (s, s))) for s in (3, 32, 45)] == [3600, 36, 16]


@pytest.mark.parametrize(
    ("overlap", "complaint"), [(1.0, r"overlap is 1.0: it must lie in \[0, 1\)"), (-0.1, "overlap is"), (0.995, "less")]
)
def test_an_overlap_that_is_none_is_refused(overlap, complaint):
    with pytest.raises(ValueError, match=complaint):
        overlap_step(64, overlap)


@settings(max_examples=60, deadline=None)
@example(7, 55, math.nextafter(0.7, 1), 1.1, 0)
@given(st.integers(0, 90), st.integers(0, 70), st.floats(0.7, 40), st.floats(0.7, 40), st.integers(0, 9))
def test_every_window_of_every_scan_lies_on_the_object(rows, columns, down, across, seed):
    room, step = (rows, columns), (down, across)
    for corners in (
        raster(room, step),
        snake(room, step),
        jittered(room, step, np.random.default_rng(seed)),
        spiral(room, step),
    ):
        assert corners.ndim == 2
        assert len(corners) >= 1
        assert (corners >= 0).all()
        assert (corners <= room).all()


def test_a_raster_begins_at_the_corner_and_stays_on_whole_pixels():
    corners = raster((100, 50), (30, 20))
    assert corners[:4].tolist() == [[0, 0], [0, 20], [0, 40], [30, 0]]
    assert corners[-1].tolist() == [90, 40]


def test_a_snake_goes_to_and_fro_over_the_points_of_the_raster():
    corners = snake((100, 50), (30, 20))
    assert set(map(tuple, corners)) == set(map(tuple, raster((100, 50), (30, 20))))
    assert {float(np.abs(b - a).sum()) for a, b in pairwise(corners)} == {20.0, 30.0}


def test_a_jittered_raster_is_moved_by_fractions_of_its_step():
    moved = jittered((100, 50), (10, 5), np.random.default_rng(0)) - raster((100, 50), (10, 5))
    assert (np.abs(moved) <= (2.5, 1.25)).all()
    assert np.std(moved, axis=0) == pytest.approx([2.5 / 3**0.5, 1.25 / 3**0.5], rel=0.2)


@pytest.mark.parametrize("step", [(5.0, 5.0), (6.0, 3.0)])
def test_a_spiral_has_a_point_to_every_area_of_a_step_squared(step):
    corners = spiral((200, 100), step)
    assert corners[0].tolist() == [100, 50]
    assert len(corners) == pytest.approx(200 * 100 / np.prod(step), rel=0.03)
    scaled = corners / step
    nearest = [np.sort(np.hypot(*(scaled - one).T))[1] for one in scaled]
    assert 0.56 < min(nearest) < max(nearest) < 1.3


def test_a_step_of_nothing_is_refused():
    for scan in (raster, spiral):
        with pytest.raises(ValueError, match="it must be positive along both axes"):
            scan((10, 10), (0.0, 1.0))


def test_simulating_needs_no_torch():
    code = "import sys, ptyinr.simulate, ptyinr.phantoms, ptyinr.scans, ptyinr.optics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
