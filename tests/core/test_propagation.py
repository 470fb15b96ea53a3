"""The forward model against sums written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.propagation import (
    TINY_INTENSITY,
    _flat_indices,
    cut_windows,
    far_field_amplitude,
    free_space_phases,
    predicted_amplitude,
    shift_probe,
)

WINDOW = (12, 10)


def complex_noise(random, *shape):
    return random.standard_normal(shape) + 1j * random.standard_normal(shape)


def shifted(probe, offset):
    """Trigonometric interpolation, one sum an axis."""
    for axis, d in enumerate(offset):
        n = probe.shape[axis]
        k = np.arange(n) - n // 2  # -n/2 .. n/2 - 1
        analysis = np.exp(-2j * np.pi * np.outer(k, np.arange(n)) / n) / n
        synthesis = np.exp(2j * np.pi * np.outer(np.arange(n) - d, k) / n)
        probe = np.moveaxis(np.tensordot(synthesis @ analysis, probe, (1, axis)), 0, axis)
    return probe


def fourier(n):
    return np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / np.sqrt(n)


def plain_model(field, probe, positions):
    amplitudes = []
    for position in positions:
        row, column = np.floor(position).astype(int)
        window = field[row : row + WINDOW[0], column : column + WINDOW[1]]
        intensity = TINY_INTENSITY
        for mode in probe:
            wave = fourier(WINDOW[0]) @ (shifted(mode, position - (row, column)) * window) @ fourier(WINDOW[1])
            intensity = intensity + np.abs(wave) ** 2
        amplitudes.append(np.sqrt(intensity))
    return np.array(amplitudes)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize("modes", [1, 3])
def test_the_forward_model_is_the_sum_it_claims_to_be(modes, dtype, tolerance):
    random = np.random.default_rng(0)
    field, probe = complex_noise(random, 40, 50), complex_noise(random, modes, *WINDOW)
    positions = random.uniform(0, [40 - 12, 50 - 10], (20, 2))
    positions[0] = 0, 40  # whole pixels, on the rim
    expected = plain_model(field, probe, positions)
    got = predicted_amplitude(
        torch.from_numpy(field).to(dtype), torch.from_numpy(probe).to(dtype), torch.from_numpy(positions)
    )
    assert got.dtype == dtype.to_real()
    assert np.abs(got.numpy() - expected).max() < tolerance * expected.max()


def test_a_frame_holds_as_many_photons_as_its_exit_wave():
    waves = torch.from_numpy(complex_noise(np.random.default_rng(1), 4, 2, *WINDOW))
    photons = far_field_amplitude(waves).square().sum((1, 2)) - TINY_INTENSITY * np.prod(WINDOW)
    torch.testing.assert_close(photons, waves.abs().square().sum((1, 2, 3)))


def test_shifting_a_band_limited_probe_is_exact_and_goes_towards_larger_indices():
    random = np.random.default_rng(2)
    frequencies = random.integers(-4, 5, (6, 2))  # inside the band of 10 and 12 pixels
    weights = complex_noise(random, 6)

    def wave(d):
        rows, columns = np.arange(WINDOW[0]) - d[0], np.arange(WINDOW[1]) - d[1]
        turns = [u * rows[:, None] / WINDOW[0] + v * columns[None, :] / WINDOW[1] for u, v in frequencies]
        return sum(c * np.exp(2j * np.pi * t) for c, t in zip(weights, turns, strict=True))

    offsets = random.uniform(0, 1, (5, 2))
    got = shift_probe(torch.from_numpy(wave((0, 0)))[None], torch.from_numpy(offsets))
    expected = np.array([wave(d) for d in offsets])
    assert np.abs(got[:, 0].numpy() - expected).max() < 1e-12 * np.abs(expected).max()


def test_a_shift_by_whole_pixels_is_a_roll():
    probe = torch.from_numpy(complex_noise(np.random.default_rng(3), 2, *WINDOW))
    got = shift_probe(probe, torch.tensor([[2.0, -3.0]], dtype=torch.float64))
    torch.testing.assert_close(got[0], torch.roll(probe, (2, -3), (1, 2)))


def test_gradients_of_windows_and_shifts_are_those_of_finite_differences():
    random = np.random.default_rng(4)
    field = torch.from_numpy(complex_noise(random, 9, 8)).requires_grad_()
    corners = torch.tensor([[0, 0], [1, 2], [5, 4], [1, 2]])
    assert torch.autograd.gradcheck(lambda f: cut_windows(f, corners, (4, 4)), (field,))
    probe = torch.from_numpy(complex_noise(random, 2, 5, 4)).requires_grad_()
    offsets = torch.from_numpy(random.uniform(0, 1, (3, 2)))
    assert torch.autograd.gradcheck(lambda p: shift_probe(p, offsets), (probe,))


def test_gradients_of_the_amplitudes_reach_object_and_probe():
    random = np.random.default_rng(5)
    field = torch.from_numpy(complex_noise(random, 9, 8)).requires_grad_()
    probe = torch.from_numpy(complex_noise(random, 1, 5, 4)).requires_grad_()
    positions = torch.tensor([[0.3, 1.6], [3.0, 2.25]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f, p: predicted_amplitude(f, p, positions), (field, probe))


def test_gradients_add_up_where_windows_overlap():
    field = torch.zeros(6, 7, requires_grad=True)
    cut_windows(field, torch.tensor([[0, 0], [2, 1], [2, 1]]), (4, 5)).sum().backward()
    expected = np.zeros((6, 7))
    for row, column in ((0, 0), (2, 1), (2, 1)):
        expected[row : row + 4, column : column + 5] += 1
    assert field.grad is not None
    np.testing.assert_array_equal(field.grad.numpy(), expected)


def test_the_gather_that_a_gpu_uses_takes_the_same_pixels():
    field = torch.arange(42.0).reshape(6, 7)
    corners = torch.tensor([[0, 0], [2, 1], [2, 2]])
    gathered = field.reshape(-1)[_flat_indices(corners, (4, 5), 7)]
    assert torch.equal(gathered, cut_windows(field, corners, (4, 5)))


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_window_that_leaves_the_field_is_an_error(corner):
    field = torch.zeros(6, 7)
    assert cut_windows(field, torch.tensor([[2, 2]]), (4, 5)).shape == (1, 4, 5)
    with pytest.raises(ValueError, match=r"leaves the field of \(6, 7\) pixels"):
        cut_windows(field, torch.tensor([[0, 0], corner]), (4, 5))


def test_a_defocus_along_an_axis_turns_its_frequencies_by_pi_wavelength_nu_squared():
    rows, columns = (phase.numpy() for phase in free_space_phases((6, 4), (2e-9, 5e-9), 1e-10))
    assert (rows.shape, columns.shape) == ((6, 1), (1, 4))
    assert rows[0, 0] == columns[0, 0] == 0
    for k in (1, 2, 3, -1, -2):
        assert rows[k, 0] == pytest.approx(np.pi * 1e-10 * (k / (6 * 2e-9)) ** 2)
    assert columns[0, -1] == pytest.approx(np.pi * 1e-10 * (1 / (4 * 5e-9)) ** 2)
    assert (rows + columns).max() == (rows + columns)[3, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_amplitudes_and_gradients_of_the_cpu():
    random = np.random.default_rng(6)
    positions = torch.from_numpy(random.uniform(0, [28, 40], (20, 2)))
    found = []
    for device in ("cpu", "cuda"):
        random = np.random.default_rng(7)
        field = torch.from_numpy(complex_noise(random, 40, 50)).to(device).requires_grad_()
        probe = torch.from_numpy(complex_noise(random, 2, *WINDOW)).to(device).requires_grad_()
        predicted_amplitude(field, probe, positions).sum().backward()
        assert field.grad is not None
        assert probe.grad is not None
        found.append((field.grad.cpu(), probe.grad.cpu()))
    torch.testing.assert_close(found[0], found[1])
