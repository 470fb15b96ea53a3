"""What is checked while a scan is joined: where encoders stand, how many samples make a frame, whose frame is whose."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from desk import AssemblerDesk

from ptyinr_stream.assembler import Frame, FramesMissing, Joined, ScanClosed
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.events import (
    CaptureEnded,
    CaptureStarted,
    FrameTimed,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)

ROWS, COLUMNS, TIMES = "/INENC3.VAL.Value", "/INENC2.VAL.Value", "/PCAP.TS_TRIG.Value"
LINE, LINES = 40, 30
N = LINE * LINES
PER_FRAME = 10
ZERO = np.array([31_000.0, -7_000.0])  # counts at which the encoders of a scan happen to stand
NM = 1e-9


def positions(per_frame=PER_FRAME, zero="scan_start"):
    axes = {"axis0": {"channel": ROWS, "um_per_count": 1e-3}, "axis1": {"channel": COLUMNS, "um_per_count": 1e-3}}
    return PositionsConfig.model_validate(axes | {"samples_per_frame": per_frame, "motors": (1, 0), "zero": zero})


def start(uid="a"):
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, LINE, -2.0, 2.0, LINES]}
    return RunStarted(uid, {"uid": uid, "scan": scan})


def commanded_nm():
    """(N, 2) along rows and columns; frames begin at their place."""
    frame = np.arange(N)
    return np.stack([-2000 + frame // LINE * 4000 / LINES, -1000 + frame % LINE * 2000 / LINE], axis=1)


def seconds(per_frame):
    frame, phase = np.divmod(np.arange(N * per_frame), per_frame)
    return frame * 0.01 + phase * 0.00096 + frame // LINE * 0.3


def messages(where_nm, per_frame=PER_FRAME, size=41, timed=True):
    """A PandA's messages of frames at `where_nm` (n, 2)."""
    counts = np.repeat(where_nm, per_frame, axis=0) + ZERO
    channels = {ROWS: counts[:, 0], COLUMNS: counts[:, 1]} | ({TIMES: seconds(per_frame)} if timed else {})
    for first in range(0, len(counts), size):
        yield PositionsArrived(first, {name: values[first : first + size] for name, values in channels.items()})


def frame(number, series=1):
    return Frame(series, number, np.full((2, 2), number, np.uint16))


def frames(numbers=range(N)):
    return [frame(number) for number in numbers]


class Desk(AssemblerDesk):
    """With what these tests ask for."""

    def __init__(self, config=None, **assembly):
        super().__init__(config or positions(), **assembly)

    def placed_nm(self):
        """{frame: (row, column)} in the coordinates of the plan."""
        found = {}
        for output in self.outputs:
            if isinstance(output, Joined):
                assert not found.keys() & set(output.batch.indices.tolist())
                found.update(zip(output.batch.indices.tolist(), output.batch.positions_m / NM, strict=True))
        return found

    def report(self):
        [closed] = [output for output in self.outputs if isinstance(output, ScanClosed)]
        report = closed.report
        fates = (report.paired, report.duplicates, report.surplus, report.misfits)
        assert report.frames == sum((*fates, report.without_position, report.gated))
        return report


def begun(config=None, **assembly):
    return Desk(config, **assembly).feed(start(), CaptureStarted(), SeriesStarted(1, N))


# Encoders that had not settled


def test_a_scan_whose_encoders_begin_anywhere_is_laid_over_the_commanded_grid():
    desk = begun().feed(*frames(), *messages(commanded_nm())).finish()
    placed = desk.placed_nm()
    assert sorted(placed) == list(range(N))
    assert np.stack([placed[k] for k in range(N)]) == pytest.approx(commanded_nm(), abs=1e-6)
    assert desk.report().gate == "on"


def test_it_is_laid_there_as_soon_as_two_lines_agree():
    desk = begun().feed(*frames())
    for message in messages(commanded_nm()):
        desk.feed(message)
        if desk.placed_nm():
            break
    assert message.first_sample < 2 * LINE * PER_FRAME
    assert message.first_sample + 41 >= 2 * LINE * PER_FRAME


