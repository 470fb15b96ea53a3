"""From metres to pixels: the frame of reference never moves, whatever the canvas does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr import ScanGeometry, ScanRange
from ptyinr.geometry import MARGIN, ROUNDED, Canvas, window_corners_px, window_middles_m

GEOMETRY = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=1e-4, window=(50, 100))  # 20 and 10 nm
RANGE = ScanRange((1e-6, 5e-6), (3e-6, 6e-6))  # 100 x 100 px around (2 um, 5.5 um)


def test_a_rectangular_window_has_different_pixels_along_each_axis():
    assert GEOMETRY.pixel_m == pytest.approx((2e-8, 1e-8))
    corners = window_corners_px(np.array([[2e-6, 5.5e-6], [2.2e-6, 5.6e-6]]), GEOMETRY, RANGE)
    np.testing.assert_allclose(corners, [[-25, -50], [-25 + 10, -50 + 10]], atol=1e-9)


def test_positions_grow_towards_larger_indices():
    positions = np.array([[2.0e-6, 5.5e-6], [2.1e-6, 5.5e-6], [2.0e-6, 5.6e-6]])
    corners = window_corners_px(positions, GEOMETRY, RANGE)
    assert corners[1, 0] > corners[0, 0]
    assert corners[2, 1] > corners[0, 1]


@given(st.integers(-5000, 5000), st.integers(-5000, 5000))
def test_a_whole_pixel_is_whole_whatever_the_division_leaves(row, column):
    """0.99999 of a pixel would shift the probe, and wrap what it has at its rim."""
    positions = np.array([2e-6, 5.5e-6]) + np.array([[row, column]]) * GEOMETRY.pixel_m
    assert window_corners_px(positions, GEOMETRY, RANGE).tolist() == [[row - 25.0, column - 50.0]]


@given(st.integers(0, 400), st.integers(1, 9), st.integers(8, 70), st.integers(8, 70))
def test_a_raster_of_whole_pixels_lies_on_whole_pixels_whether_its_range_and_its_windows_are_even_or_odd(
    extent, step, height, width
):
    geometry = replace(GEOMETRY, window=(height, width))
    lower = np.array([1.03e-6, -5.7e-6])
    positions = lower + np.arange(0, extent + 1, step)[:, None] * geometry.pixel_m
    scan_range = ScanRange.of(positions)
    corners = window_corners_px(positions, geometry, scan_range)
    assert (corners == corners.round()).all()
    middle = corners[[0, -1]].mean(0) + np.array(geometry.window) / 2
    assert (np.abs(middle) <= 1).all()
    np.testing.assert_allclose(window_middles_m(corners, geometry, scan_range), positions, rtol=0, atol=1e-14)


def test_a_fraction_of_a_pixel_is_kept():
    positions = np.array([2e-6, 5.5e-6]) + np.array([[0.123456789, 0.5]]) * GEOMETRY.pixel_m
    corners = window_corners_px(positions, GEOMETRY, RANGE)
    np.testing.assert_allclose(corners, [[0.123456789 - 25, 0.5 - 50]], rtol=0, atol=10.0**-ROUNDED)


def test_the_canvas_holds_the_commanded_range_and_its_margin():
    canvas = Canvas.of(GEOMETRY, RANGE)
    extent = np.array(RANGE.upper_m) - RANGE.lower_m
    extremes = np.array([RANGE.lower_m - MARGIN * extent, RANGE.upper_m + MARGIN * extent])
    corners = window_corners_px(extremes, GEOMETRY, RANGE)
    assert canvas.including(corners, GEOMETRY.window) == canvas
    array = canvas.array_px(corners)
    assert (array >= 0).all()
    assert (array + GEOMETRY.window <= canvas.shape).all()
    assert (array[0] < 3).all()  # and not much more


@pytest.mark.parametrize("upper", [RANGE.lower_m, (RANGE.lower_m[0], 6e-6), (3e-6, RANGE.lower_m[1])])
def test_a_range_without_extent_still_has_a_canvas(upper):
    flat = ScanRange(RANGE.lower_m, upper)
    canvas = Canvas.of(GEOMETRY, flat)
    corners = window_corners_px(np.array([flat.lower_m, flat.upper_m]), GEOMETRY, flat)
    assert canvas.including(corners, GEOMETRY.window) == canvas


pixels = st.floats(-2000, 2000)


@settings(deadline=None)
@given(st.lists(st.tuples(pixels, pixels), min_size=1, max_size=5))
def test_a_canvas_that_grows_holds_every_window_and_keeps_every_pixel_in_place(places):
    canvas = Canvas.of(GEOMETRY, RANGE)
    corners = np.array(places)
    grown = canvas.including(corners, GEOMETRY.window)
    array = grown.array_px(corners)
    assert (np.floor(array) >= 0).all()
    assert (np.floor(array) + GEOMETRY.window <= grown.shape).all()
    np.testing.assert_allclose(array + grown.corner, corners, atol=1e-9)
    assert all(g <= c for g, c in zip(grown.corner, canvas.corner, strict=True))
    assert all(
        gc + gs >= cc + cs
        for gc, gs, cc, cs in zip(grown.corner, grown.shape, canvas.corner, canvas.shape, strict=True)
    )
    assert grown.including(corners, GEOMETRY.window) == grown


def test_a_canvas_grows_only_where_it_must_and_with_room_for_as_much_again():
    canvas = Canvas.of(GEOMETRY, RANGE)
    beyond = np.array([[canvas.corner[0] - 10.0, 0.0]])
    grown = canvas.including(beyond, GEOMETRY.window)
    assert grown == Canvas((canvas.shape[0] + 20, canvas.shape[1]), (canvas.corner[0] - 20, canvas.corner[1]))


def test_no_frames_leave_the_canvas_as_it_is():
    canvas = Canvas.of(GEOMETRY, RANGE)
    assert canvas.including(np.empty((0, 2)), GEOMETRY.window) == canvas


@pytest.mark.parametrize("wild", [(1e7, 0.0), (0.0, -1e20), (5e4, 5e4)])
def test_a_position_from_another_world_is_refused_before_memory_is(wild):
    with pytest.raises(ValueError, match="pixels"):
        Canvas.of(GEOMETRY, RANGE).including(np.array([[0.0, 0.0], wild]), GEOMETRY.window)
