"""Object and probe together: the probe is its reference, modulated, at the reference's energy."""

from __future__ import annotations

import pytest
import torch

from ptyinr.hashgrid import GridSettings
from ptyinr.model import ProbeField, PtychoModel, energy
from ptyinr.siren import ObjectSettings


def reference(modes=2):
    torch.manual_seed(0)
    return torch.randn(modes, 12, 16, dtype=torch.complex64) * 30


def test_an_untrained_probe_is_its_reference():
    torch.testing.assert_close(ProbeField(reference(), GridSettings())(), reference())


def test_training_never_changes_the_energy():
    field = ProbeField(reference(), GridSettings())
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(torch.randn_like(parameter))
    probe = field()
    assert (probe - reference()).abs().max() > 1
    assert energy(probe).item() == pytest.approx(energy(reference()).item(), rel=1e-5)


def test_every_parameter_of_every_mode_is_registered_and_learns():
    model = PtychoModel(reference(3), 50.0, ObjectSettings(width=16), GridSettings())
    with torch.no_grad():
        for parameter in model.parameters():  # the last layers start at 0 and pass nothing on
            parameter.add_(1e-3 * torch.randn_like(parameter))
    parameters = dict(model.named_parameters())
    assert len(parameters) == len(model.object.networks) * 8 + 3 * 7
    window = model.object((0, 0), (12, 16))
    torch.fft.fft2(model.probe() * window).abs().square()[:, :6].sum().backward()
    assert {name for name, parameter in parameters.items() if not parameter.grad.any()} == set()


def test_weights_can_be_carried_to_another_model():
    models = [PtychoModel(reference() * scale, 50.0, ObjectSettings(width=16), GridSettings()) for scale in (1, 2)]
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[0].probe(), models[1].probe())
    assert torch.equal(models[0].object((0, 0), (9, 9)), models[1].object((0, 0), (9, 9)))
