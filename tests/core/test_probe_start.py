"""The blind start on a simulated scan whose probe is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr import Batch
from ptyinr.dataset import Dataset
from ptyinr.geometry import window_corners_px
from ptyinr.probe_start import CANDIDATES, _bright, _middle, blind_start, centred, sweep_range
from ptyinr.propagation import free_space_phase


def started(scan, rows=slice(0, 60), mask=None, counts=None):
    counts = scan.counts[rows] if counts is None else counts
    batch = Batch(np.arange(len(counts)), counts, scan.positions_m[rows], mask)
    corners = window_corners_px(batch.positions_m, scan.geometry, scan.scan_range)
    dataset = Dataset(scan.geometry.window, 0, torch.device("cpu"))
    dataset.append(batch, corners)
    amplitudes = dataset.amplitudes(dataset.training)
    return blind_start(amplitudes, torch.from_numpy(corners), scan.geometry, np.random.default_rng(0))


def overlap(mine, theirs):
    """The normalised scalar product at the best shift."""
    products = np.fft.ifft2(np.fft.fft2(mine) * np.conj(np.fft.fft2(theirs)))
    return np.abs(products).max() / np.sqrt((np.abs(mine) ** 2).sum() * (np.abs(theirs) ** 2).sum())


def steps_of_the_sweep(start):
    """How many steps of the sweep the found defocus lies above the true one's magnitude."""
    positive = sorted(z for z in start.errors if z > 0)
    return np.log(start.defocus_m / positive[0]) / np.log(positive[1] / positive[0])


@pytest.mark.parametrize("defocus_m", [2.5e-4, -2.5e-4])
def test_the_defocus_is_found_with_its_sign_and_with_it_the_probe(simulate, defocus_m):
    scan = simulate(defocus_m=defocus_m)
    start = started(scan)
    assert len(start.errors) == 1 + 2 * CANDIDATES
    positive = sorted(z for z in start.errors if z > 0)
    step = positive[1] / positive[0]
    assert 1 / step**2 < start.defocus_m / defocus_m < step**2
    assert start.contrast > 2
    probe = start.probe[0].numpy()
    assert start.probe.dtype == torch.complex64
    assert overlap(probe, scan.probe) > 0.95
    assert overlap(probe, scan.probe.conj()) < 0.8
    # As bright as the frames, whose object absorbs a third of the light.
    assert 0.8 < (np.abs(probe) ** 2).sum() / scan.counts.sum((1, 2)).mean() < 1.8
    # In the middle of its window.
    assert np.array_equal(centred(start.probe[0]).numpy(), probe)


def test_a_rectangular_window_is_no_hindrance(simulate):
    scan = simulate(window=(24, 32))
    assert overlap(started(scan, slice(0, 30)).probe[0].numpy(), scan.probe) > 0.9


def test_masked_pixels_are_left_out(scan):
    """A module gap of three columns and a hot pixel, where the detector wrote its largest number."""
    mask = np.ones((60, 32, 32), bool)
    mask[:, :, 20:23] = False
    mask[:, 7, 9] = False
    counts = np.where(mask, scan.counts[:60], 65535).astype(np.uint16)
    assert overlap(started(scan, mask=mask, counts=counts).probe[0].numpy(), scan.probe) > 0.95


@pytest.mark.parametrize("frames", [1, 2])
def test_a_frame_or_two_give_a_probe_of_finite_numbers(scan, frames):
    start = started(scan, slice(0, frames))
    assert torch.isfinite(torch.view_as_real(start.probe)).all()
    assert np.isfinite(list(start.errors.values())).all()


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


def test_the_number_of_threads_is_given_back_even_after_an_error(scan):
    threads = torch.get_num_threads()
    with pytest.raises(ValueError, match="photons"):
        started(scan, slice(0, 2), None, np.zeros((2, 32, 32)))
    assert torch.get_num_threads() == threads


def test_the_sweep_has_both_signs_between_the_bounds_of_the_pattern(scan):
    phase = free_space_phase(scan.geometry.window, scan.geometry.pixel_m, scan.geometry.wavelength_m)
    mean = torch.from_numpy(np.fft.ifftshift(scan.counts.mean(0)))
    defoci = np.array(sweep_range(mean, phase))
    positive = np.sort(defoci[defoci > 0])
    np.testing.assert_array_equal(positive, np.sort(-defoci[defoci < 0]))
    np.testing.assert_allclose(np.diff(np.log(positive)), np.log(positive[1] / positive[0]))
    assert positive[0] < abs(scan.defocus_m) < positive[-1]


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
