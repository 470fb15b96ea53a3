"""The blind start on simulated scans whose probe is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr import Batch, ScanGeometry
from ptyinr.dataset import Dataset
from ptyinr.geometry import window_corners_px
from ptyinr.optics import LaueLenses, ZonePlate, focused_probe
from ptyinr.phantoms import phantom
from ptyinr.probe_start import (
    SURE,
    ProbeStart,
    _bright,
    _defocused,
    _middle,
    _set_up,
    blind_start,
    centred,
    overlaps,
    sweep_range,
)
from ptyinr.propagation import free_space_phases
from ptyinr.rpie import Rpie
from ptyinr.scans import jittered, raster
from ptyinr.simulate import SimulatedNoise
from ptyinr.simulate import simulate as measured
from ptyinr.types import HC_KEV_M

GEOMETRY = ScanGeometry(HC_KEV_M / 10, 0.5, 55e-6, (32, 32))
PLATE = ZonePlate(240e-6, 60e-9, 80e-6)
"""A ring on the detector, 19 pixels wide; 37 um of defocus turn its rim by a radian."""
LAUE = LaueLenses(aperture_m=(40e-6, 30e-6), focus_m=(18e-3, 11e-3))
"""A rectangle of 20 x 25 pixels."""


def overlap(mine, theirs):
    """The normalised scalar product at the best shift."""
    products = np.fft.ifft2(np.fft.fft2(mine) * np.conj(np.fft.fft2(theirs)))
    return np.abs(products).max() / np.sqrt((np.abs(mine) ** 2).sum() * (np.abs(theirs) ** 2).sum())


def found(counts, corners, geometry, mask=None):
    batch = Batch(np.arange(len(counts)), counts, np.zeros((len(counts), 2)), mask)
    dataset = Dataset(geometry.window, 0, torch.device("cpu"))
    dataset.append(batch, corners)
    amplitudes = dataset.amplitudes(dataset.training)
    return blind_start(amplitudes, torch.from_numpy(corners), geometry, np.random.default_rng(0))


def started(scan, rows=slice(0, 60), mask=None, counts=None):
    corners = window_corners_px(scan.positions_m[rows], scan.geometry, scan.scan_range)
    return found(scan.counts[rows] if counts is None else counts, corners, scan.geometry, mask)


def of_lens(lens, defocus_m, astigmatism_m=0.0, photons=3e4):
    """A start in sixty frames of a maze, and the true probe."""
    probe = focused_probe(lens, GEOMETRY, defocus_m=defocus_m, astigmatism_m=astigmatism_m)
    corners = jittered((40, 40), (5.0, 5.0), np.random.default_rng(0))[:60]
    noise = SimulatedNoise("photons")
    scan = measured(GEOMETRY, phantom("maze", (72, 72)), probe, corners, photons=photons, noise=noise)
    return found(scan.counts, corners, GEOMETRY), scan.probe[0]


@pytest.mark.parametrize("defocus_m", [2.5e-4, -2.5e-4])
def test_the_defocus_is_found_with_its_sign_and_with_it_the_probe(simulate, defocus_m):
    scan = simulate(defocus_m=defocus_m)
    start = started(scan)
    assert all(0.5 < z / defocus_m < 2 for z in start.defocus_m)
    assert start.probe.dtype == torch.complex64
    assert start.frames == 60
    probe = start.probe[0].numpy()
    assert overlap(probe, scan.probe) > 0.95
    assert overlap(probe, scan.probe.conj()) < 0.8
    assert np.array_equal(centred(start.probe[0]).numpy(), probe)  # in the middle of its window
    assert (np.abs(probe) ** 2).sum() == pytest.approx(scan.counts[:60].sum((1, 2)).mean(), rel=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_zone_plates_stop_is_no_hindrance(sign):
    start, truth = of_lens(PLATE, sign * 1.5e-4)
    assert overlap(start.probe[0].numpy(), truth) > 0.97
    assert sign * sum(start.defocus_m) > 0


@pytest.mark.parametrize("sign", [1, -1])
def test_astigmatism_is_found_as_two_defoci(sign):
    start, truth = of_lens(PLATE, sign * 1.5e-4, 1e-4)
    assert overlap(start.probe[0].numpy(), truth) > 0.97
    assert start.defocus_m[0] > start.defocus_m[1]
    assert max(sign * np.array(start.defocus_m)) > 0


@pytest.mark.parametrize(("defocus_m", "astigmatism_m"), [(1.5e-4, 0.0), (-1e-4, 8e-5)])
def test_a_rectangle_of_crossed_laue_lenses_is_no_hindrance(defocus_m, astigmatism_m):
    start, truth = of_lens(LAUE, defocus_m, astigmatism_m)
    assert overlap(start.probe[0].numpy(), truth) > 0.95


@pytest.mark.parametrize("defocus_m", [0.0, 2e-5])
def test_near_focus_the_probe_is_found_whatever_the_defocus_is_called(defocus_m):
    start, truth = of_lens(PLATE, defocus_m)
    assert overlap(start.probe[0].numpy(), truth) > 0.94


def where_windows_hardly_overlap(defocus_m):
    """A start in the 25 frames of half a window's step, and the true probe: without noise, which is not the matter."""
    lens = ZonePlate(100e-6, 87e-9, 30e-6)
    probe = focused_probe(lens, GEOMETRY, defocus_m=defocus_m, photons=6e6)
    scan = measured(
        GEOMETRY, phantom("maze", (96, 96)), probe, raster((64, 64), (16, 16)), noise=SimulatedNoise("none")
    )
    return found(scan.counts, scan.positions_px, GEOMETRY), scan.probe[0]


