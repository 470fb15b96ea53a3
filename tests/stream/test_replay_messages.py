"""What a replay says, without sockets."""

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators

from ptyinr.types import HC_KEV_M, ScanGeometry
from ptyinr_stream.config import AxisConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay.messages import (
    HXN_ENCODERS,
    RunDocuments,
    encoder_counts,
    position_messages,
    run_documents,
)


def raster(points=6, lines=4, step_m=5e-8):
    fast, slow = np.meshgrid(np.arange(points), np.arange(lines))
    return step_m * np.stack([fast.ravel() - 2.0, slow.ravel() - 7.0], axis=1)


def scan(positions_m, wavelength_m=HC_KEV_M / 8.8):
    counts = np.zeros((len(positions_m), 8, 10), np.uint16)
    geometry = ScanGeometry(wavelength_m, 1.92, 75e-6, (8, 10))
    return RecordedScan(counts, positions_m, geometry, angle_deg=30.0, name="raster")


def documents(positions_m, positions=HXN_ENCODERS, **changes):
    return list(run_documents(scan(positions_m, **changes), positions, None, 12, 200.0))


def test_the_mean_of_whole_encoder_counts_is_the_position():
    positions_m = np.random.default_rng(0).normal(0, 5e-6, (300, 2))
    counts = encoder_counts(positions_m, HXN_ENCODERS)
    exact = 1e6 * positions_m / (-9.542e-5, -1.03297e-4)
    assert counts.shape == (300, 10, 2)
    assert np.array_equal(counts, np.rint(counts))
    assert np.abs(counts.mean(axis=1) - exact).max() <= 0.05 + 1e-6


def test_encoders_move_on_steadily_and_never_fly_back_during_a_frame():
    positions_m = raster()
    fast = 1e6 * encoder_counts(positions_m, HXN_ENCODERS)[:, :, 0] * -9.542e-5 * 1e-6  # µm
    steps = np.diff(fast, axis=1)
    inner = steps[1:-1]  # at rest before the first frame and after the last
    assert np.allclose(inner, 0.05 / 10, atol=2.1 * 9.542e-5)


def test_messages_of_positions_hold_every_sample_once_and_do_not_end_where_frames_do():
    counts = np.arange(37 * 10 * 2, dtype=float).reshape(37, 10, 2)
    sent = list(position_messages(counts, HXN_ENCODERS, rate_hz=20.0, flush_s=0.4))
    rows = [message["datasets"]["/INENC2.VAL.Value"] for _, message in sent]
    assert [row["size"] for row in rows] == [81, 81, 81, 81, 46]
    assert [row["starting_sample_number"] for row in rows] == [0, 81, 162, 243, 324]
    assert [message["frame_number"] for _, message in sent] == [0, 1, 2, 3, 4]
    assert [after for after, _ in sent] == [8, 16, 24, 32, 36]
    assert np.array_equal(np.concatenate([row["data"] for row in rows]), counts[:, :, 0].ravel())


def test_the_documents_are_those_of_a_fly_scan_and_valid():
    named = documents(raster())
    assert [name for name, _ in named] == [
        "start", "descriptor", "event", "descriptor", "event_page", "event", "stop",
    ]  # fmt: skip
    for name, document in named:
        schema_validators[DocumentNames[name]].validate(document)
    start, stop = named[0][1], named[-1][1]
    assert start["scan"]["type"] == "2D_FLY_PANDA"
    assert start["motors"] == ["zpssx", "zpssy"]
    assert start["shape"] == [6, 4]
    assert np.allclose(start["scan"]["scan_input"], [-0.1, 0.15, 6, -0.35, -0.2, 4])
    assert (start["scan"]["dwell"], start["scan"]["detector_distance"], start["scan_id"]) == (0.005, 1.92, 12)
    assert stop["num_events"] == {"baseline": 2, "primary": 1}
    assert len({document["uid"] for name, document in named if name != "event_page"}) == 6


def test_documents_of_a_file_that_grows_are_those_of_ophyd_async_and_valid():
    run = RunDocuments(scan(raster()), HXN_ENCODERS, None, 12, 200.0)
    file = run.file_of_images("file://localhost/scan.h5", "/entry/data/data")
    named = [*run.opening(), *file.introduction(), file.written(0, 10), file.written(10, 24), *run.closing()]
    assert [name for name, _ in named[3:]] == [
        "descriptor", "stream_resource", "stream_datum", "stream_datum", "event", "stop",
    ]  # fmt: skip
    for name, document in named:
        schema_validators[DocumentNames[name]].validate(document)
    descriptor, resource, first, second = (document for _, document in named[3:7])
    assert descriptor["data_keys"]["eiger2_image"]["shape"] == [1, 8, 10]
    assert (resource["data_key"], resource["run_start"]) == ("eiger2_image", named[0][1]["uid"])
    assert resource["parameters"]["dataset"] == "/entry/data/data"
    assert {first["descriptor"], second["descriptor"]} == {descriptor["uid"]}
    assert (first["uid"], second["uid"]) == (f"{resource['uid']}/0", f"{resource['uid']}/1")
    assert (second["indices"], second["seq_nums"]) == ({"start": 10, "stop": 24}, {"start": 11, "stop": 25})


def test_the_monochromator_angle_gives_the_wavelength_by_the_formula_of_hxn():
    readings = documents(raster())[2][1]["data"]
    energy_kev = 12.39842 / (2 * 3.1355893 * np.sin(np.radians(readings["dcm_th"])))
    assert 1e-9 * 1.239841984 / energy_kev == pytest.approx(HC_KEV_M / 8.8, rel=1e-12)
    assert readings["zpsth"] == 30.0
    with pytest.raises(GeometryError, match="below what a Si"):
        documents(raster(), wavelength_m=7e-10)


def test_the_commanded_range_is_told_in_the_coordinates_of_the_motors():
    turned = PositionsConfig(
        axis0=AxisConfig(channel="a", um_per_count=1e-4),
        axis1=AxisConfig(channel="b", um_per_count=1e-4, motor_sign=-1),
        motors=(1, 0),
    )
    start = documents(raster()[:, ::-1].copy(), turned)[0][1]
    assert np.allclose(start["scan"]["scan_input"], [0.1, -0.15, 6, -0.35, -0.2, 4])


@pytest.mark.parametrize("keep", [slice(0, 23), slice(1, None), slice(3, 4), slice(0, 2)])
def test_a_scan_that_is_no_grid_is_a_line(keep):
    positions_m = raster()[keep]
    assert documents(positions_m)[0][1]["shape"] == [len(positions_m), 1]
