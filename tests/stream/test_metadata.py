"""What publishers are told about a scan: flat, plain and complete, whatever the documents hold."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest

from ptyinr.types import ScanGeometry
from ptyinr_stream.alignment import Alignment
from ptyinr_stream.config import FramesConfig, PositionsConfig
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.metadata import ScanRecord, plain, report_record, scan_record
from ptyinr_stream.motors import resolve
from ptyinr_stream.optics import Optics
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.scan_report import ScanReport
from ptyinr_stream.supersampling import Supersampling

GEOMETRY = ScanGeometry(wavelength_m=1e-10, distance_m=2.0, detector_pixel_m=75e-6, window=(100, 200))
OPTICS = Optics(GEOMETRY, "baseline dcm_th", "configuration geometry.distance_m", "eiger2", ("a doubt",))
START = {
    "uid": "5ad1e2c3",
    "time": 1795378177.09,
    "scan_id": 404611,
    "plan_name": "fly2dpd",
    "sample": "Gold",
    "shape": [50, 20],
    "scan": {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 50.0, -0.25, 0.25, 20.0]},
}


def record(positions: PositionsConfig = HXN_ENCODERS, **changes: Any) -> ScanRecord:
    document = {**START, **changes}
    convention = FrameConvention(FramesConfig(orientation="fliplr", window=(100, 200))).describe()
    return scan_record("5ad1e2c3", document, OPTICS, resolve(document, {}, positions), convention)


def test_the_record_has_every_key_that_hxns_dashboards_read():
    told = record()
    assert (told.uid, told.scan_id, told.started_at) == ("5ad1e2c3", 404611, 1795378177.09)
    expected = {
        "raw_uid": "5ad1e2c3",
        "scan_id": "404611",
        "scan_num": "404611",
        "recon_mode": "ptyinr",
        "x_pixel_m": pytest.approx(1e-10 * 2 / (100 * 75e-6)),
        "y_pixel_m": pytest.approx(1e-10 * 2 / (200 * 75e-6)),
        "x_num": 50,
        "y_num": 20,
        "x_range_um": pytest.approx(2.0),
        "y_range_um": pytest.approx(0.5),
        "xray_energy_kev": pytest.approx(12.39842, rel=1e-6),
        "wavelength_m": 1e-10,
        "distance_m": 2.0,
        "sample": "Gold",
        "plan_name": "fly2dpd",
        "scan_type": "2D_FLY_PANDA",
    }
    assert {key: told.metadata[key] for key in expected} == expected
    assert told.metadata["frame_orientation"] == "fliplr"
    sources = {
        "energy_source": "baseline dcm_th",
        "distance_source": "configuration geometry.distance_m",
        "detector": "eiger2",
        "optics_doubts": ["a doubt"],
        "position_motors": ["", ""],
        "position_channels": ["/INENC2.VAL.Value", "/INENC3.VAL.Value"],
        "position_sources": ["encoder", "encoder"],
        "position_um_per_count": [-9.542e-5, -1.03297e-4],
        "samples_per_frame": 10,
        "angle_deg": 0.0,
        "angle_source": "no rotation",
        "foreshortening": 1.0,
    }
    assert {key: told.metadata[key] for key in sources} == sources
    json.dumps(told.metadata, allow_nan=False)


def test_x_is_the_fast_motor_along_whichever_axis_it_moves():
    turned = HXN_ENCODERS.model_copy(update={"motors": (1, 0)})
    told = record(turned).metadata
    assert (told["x_num"], told["x_range_um"]) == (50, pytest.approx(2.0))
    assert told["x_pixel_m"] == pytest.approx(GEOMETRY.pixel_m[1])
    assert told["y_pixel_m"] == pytest.approx(GEOMETRY.pixel_m[0])


def test_a_grid_scan_tells_its_slow_motor_first_and_x_is_still_the_fast_one():
    grid = {"shape": [20, 50], "extents": [[-0.25, 0.25], [-1.0, 1.0]], "scan": None}
    told = record(HXN_ENCODERS.model_copy(update={"samples_per_frame": 1}), **grid).metadata
    assert (told["x_num"], told["y_num"]) == (50, 20)
    assert told["x_range_um"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("sample", math.nan, "nan"),
        ("sample", np.float64(3.5), "3.5"),
        ("sample", np.str_("Gold"), "Gold"),
        ("sample", ["a", math.inf, None, 3], ["a", "inf", "None", 3]),
        ("sample", {"name": "Gold"}, "{'name': 'Gold'}"),
        ("sample", np.array([1, 2]), "[1 2]"),
        ("scan_id", np.int64(404611), "404611"),
        ("scan_id", 404611.0, "404611"),
        ("scan_id", math.nan, "0"),
        ("scan_id", "latest", "0"),
        ("scan_id", None, "0"),
    ],
)
def test_whatever_a_document_holds_becomes_a_plain_value(key, value, told):
    assert record(**{key: value}).metadata[key] == told


@pytest.mark.parametrize("started", [math.nan, math.inf, -1.0, 1e300, "now", None])
def test_a_start_time_that_is_none_becomes_now(started):
    before = time.time()
    assert before <= record(time=started).started_at <= time.time()


def test_a_start_time_in_numpys_words_is_understood():
    assert record(time=np.float64(1.7e9)).started_at == 1.7e9


@pytest.mark.parametrize("value", [None, {}, {"a": 1}, math.nan, np.float32(1), [[1]], [math.inf], (1, 2)])
def test_what_a_destination_cannot_store_is_refused_and_named(value):
    with pytest.raises(ValueError, match="'odd'"):
        plain({"fine": [1, 2.5, "x", True], "odd": value})


def test_a_report_becomes_flat_counts():
    report = ScanReport(
        expected=10, frames=9, paired=6, duplicates=1, surplus=1, misfits=0, without_position=1, without_frame=2,
        partial_positions=3, surplus_samples=0, foreign=4, exit_status=None, reason="idle",
    )  # fmt: skip
    told = report_record(report)
    assert plain(told) == told
    assert told["frames_received"] == 9
    assert (told["frames_paired"], told["frames_lost"], told["frames_without_position"]) == (6, 3, 1)
    assert (told["exit_status"], told["end_reason"]) == ("unknown", "idle")


def test_a_report_names_the_frames_that_are_missing_and_what_was_checked():
    odd = tuple((2 * k, 2 * k) for k in range(500))
    report = ScanReport(
        9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, None, "idle",
        missing_frames=((0, 0), (12, 40)), gated=3, gated_frames=odd,
        alignment=Alignment("suspect", (3, 4), (1, -2), 9), supersampling=Supersampling("contradicts", 10, 1),
    )  # fmt: skip
    told = report_record(report)
    assert plain(told) == told
    assert told["missing_frames"] == ["0", "12-40"]
    assert (told["gated_frames"][-1], len(told["gated_frames"])) == ("and 300 more", 201)
    assert (told["alignment"], told["alignment_lines"], told["alignment_offsets"]) == ("suspect", [3, 4], [1, -2])
    assert "1 would have been right" in told["supersampling"]
