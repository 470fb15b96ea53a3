"""Documents give the commanded grid and the optics; what is missing is named, and where it could be given."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr.types import ScanRange
from ptyinr_stream.config import GeometryConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.optics import dcm_energy_kev, scan_geometry, scan_plan

PIXEL = GeometryConfig(detector_pixel_um=75.0)


def positions(motors=(0, 1), signs=(1, 1)):
    axes = [{"channel": f"/INENC{k}", "um_per_count": 1e-4, "motor_sign": sign} for k, sign in enumerate(signs)]
    return PositionsConfig.model_validate({"axis0": axes[0], "axis1": axes[1], "motors": motors})


def fly(scan_input, kind="2D_FLY_PANDA", **more):
    return {"uid": "a", "scan": {"type": kind, "scan_input": scan_input}, **more}


def test_a_fly_scan_gives_the_number_of_frames_and_the_commanded_range():
    plan = scan_plan(fly([-1.0, 1.0, 100.0, -2.0, 3.0, 50.0], shape=[100, 50]), positions())
    assert plan.expected == 5000
    assert plan.range == ScanRange((-1e-6, -2e-6), (1e-6, 3e-6))
    assert plan.start_m == plan.commanded_m(0) == pytest.approx((-1e-6, -2e-6))


def test_motors_and_their_signs_lay_the_range_over_the_axes_of_the_array():
    plan = scan_plan(fly([-1.0, 4.0, 10, 5.0, 2.0, 3]), positions(motors=(1, 0), signs=(1, -1)))
    assert plan.range == ScanRange((2e-6, -4e-6), (5e-6, 1e-6))
    assert plan.start_m == pytest.approx((5e-6, 1e-6))
    # Frame 12 is the third of the second line.
    assert plan.commanded_m(12) == pytest.approx((4e-6, 1e-6 - 2 * 0.5e-6))


def test_a_continuous_scan_runs_every_second_line_backwards():
    there = scan_plan(fly([0, 4, 4, 0, 2, 2]), positions())
    back = scan_plan(fly([0, 4, 4, 0, 2, 2], "2D_FLY_CONT_PANDA"), positions())
    assert [there.commanded_m(k)[0] for k in (3, 4, 7)] == pytest.approx([3e-6, 0, 3e-6])
    assert [back.commanded_m(k)[0] for k in (3, 4, 7)] == pytest.approx([3e-6, 3e-6, 0])


def test_a_grid_scan_names_its_slow_motor_first_and_stops_at_its_end():
    document = {"extents": [[0, 3], [10, 20]], "shape": [4, 11], "snaking": [False, True]}
    plan = scan_plan(document, positions(motors=(1, 0)))
    assert (plan.expected, plan.line, plan.snake) == (44, 11, True)
    assert plan.range == ScanRange((0, 10e-6), (3e-6, 20e-6))
    assert plan.commanded_m(43) == pytest.approx((3e-6, 10e-6))


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "scan.type is None"),
        (fly([0, 1, 10], "1D_FLY_PANDA"), "1D_FLY_PANDA"),
        (fly([0, 1, 10]), "list of 6"),
        (fly(None), "scan.scan_input is None"),
        (fly([0, 1, 10, 0, "one", 10]), "'one'"),
        (fly([0, 1, 10, 0, float("nan"), 10]), "finite"),
        (fly([0, 1, 10.5, 0, 1, 10]), "10.5"),
        (fly([0, 1, 0, 0, 1, 10]), "number of frames"),
        (fly([0, 1, 10, 0, 1, 10], shape=[10, 11]), "contradicts"),
        ({"extents": [[0, 1]], "shape": [4]}, "extents"),
        ({"scan": "2D_FLY_PANDA"}, "scan.type is None"),
        ({"scan": {"type": np.array(["2D_FLY_PANDA", "b"])}}, "scan.type is array"),
        (fly([-1e308, 1e308, 10, 0, 1, 10]), "finite number"),
        (fly([0, 10**400, 10, 0, 1, 10]), "finite number"),
    ],
)
def test_a_start_document_that_is_no_scan_is_refused_with_the_reason(document, complaint):
    with pytest.raises(GeometryError, match=complaint):
        scan_plan(document, positions())


def test_the_configuration_overrules_the_documents():
    config = GeometryConfig(detector_pixel_um=55.0, distance_m=0.5, energy_kev=8.0)
    geometry = scan_geometry(config, (128, 64), {"scan": {"detector_distance": 2.05}}, {"dcm_th": 9.5})
    assert (geometry.distance_m, geometry.energy_kev) == pytest.approx((0.5, 8.0))
    assert geometry.detector_pixel_m == pytest.approx(55e-6)
    assert geometry.window == (128, 64)


def test_documents_give_what_the_configuration_leaves_out():
    geometry = scan_geometry(PIXEL, (256, 256), {"scan": {"detector_distance": 2.05}}, {"dcm_th": 9.5})
    assert geometry.distance_m == 2.05
    assert geometry.energy_kev == pytest.approx(dcm_energy_kev(9.5))
    assert geometry.wavelength_m == pytest.approx(1.239841984e-9 / dcm_energy_kev(9.5))


@pytest.mark.parametrize(
    ("start", "baseline", "complaint"),
    [
        ({}, {"dcm_th": 9.5}, r"geometry\.distance_m.*scan\.detector_distance"),
        ({"scan": {"detector_distance": 2.05}}, {"zpsth": 0}, r"geometry\.energy_kev.*dcm_th"),
        ({"scan": {"detector_distance": 2.05}}, {"dcm_th": 0}, "Bragg angle"),
        ({"scan": {"detector_distance": 2.05}}, {"dcm_th": None}, "finite number"),
        ({"scan": {"detector_distance": -1}}, {"dcm_th": 9.5}, "distance_m"),
    ],
)
def test_missing_optics_are_named_together_with_where_to_give_them(start, baseline, complaint):
    with pytest.raises(GeometryError, match=complaint):
        scan_geometry(PIXEL, (256, 256), start, baseline)
