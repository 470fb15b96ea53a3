"""Object and probe together: what the probe may be, and what of it the data cannot decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.geometry import Canvas
from ptyinr.hashgrid import GridSettings
from ptyinr.model import GridField, ProbeField, ProbeSettings, PtychoModel, energy
from ptyinr.siren import ObjectSettings

CANVAS = Canvas((100, 80), (-50, -40))
KINDS = ("modulation", "network", "pixels")
NORMALISATIONS = ("energy", "maximum", "none")


def reference(modes=2):
    torch.manual_seed(0)
    return torch.randn(modes, 12, 16, dtype=torch.complex64) * 30


def shaken(module, by=1.0):
    """After training, or what might come of it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return module


def model_of(modes=2, objects=None, scale=1.0, **probe):
    return PtychoModel(
        reference(modes) * scale, CANVAS, objects or ObjectSettings(width=16, detail=True), ProbeSettings(**probe)
    )


def look(model, *where):
    with torch.no_grad():
        return model.object(*where)


@pytest.mark.parametrize("kind", ["modulation", "pixels"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_an_untrained_probe_is_its_reference(kind, normalisation):
    field = ProbeField(reference(), ProbeSettings(kind=kind, normalisation=normalisation))
    torch.testing.assert_close(field(), reference(), rtol=1e-5, atol=1e-4)


def test_a_network_of_random_weights_takes_nothing_but_brightness_from_its_reference():
    settings = ProbeSettings(kind="network", normalisation="maximum")
    torch.manual_seed(1)
    one = ProbeField(reference(), settings)
    other = ProbeField(torch.full_like(reference(), 7j), settings)
    other.load_state_dict({k: v for k, v in one.state_dict().items() if k != "reference"}, strict=False)
    torch.testing.assert_close(one() / reference().abs().max(), other() / 7)
    assert one().abs().std() > 0.01 * one().abs().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centred", [False, True])
def test_the_brightness_is_fixed_by_energy_or_by_the_maximum(kind, centred):
    """The data cannot tell a brighter probe from a more transparent object."""
    for normalisation, brightness in (("energy", energy), ("maximum", lambda probe: probe.abs().max())):
        settings = ProbeSettings(kind=kind, normalisation=normalisation, centred=centred)
        probe = shaken(ProbeField(reference(), settings))().detach()
        assert (probe - reference()).abs().max() > 1
        assert brightness(probe).item() == pytest.approx(brightness(reference()).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["modulation", "pixels"])
def test_without_a_normalisation_the_probe_may_grow(kind):
    probe = shaken(ProbeField(reference(), ProbeSettings(kind=kind, normalisation="none")))()
    assert abs(energy(probe).item() / energy(reference()).item() - 1) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_centred_probe_is_brightest_in_the_middle_and_otherwise_the_same(kind):
    centred, free = (ProbeField(reference(), ProbeSettings(kind=kind, centred=c)) for c in (True, False))
    free.load_state_dict(shaken(centred).state_dict())
    moved, still = centred().detach(), free().detach()
    row, column = divmod(int(moved[0].abs().argmax()), 16)
    assert (row, column) == (6, 8)
    torch.testing.assert_close(moved.abs().sort().values.sum(), still.abs().sort().values.sum())
    assert any(torch.allclose(torch.roll(still, (r, c), (1, 2)), moved) for r in range(12) for c in range(16))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_fixed_probe_is_its_reference_whatever_its_weights_and_has_no_gradient(kind, normalisation):
    settings = ProbeSettings(kind=kind, normalisation=normalisation, centred=True, fixed=True)
    probe = shaken(ProbeField(reference(), settings))()
    assert torch.equal(probe, reference())
    assert not probe.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_every_parameter_of_every_mode_is_registered_and_learns(kind, normalisation):
    model = model_of(3, kind=kind, normalisation=normalisation)
    shaken(model, 1e-3)  # the last layers start at 0 and pass nothing on
    parameters = dict(model.named_parameters())
    layers = {"modulation": 3 * 7 + 1, "network": 6 * 4, "pixels": 1}  # random networks have no biases
    assert len(parameters) == 8 + layers[kind]
    window = model.object((0, 0), (12, 16))
    torch.fft.fft2(model.probe() * window).abs().square()[:, :6].sum().backward()
    assert {name for name, parameter in parameters.items() if not parameter.grad.any()} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_can_be_carried_to_another_model(kind):
    models = [shaken(model_of(kind=kind, scale=scale)) for scale in (1, 2)]
    models[0].detail.learn((0, 0), torch.ones(9, 9, dtype=torch.complex64), 0.1)
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[0].probe(), models[1].probe())
    assert torch.equal(look(models[0], (0, 0), (9, 9)), look(models[1], (0, 0), (9, 9)))


def test_the_object_is_its_network_and_the_pixels_beside_it():
    model = model_of()
    before = look(model, (-3, 5), (6, 7))
    model.detail.learn((-2, 6), torch.full((2, 3), 1j), 0.25)
    change = look(model, (-3, 5), (6, 7)) - before
    expected = torch.zeros(6, 7, dtype=torch.complex64)
    expected[1:3, 1:4] = -0.25j  # against the gradient
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-6)
    assert model_of(objects=ObjectSettings(width=16, detail=False)).detail is None


@pytest.mark.parametrize("shared", [True, False])
def test_an_object_of_hash_grids_starts_at_one_and_is_the_same_however_it_is_cut(shared):
    settings = ObjectSettings(kind="hash_grid", shared=shared, detail=False)
    model = model_of(objects=settings)
    whole = look(model, CANVAS.corner, CANVAS.shape)
    assert torch.equal(whole, torch.ones(CANVAS.shape, dtype=torch.complex64))
    shaken(model, 0.1)
    whole = look(model, CANVAS.corner, CANVAS.shape)
    assert whole.abs().std() > 0.01
    assert torch.equal(look(model, (-7, 3), (20, 30)), whole[43:63, 43:73])


def test_an_object_of_hash_grids_cannot_grow_and_says_so():
    field = GridField(ObjectSettings(kind="hash_grid"), 20.0, GridSettings(), torch.device("cpu"))
    assert field((-21, -21), (42, 42)).shape == (42, 42)
    for corner, shape in (((-22, 0), (4, 4)), ((0, -22), (4, 4)), ((19, 0), (4, 4)), ((0, 0), (4, 22))):
        with pytest.raises(ValueError, match="42 x 42 px and cannot grow"):
            field(corner, shape)


def test_an_object_of_random_hash_grids_is_not_one():
    field = GridField(ObjectSettings(kind="hash_grid", start=0.0), 20.0, GridSettings(), torch.device("cpu"))
    assert np.abs(field((0, 0), (9, 9)).detach().numpy() - 1).max() > 0.1
