"""Where the frames of a scan lie: by the names of its motors, its kind and the rotation of the sample."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.grids import laid
from ptyinr_stream.metadata import plain
from ptyinr_stream.motors import TABLES, awaits_baseline, channels, foreshortening, resolve, span_ratios
from ptyinr_stream.plans import commanded

X, Y, Z = (f"/INENC{k}.VAL.Value" for k in (2, 3, 4))


def hxn(**more) -> PositionsConfig:
    """Rows are vertical."""
    return PositionsConfig.model_validate({"table": "hxn", "motors": (1, 0), "zero": "scan_start", **more})


def explicit(**more) -> PositionsConfig:
    axes = [{"channel": name, "um_per_count": 1e-3 * (k + 1)} for k, name in enumerate(("/A", "/B"))]
    return PositionsConfig.model_validate({"axis0": axes[0], "axis1": axes[1], **more})


@pytest.mark.parametrize(
    ("name", "angle_deg", "read", "samples"),
    [
        ("fly2dpd", 0, ((Y, -1.03297e-4), (X, -0.9542e-4)), 10),
        ("fly2dpd_mll", -30, ((Y, 1e-4), (X, -1e-4 * math.cos(math.pi / 6))), 10),
        ("fly2dpd_in_tomography", 60, ((Y, -1.03297e-4), (Z, 1e-4 * math.sin(math.pi / 3))), 10),
        ("fly2dcontpd", 0, ((Y, -1.03297e-4), (X, -0.9542e-4)), 1),
        ("pt_fly2dcontpd", 30, ((Z, -1e-4), (X, -1e-4 * math.cos(math.pi / 6))), 10),
    ],
)
def test_one_configuration_reads_the_encoders_of_every_stage(documents, name, angle_deg, read, samples):
    layout = resolve(*documents(name), hxn())
    assert [axis.channel for axis in layout.axes] == [channel for channel, _ in read]
    assert [axis.um_per_count for axis in layout.axes] == pytest.approx([um for _, um in read])
    assert (layout.angle_deg, layout.samples_per_frame) == (angle_deg, samples)
    assert layout.measured == (True, True)


@pytest.mark.parametrize(
    ("angle_deg", "factor"),
    [(0, 1), (30, math.cos(math.radians(30))), (45, math.sqrt(0.5)), (60, math.sin(math.radians(60))),
     (-60, math.sin(math.radians(60))), (-45, math.sqrt(0.5)), (90, 1)],
)  # fmt: skip
def test_the_range_is_foreshortened_as_the_positions_are(documents, angle_deg, factor):
    start, baseline = documents("fly2dpd_in_tomography" if abs(angle_deg) > 45 else "fly2dpd")
    layout = resolve(start, {**baseline, "zpsth": angle_deg}, hxn())
    flat = resolve(start, {**baseline, "zpsth": angle_deg}, hxn(foreshorten=False))
    assert layout.foreshortening == pytest.approx(factor)
    assert flat.foreshortening == 1
    vertical, across = layout.axes
    assert vertical.um_per_count == flat.axes[0].um_per_count
    assert across.um_per_count == pytest.approx(factor * flat.axes[1].um_per_count)
    lower, upper = layout.plan.range.lower_m, layout.plan.range.upper_m
    assert lower == pytest.approx((flat.plan.range.lower_m[0], factor * flat.plan.range.lower_m[1]))
    assert upper == pytest.approx((flat.plan.range.upper_m[0], factor * flat.plan.range.upper_m[1]))
    # An encoder that follows the command counts what covers just that range.
    for frame in (0, layout.plan.line - 1, layout.plan.expected - 1):
        um = 1e6 * flat.plan.commanded_m(frame)[1]
        counts = um / flat.axes[1].um_per_count
        assert 1e-6 * counts * across.um_per_count == pytest.approx(layout.plan.commanded_m(frame)[1])


@pytest.mark.parametrize(("angle_deg", "sign"), [(60, 1), (-44.9, 1), (-45, -1), (-60, -1)])
def test_beyond_minus_45_degrees_the_axis_is_mirrored_where_that_is_wanted(documents, angle_deg, sign):
    start, baseline = documents("fly2dpd_in_tomography")
    readings = {**baseline, "zpsth": angle_deg}
    turned, seen = resolve(start, readings, hxn(mirror_beyond_minus_45=True)), resolve(start, readings, hxn())
    assert turned.axes[1].um_per_count == pytest.approx(sign * seen.axes[1].um_per_count)
    assert turned.plan.start_m[1] == pytest.approx(sign * seen.plan.start_m[1])
    assert turned.axes[0] == seen.axes[0]


def test_foreshortening_is_continuous_where_plans_change_motors():
    assert foreshortening(44.999) == pytest.approx(foreshortening(45.001), abs=1e-4)


def test_the_fast_motor_is_not_foreshortened_where_it_moves_along_the_rotation_axis(documents):
    start, baseline = documents("fly2dpd")
    start["motors"] = ["zpssy", "zpssx"]
    layout = resolve(start, {**baseline, "zpsth": 30}, hxn(motors=(0, 1)))
    assert layout.axes[0].factor == 1
    assert layout.axes[1].factor == pytest.approx(math.cos(math.pi / 6))


@pytest.mark.parametrize(
    ("changes", "positions", "angle_deg", "source"),
    [
        ({}, hxn(), 12.5, "baseline zpsth"),
        ({}, hxn(angle_deg=20.0), 20.0, "configuration"),
        ({"motors": ["ssx", "ssy"]}, hxn(), 0.0, "no rotation"),
        ({"motors": ["dssx", "dssy"]}, hxn(), 0.0, "assumed: no dsth in the baseline"),
    ],
)
def test_the_motors_say_which_rotation_turns_the_sample(documents, changes, positions, angle_deg, source):
    layout = resolve({**documents("fly2dpd")[0], **changes}, {"zpsth": 12.5}, positions)
    assert (layout.angle_deg, layout.angle_source) == (angle_deg, source)


@pytest.mark.parametrize("theta", [30.0, {"val": 30.0, "units": "deg"}])
def test_the_tomography_stage_writes_its_rotation_into_the_start_document(documents, theta):
    start, _ = documents("pt_fly2dcontpd")
    start["scan"]["theta"] = theta
    assert resolve(start, {}, hxn()).angle_source == "start document scan.theta"
    trusted = resolve(start, {"pt_tomo_th": -15.0}, hxn())
    assert (trusted.angle_deg, trusted.angle_source) == (-15.0, "baseline pt_tomo_th")


@pytest.mark.parametrize("reading", [None, "nan", float("nan"), {}])
def test_an_angle_that_is_none_is_not_believed(documents, reading):
    layout = resolve(documents("fly2dpd")[0], {"zpsth": reading}, hxn())
    assert (layout.angle_deg, layout.foreshortening) == (0, 1)


def test_motors_without_an_encoder_lie_on_the_commanded_grid_and_say_so(documents):
    layout = resolve(*documents("fly2dpd_coarse"), hxn())
    assert layout.measured == (False, False)
    told = plain(layout.describe())
    assert told["position_channels"] == ["none", "none"]
    assert told["position_sources"] == ["commanded grid", "commanded grid"]


def test_no_grid_is_computed_where_the_plan_does_not_tell_it(documents):
    start, baseline = documents("fly2dpd_repeat")
    start["motors"] = ["ssx", "ssy"]
    with pytest.raises(GeometryError, match="no encoder reads ssy and ssx"):
        resolve(start, baseline, hxn())
    assert resolve({**start, "repeat": 5}, baseline, hxn()).measured == (False, False)
    assert resolve({**start, "motors": ["zpssx", "zpssy"]}, baseline, hxn()).measured == (True, True)


def test_explicit_axes_overrule_the_table(documents):
    layout = resolve(*documents("fly2dpd_mll"), explicit(table="hxn"))
    assert [axis.channel for axis in layout.axes] == ["/A", "/B"]
    # The rotation is still that of the motor.
    assert layout.axes[0].um_per_count == pytest.approx(1e-3 * math.cos(math.pi / 6))
    assert layout.axes[1].um_per_count == 2e-3


def test_explicit_axes_need_no_names_of_motors_and_no_baseline(documents):
    start, _ = documents("fly2dpd_in_tomography")
    start["motors"] = ["anything", "else"]
    assert not awaits_baseline(start, explicit())
    layout = resolve(start, {}, explicit())
    assert (layout.foreshortening, layout.angle_source) == (1, "no rotation")
    assert channels(explicit()) == ("/A", "/B")


def test_one_motor_of_the_table_may_be_calibrated_anew(documents):
    layout = resolve(*documents("fly2dpd"), hxn(encoders={"zpssx": {"um_per_count": -9.7e-5, "motor_sign": -1}}))
    across = layout.axes[1]
    assert (across.channel, across.um_per_count, across.factor) == (X, 9.7e-5, -1)
    assert layout.plan.start_m == pytest.approx((-1e-6, 1e-6))


def test_a_motor_that_no_table_has_can_be_added(documents):
    start, baseline = documents("fly2dpd")
    start["motors"] = ["piezo", "zpssy"]
    with pytest.raises(GeometryError, match=r"'piezo'.*\[positions\.encoders\.piezo\].*zpssx"):
        resolve(start, baseline, hxn())
    added = hxn(encoders={"piezo": {"channel": "/INENC1.VAL.Value", "um_per_count": 2e-4}})
    assert resolve(start, baseline, added).axes[1].channel == "/INENC1.VAL.Value"
    assert "/INENC1.VAL.Value" in channels(added)
    with pytest.raises(GeometryError, match=r"positions\.encoders\.piezo has a channel and no um_per_count"):
        resolve(start, baseline, hxn(encoders={"piezo": {"channel": "/INENC1.VAL.Value"}}))


def test_two_motors_on_one_channel_are_refused(documents):
    start, baseline = documents("fly2dpd")
    start["motors"] = ["zpssx", "dssx"]
    with pytest.raises(GeometryError, match=f"dssx and zpssx are both read on {X}"):
        resolve(start, baseline, hxn())


def test_every_channel_of_the_table_is_kept_until_a_scan_has_chosen():
    assert set(channels(hxn())) == {X, Y, Z}


def test_an_explicit_number_of_samples_overrules_the_kind_of_the_scan(documents):
    assert resolve(*documents("fly2dcontpd"), hxn(samples_per_frame=4)).samples_per_frame == 4
    assert resolve(*documents("fly2dcontpd"), hxn(samples_by_type={"2D_FLY_CONT_PANDA": 2})).samples_per_frame == 2


def test_a_plan_whose_samples_nobody_knows_is_refused_with_the_remedy(documents):
    with pytest.raises(GeometryError, match=r"'?list_scan'?.*positions\.samples_by_type"):
        resolve(*documents("list_scan"), hxn())
    assert resolve(*documents("list_scan"), hxn(samples_by_type={"list_scan": 1})).samples_per_frame == 1


def test_a_relative_plan_needs_encoders_that_read_zero_anywhere(documents):
    start, baseline = documents("rel_grid_scan")
    assert resolve(start, baseline, hxn(samples_per_frame=1)).plan.expected == 15
    with pytest.raises(GeometryError, match="scan_start"):
        resolve(start, baseline, hxn(samples_per_frame=1, zero="motor"))


@pytest.mark.parametrize(
    ("name", "awaits"),
    [("fly2dpd", True), ("fly2dpd_mll", True), ("pt_fly2dcontpd", True), ("fly2dpd_coarse", False)],
)
def test_only_what_turns_waits_for_the_baseline(documents, name, awaits):
    assert awaits_baseline(documents(name)[0], hxn()) is awaits
    assert not awaits_baseline(documents(name)[0], hxn(angle_deg=0.0))


def test_a_layout_is_described_in_plain_values(documents):
    told = plain(resolve(*documents("fly2dpd_in_tomography"), hxn()).describe())
    assert told["position_motors"] == ["zpssy", "zpssz"]
    assert told["position_channels"] == [Y, Z]
    assert (told["angle_deg"], told["angle_source"], told["samples_per_frame"]) == (60.0, "baseline zpsth", 10)
    assert told["foreshortening"] == pytest.approx(math.sin(math.pi / 3))
    json.dumps(told, allow_nan=False)


def test_the_table_names_a_rotation_for_what_moves_across_it():
    assert {motor for motor, encoder in TABLES["hxn"].items() if encoder.rotation} == {
        *("zpssx", "zpssz", "dssx", "dssz", "pt_tomo_ssx"),
    }


# Spans


def plan(ny=10):
    document = {"scan": {"type": "2D_FLY_PANDA", "scan_input": [-1, 1, 20, -1, 1, ny]}}
    return laid(commanded(document), (1, 0), (1, 1))


def meant(grid):
    return np.array([grid.commanded_m(frame) for frame in range(grid.expected)])


def test_positions_that_follow_the_command_span_it():
    grid = plan()
    noise = np.random.default_rng(1).normal(0, 5e-9, (200, 2))
    assert span_ratios(grid, np.arange(200), meant(grid) + noise + 3e-6) == pytest.approx((1, 1), abs=0.02)


def test_a_wrong_scale_and_a_wrong_sign_are_seen():
    grid = plan()
    found = meant(grid) * (1.0309, -0.9542)
    assert span_ratios(grid, np.arange(200), found) == pytest.approx((1.0309, -0.9542))


def test_an_overshoot_of_the_first_frames_does_not_count():
    grid = plan(60)
    found = meant(grid)
    found[:20] *= 3
    assert span_ratios(grid, np.arange(grid.expected), found) == pytest.approx((1, 1), abs=0.05)


def test_lost_lines_do_not_count():
    grid = plan()
    frames = np.arange(60, 120)
    assert span_ratios(grid, frames, meant(grid)[60:120]) == pytest.approx((1, 1))


def test_what_was_not_commanded_has_no_span(documents):
    line = plan(1)
    ratios = span_ratios(line, np.arange(20), meant(line))
    assert ratios == (None, pytest.approx(1))
    unknown = resolve(*documents("fly2dpd_repeat"), hxn()).plan
    assert span_ratios(unknown, np.arange(20), np.zeros((20, 2))) == (None, None)
    assert span_ratios(line, np.arange(0), np.zeros((0, 2))) == (None, None)


def test_an_encoder_that_stands_still_spans_nothing():
    grid = plan()
    assert span_ratios(grid, np.arange(200), meant(grid) * (1, 0)) == (pytest.approx(1), 0)