@pytest.mark.parametrize("defocus_m", [4e-4, -4e-4])
def test_a_defocus_is_found_with_its_sign_where_windows_hardly_overlap(defocus_m):
    start, truth = where_windows_hardly_overlap(defocus_m)
    assert overlap(start.probe[0].numpy(), truth) > 0.9
    assert all(0.7 < z / defocus_m < 1.4 for z in start.defocus_m)


@pytest.mark.parametrize("defocus_m", [4e-4, -4e-4])
@pytest.mark.parametrize("seed", range(3))
def test_its_sign_is_found_with_a_few_hundred_photons_a_frame_too(defocus_m, seed):
    probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), GEOMETRY, defocus_m=defocus_m)
    maze, corners = phantom("maze", (96, 96), seed=seed), raster((64, 64), (16, 16))
    scan = measured(GEOMETRY, maze, probe, corners, photons=400.0, noise=SimulatedNoise("photons"), seed=seed)
    start = found(scan.counts, scan.positions_px, GEOMETRY)
    assert overlap(start.probe[0].numpy(), scan.probe[0]) > 0.75
    assert all(0.7 < z / defocus_m < 1.6 for z in start.defocus_m)


def test_larger_windows_are_compared_at_a_coarser_pixel_and_refined_at_their_own():
    geometry = ScanGeometry(HC_KEV_M / 10, 1.0, 55e-6, (64, 64))
    probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), geometry, defocus_m=-8e-4, photons=6e6)
    corners = raster((128, 128), (32, 32))
    noise = SimulatedNoise("none")
    scan = measured(geometry, phantom("maze", (192, 192)), probe, corners, noise=noise)
    start = found(scan.counts, scan.positions_px, geometry)
    assert start.probe.shape == (1, 64, 64)
    assert overlap(start.probe[0].numpy(), scan.probe[0]) > 0.9


def test_where_windows_hardly_overlap_a_probe_near_focus_is_not_taken_for_a_wider_one():
    start, truth = where_windows_hardly_overlap(5e-5)
    assert start.defocus_m == (0.0, 0.0)
    assert overlap(start.probe[0].numpy(), truth) > 0.9


@pytest.mark.parametrize("sparse", [False, True])
def test_a_frame_that_came_without_light_does_not_decide(scan, sparse):
    """Its error would else be all the light that is predicted, over none."""
    corners = torch.from_numpy(window_corners_px(scan.positions_m[:30], scan.geometry, scan.scan_range))
    amplitudes = torch.from_numpy(np.sqrt(np.fft.ifftshift(scan.counts[:30], axes=(1, 2)))).float()
    amplitudes[7] = 0
    probes = torch.from_numpy(np.stack([scan.probe, 3 * scan.probe.conj()])).to(torch.complex64)
    errors = Rpie(probes, amplitudes, corners, False, sparse=sparse).sweep(np.random.default_rng(0))
    assert errors.max() < 100
    assert errors[0] < errors[1]


def test_it_is_sure_where_the_data_tell_and_unsure_where_they_cannot(scan):
    assert started(scan).confidence >= SURE
    place = np.zeros((60, 2))  # no two frames differ in what they see
    still = np.random.default_rng(0).poisson(np.repeat(scan.counts[:1], 60, 0))
    unsure = found(still, place, scan.geometry)
    assert unsure.confidence < SURE
    assert "not sure" in unsure.describe()


def test_a_start_describes_itself():
    probe = torch.ones(1, 8, 8, dtype=torch.complex64)
    assert ProbeStart(probe, (2e-4, 2e-4), 0.5, 60).describe() == "defocus 200 um, sure (0.50)"
    assert ProbeStart(probe, (2e-4, -1e-5), 0.0, 60).describe() == "defocus 200 / -10 um, not sure (0.00)"


def test_a_rectangular_window_is_no_hindrance(simulate):
    scan = simulate(window=(24, 32))
    assert overlap(started(scan, slice(0, 30)).probe[0].numpy(), scan.probe) > 0.9


