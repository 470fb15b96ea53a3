"""A scan of which no document ever comes: opened by its detector series and its position capture."""

from __future__ import annotations

import numpy as np
import pytest
from desk import AssemblerDesk

from ptyinr_stream.assembler import BaselineAdded, Frame, Joined, ScanClosed, ScanOpened
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.motors import resolve

ROWS, COLUMNS = "/INENC3.VAL.Value", "/INENC2.VAL.Value"
LINE, LINES = 25, 20
N = LINE * LINES
SCAN_INPUT = (-1.0, 1.0, LINE, -2.0, 2.0, LINES)
NM = 1e-9


def positions(zero="motor", fast_sign=1):
    axes = {"axis0": {"channel": ROWS, "um_per_count": 1e-3}}
    axes |= {"axis1": {"channel": COLUMNS, "um_per_count": 1e-3, "motor_sign": fast_sign}}
    return PositionsConfig.model_validate(axes | {"samples_per_frame": 2, "motors": (1, 0), "zero": zero})


def raster_nm(snake=False):
    line, place = np.divmod(np.arange(N), LINE)
    place = np.where(snake & (line % 2 == 1), LINE - 1 - place, place)
    return np.stack([-2000 + line * 4000 / LINES, -1000 + place * 2000 / LINE], axis=1)


def spiral_nm():
    turn = np.sqrt(np.arange(N))
    return np.stack([80 * turn * np.sin(turn), 40 * turn * np.cos(turn)], axis=1)


def messages(where_nm, size=21):
    counts = np.repeat(where_nm, 2, axis=0)
    for first in range(0, len(counts), size):
        channels = {ROWS: counts[first : first + size, 0], COLUMNS: counts[first : first + size, 1]}
        yield PositionsArrived(first, channels)


def frames(series=7, value=0):
    return [Frame(series, k, np.full((2, 2), value + k, np.uint16)) for k in range(N)]


class Desk(AssemblerDesk):
    """With what these tests ask for."""

    def __init__(self, config=None, **assembly):
        super().__init__(config or positions(), **{"without_documents": True, **assembly})

    def of(self, kind):
        return [output for output in self.outputs if isinstance(output, kind)]

    def placed_nm(self, uid=None):
        """{frame: (value, row, column)}."""
        found = {}
        for joined in self.of(Joined):
            if uid in (None, joined.uid):
                for index, counts, at in zip(
                    joined.batch.indices.tolist(), joined.batch.counts, joined.batch.positions_m / NM, strict=True
                ):
                    assert index not in found
                    found[index] = (int(counts[0, 0]), *at)
        return found


def begin(series=7, armed_at="12:00"):
    return [CaptureStarted(armed_at), SeriesStarted(900, 1), SeriesEnded(900), SeriesStarted(series, N)]


def end(series=7):
    return [SeriesEnded(series), CaptureEnded(None)]


def test_a_configured_scan_opens_with_its_series_and_its_capture_and_is_joined_live():
    desk = Desk(scan_input=SCAN_INPUT).feed(*begin())
    [opened] = desk.of(ScanOpened)
    assert (opened.expected, opened.document["scan"]["scan_input"]) == (N, list(SCAN_INPUT))
    assert (opened.document["uid"], opened.document["scan_id"]) == (opened.uid, 7)
    desk.feed(*messages(raster_nm()), *frames())
    assert len(desk.placed_nm()) == N
    desk.feed(*end()).wait(4)
    assert desk.of(ScanClosed)[0].report.reason == "complete"


def test_without_documents_as_an_exception_nothing_opens():
    desk = Desk(without_documents=False, scan_input=SCAN_INPUT).feed(*begin(), *messages(raster_nm()), *frames())
    assert not desk.outputs


def test_the_document_that_is_made_up_is_one_that_everything_else_can_read():
    desk = Desk(positions(fast_sign=-1), scan_input=SCAN_INPUT).feed(*begin())
    [opened] = desk.of(ScanOpened)
    plan = resolve(opened.document, {}, positions(fast_sign=-1)).plan
    assert (plan.expected, plan.line, plan.fast, plan.range) == (N, LINE, 1, opened.range)


def test_its_uid_follows_from_the_streams():
    uids = [Desk(scan_input=SCAN_INPUT).feed(*begin(*which)).of(ScanOpened)[0].uid for which in [(7,), (7,), (8,)]]
    uids.append(Desk(scan_input=SCAN_INPUT).feed(*begin(7, "13:00")).of(ScanOpened)[0].uid)
    assert uids[0] == uids[1]
    assert len(set(uids)) == 3


def test_one_that_comes_again_gets_a_uid_of_its_own():
    desk = Desk(scan_input=SCAN_INPUT)
    for value in (0, 1000):
        desk.feed(*begin(), *messages(raster_nm() + value / 100), *frames(value=value), *end()).wait(4)
    first, second = (opened.uid for opened in desk.of(ScanOpened))
    assert first != second
    assert desk.placed_nm(second)[3][0] == 1003


