"""Frames that wait for positions which may never come: memory is bounded, and nothing is lost in silence."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from desk import AssemblerDesk
from hypothesis import given
from hypothesis import strategies as st

from ptyinr_stream.assembler import Joined, ScanClosed, ScanReport
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.events import CaptureStarted, PositionsArrived, RunStarted, RunStopped, SeriesStarted
from ptyinr_stream.frame_blocks import FRAMES, FrameBlocks
from ptyinr_stream.waiting import Frame, Waiting

N, SHAPE = 20, (2, 5)
MB = 1e-6 * 2 * 2 * 5  # of one frame
POSITIONS = PositionsConfig.model_validate(
    {
        "axis0": {"channel": "y", "um_per_count": 1.0},
        "axis1": {"channel": "x", "um_per_count": 1.0},
        "samples_per_frame": 1,
    }
)


class Desk(AssemblerDesk):
    """One open scan of N frames whose series is bound."""

    def __init__(self, room_for: int, **assembly: Any) -> None:
        super().__init__(POSITIONS, **{"gate": False, "waiting_mb": (room_for + 0.5) * MB, **assembly})
        scan = {"type": "2D_FLY_PANDA", "scan_input": [0.0, N - 1.0, float(N), 0.0, 0.0, 1.0]}
        self.feed(RunStarted("a", {"uid": "a", "scan": scan}), CaptureStarted(), SeriesStarted(1, N))

    def frames(self, *numbers: int) -> Desk:
        self.feed(*(Frame(1, number, np.full(SHAPE, number, np.uint16)) for number in numbers))
        return self

    def samples(self, first: int, end: int) -> Desk:
        at = np.arange(first, end, dtype=float)
        self.feed(PositionsArrived(first, {"y": at, "x": at}))
        return self

    @property
    def joined(self) -> list[int]:
        found = []
        for batch in [output.batch for output in self.outputs if isinstance(output, Joined)]:
            for index, counts, at in zip(batch.indices.tolist(), batch.counts, batch.positions_m, strict=True):
                assert (counts == index).all()
                assert at == pytest.approx(1e-6 * index)
                found.append(index)
        return found

    @property
    def report(self) -> ScanReport:
        [closed] = [output for output in self.outputs if isinstance(output, ScanClosed)]
        report = closed.report
        fates = (report.paired, report.duplicates, report.surplus, report.misfits, report.gated)
        assert report.frames == sum(fates) + report.without_position
        assert report.without_position == sum(last - first + 1 for first, last in report.unplaced_frames)
        assert report.lost == sum(last - first + 1 for first, last in report.missing_frames)
        return report


def test_without_positions_the_oldest_frames_are_dropped_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(room_for=5).frames(*range(N)).feed(RunStopped("a")).wait(10.0)
    report = desk.report
    assert (report.frames, report.without_position, report.dropped_for_memory) == (N, N, N - 5)
    assert report.unplaced_frames == ((0, N - 1),)
    assert [record.message for record in caplog.records if "assembly.waiting_mb" in record.message] == [
        f"scan a: frames from 0 on have no position, and fill the {5.5 * MB:g} MB of assembly.waiting_mb: the oldest "
        "are dropped; does the position stream arrive?"
    ]


def test_oldest_is_what_came_first_not_what_is_numbered_lowest() -> None:
    desk = Desk(room_for=2).frames(7, 3, 5, 1).samples(0, N)
    assert desk.joined == [1, 5]


def test_a_frame_whose_position_comes_when_it_is_gone_is_counted_once() -> None:
    desk = Desk(room_for=5).frames(*range(8)).samples(0, N).frames(0, *range(8, N))
    desk.feed(RunStopped("a")).wait(10.0)
    assert sorted(desk.joined) == list(range(3, N))
    report = desk.report
    assert (report.without_position, report.dropped_for_memory, report.unplaced_frames) == (3, 3, ((0, 2),))
    assert (report.duplicates, report.without_frame, report.lost) == (1, 0, 0)


def test_a_frame_that_is_gone_is_not_gated_too() -> None:
    desk = Desk(room_for=1, gate=True).frames(0, 1)
    at = np.arange(N, dtype=float)
    at[0] = 1e4  # far outside the commanded range
    desk.feed(PositionsArrived(0, {"y": np.zeros(N), "x": at})).frames(*range(2, N)).feed(RunStopped("a")).wait(10.0)
    [closed] = [output for output in desk.outputs if isinstance(output, ScanClosed)]
    assert closed.report.unplaced_frames[0] == (0, 0)
    assert all(first > 0 for first, _ in closed.report.gated_frames)
    assert closed.report.frames == N


@given(
    st.permutations(range(N)),
    st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, N)), max_size=6),
    st.lists(st.booleans(), min_size=N, max_size=N),
    st.integers(0, N),
)
def test_whatever_the_order_each_frame_has_one_fate_and_no_pair_is_wrong(
    order: list[int], captured: list[tuple[int, int]], between: list[bool], room_for: int
) -> None:
    desk = Desk(room_for)
    for number, now in zip(order, between, strict=True):
        desk.frames(number)
        if now and captured:
            first, length = captured.pop()
            desk.samples(first, min(first + length, N))
    desk.finish()
    assert len(set(desk.joined)) == len(desk.joined) == desk.report.paired
    assert desk.report.without_position >= desk.report.dropped_for_memory


def in_blocks(blocks: FrameBlocks, first: int, number: int) -> list[Frame]:
    places = [blocks.place(SHAPE, np.dtype(np.uint16)) for _ in range(number)]
    return [Frame(1, first + k, counts, mask) for k, (counts, mask) in enumerate(places)]


def test_frames_in_blocks_count_the_memory_they_keep_and_give_it_back() -> None:
    blocks = FrameBlocks()
    block_bytes = FRAMES * 10 * (2 + 1)
    waiting = Waiting(2 * block_bytes)
    gone = []
    for k, frame in enumerate(in_blocks(blocks, 0, 4 * FRAMES)):
        if k % FRAMES in (3, 40):  # all others of their block are joined
            gone += waiting.add(frame)
    del frame
    gc.collect()
    assert gone == [3, 40, FRAMES + 3, FRAMES + 40]
    assert (list(waiting), waiting.nbytes) == ([k * FRAMES + j for k in (2, 3) for j in (3, 40)], 2 * block_bytes)
    assert len(blocks._free) == 2
    waiting.pop(2 * FRAMES + 3)
    assert waiting.nbytes == 2 * block_bytes
    waiting.pop(2 * FRAMES + 40)
    assert waiting.nbytes == block_bytes


def test_a_mask_that_frames_share_counts_once() -> None:
    mask = np.ones(SHAPE, np.bool_)
    waiting = Waiting(1e9)
    for number in range(3):
        waiting.add(Frame(1, number, np.zeros(SHAPE, np.uint16), mask))
    assert waiting.nbytes == 3 * 20 + 10
    waiting.clear()
    assert (len(waiting), waiting.nbytes) == (0, 0)