def test_masked_pixels_are_left_out(scan):
    """A module gap of three columns and a hot pixel, where the detector wrote its largest number."""
    mask = np.ones((60, 32, 32), bool)
    mask[:, :, 20:23] = False
    mask[:, 7, 9] = False
    counts = np.where(mask, scan.counts[:60], 65535).astype(np.uint16)
    assert overlap(started(scan, mask=mask, counts=counts).probe[0].numpy(), scan.probe) > 0.9


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_a_few_frames_give_a_probe_of_finite_numbers(scan, frames):
    start = started(scan, slice(0, frames))
    assert torch.isfinite(torch.view_as_real(start.probe)).all()
    assert np.isfinite([start.confidence, *start.defocus_m]).all()
    assert 0 <= start.confidence <= 1


@pytest.mark.parametrize("masked", [False, True])
def test_frames_without_light_are_an_error(scan, masked):
    counts = np.full((5, 32, 32), 7 if masked else 0, np.uint16)
    mask = np.zeros((5, 32, 32), bool) if masked else None
    with pytest.raises(ValueError, match="hold no photons"):
        started(scan, slice(0, 5), mask, counts)


def test_light_in_the_direct_beam_alone_is_an_error(scan):
    """Nothing but one pixel: its angle is 0, and a sweep of defoci has no scale."""
    counts = np.zeros((5, 32, 32), np.uint16)
    counts[:, 16, 16] = 1000
    with pytest.raises(ValueError, match="zero frequency"):
        started(scan, slice(0, 5), None, counts)


def test_candidates_that_are_not_knocked_out_have_the_errors_of_a_whole_sweep(scan):
    corners = torch.from_numpy(window_corners_px(scan.positions_m[:60], scan.geometry, scan.scan_range))
    amplitudes = torch.from_numpy(np.fft.ifftshift(scan.counts[:60] ** 0.5, axes=(1, 2))).float()
    mean, phases, *_ = _set_up(amplitudes, corners, scan.geometry)
    # The first, which always stays, is focus: wrong here.
    probes = _defocused(mean, phases, [(z, z) for z in (0.0, *sweep_range(mean, phases[0] + phases[1]))])
    errors = Rpie(probes, amplitudes, corners, False).sweep(np.random.default_rng(0))
    left, theirs = Rpie(probes, amplitudes, corners, False).knock_out(np.random.default_rng(0), 3)
    assert len(left) == 3
    assert left[0] == 0
    assert int(errors.argmin()) in left
    assert theirs.tolist() == pytest.approx(errors[left].tolist())


def test_the_number_of_threads_is_given_back_even_after_an_error(scan):
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="photons"):
        started(scan, slice(0, 2), None, np.zeros((2, 32, 32)))
    assert torch.get_num_threads() == threads


def test_the_sweep_has_both_signs_between_the_bounds_of_the_pattern(scan):
    rows, columns = free_space_phases(scan.geometry.window, scan.geometry.pixel_m, scan.geometry.wavelength_m)
    mean = torch.from_numpy(np.fft.ifftshift(scan.counts.mean(0)))
    defoci = np.array(sweep_range(mean, rows + columns))
    positive = np.sort(defoci[defoci > 0])
    np.testing.assert_array_equal(positive, np.sort(-defoci[defoci < 0]))
    np.testing.assert_allclose(np.diff(np.log(positive)), np.log(positive[1] / positive[0]))
    assert positive[0] < abs(scan.defocus_m) < positive[-1]


def test_overlaps_are_one_for_a_probe_moved_turned_and_scaled_and_those_of_numpy_for_others(scan):
    probe = torch.from_numpy(scan.probe)
    moved = 3j * torch.roll(probe, (5, -7), (0, 1))
    table = overlaps(torch.stack([probe, moved]), torch.stack([probe, moved, probe.conj()]))
    torch.testing.assert_close(table[:, :2], torch.ones(2, 2, dtype=torch.float64))
    assert table[0, 2].item() == pytest.approx(overlap(scan.probe.conj(), scan.probe))


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-15, 11), (16, 16)])
def test_centring_rolls_the_light_into_the_middle(shift):
    rows, columns = np.mgrid[:32, :24]
    blob = np.exp(-((rows - 16) ** 2 + (columns - 12) ** 2) / 8.0 + 0j)
    rolled = torch.from_numpy(np.roll(blob, shift, (0, 1)))
    np.testing.assert_array_equal(centred(rolled).numpy(), blob)


@pytest.mark.parametrize("n", [8, 9, 15, 32])
def test_the_middle_of_a_pattern_is_its_lowest_frequencies(n):
    frequencies = torch.fft.fftfreq(n) * n
    for m in range(2, n + 1):
        kept = _middle(frequencies, [m])
        torch.testing.assert_close(kept, torch.fft.fftfreq(m) * m)
    assert _bright(torch.ones(n)) == n
    assert _bright(torch.eye(n)[0]) == n // 4 * 2
