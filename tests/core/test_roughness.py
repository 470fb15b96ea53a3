"""The prior on the object: what a change from pixel to pixel costs, and how amplitude and phase change together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ptyinr.choices import decided
from ptyinr.losses import LossSettings
from ptyinr.model import ProbeSettings
from ptyinr.noise import Noise
from ptyinr.roughness import coupling, roughness
from ptyinr.settings import TrainerSettings

SPARSE = {"grid": (5, 5), "step_m": 5e-7}
"""Steps of 16 of the window's 32 pixels."""
KNOWN = ProbeSettings(fixed=True)


def settings_of(**changes):
    return LossSettings(**{"kind": "smooth_l1"} | changes)


def thickness(seed=0, size=48):
    """Islands of one height with soft edges, from 0 to 1."""
    noise = torch.randn(1, 1, size, size, dtype=torch.float64, generator=torch.manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, 1, 3)[0, 0]
    return torch.sigmoid(20 * smooth)


def learned(field, settings, steps=300):
    found = 0.0
    for _ in range(steps):
        found = coupling(field, settings, found)
    return found


@pytest.mark.parametrize("value", [0, 1, 3 - 4j])
def test_a_constant_object_is_not_rough(value):
    field = torch.full((5, 7), value, dtype=torch.complex128)
    assert roughness(field, settings_of(prior=0.1), 100) == 0


@pytest.mark.parametrize(("kind", "weight"), [("smooth_l1", 4.0), ("poisson", 1.0)])
def test_roughness_is_its_formula(kind, weight):
    """One pixel of a 2 x 2 object differs by 0.3 + 0.4j: two of the four differences are 0.5 long."""
    field = torch.tensor([[1.3 + 0.4j, 1.0], [1.0, 1.0]], dtype=torch.complex128)
    expected = 2 * (math.sqrt(1 + (0.5 / 0.1) ** 2) - 1) / (50 * weight)
    assert roughness(field, settings_of(kind=kind, prior=0.1), 50).item() == pytest.approx(expected)


@pytest.mark.parametrize(("change", "counts"), [(0.5, 3.0), (0.5j, 1.0)])
def test_absorption_makes_a_change_of_the_amplitude_count_more(change, counts):
    """Neighbours at the middle +- change / 2, whatever the phase of the middle."""
    for turn in (1, 1j, -0.6 + 0.8j):
        field = turn * torch.tensor([[1 - change / 2, 1 + change / 2]], dtype=torch.complex128)
        expected = math.sqrt(1 + (0.5 * counts / 0.1) ** 2) - 1
        found = roughness(field, settings_of(kind="poisson", prior=0.1, absorption=3.0), 1)
        assert found.item() == pytest.approx(expected)


def test_an_edge_costs_what_its_height_and_length_do():
    """As in total variation: far beyond `prior` the cost is linear."""
    step = torch.zeros(20, 20, dtype=torch.complex128)
    step[:, 10:] = 1
    low, high = (roughness(height * step, settings_of(prior=1e-3), 1).item() for height in (1.0, 2.0))
    assert high == pytest.approx(2 * low, rel=1e-2)
    assert low == pytest.approx(20 / 1e-3 / 4, rel=1e-2)


def test_gradients_of_the_prior_are_those_of_finite_differences():
    field = torch.view_as_complex(torch.randn(4, 5, 2, dtype=torch.float64, generator=torch.manual_seed(0)))
    assert torch.autograd.gradcheck(lambda f: roughness(f, settings_of(prior=0.3), 7), (field.requires_grad_(),))


@pytest.mark.parametrize("ratio", [-0.2, 0.0, 0.1])
def test_the_coupling_of_one_material_is_what_it_absorbs_a_radian(ratio):
    t = thickness()
    field = torch.exp((ratio + 1j) * t)
    assert learned(field, settings_of(prior=0.1, absorption=3.0)) == pytest.approx(ratio, abs=0.01)


def test_amplitudes_that_do_not_go_with_phases_are_not_coupled_to_them():
    field = (1 - 0.3 * thickness(1)) * torch.exp(1j * thickness(2))
    assert abs(learned(field, settings_of(prior=0.1, absorption=3.0))) < 0.05


@pytest.mark.parametrize("ratio", [-2.0, 2.0])
def test_no_object_is_coupled_more_than_absorption_allows(ratio):
    field = torch.exp((ratio + 1j) * thickness() / 4)
    assert learned(field, settings_of(prior=0.1, absorption=3.0)) == pytest.approx(math.copysign(1 / 3, ratio))


