"""Objects to simulate: what a transmission must be, and what makes each of them itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from ptyinr.phantoms import PHANTOMS, SPOKES, phantom


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(PHANTOMS)),
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.integers(0, 2**32),
    st.floats(-3, 3),
    st.floats(0.05, 1),
)
@example("maze", (16, 16), 2877, 0.0, 0.5)
def test_every_object_is_a_transmission(kind, shape, seed, phase_rad, floor):
    field = phantom(kind, shape, seed=seed, phase_rad=phase_rad, floor=floor)
    assert (field.shape, field.dtype) == (shape, np.complex64)
    assert np.isfinite(field).all()
    amplitude = np.abs(field)
    assert amplitude.max() == pytest.approx(1, abs=1e-6)
    assert amplitude.min() == pytest.approx(floor, rel=1e-5)
    # One material: the logarithm of what passes and the phase are both the thickness.
    if floor < 0.9:
        assert np.abs(np.angle(field) - phase_rad * np.log(amplitude) / np.log(floor)).max() < 1e-4


@pytest.mark.parametrize("kind", PHANTOMS)
def test_a_seed_is_an_object(kind):
    one, same, other = (phantom(kind, (120, 100), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["star", "maze"])
def test_edges_are_averaged_over_a_pixel(kind):
    thickness = np.angle(phantom(kind, (256, 256), phase_rad=1.0))
    between = (thickness > 0.35) & (thickness < 0.95)
    assert 0.02 < between.mean() < 0.25
    assert np.unique(thickness[between].round(2)).size > 15


def test_a_star_has_its_spokes_at_every_radius_that_can_hold_them():
    thickness = np.angle(phantom("star", (401, 401), phase_rad=1.0))
    angle = np.arange(3600) * 2 * np.pi / 3600
    for radius in (40, 70, 150):
        rows, columns = (np.rint(200 + radius * f(angle)).astype(int) for f in (np.sin, np.cos))
        circle = thickness[rows, columns] > 0.5
        assert (np.diff(circle.astype(int)) == 1).sum() in (SPOKES - 1, SPOKES)
    middle = thickness[198:203, 198:203]
    assert 0.2 < middle.mean() < 0.8
    assert middle.std() < 0.3  # too fine for the pixels: grey, not moire


def test_the_stars_dots_tell_its_corners_apart():
    thickness = np.angle(phantom("star", (200, 200), phase_rad=1.0))
    corners = [
        thickness[rows, columns].mean() > 0.01
        for rows in (slice(20), slice(-20, None))
        for columns in (slice(20), slice(-20, None))
    ]
    assert corners == [True, True, False, True]


def test_a_maze_has_islands_that_hang_together_and_trenches_that_do_not_vanish():
    thickness = np.angle(phantom("maze", (300, 300), phase_rad=1.0))
    standing = thickness > 0.6
    assert 0.6 < standing.mean() < 0.9
    pieces, n = label(standing)
    large = {piece for piece in range(1, n + 1) if (pieces == piece).sum() > 50}
    assert large <= {*pieces[[0, -1]].ravel(), *pieces[:, [0, -1]].ravel()}  # only the border cuts a piece off
    deep = thickness[~standing & (thickness < 0.35)]
    assert deep.size > 0.1 * thickness.size
    assert deep.std() > 0.02  # as uneven as etching is


def test_cells_are_smooth_bodies_on_an_almost_empty_medium():
    thickness = np.angle(phantom("cells", (300, 300), phase_rad=1.0))
    empty = thickness < 0.1
    assert 0.2 < empty.mean() < 0.8
    assert np.abs(np.diff(thickness, axis=0)).max() < 0.35
    _, bodies = label(thickness > 0.2)
    assert bodies >= 2
    within = thickness[thickness > 0.2]
    assert within.std() > 0.05


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "cat"}, "object 'cat' is unknown; there are: star, maze, cells"),
        ({"shape": (15, 40)}, "an object of 15 x 40 pixels holds no pattern: give 16 or more"),
        ({"floor": 0.0}, "floor is 0.0"),
        ({"floor": 1.1}, "floor is 1.1"),
        ({"phase_rad": np.inf}, "phase_rad is inf"),
    ],
)
def test_a_wrong_object_is_named(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        phantom(**{"kind": "star", "shape": (40, 40)} | values)
