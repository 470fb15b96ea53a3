"""Triggers that the detector missed leave no hole in its frame numbers, but the ends of lines show them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.alignment import Alignment, alignment

LINE, LINES, DWELL, TURN = 20, 12, 0.01, 0.15


def triggers():
    frame = np.arange(LINE * LINES)
    return frame * DWELL + frame // LINE * TURN


def exposures(missed=(), drift=0.0, ahead=3.7, jitter=0.0):
    """By frame number: the detector's clock is ahead, and runs faster by `drift`."""
    taken = np.delete(triggers(), list(missed))
    taken = taken + jitter * np.random.default_rng(0).uniform(-1, 1, len(taken))
    return dict(enumerate((ahead + taken * (1 + drift)).tolist()))


@pytest.mark.parametrize("drift", [0.0, 1e-4, -1e-4])
def test_a_detector_that_took_every_trigger_agrees(drift):
    found = alignment(exposures(drift=drift, jitter=1e-4), triggers(), LINE)
    assert found == Alignment("agrees", checked=LINES - 1)


def test_each_missed_trigger_shifts_all_lines_after_it():
    found = alignment(exposures(missed=[3 * LINE + 5, 7 * LINE + 2]), triggers(), LINE)
    assert found.verdict == "suspect"
    assert dict(zip(found.lines, found.offsets, strict=True)) == {3: 1, 4: 1, 5: 1, 6: 1, 7: 2, 8: 2, 9: 2, 10: 2}


def test_triggers_missed_in_the_first_line_are_found():
    found = alignment(exposures(missed=[0, 1]), triggers(), LINE)
    assert set(found.offsets) == {2}
    assert found.lines == tuple(range(LINES - 1))


def test_a_frame_without_a_trigger_counts_the_other_way():
    extra = exposures()
    times = sorted([*extra.values(), extra[50] + DWELL / 2])
    found = alignment(dict(enumerate(times)), triggers(), LINE)
    assert set(found.offsets) == {-1}
    assert found.lines == tuple(range(2, LINES - 1))


def test_a_missed_last_trigger_of_a_line_is_found_at_the_next_end():
    found = alignment(exposures(missed=[3 * LINE - 1]), triggers(), LINE)
    assert set(found.offsets) == {1}
    assert min(found.lines) == 3


@pytest.mark.parametrize(
    ("frames", "times"),
    [
        ({}, triggers()),
        (exposures(), np.zeros(0)),
        (exposures(), np.full(LINE * LINES, np.nan)),
        (exposures(), np.zeros(LINE * LINES)),
        (exposures(), np.arange(LINE * LINES) * DWELL),
        ({0: 0.0, 5: 1.0, 9: 2.0, 20: 3.0}, triggers()),
    ],
)
def test_nothing_is_said_where_nothing_can_be_seen(frames, times):
    assert alignment(frames, times, LINE).verdict == "unchecked"


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, LINE * LINES - 1), max_size=60), st.sets(st.integers(0, LINE * LINES - 1), max_size=60))
def test_frames_and_samples_that_were_lost_make_no_suspicion(frames, samples):
    seen = {number: start for number, start in exposures().items() if number not in frames}
    times = triggers()
    times[list(samples)] = np.nan
    assert alignment(seen, times, LINE).verdict != "suspect"
