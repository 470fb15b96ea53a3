"""What a step differentiates, in single precision: against double precision, and against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.losses import LossSettings, amplitude_distance
from ptyinr.noise import Noise
from ptyinr.optics import ZonePlate, focused_probe
from ptyinr.phantoms import phantom
from ptyinr.propagation import TINY_INTENSITY, predicted_amplitude
from ptyinr.roughness import roughness
from ptyinr.scans import jittered
from ptyinr.simulate import expected_counts
from ptyinr.types import HC_KEV_M, ScanGeometry

WINDOW = (32, 48)
GEOMETRY = ScanGeometry(HC_KEV_M / 10, 0.5, 55e-6, WINDOW)
LIGHT = focused_probe(ZonePlate(120e-6, 50e-9, 30e-6), GEOMETRY, defocus_m=3e-5, photons=1e5)
PROBE = np.stack([LIGHT, 0.2j * LIGHT * np.linspace(-1, 1, WINDOW[1])])
OBJECT = phantom("cells", (70, 90)).astype(np.complex128)
CORNERS = jittered((38, 42), (9.0, 9.0), np.random.default_rng(0))
COUNTS = np.random.default_rng(1).poisson(expected_counts(OBJECT, PROBE, CORNERS))
LOSSES = [
    (LossSettings(kind="smooth_l1"), Noise()),
    (LossSettings(kind="smooth_l1", beta=1e-2, unit=600.0), Noise()),
    (LossSettings(kind="smooth_l1"), Noise(3.0, 20.0)),
    (LossSettings(kind="l2"), Noise()),
    (LossSettings(kind="poisson"), Noise()),
    (LossSettings(kind="poisson"), Noise(3.0, 20.0)),
]


def measured(dtype):
    """Root counts, DC at the corner, with a gap that carries no measurement."""
    amplitudes = np.fft.ifftshift(np.sqrt(COUNTS), axes=(1, 2))
    amplitudes[:, 5:7] = -1
    return torch.from_numpy(amplitudes).to(dtype)


def loss_of(field, probe, settings, noise):
    predicted = predicted_amplitude(field, probe, torch.from_numpy(CORNERS))
    loss = amplitude_distance(predicted, measured(predicted.dtype), settings, noise)
    return loss + roughness(field, settings, COUNTS.size)


def gradients(dtype, settings, noise):
    """Of a step whose object and probe are not the true ones."""
    random = np.random.default_rng(2)
    start = OBJECT + 0.2 * random.standard_normal(OBJECT.shape) * np.exp(1j * random.uniform(0, 7, OBJECT.shape))
    field, probe = (torch.from_numpy(a).to(dtype).requires_grad_() for a in (start, 1.2 * PROBE))
    loss = loss_of(field, probe, settings, noise)
    loss.backward()
    return loss.item(), field.grad.numpy(), probe.grad.numpy()


def test_single_precision_predicts_what_plain_numpy_does():
    exact = np.sqrt(expected_counts(OBJECT, PROBE, CORNERS) + TINY_INTENSITY)
    field, probe = (torch.from_numpy(a).to(torch.complex64) for a in (OBJECT, PROBE))
    predicted = predicted_amplitude(field, probe, torch.from_numpy(CORNERS)).numpy()
    assert np.abs(np.fft.fftshift(predicted, axes=(1, 2)) - exact).max() < 1e-5 * exact.max()


@pytest.mark.parametrize(("settings", "noise"), LOSSES)
def test_gradients_in_single_precision_are_those_in_double(settings, noise):
    single, double = (gradients(dtype, settings, noise) for dtype in (torch.complex64, torch.complex128))
    assert single[0] == pytest.approx(double[0], rel=1e-5)
    for mine, exact in zip(single[1:], double[1:], strict=True):
        assert np.abs(mine - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize(("settings", "noise"), LOSSES)
def test_gradients_in_double_precision_are_those_of_finite_differences(settings, noise):
    """Along random directions: the gradient's product with each is the slope of the loss."""
    _, field_gradient, probe_gradient = gradients(torch.complex128, settings, noise)
    random = np.random.default_rng(2)
    start = OBJECT + 0.2 * random.standard_normal(OBJECT.shape) * np.exp(1j * random.uniform(0, 7, OBJECT.shape))
    for _ in range(3):
        along = [a + 1j * b for a, b in (random.standard_normal((2, *s)) for s in (OBJECT.shape, PROBE.shape))]
        losses = []
        for step in (-1e-6, 1e-6):
            moved = (start + step * along[0], 1.2 * PROBE + step * along[1])
            losses.append(loss_of(*(torch.from_numpy(a) for a in moved), settings, noise).item())
        slope = sum((g.conj() * d).real.sum() for g, d in zip((field_gradient, probe_gradient), along, strict=True))
        assert (losses[1] - losses[0]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_the_true_object_and_probe_are_where_the_gradient_of_clean_data_vanishes():
    field, probe = (torch.from_numpy(a).requires_grad_() for a in (OBJECT, PROBE))
    predicted = predicted_amplitude(field, probe, torch.from_numpy(CORNERS))
    clean = torch.from_numpy(np.fft.ifftshift(np.sqrt(expected_counts(OBJECT, PROBE, CORNERS)), axes=(1, 2)))
    for kind in ("smooth_l1", "poisson"):
        grads = torch.autograd.grad(
            amplitude_distance(predicted, clean, LossSettings(kind=kind), Noise()), (field, probe), retain_graph=True
        )
        assert max(float(g.abs().max()) for g in grads) < 1e-6
