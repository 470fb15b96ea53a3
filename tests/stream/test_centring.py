"""The beam is found by its symmetry: off-centre, unevenly lit, with a dark middle, beside and across a module gap."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.centring import find_beam

SHAPE = (260, 220)


def donut(centre: tuple[float, float], radius: float = 30.0, stop: float = 11.0, tilt: float = 0.0) -> np.ndarray:
    """Mean counts of a zone plate's far field, brighter to one side by `tilt`, over a dim background."""
    rows, columns = np.meshgrid(*(np.arange(n) - c for n, c in zip(SHAPE, centre, strict=True)), indexing="ij")
    distance = np.hypot(rows, columns)
    lit = np.clip(radius - distance + 0.5, 0, 1) * np.clip(distance - stop + 0.5, 0, 1)
    return 0.02 + 20 * lit * (1 + tilt * columns / radius)


def everywhere() -> np.ndarray:
    return np.ones(SHAPE, np.bool_)


@pytest.mark.parametrize("centre", [(130.0, 110.0), (71.0, 150.5), (40.25, 60.0)])
@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_a_donut_is_centred_wherever_it_lies_and_however_unevenly_it_is_lit(
    centre: tuple[float, float], tilt: float
) -> None:
    beam = find_beam(donut(centre, tilt=tilt), everywhere())
    assert beam is not None
    assert beam.centre == pytest.approx(centre, abs=0.8 if tilt else 0.3)
    assert beam.radius == pytest.approx(np.sqrt(30**2 - 11**2), rel=0.15)


def test_one_blinding_pixel_that_is_masked_moves_nothing() -> None:
    level, trusted = donut((71, 150)), everywhere()
    level[200, 20], trusted[200, 20] = 1e6, False
    beam = find_beam(level, trusted)
    assert beam is not None
    assert beam.centre == pytest.approx((71, 150), abs=0.3)


@pytest.mark.parametrize(("gap", "within"), [((110, 147), 0.3), ((95, 132), 1.2), ((60, 64), 1.0)])
def test_a_module_gap_beside_or_across_the_cone_hardly_moves_it(gap: tuple[int, int], within: float) -> None:
    level, trusted = donut((71, 150)), everywhere()
    trusted[slice(*gap)] = False
    level[~trusted] = 65535
    beam = find_beam(level, trusted)
    assert beam is not None
    assert beam.centre == pytest.approx((71, 150), abs=within)


def test_a_rectangle_is_centred_too() -> None:
    level = np.full(SHAPE, 0.1)
    level[40:81, 100:191] += 5
    beam = find_beam(level, everywhere())
    assert beam is not None
    assert beam.centre == pytest.approx((60, 145), abs=0.3)


def test_few_photons_are_enough() -> None:
    random = np.random.default_rng(3)
    level = random.poisson(64 * 0.02 * donut((71, 150)), SHAPE) / 64
    beam = find_beam(level, everywhere())
    assert beam is not None
    assert beam.centre == pytest.approx((71, 150), abs=0.5)


def test_there_is_no_beam_in_noise_or_darkness() -> None:
    noise = np.random.default_rng(3).poisson(3.0, SHAPE)
    assert find_beam(noise, everywhere()) is None
    assert find_beam(np.zeros(SHAPE), everywhere()) is None
    assert find_beam(noise, ~everywhere()) is None
