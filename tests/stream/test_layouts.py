"""The join where documents decide how positions are read: what waits for the baseline reading, and what needs none."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from desk import AssemblerDesk

from ptyinr_stream.assembler import BaselineAdded, Frame, Joined, ScanClosed, ScanOpened, SeriesBound
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.events import BaselineRead, CaptureStarted, PositionsArrived, RunStarted, RunStopped, SeriesStarted
from ptyinr_stream.metadata import plain, report_record
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import run_documents

X, Y, Z = (f"/INENC{k}.VAL.Value" for k in (2, 3, 4))
HXN = PositionsConfig.model_validate({"table": "hxn", "motors": (1, 0), "zero": "scan_start", "samples_per_frame": 1})
NX, NY = 6, 5


def start(uid="a", motors=("zpssx", "zpssy"), **more):
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-3.0, 3.0, float(NX), -2.5, 2.5, float(NY)]}
    return RunStarted(uid, {"uid": uid, "motors": list(motors), "shape": [NX, NY], "scan": scan, **more})


def grid_um():
    """Where the frames are commanded, (n, 2) fast and slow."""
    return np.array([(-3.0 + place, -2.5 + line) for line in range(NY) for place in range(NX)])


def samples(first=0, fast=X, fast_um_per_count=-9.542e-5, slow_um_per_count=-1.03297e-4, wrong=1.0):
    """What the encoders read when the stage follows, from anywhere: every channel, as a PandA sends them."""
    counts = {name: np.zeros(NX * NY) for name in (X, Y, Z)}
    counts[fast] = wrong * grid_um()[:, 0] / fast_um_per_count + 12345
    counts[Y] = grid_um()[:, 1] / slow_um_per_count - 777
    return PositionsArrived(first, {name: values[first:] for name, values in counts.items()})


class Desk(AssemblerDesk):
    """With what these tests ask for."""

    def __init__(self, positions=HXN, **assembly):
        super().__init__(positions, **assembly)

    def frames(self, series=1):
        return self.feed(*(Frame(series, k, np.full((2, 2), k, np.uint16)) for k in range(NX * NY)))

    def only(self, kind):
        [found] = [output for output in self.outputs if isinstance(output, kind)]
        return found

    def positions_um(self):
        """(n, 2) of all joined frames by number, along rows and columns."""
        joined = [output.batch for output in self.outputs if isinstance(output, Joined)]
        found = {int(k): at for batch in joined for k, at in zip(batch.indices, batch.positions_m, strict=True)}
        assert list(found) == list(range(NX * NY)) or sorted(found) == list(range(NX * NY))
        return 1e6 * np.array([found[k] for k in sorted(found)])


def test_a_scan_opens_with_the_reading_that_tells_its_rotation():
    desk = Desk().feed(start(), SeriesStarted(1, NX * NY), CaptureStarted(), samples()).frames()
    assert desk.outputs == []
    desk.feed(BaselineRead("a", {"dcm_th": 9.5, "zpsth": 30.0}))
    assert [type(output) for output in desk.outputs[:1]] == [ScanOpened]
    layout = desk.only(ScanOpened).layout
    assert (layout.angle_deg, layout.angle_source) == (30.0, "baseline zpsth")
    assert desk.only(BaselineAdded).values["dcm_th"] == 9.5
    shortened = grid_um()[:, ::-1] * (1, math.cos(math.pi / 6))
    assert desk.positions_um() == pytest.approx(shortened, abs=1e-6)
    assert layout.plan.range.upper_m == pytest.approx((2.5e-6, 3e-6 * math.cos(math.pi / 6)))


@pytest.mark.parametrize("zero", ["scan_start", "motor"])
def test_beyond_45_degrees_the_other_encoder_is_read(zero):
    positions = HXN.model_copy(update={"zero": zero})
    desk = Desk(positions).feed(start(motors=("zpssz", "zpssy")), BaselineRead("a", {"zpsth": 60.0}))
    desk.feed(SeriesStarted(1, NX * NY), CaptureStarted(), samples(fast=Z, fast_um_per_count=1e-4)).frames()
    shortened = grid_um()[:, ::-1] * (1, math.sin(math.pi / 3))
    off = desk.positions_um() - shortened
    assert np.ptp(off, axis=0) == pytest.approx((0, 0), abs=1e-6)
    if zero == "scan_start":
        assert off[0] == pytest.approx((0, 0), abs=1e-6)


def test_a_baseline_that_never_comes_is_not_waited_for_longer_than_stragglers(caplog):
    desk = Desk(settle_s=3.0).feed(start(), SeriesStarted(1, NX * NY), CaptureStarted(), samples()).frames()
    desk.wait(2.9)
    assert desk.outputs == []
    with caplog.at_level(logging.WARNING):
        desk.wait(0.2)
    assert desk.only(ScanOpened).layout.angle_source == "assumed: no zpsth in the baseline"
    assert "not foreshortened" in caplog.text
    assert desk.positions_um() == pytest.approx(grid_um()[:, ::-1], abs=1e-6)


@pytest.mark.parametrize("event", [RunStopped("a"), start("b")])
def test_whatever_follows_a_start_document_opens_its_scan(event):
    desk = Desk().feed(start(), event)
    assert [output.uid for output in desk.outputs if isinstance(output, ScanOpened)] == ["a"]


def test_the_end_of_all_opens_and_closes_a_scan_that_waited():
    desk = Desk().feed(start())
    desk.outputs += desk.assembler.finish()
    assert [type(output) for output in desk.outputs] == [ScanOpened, ScanClosed]


def test_a_reading_of_another_run_does_not_open_it():
    desk = Desk().feed(start(), BaselineRead("b", {"zpsth": 30.0}))
    assert desk.outputs == []
    assert desk.feed(start()).assembler.counts["documents_foreign"] == 2  # the second of "a" as well


def test_what_has_no_encoder_is_laid_on_the_commanded_grid_as_its_frames_come():
    desk = Desk().feed(start(motors=("ssx", "ssy")), SeriesStarted(1, NX * NY)).frames()
    assert not any(desk.only(ScanOpened).layout.measured)
    assert desk.positions_um() == pytest.approx(grid_um()[:, ::-1])


def test_positions_that_a_capture_sends_meanwhile_are_not_believed():
    desk = Desk().feed(start(motors=("ssx", "ssy")), CaptureStarted(), samples(), SeriesStarted(1, NX * NY)).frames()
    assert desk.positions_um() == pytest.approx(grid_um()[:, ::-1])


def test_one_axis_may_be_measured_and_the_other_commanded():
    desk = Desk().feed(start(motors=("zpssx", "ssy")), BaselineRead("a", {"zpsth": 0.0}))
    desk.feed(SeriesStarted(1, NX * NY), CaptureStarted(), samples()).frames()
    assert desk.only(ScanOpened).layout.measured == (False, True)
    assert desk.positions_um() == pytest.approx(grid_um()[:, ::-1], abs=1e-6)


def test_two_scans_of_different_stages_follow_each_other():
    desk = Desk().feed(start("a"), BaselineRead("a", {"zpsth": 0.0}))
    desk.feed(SeriesStarted(1, NX * NY), CaptureStarted(), samples()).frames()
    desk.feed(RunStopped("a")).wait(5)
    desk.only(ScanClosed)
    desk.outputs.clear()
    desk.feed(start("b", ("dssx", "dssy")), BaselineRead("b", {"dsth": 0.0}))
    desk.feed(SeriesStarted(2, NX * NY), CaptureStarted())
    desk.feed(samples(fast_um_per_count=-1e-4, slow_um_per_count=1e-4)).frames(2)
    assert desk.positions_um() == pytest.approx(grid_um()[:, ::-1], abs=1e-6)


@pytest.mark.parametrize(("wrong", "warned"), [(1.0, False), (1.04, False), (1.06, True), (0.9, True), (-1.0, True)])
def test_encoders_that_do_not_move_as_commanded_are_reported(caplog, wrong, warned):
    desk = Desk(gate=False).feed(start(), BaselineRead("a", {"zpsth": 30.0}))
    desk.feed(SeriesStarted(1, NX * NY), CaptureStarted(), samples(wrong=wrong)).frames()
    with caplog.at_level(logging.WARNING):
        desk.feed(RunStopped("a")).wait(5)
    report = desk.only(ScanClosed).report
    assert report.span_ratios == pytest.approx((1, wrong))
    assert (f"{X} zpssx moved" in caplog.text) is warned
    told = plain(report_record(report))
    assert told["positions_span_ratio_axis1"] == pytest.approx(wrong)


def test_the_table_reads_what_a_replay_sends_as_explicit_axes_do(simulated):
    documents = [document for _, document in run_documents(simulated, HXN_ENCODERS, "a", 1, 10.0)]
    by_table = PositionsConfig.model_validate({"table": "hxn"})
    layouts = [resolve(documents[0], documents[2]["data"], positions) for positions in (HXN_ENCODERS, by_table)]
    assert layouts[0].axes == layouts[1].axes
    assert layouts[0].plan == layouts[1].plan


def test_what_the_detector_said_of_its_series_is_handed_on():
    desk = Desk().feed(start(), BaselineRead("a", {"zpsth": 0.0}))
    desk.feed(SeriesStarted(1, NX * NY, {"photon_energy": 12000}))
    assert desk.only(SeriesBound).header == {"photon_energy": 12000}
