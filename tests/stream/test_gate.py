"""What settles is kept out; a good scan of whatever kind loses nothing and waits for nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr.types import ScanRange
from ptyinr_stream.gate import PositionGate
from ptyinr_stream.grids import ScanPlan

MARGIN = 0.2


def plan(line, lines, snake=False, extent=(4e-6, 2e-6), start=(-2e-6, -1e-6), sign=1):
    """Rows are slow, columns fast."""
    steps = (sign * extent[0] / lines, extent[1] / line)
    corners = np.array([start, np.add(start, np.multiply((sign, 1), extent))])
    bounds = ScanRange(tuple(corners.min(axis=0).tolist()), tuple(corners.max(axis=0).tolist()))
    return ScanPlan(line * lines, bounds, line, 1, start, steps, snake)


def commanded(scan):
    return np.array([scan.commanded_m(frame) for frame in range(scan.expected)])


def judge(gate, positions, portion=7):
    """Frames that pass while the scan goes on, portion by portion, and those that pass at its end."""
    passed = []
    for first in range(0, len(positions), portion):
        numbers = np.arange(first, min(first + portion, len(positions)))
        passed.append(gate.judge(numbers, positions[numbers]))
    return np.concatenate(passed), gate.finish()


@settings(max_examples=60, deadline=None)
@given(
    line=st.integers(1, 40),
    lines=st.integers(1, 40),
    snake=st.booleans(),
    sign=st.sampled_from([1, -1]),
    scale=st.floats(0.85, 1.15),
    noise=st.floats(0, 0.5),
    seed=st.integers(0, 2**32),
)
def test_good_frames_of_rasters_and_snakes_pass_at_once(line, lines, snake, sign, scale, noise, seed):
    scan = plan(line, lines, snake, sign=sign)
    random = np.random.default_rng(seed)
    centre = np.mean([scan.range.lower_m, scan.range.upper_m], axis=0)
    positions = centre + scale * (commanded(scan) - centre)
    positions += noise * np.abs(scan.step_m) * random.uniform(-1, 1, positions.shape)
    gate = PositionGate(scan, MARGIN)
    passed, rest = judge(gate, positions, portion=int(random.integers(1, 50)))
    assert passed.tolist() == list(range(scan.expected))
    assert not len(rest)
    assert (gate.rejections, gate.given_up) == (0, False)


def spiral(scan):
    turn = np.sqrt(np.arange(scan.expected) / scan.expected)
    angle = 2 * np.pi * scan.expected / (4 * scan.line) * turn
    return np.stack([2e-6 * turn * np.sin(angle), 1e-6 * turn * np.cos(angle)], axis=1)


def repeated(scan, times):
    """The slow axis returns after each repeat, while the document's range is that of all of them together."""
    positions = commanded(scan)
    once = scan.expected // times
    positions[:, 0] = np.tile(positions[:once, 0], times)
    return positions


def beyond(scan):
    """The encoders' zero is not where the configuration has it."""
    return commanded(scan) + np.array([3e-6, 0])


def upside_down(scan):
    return commanded(scan) * (-1, 1)


def scattered(scan):
    return np.random.default_rng(0).uniform(scan.range.lower_m, scan.range.upper_m, (scan.expected, 2))


@pytest.mark.parametrize("lines", [8, 30, 100])
@pytest.mark.parametrize(
    "described",
    [spiral, lambda scan: repeated(scan, 2), lambda scan: repeated(scan, 4), beyond, upside_down, scattered],
    ids=["spiral", "two repeats", "four repeats", "another zero", "another sign", "scattered"],
)
def test_a_scan_that_is_not_what_the_document_commands_loses_nothing(described, lines):
    scan = plan(50, lines)
    gate = PositionGate(scan, MARGIN)
    passed, rest = judge(gate, described(scan))
    assert sorted([*passed.tolist(), *rest.tolist()]) == list(range(scan.expected))
    assert gate.rejections == 0
    assert gate.given_up
    if lines == 100:  # and it does not wait for the end
        assert not len(rest)


def test_frames_of_a_slow_encoder_that_stands_in_the_middle_of_its_range_are_kept_out():
    scan = plan(50, 40)
    positions = commanded(scan)
    stale = np.arange(130)
    positions[stale, 0] = 0.0
    gate = PositionGate(scan, MARGIN)
    passed, rest = judge(gate, positions)
    assert np.flatnonzero(gate.rejected).tolist() == stale.tolist()
    assert passed.tolist() == list(range(130, scan.expected))
    assert not len(rest)
    assert not gate.given_up


def test_rows_that_overshoot_two_or_three_times_are_kept_out_where_they_leave_the_range():
    scan = plan(100, 60)
    positions = commanded(scan)
    over = np.repeat(np.linspace(3, 2, 10), 100)
    positions[:1000, 1] *= over
    outside = np.flatnonzero(np.abs(positions[:, 1]) > 1e-6 * (1 + 2 * MARGIN))
    gate = PositionGate(scan, MARGIN)
    passed, _ = judge(gate, positions)
    assert np.flatnonzero(gate.rejected).tolist() == outside.tolist()
    assert len(outside) > 400
    assert len(passed) == scan.expected - len(outside)


def test_a_wild_position_in_the_middle_costs_its_frame_only():
    scan = plan(20, 30)
    positions = commanded(scan)
    positions[[100, 301, 599]] = (9e-3, 0)
    gate = PositionGate(scan, MARGIN)
    passed, rest = judge(gate, positions, portion=1)
    assert np.flatnonzero(gate.rejected).tolist() == [100, 301, 599]
    assert len(passed) + len(rest) == 597


def test_a_wild_position_at_the_very_end_is_kept_out():
    scan = plan(20, 30)
    positions = commanded(scan)
    positions[-1] = (9e-3, 0)
    gate = PositionGate(scan, MARGIN)
    passed, rest = judge(gate, positions)
    assert (len(passed), len(rest), gate.rejections) == (599, 0, 1)


def test_the_order_in_which_positions_become_known_changes_no_verdict():
    scan = plan(50, 40)
    positions = commanded(scan)
    positions[:120, 0] = 0.0
    for seed in range(5):
        random = np.random.default_rng(seed)
        gate = PositionGate(scan, MARGIN)
        for portion in np.array_split(random.permutation(scan.expected), 60):
            gate.judge(np.sort(portion), positions[np.sort(portion)])
        gate.finish()
        assert np.flatnonzero(gate.rejected).tolist() == list(range(120))


def test_a_scan_of_one_frame_passes():
    gate = PositionGate(plan(1, 1), MARGIN)
    assert gate.judge(np.array([0]), np.array([[1.0, 1.0]])).tolist() == [0]
