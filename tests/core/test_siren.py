"""The object field: what its numbers mean must not depend on where one looks."""

from __future__ import annotations

import pytest
import torch

from ptyinr.siren import ObjectField, ObjectSettings


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def look(field, *where):
    with torch.no_grad():
        return field(*where)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_activations_are_alike_through_the_layers(depth):
    network = ObjectField(ObjectSettings(depth=depth), extent_px=200.0).networks[0]
    x = torch.rand(4000, 2) * 2 - 1
    activations = [network.first(x)]
    for layer in network.hidden:
        activations.append(layer(activations[-1]))
    for activation in activations:
        assert activation.std().item() == pytest.approx(0.707, abs=0.05)  # of the sine of a wide distribution
        assert activation.mean().item() == pytest.approx(0, abs=0.2)


def test_an_untrained_object_is_nearly_transparent():
    field = ObjectField(ObjectSettings(), extent_px=100.0)((-100, -100), (200, 200)).detach()
    assert field.dtype == torch.complex64
    assert field.abs().mean().item() == pytest.approx(1, abs=0.1)
    assert field.angle().abs().max() < 0.5


def test_a_part_of_a_larger_box_has_the_same_values():
    field = ObjectField(ObjectSettings(), extent_px=60.0)
    box = look(field, (-50, -80), (120, 140)).detach()  # beyond the extent too
    for corner, shape in (((-50, -80), (10, 10)), ((-3, 7), (33, 21)), ((60, 50), (10, 10))):
        part = look(field, corner, shape)
        rows, columns = (slice(c - b, c - b + n) for c, b, n in zip(corner, (-50, -80), shape, strict=True))
        torch.testing.assert_close(part, box[rows, columns], rtol=0, atol=1e-5)


def test_rows_and_columns_are_not_exchanged():
    field = ObjectField(ObjectSettings(), extent_px=60.0)
    assert look(field, (5, -9), (3, 4)).shape == (3, 4)
    here, mirrored = look(field, (5, -9), (3, 4)).detach(), look(field, (-9, 5), (4, 3))
    assert (here - mirrored.T).abs().max() > 1e-3


def test_the_first_frequency_is_in_radians_a_pixel_whatever_the_extent():
    """Of one first layer, the mean square slope an axis is frequency^2 times that of its weights, 1/12, times 1/2."""
    for extent in (50.0, 400.0):
        torch.manual_seed(1)
        first = ObjectField(ObjectSettings(width=4000), extent, first_frequency=0.4).networks[0].first
        rows = torch.arange(64.0)[:, None] / extent
        y = first(torch.cat([rows, torch.zeros_like(rows)], dim=1))
        slope = (y[1:] - y[:-1]).square().mean().item()
        assert slope == pytest.approx(0.4**2 / 12 / 2, rel=0.1)


@pytest.mark.parametrize("field_px", [60.0, 241.0, 4000.0])
def test_the_papers_w0_is_the_same_number_of_waves_across_the_field(field_px):
    """On coordinates from -1 to 1: w0 x = (2 w0 / field) pixels."""
    frequency = ObjectSettings(w0=30.0).frequency(field_px)
    assert frequency * field_px / 2 == pytest.approx(30.0)
    torch.manual_seed(1)
    network = ObjectField(ObjectSettings(), 500.0, first_frequency=frequency).networks[0]
    x = torch.linspace(-1, 1, 7)
    pixels = torch.stack([x, x.flip(0)], dim=1) * field_px / 2
    layer = network.first
    expected = torch.sin(30.0 * torch.stack([x, x.flip(0)], dim=1) @ layer.weight.T + layer.frequency * layer.bias)
    torch.testing.assert_close(layer(pixels / 500.0), expected, rtol=0, atol=1e-3)


def test_w0_overrules_a_frequency_which_overrules_the_choice():
    assert ObjectSettings(first_frequency=0.7).frequency(100.0) == 0.7
    assert ObjectSettings(first_frequency=0.7, w0=20.0).frequency(100.0) == pytest.approx(0.4)
    chosen = [ObjectSettings().frequency(field_px) for field_px in (50.0, 5000.0)]
    assert chosen[0] == chosen[1] > 0  # a network means the same whatever the field's size


def test_a_start_of_zero_leaves_the_object_to_the_random_weights():
    field = look(ObjectField(ObjectSettings(start=0.0, shared=False), 100.0), (-50, -50), (100, 100))
    assert field.abs().mean() < 0.5


@pytest.mark.parametrize("start", [0.3, 1.0, 2.0])
def test_the_object_starts_at_the_amplitude_it_is_told(start):
    field = look(ObjectField(ObjectSettings(start=start), 100.0), (-50, -50), (100, 100))
    assert field.abs().mean().item() == pytest.approx(start, abs=0.1)


def test_bfloat16_is_close_to_float32():
    field = ObjectField(ObjectSettings(), extent_px=100.0)
    exact = look(field, (-64, -64), (128, 128))
    coarse = look(field, (-64, -64), (128, 128), torch.bfloat16)
    assert coarse.dtype == torch.complex64
    contrast = (exact - exact.mean()).abs().square().mean().sqrt()
    assert 0 < (exact - coarse).abs().square().mean().sqrt() < 0.1 * contrast


def test_the_paper_has_a_network_each_for_amplitude_and_phase():
    one, two = (ObjectField(ObjectSettings(shared=shared), 50.0) for shared in (True, False))
    assert (len(one.networks), len(two.networks)) == (1, 2)
    assert two((0, 0), (4, 5)).abs().mean().item() == pytest.approx(1, abs=0.2)
    before = look(two, (0, 0), (4, 5))
    with torch.no_grad():
        two.networks[1].output.bias += 0.5
    torch.testing.assert_close(look(two, (0, 0), (4, 5)), before * torch.exp(torch.tensor(0.5j)))


@pytest.mark.parametrize("name", ["width", "depth", "first_frequency", "w0", "hidden_frequency"])
@pytest.mark.parametrize("value", [0, -1])
def test_settings_that_make_no_network_are_refused(name, value):
    with pytest.raises(ValueError, match="must be positive"):
        ObjectSettings(**{name: value})


def test_an_amplitude_below_nothing_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        ObjectSettings(start=-0.5)