def test_a_constant_object_and_single_changes_say_nothing_about_a_coupling():
    settings = settings_of(prior=0.3, absorption=3.0)
    assert learned(torch.ones(9, 9, dtype=torch.complex64), settings) == 0
    edge = torch.ones(9, 9, dtype=torch.complex64)
    edge[4, 4] = np.exp(0.1j - 0.02)
    assert abs(learned(edge, settings)) < 0.01


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_an_object_that_is_not_finite_teaches_no_coupling(wrong):
    field = torch.exp((-0.2 + 1j) * thickness())
    field[3, 4] = wrong
    assert coupling(field, settings_of(prior=0.1, absorption=3.0), -0.1) == -0.1


def test_the_coupling_is_learned_over_some_steps():
    field, settings = torch.exp((-0.2 + 1j) * thickness()), settings_of(prior=0.1, absorption=3.0)
    assert -0.02 < coupling(field, settings, 0.0) < 0
    assert coupling(field, settings, -0.2) == pytest.approx(-0.2, abs=1e-3)


def test_what_goes_with_the_phase_costs_nothing_beside_it():
    """The amplitude changes by 0.2 times what the phase does, or the other way."""
    settings = settings_of(kind="poisson", prior=0.1, absorption=3.0)
    phase = 0.5
    expected = {0.2: phase**2, -0.2: phase**2 + (3 * 0.4 * phase) ** 2, 0.0: phase**2 + (3 * 0.2 * phase) ** 2}
    change = 0.2 * phase + 1j * phase
    field = torch.tensor([[1 - change / 2, 1 + change / 2]], dtype=torch.complex128)
    for coupled, square in expected.items():
        cost = roughness(field, settings, 1, coupled).item()
        assert cost == pytest.approx(math.sqrt(1 + square / 0.1**2) - 1)


@pytest.mark.parametrize("change", [(0.1, 0.4), (-0.3, 0.2), (0.2, -0.5)])
def test_gradients_of_a_coupled_prior_are_those_of_finite_differences(change):
    """Two pixels whose sum stays what it is: the direction of the phase, which counts as given, does not turn."""
    settings = settings_of(prior=0.3, absorption=3.0)

    def cost(parts, coupled=-0.2):
        half = torch.view_as_complex(parts) / 2
        return roughness(torch.stack([1 - half, 1 + half])[:, None], settings, 7, coupled)

    parts = torch.tensor(change, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cost, (parts,))
    (gradient,) = torch.autograd.grad(cost(parts), parts)
    (uncoupled,) = torch.autograd.grad(cost(parts, 0.0), parts)
    assert not torch.allclose(gradient, uncoupled)


# In training


def amplitudes_of(photons):
    """Frames that have so many in their brightest pixel."""
    scan = np.random.default_rng(0).poisson(photons * np.exp(-(np.linspace(-2, 2, 16) ** 2))[None, None], (9, 16, 16))
    return torch.from_numpy(np.sqrt(scan)).float()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("photons", [5, 5000])
@pytest.mark.parametrize("fixed", [False, True])
def test_priors_are_as_strong_as_frames_are_few_and_dark(sparse, photons, fixed):
    settings = TrainerSettings(probe=ProbeSettings(fixed=fixed))
    found = decided(settings, amplitudes_of(photons), Noise(), sparse)
    dark = photons < 10
    expected = {
        (False, False): (0.1, 1.0),
        (False, True): (0.1, 1.5),
        (True, False): (0.03, 2.0),
        (True, True): (0.4 if fixed else 0.3, 3.0),
    }
    assert (found.loss.prior, found.loss.absorption) == expected[sparse, dark]
    assert found.loss.coupled == sparse
    assert found.object.detail == (not sparse and not dark)
    assert found.object.first_frequency == (0.5 if dark and not sparse else 0.3)


def test_what_a_user_has_chosen_is_left_as_it_is():
    loss = LossSettings(kind="l1", prior=0.7, absorption=1.25, coupled=False, aperture=0.5)
    settings = TrainerSettings(loss=loss)
    assert decided(settings, amplitudes_of(5), Noise(), True).loss == loss


def test_a_sparse_scan_with_a_known_probe_learns_the_coupling_and_remembers_it(simulate, trainer_of):
    scan = simulate(**SPARSE)
    trainer = trainer_of(scan, steps=20, probe=KNOWN)
    assert 0 < abs(trainer._coupling) < 0.5
    again = trainer_of(scan, None, probe=KNOWN)
    again.restore(trainer.state())
    assert again._coupling == trainer._coupling


def test_a_new_beginning_forgets_the_coupling(simulate, trainer_of):
    trainer = trainer_of(simulate(**SPARSE), steps=20, probe=KNOWN)
    assert trainer._coupling != 0
    trainer._make(trainer._trained.probe().detach())
    assert trainer._coupling == 0


def test_a_dense_scan_and_a_probe_that_is_not_sure_couple_nothing(scan, simulate, trainer_of):
    assert trainer_of(scan, steps=5, probe=KNOWN)._coupling == 0
    dark = trainer_of(simulate(**SPARSE, photons=200.0), steps=5, given=False)
    assert not dark.sure
    assert dark._coupling == 0
