"""How many samples make a frame is seen in their times, before a frame is placed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.supersampling import Groups, Supersampling, SupersamplingCheck, groups


def trigger_times(frames, per_frame, line, dwell=0.01, dead=0.0004, turn=0.3, jitter=0.0):
    """Seconds of HXN's PULSE blocks: samples at an even pace in exposures, dead time between, turns between lines."""
    frame, phase = np.divmod(np.arange(frames * per_frame), per_frame)
    times = frame * dwell + (phase + 0.5) * (dwell - dead) / per_frame + frame // line * turn
    return times + jitter * np.random.default_rng(0).uniform(-1, 1, len(times))


def check(per_frame, times, line, frames):
    made = SupersamplingCheck(per_frame, line, frames)
    for end in range(0, len(times) + 1, 41):
        made.look(times[:end])
    return made


@pytest.mark.parametrize("dead", [0.0002, 0.001])
@pytest.mark.parametrize("per_frame", [2, 5, 10])
def test_frames_are_told_apart_by_dead_time_and_lines_by_turns(per_frame, dead):
    times = trigger_times(400, per_frame, line=40, dead=dead, jitter=1e-6)
    assert groups(times) == Groups(per_frame, 40)


def test_without_dead_time_lines_alone_are_seen():
    assert groups(trigger_times(400, 10, line=20, dead=0.0)) == Groups(200, None)


@pytest.mark.parametrize(
    "times",
    [
        np.zeros(0),
        np.full(500, np.nan),
        np.arange(500) * 1e-3,
        np.zeros(500),
        -np.arange(500.0),
        np.random.default_rng(0).uniform(0, 1, 500).cumsum(),
        trigger_times(400, 10, line=40, jitter=1e-3),
    ],
    ids=["none", "unknown", "even", "all the same", "backwards", "random", "more jitter than dead time"],
)
def test_times_that_tell_nothing_are_not_read_into(times):
    assert groups(times) is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 0.3))
def test_samples_that_were_lost_do_not_change_what_the_others_show(seed, per_frame, share):
    times = trigger_times(600, per_frame, line=30)
    random = np.random.default_rng(seed)
    for first in random.integers(0, len(times), int(share * len(times) / 41)):
        times[first : first + 41] = np.nan
    found = groups(times)
    assert found is None or found.size == (per_frame if per_frame > 1 else 30)


@pytest.mark.parametrize("line", [7, 10, 40, 100])
@pytest.mark.parametrize("right", [1, 2, 5, 10])
def test_the_right_number_is_never_contradicted(right, line):
    frames = 40 * line
    for dead in (0.0, 0.0002, 0.001):
        for turn in (0.0, 0.3):
            made = check(right, trigger_times(frames, right, line, dead=dead, turn=turn), line, frames)
            made.ended(frames * right, frames)
            assert made.result.verdict == "agrees"


@pytest.mark.parametrize(("believed", "right"), [(1, 10), (10, 1), (10, 5), (5, 10), (2, 3)])
def test_a_wrong_number_is_contradicted_before_frames_are_placed(believed, right):
    times = trigger_times(4000, right, line=100)
    made = SupersamplingCheck(believed, 100, 4000)
    placed = 0
    for end in range(41, len(times), 41):
        made.look(times[:end])
        placed += made.ready(timed=True, extent=end)
    assert made.contradicted
    assert made.result.seen == right
    assert f"{right} would have been right" in str(made.result)
    assert not placed


def test_samples_without_times_are_believed_until_they_are_too_many():
    made = SupersamplingCheck(1, 10, 100)
    made.look(np.zeros(0))
    assert made.ready(timed=False, extent=1)
    made.overrun(100)
    assert not made.contradicted
    made.overrun(115)
    assert made.result == Supersampling("contradicts", 1, None)
    assert "too many" in str(made.result)


def test_the_end_of_a_capture_tells_how_many_samples_there_were():
    for samples, frames, verdict in [(1000, 100, "agrees"), (100, 100, "contradicts"), (2000, 100, "contradicts")]:
        made = SupersamplingCheck(10, 10, 100)
        made.ended(samples, frames)
        assert (made.result.verdict, made.result.seen) == (verdict, samples // 100)


def test_a_scan_that_was_aborted_contradicts_nothing():
    made = SupersamplingCheck(10, 10, 100)
    made.ended(100, 10)
    made.ended(350, 35)
    assert made.result.verdict == "unchecked"


def test_what_is_seen_can_be_followed():
    made = check(10, trigger_times(4000, 5, 100), 100, 4000)
    assert made.follow() == 5
    assert made.result == Supersampling("followed", 5, 5)
    assert made.ready(timed=True, extent=0)