@pytest.mark.parametrize("stale", [LINE // 4, LINE + 5, 4 * LINE, 7 * LINE + 11])
def test_frames_of_a_slow_encoder_that_stands_in_the_middle_neither_anchor_the_scan_nor_get_into_it(stale):
    where = commanded_nm()
    where[:stale, 0] = 0.0
    desk = begun().feed(*frames(), *messages(where), RunStopped("a")).wait(4)
    placed, report = desk.placed_nm(), desk.report()
    assert sorted(placed) == list(range(stale, N))
    assert np.stack([placed[k] for k in range(stale, N)]) == pytest.approx(commanded_nm()[stale:], abs=1e-6)
    assert (report.gated, report.gated_frames, report.lost) == (stale, ((0, stale - 1),), 0)
    assert report.reason == "complete"


def test_gated_frames_that_come_after_their_verdict_are_counted_too():
    where = commanded_nm()
    where[:LINE, 0] = 0.0
    desk = begun().feed(*messages(where), *frames(), RunStopped("a")).wait(4)
    assert desk.report().gated == LINE
    assert min(desk.placed_nm()) == LINE


def test_without_the_gate_everything_is_joined_from_the_first_frame_on():
    where = commanded_nm()
    where[:LINE, 0] = 0.0
    desk = begun(gate=False).feed(*frames(), *messages(where)).finish()
    assert sorted(desk.placed_nm()) == list(range(N))
    assert desk.placed_nm()[0] == pytest.approx(commanded_nm()[0], abs=1e-6)
    assert (desk.report().gate, desk.report().gated) == ("off", 0)


def test_a_scan_that_lies_elsewhere_than_commanded_is_joined_all_the_same_and_the_report_says_so():
    desk = begun(positions(zero="motor")).feed(*frames(), *messages(commanded_nm())).finish()
    assert sorted(desk.placed_nm()) == list(range(N))
    assert desk.report().gate == "given up"


def test_a_message_lost_in_every_line_does_not_keep_the_scan_from_being_laid_down():
    desk = begun().feed(*frames())
    lost = [message for message in messages(commanded_nm(), size=100) if message.first_sample % 400 == 100]
    kept = [message for message in messages(commanded_nm(), size=100) if message.first_sample % 400 != 100]
    desk.feed(*kept[:12])
    assert desk.placed_nm()
    desk.feed(*kept[12:], *lost).finish()
    placed = desk.placed_nm()
    assert np.stack([placed[k] for k in range(N)]) == pytest.approx(commanded_nm(), abs=1e-6)


# Samples of a frame


@pytest.mark.parametrize(("believed", "right"), [(1, 10), (10, 1), (10, 5)])
def test_a_wrong_number_of_samples_stops_placement_before_it_begins(believed, right, caplog):
    desk = begun(positions(believed)).feed(*frames(range(100)))
    with caplog.at_level(logging.ERROR):
        desk.feed(*messages(commanded_nm(), right), *frames(range(100, N)), RunStopped("a")).wait(4)
    assert not desk.placed_nm()
    report = desk.report()
    assert (report.supersampling.verdict, report.supersampling.seen) == ("contradicts", right)
    assert (report.without_position, report.unplaced_frames) == (N, ((0, N - 1),))
    assert caplog.text.count(f"{right} would have been right") == 1


@pytest.mark.parametrize("right", [1, 5])
def test_the_number_that_samples_show_can_be_followed(right):
    desk = begun(supersampling="follow").feed(*frames(), *messages(commanded_nm(), right), RunStopped("a")).wait(4)
    placed = desk.placed_nm()
    assert np.stack([placed[k] for k in range(N)]) == pytest.approx(commanded_nm(), abs=1e-6)
    assert (desk.report().supersampling.verdict, desk.report().supersampling.per_frame) == ("followed", right)


def test_a_contradiction_can_be_ignored():
    desk = begun(positions(10), supersampling="ignore", gate=False)
    desk.feed(*frames(), *messages(commanded_nm(), 5)).finish()
    assert len(desk.placed_nm()) == N // 2
    assert desk.report().supersampling.verdict == "unchecked"


def test_without_times_the_end_of_the_capture_tells():
    sent = list(messages(commanded_nm(), 5, timed=False))
    desk = begun().feed(*frames(), *sent, CaptureEnded(len(sent)), RunStopped("a")).wait(4)
    assert desk.report().supersampling.seen == 5


def test_the_right_number_of_samples_agrees():
    sent = list(messages(commanded_nm()))
    desk = begun().feed(*frames(), *sent, CaptureEnded(len(sent)))
    assert desk.finish().report().supersampling.verdict == "agrees"


# The detector's own times


@pytest.mark.parametrize(("missed", "verdict"), [((), "agrees"), ((5 * LINE + 3, 5 * LINE + 4), "suspect")])
def test_triggers_that_the_detector_missed_are_reported_by_line(missed, verdict, caplog):
    starts = np.delete(seconds(1), list(missed))
    times = [FrameTimed(1, k, int(1e9 * at), int(1e9 * at) + 9_000_000) for k, at in enumerate(starts)]
    desk = begun().feed(*(e for pair in zip(frames(range(len(times))), times, strict=True) for e in pair))
    report = desk.feed(*messages(commanded_nm())).finish().report()
    assert report.alignment.verdict == verdict
    assert report.alignment.lines == (tuple(range(5, LINES - 1)) if missed else ())
    assert set(report.alignment.offsets) == ({2} if missed else set())
    assert ("at the end of line 5 the detector is 2 triggers behind" in caplog.text) == bool(missed)


# Frames that never came


def lossy(**assembly):
    lost = {3, *range(100, 120)}
    desk = begun(**assembly).feed(*frames(k for k in range(N) if k not in lost), *messages(commanded_nm()))
    return desk.feed(SeriesEnded(1), CaptureEnded(None), RunStopped("a")), sorted(lost)


def missing(desk):
    return [output.indices.tolist() for output in desk.outputs if isinstance(output, FramesMissing)]


def test_holes_stay_holes_and_the_report_names_them():
    desk, _ = lossy()
    report = desk.wait(4).report()
    assert missing(desk) == []
    assert (report.lost, report.missing_frames, report.reason) == (21, ((3, 3), (100, 119)), "settled")


@pytest.mark.parametrize("by_stream", [True, False])
def test_a_scan_that_is_over_waits_for_frames_from_elsewhere(by_stream):
    desk, lost = lossy(fill_s=20)
    desk.wait(4).wait(4)
    assert missing(desk) == [lost]
    if by_stream:
        desk.feed(*frames(lost))
    else:
        desk.outputs += desk.assembler.fill("a", frames([*lost, 4]), desk.now)
    placed = desk.placed_nm()
    assert np.stack([placed[k] for k in range(N)]) == pytest.approx(commanded_nm(), abs=1e-6)
    report = desk.report()
    assert (report.reason, report.lost, report.duplicates) == ("complete", 0, 0 if by_stream else 1)


def test_it_waits_no_longer_than_it_was_told_to_and_asks_once():
    desk, lost = lossy(fill_s=20)
    desk.wait(4).wait(19)
    assert not any(isinstance(output, ScanClosed) for output in desk.outputs)
    desk.feed(frame(3)).wait(4)
    assert missing(desk) == [lost]
    assert (desk.report().reason, desk.report().lost) == ("settled", 20)


def test_the_next_scan_is_joined_while_the_last_one_waits():
    desk, lost = lossy(fill_s=20)
    desk.wait(4).feed(start("b"), CaptureStarted(), SeriesStarted(2, N))
    desk.feed(*(frame(k, 2) for k in range(N)), *messages(commanded_nm()))
    desk.outputs += desk.assembler.fill("a", frames(lost), desk.now)
    desk.finish()
    closed = {output.uid: output.report for output in desk.outputs if isinstance(output, ScanClosed)}
    assert {uid: report.paired for uid, report in closed.items()} == {"a": N, "b": N}


def test_frames_for_a_scan_that_is_closed_are_foreign():
    desk, lost = lossy()
    desk.wait(4)
    assert desk.assembler.fill("a", frames(lost), desk.now) == []
    assert desk.assembler.counts["frames_foreign"] == len(lost)


# Where reception begins


def test_reception_that_begins_in_the_middle_of_a_scan_is_reported():
    desk = Desk().feed(start(), *frames(range(500, N)))
    desk.feed(*(message for message in messages(commanded_nm()) if message.first_sample > 4000)).finish()
    assert desk.report().partial_start
    assert min(desk.placed_nm()) == 500
    assert desk.placed_nm()[777] == pytest.approx(commanded_nm()[777], abs=1e-6)


def test_a_lost_header_alone_is_no_partial_start():
    desk = Desk().feed(start(), *frames(), CaptureStarted(), *messages(commanded_nm())).finish()
    assert not desk.report().partial_start
    assert len(desk.placed_nm()) == N


def test_a_scan_larger_than_memory_is_passed_over(caplog):
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 1e6, -2.0, 2.0, 1e6]}
    desk = Desk().feed(RunStarted("huge", {"uid": "huge", "scan": scan}))
    assert desk.outputs == []
    assert "more than" in caplog.text