@pytest.mark.parametrize("fast_sign", [1, -1])
@pytest.mark.parametrize("snake", [False, True])
@pytest.mark.parametrize("zero", ["motor", "scan_start"])
def test_a_scan_that_is_not_configured_is_read_from_its_first_lines(snake, fast_sign, zero):
    desk = Desk(positions(zero, fast_sign)).feed(*begin(), *frames())
    where = raster_nm(snake) + np.array([5000, -300])
    noisy = where + np.random.default_rng(0).uniform(-20, 20, where.shape)
    for message in messages(noisy):
        desk.feed(message)
        if desk.of(ScanOpened):
            break
    assert message.first_sample < 2 * 5 * LINE
    [opened] = desk.of(ScanOpened)
    plan = resolve(opened.document, {}, positions(zero, fast_sign)).plan
    assert (plan.line, plan.snake, plan.fast, plan.expected) == (LINE, snake, 1, N)
    assert opened.range.lower_m == pytest.approx((3e-6, -1.3e-6), abs=0.3e-6)
    assert opened.range.upper_m == pytest.approx((7e-6, 0.7e-6), abs=0.5e-6)
    desk.feed(*messages(noisy))
    placed = desk.placed_nm()
    assert np.array([placed[k][1:] for k in range(N)]) == pytest.approx(noisy)


def test_a_scan_that_has_no_lines_is_opened_when_it_is_over():
    desk = Desk().feed(*begin(), *frames(), *messages(spiral_nm()))
    assert not desk.of(ScanOpened)
    desk.feed(*end())
    [opened] = desk.of(ScanOpened)
    assert opened.range.upper_m == pytest.approx(tuple(spiral_nm().max(axis=0) * NM))
    placed = desk.placed_nm()
    assert np.array([placed[k][1:] for k in range(N)]) == pytest.approx(spiral_nm())


def test_silence_of_the_encoders_is_as_good_as_the_end_of_their_capture():
    desk = Desk().feed(*begin(), *frames(), *messages(spiral_nm())).wait(4)
    assert len(desk.placed_nm()) == N


def test_when_reception_ends_what_waits_is_opened_too():
    desk = Desk().feed(*begin(), *frames(), *messages(spiral_nm()))
    desk.outputs += desk.assembler.finish()
    assert len(desk.placed_nm()) == N


def test_two_scans_one_after_the_other_are_two():
    desk = Desk(scan_input=SCAN_INPUT)
    for series, value in ((7, 0), (8, 1000)):
        desk.feed(*begin(series, f"at {series}"), *messages(raster_nm()), *frames(series, value), *end(series))
    desk.wait(4)
    first, second = (opened.uid for opened in desk.of(ScanOpened))
    assert desk.placed_nm(first)[5][0] == 5
    assert desk.placed_nm(second)[5][0] == 1005
    assert [closed.report.reason for closed in desk.of(ScanClosed)] == ["complete", "complete"]


def test_the_ends_of_both_streams_are_enough_for_a_scan_with_holes_to_settle():
    desk = Desk(scan_input=SCAN_INPUT).feed(*begin(), *messages(raster_nm()), *frames()[:-3], *end()).wait(3.1)
    [closed] = desk.of(ScanClosed)
    assert (closed.report.reason, closed.report.lost) == ("settled", 3)


def test_a_start_document_that_comes_all_the_same_is_of_the_same_scan():
    desk = Desk(scan_input=SCAN_INPUT).feed(*begin(), *messages(raster_nm()), *frames()[:100])
    document = {"uid": "late", "scan": {"type": "2D_FLY_PANDA", "scan_input": list(SCAN_INPUT)}}
    desk.feed(RunStarted("late", document), BaselineRead("late", {"dcm_th": 9.5}), *frames()[100:])
    [opened], [added] = desk.of(ScanOpened), desk.of(BaselineAdded)
    assert (added.uid, added.values) == (opened.uid, {"dcm_th": 9.5})
    assert len(desk.placed_nm(opened.uid)) == N
    assert desk.assembler.counts["documents_late"] == 1


def test_a_stop_document_of_a_late_start_document_stops_the_scan():
    desk = Desk(scan_input=SCAN_INPUT).feed(*begin(), *messages(raster_nm()), *frames()[:100])
    document = {"uid": "late", "scan": {"type": "2D_FLY_PANDA", "scan_input": list(SCAN_INPUT)}}
    desk.feed(RunStarted("late", document), RunStopped("late", "abort")).wait(3.1)
    assert desk.of(ScanClosed)[0].report.exit_status == "abort"


def test_a_start_document_that_comes_first_is_the_scan_s_own():
    document = {"uid": "first", "scan": {"type": "2D_FLY_PANDA", "scan_input": list(SCAN_INPUT)}}
    desk = Desk(scan_input=SCAN_INPUT).feed(RunStarted("first", document), *begin(), *messages(raster_nm()), *frames())
    assert [opened.uid for opened in desk.of(ScanOpened)] == ["first"]
    assert len(desk.placed_nm("first")) == N


def test_a_series_whose_header_was_lost_needs_the_configured_number_of_frames():
    capture, *_ = begin()
    events = [capture, *messages(raster_nm()), *frames()]
    assert not Desk().feed(*events).of(ScanOpened)
    assert len(Desk(scan_input=SCAN_INPUT).feed(*events).placed_nm()) == N
