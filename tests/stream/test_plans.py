"""What start documents command, of every plan that can be met, and why others are no scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from hypothesis import given
from hypothesis import strategies as st

from ptyinr.types import ScanRange
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.grids import Commanded, laid
from ptyinr_stream.plans import commanded

ALL = sorted(path.stem for path in (Path(__file__).parents[1] / "data" / "plans").glob("*.json"))


def fly(scan_input, kind="2D_FLY_PANDA", **more):
    return {"uid": "a", "scan": {"type": kind, "scan_input": scan_input}, **more}


def places(plan: Commanded) -> list[tuple[float, float]]:
    """Of all frames, (fast, slow) in micrometres."""
    along = laid(plan, (0, 1), (1, 1))
    return [tuple(round(1e6 * at, 9) for at in along.commanded_m(frame)) for frame in range(along.expected)]


@pytest.mark.parametrize("name", ALL)
def test_the_shared_documents_are_bluesky_start_documents(documents, name):
    start, _ = documents(name)
    schema_validators[DocumentNames.start].validate(start)


@pytest.mark.parametrize(
    ("name", "motors", "shape", "ends_um", "snake"),
    [
        ("fly2dpd", ("zpssx", "zpssy"), (100, 100), ((-1, 1), (-1, 1)), False),
        ("fly2dpd_in_tomography", ("zpssz", "zpssy"), (80, 40), ((-2, 2), (1, 3)), False),
        ("fly2dpd_mll", ("dssx", "dssy"), (50, 50), ((-1, 1), (-1, 1)), False),
        ("fly2dpd_coarse", ("ssx", "ssy"), (20, 10), ((-1, 1), (-1, 1)), False),
        ("fly2dcontpd", ("zpssx", "zpssy"), (100, 50), ((-1, 1), (-0.5, 0.5)), True),
        ("pt_fly2dcontpd", ("pt_tomo_ssx", "pt_tomo_ssy"), (200, 160), ((-4.5, 5.5), (-4, 4)), True),
        ("flyplan2d", ("zpssx", "zpssy"), (60, 40), ((-1.5, 1.5), (-1, 1)), True),
        ("grid_scan", ("zpssx", "zpssy"), (5, 3), ((-2, 2), (-1, 1)), True),
        ("rel_grid_scan", ("zpssx", "zpssy"), (5, 3), ((-2, 2), (-1, 1)), False),
        ("list_grid_scan", ("zpssx", "zpssy"), (2, 3), ((1, 3), (0, 3)), False),
        ("list_scan", ("zpssx", "zpssy"), (4, 1), ((0, 2.5), (-1, 3)), False),
        ("scan_two_motors", ("zpssx", "zpssy"), (5, 1), ((-1, 1), (0, 2)), False),
        ("spiral", ("zpssx", "zpssy"), (12, 1), ((-0.5, 1.5), (-1, 1)), False),
        ("spiral_fermat", ("zpssx", "zpssy"), (15, 1), ((-0.5, 1.5), (-1, 1)), False),
        ("spiral_square", ("zpssx", "zpssy"), (25, 1), ((-0.5, 1.5), (-1, 1)), False),
    ],
)
def test_every_plan_tells_its_motors_frames_and_range(documents, name, motors, shape, ends_um, snake):
    plan = commanded(documents(name)[0])
    assert (plan.motors, plan.shape, plan.ends_um, plan.snake) == (motors, shape, ends_um, snake)


def test_a_plan_that_hides_a_fly_scan_is_known_by_the_scans_own_type(documents):
    start, _ = documents("fly2dpd_in_tomography")
    assert start["plan_name"] == "tomo_scan_list"
    assert commanded(start).kind == "2D_FLY_PANDA"


def test_a_fly_scan_divides_its_range_into_exposures_and_a_grid_scan_stops_at_its_end(documents):
    assert places(commanded(fly([-1, 3, 4, 0, 2, 2])))[:5] == [(-1, 0), (0, 0), (1, 0), (2, 0), (-1, 1)]
    assert places(commanded(documents("grid_scan")[0]))[:7] == [
        *((-2, -1), (-1, -1), (0, -1), (1, -1), (2, -1)),
        *((2, 0), (1, 0)),  # every second line backwards
    ]


def test_a_continuous_scan_runs_to_and_fro_while_its_slow_motor_moves_on():
    plan = commanded(fly([0, 4, 4, 0, 2, 2], "2D_FLY_CONT_PANDA"))
    fast, slow = zip(*places(plan), strict=True)
    assert fast == (0, 1, 2, 3, 3, 2, 1, 0)
    assert slow == (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75)


def test_the_function_generators_scan_is_given_by_its_centre_and_width():
    plan = commanded(fly([0.5, 4, 4, 10, 8, 2, 0.01], "FIP_2D_FLY"))
    assert plan.ends_um == ((-1.5, 2.5), (10, 8))
    assert places(plan) == [(-1.5, 10), (-0.5, 9.75), (0.5, 9.5), (1.5, 9.25), (1.5, 9), (0.5, 8.75), (-0.5, 8.5), (-1.5, 8.25)]  # fmt: skip  # noqa: E501


def test_a_repeated_scan_does_not_say_where_its_slow_motor_returned(documents):
    plan = commanded(documents("fly2dpd_repeat")[0])
    assert not plan.path_known
    assert plan.ends_um[1] == (-1, 9)


@pytest.mark.parametrize("where", ["top", "scan", "plan_args"])
def test_a_repeated_scan_that_tells_how_often_has_the_range_of_one_repeat(documents, where):
    start, _ = documents("fly2dpd_repeat")
    (start if where == "top" else start.setdefault(where, {}))["repeat"] = 5
    plan = commanded(start)
    assert (plan.path_known, plan.returns, plan.ends_um[1]) == (True, 20, (-1, 1))
    lines = places(plan)[:: plan.shape[0]]
    assert lines[:20] == lines[20:40] == lines[80:]
    assert lines[19] == (-1, 0.9)


def test_repeats_that_do_not_divide_the_lines_are_refused(documents):
    with pytest.raises(GeometryError, match="does not divide the 100 lines"):
        commanded({**documents("fly2dpd_repeat")[0], "repeat": 3})


def test_lists_give_every_place(documents):
    assert places(commanded(documents("list_scan")[0])) == [(0, 3), (1, 1), (2, 0), (2.5, -1)]
    assert places(commanded(documents("list_grid_scan")[0])) == [(3, 0), (1, 0), (1, 1), (3, 1), (3, 3), (1, 3)]
    assert places(commanded(documents("scan_two_motors")[0]))[1:3] == [(-0.5, 0.5), (0, 1)]


def test_a_spiral_gives_its_middle_for_every_frame(documents):
    plan = commanded(documents("spiral")[0])
    assert not plan.path_known
    assert set(places(plan)) == {(0.5, 0)}


def test_whichever_motor_a_spiral_names_first_x_is_the_one_of_its_arguments(documents):
    start, _ = documents("spiral")
    start["motors"] = start["motors"][::-1]
    assert commanded(start).motors == ("zpssx", "zpssy")


def test_an_old_fly_scan_may_have_its_second_motor_fast(documents):
    start, _ = documents("flyplan2d")
    plan = commanded({**start, "fast_axis": "zpssy"})
    assert (plan.motors, plan.shape) == (("zpssy", "zpssx"), (40, 60))


def test_motors_may_be_named_by_the_axes_alone(documents):
    start, _ = documents("pt_fly2dcontpd")
    del start["motors"]
    assert commanded(start).motors == ("pt_tomo_ssx", "pt_tomo_ssy")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("fly1dpd", "'1D_FLY_PANDA': an image needs a scan along two axes"),
        ("timescanpd", "'TIME_FLY_PANDA': an image needs"),
        ("scan_one_motor", "moves one motor"),
        ("count", "scan.type is None"),
    ],
)
def test_a_plan_that_makes_no_image_is_refused_with_the_reason(documents, name, complaint):
    with pytest.raises(GeometryError, match=complaint):
        commanded(documents(name)[0])


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "scan.type is None"),
        (fly([0, 1, 10]), "list of 6"),
        (fly([0, 1, 10, 0, 1, 10], "FIP_2D_FLY"), "list of 7"),
        (fly([0, 1, 10, 0, 1, 10], "2D_FLY"), "2D_FLY_PANDA, 2D_FLY_CONT_PANDA, FIP_2D_FLY"),
        (fly(None), "scan.scan_input is None"),
        (fly([0, 1, 10, 0, "one", 10]), "'one'"),
        (fly([0, 1, 10, 0, float("nan"), 10]), "finite"),
        (fly([0, 1, 10.5, 0, 1, 10]), "10.5"),
        (fly([0, 1, 0, 0, 1, 10]), "number of frames"),
        (fly([0, 1, 10, 0, 1, 10], shape=[10, 11]), "contradicts"),
        ({"scan": {"type": "2D_FLY_PANDA", "scan_input": [0, 1, 10, 0, 1, 10], "shape": [5, 10]}}, "scan.shape"),
        ({"extents": [[0, 1]], "shape": [4]}, "extents"),
        ({"extents": [[0, 1], [0, 1]], "shape": [4, 4], "num_points": 15}, "num_points 15 contradicts"),
        ({"scan": "2D_FLY_PANDA"}, "scan.type is None"),
        ({"scan": {"type": np.array(["2D_FLY_PANDA", "b"])}}, "scan.type is array"),
        (fly([-1e308, 1e308, 10, 0, 1, 10]), "finite number"),
        (fly([0, 10**400, 10, 0, 1, 10]), "finite number"),
        ({"plan_pattern": "outer_product"}, "extents is None"),
        ({"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["x", [0, 1], "y", [0]]}}, "2 and 1"),
        ({"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["x", [], "y", []]}}, "list of places"),
        ({"plan_pattern": "spiral", "plan_args": {"x_start": 0}}, "x_range"),
        ({"plan_args": {"scan_start1": 0, "scan_end1": 1, "num1": 3, "scan_start2": 0}}, "plan_args.scan_end2"),
    ],
)
def test_a_start_document_that_contradicts_itself_is_refused_with_the_reason(document, complaint):
    with pytest.raises(GeometryError, match=complaint):
        commanded(document)


def test_motors_and_factors_lay_the_plan_over_the_axes_of_the_array():
    plan = laid(commanded(fly([-1.0, 4.0, 10, 5.0, 2.0, 3])), (1, 0), (1, -1))
    assert plan.range == ScanRange((2e-6, -4e-6), (5e-6, 1e-6))
    assert (plan.expected, plan.line, plan.fast) == (30, 10, 1)
    assert plan.start_m == pytest.approx((5e-6, 1e-6))
    # Frame 12 is the third of the second line.
    assert plan.commanded_m(12) == pytest.approx((4e-6, 1e-6 - 2 * 0.5e-6))


ends = st.floats(-20, 20)


@given(
    x=st.tuples(ends, ends, st.integers(1, 7)),
    y=st.tuples(ends, ends, st.integers(1, 5)),
    kind=st.sampled_from(["2D_FLY_PANDA", "2D_FLY_CONT_PANDA"]),
    motors=st.sampled_from([(0, 1), (1, 0)]),
    factors=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
def test_every_commanded_place_lies_in_the_range(x, y, kind, motors, factors):
    plan = laid(commanded(fly([*x, *y], kind)), motors, factors)
    at = np.array([plan.commanded_m(frame) for frame in range(plan.expected)])
    assert (at >= np.array(plan.range.lower_m) - 1e-9).all()
    assert (at <= np.array(plan.range.upper_m) + 1e-9).all()
    assert len(at) == x[2] * y[2]
