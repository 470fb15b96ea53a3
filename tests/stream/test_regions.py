"""Regions of a scan: whose errors they are, when they stand still, and what light has reached."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr.types import Snapshot
from ptyinr_stream.regions import NOISE, REMEMBERED, Regions

PIXEL_M, WINDOW = 1e-8, 20


def snapshot(error=lambda row, column: 2 * NOISE, rows=12, covered=60):
    """Frames on a grid 5 px apart; `error` by row and column of the grid, every tenth frame judges."""
    grid = np.array([(r, c) for r in range(rows) for c in range(12)])
    judges = np.arange(len(grid))[5::10]
    corners = 5.0 * grid + 3
    coverage = np.zeros((90, 90), np.float32)
    coverage[:covered] = 1
    return Snapshot(
        uid="a",
        step=1,
        frames=len(grid),
        object=np.ones((90, 90), np.complex64),
        probe=np.ones((1, WINDOW, WINDOW), np.complex64),
        coverage=coverage,
        indices=np.arange(len(grid)),
        positions_px=corners,
        pixel_m=(PIXEL_M, PIXEL_M),
        positions_m=(corners + WINDOW / 2) * PIXEL_M + 1e-3,
        judges=judges,
        judged=np.array([error(*grid[k]) for k in judges]),
    )


def test_cells_are_about_a_window_wide_and_hold_all_frames():
    regions = Regions().look(snapshot())
    assert len(regions) == 9
    assert sum(region.frames for region in regions) == 144
    assert regions[0].lower_um == pytest.approx((1e3 + 0.13, 1e3 + 0.13))
    assert regions[-1].upper_um == pytest.approx((1e3 + 0.68, 1e3 + 0.68))


def test_an_error_belongs_to_the_cell_of_its_frame_in_units_of_photon_noise():
    regions = Regions().look(snapshot(lambda row, column: NOISE * (9 if row < 4 and column < 4 else 1)))
    assert regions[0].error == pytest.approx(9)
    assert {round(region.error, 6) for region in regions[1:]} == {1.0}


def test_a_region_converges_when_its_error_stands_still_and_not_before_there_is_something_to_compare_with():
    regions = Regions()
    for step in range(REMEMBERED):
        found = regions.look(snapshot(lambda row, column, step=step: NOISE * (9 - step if row < 6 else 2)))
        judged = [region for region in found if region.error is not None]
        assert all((region.converged is None) == (step < REMEMBERED - 1) for region in judged)
    assert found[0].converged < 0.1
    assert found[-1].converged == 1.0


def test_a_region_without_a_judge_knows_no_error():
    regions = Regions().look(snapshot(rows=1))
    assert any(region.error is None and region.converged is None for region in regions) or len(regions) == 3
    assert sum(region.frames for region in regions) == 12


def test_coverage_is_the_part_that_light_has_reached():
    regions = Regions().look(snapshot(covered=34))
    by_row = [region.coverage for region in regions[::3]]
    assert by_row[0] == 1.0
    assert 0 < by_row[1] < 1
    assert by_row[2] == 0.0


def test_a_line_and_a_single_frame_are_regions_too():
    one = snapshot(rows=1)
    assert len(Regions().look(one)) == 3
