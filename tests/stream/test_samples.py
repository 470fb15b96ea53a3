"""Encoder samples by number: what came first counts, and a table that grows moves nothing."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.samples import MOST_SAMPLES, SampleTable

HOLE = np.nan


def test_samples_lie_under_their_numbers_and_the_first_of_a_number_counts() -> None:
    table = SampleTable()
    assert table.place(4, {"x": np.array([1.0, HOLE, 3.0])}) == 0
    assert table.place(3, {"x": np.array([7.0, 8.0, 9.0, 10.0, 11.0])}) == 0
    np.testing.assert_array_equal(table.row("x"), [HOLE] * 3 + [7.0, 1.0, 9.0, 3.0, 11.0])


def test_a_table_that_becomes_large_keeps_samples_and_holes() -> None:
    table = SampleTable()
    table.place(0, {"x": np.array([1.0, HOLE, 3.0])})
    table.place(100_000, {"y": np.array([5.0])})
    assert table.extent == 100_001
    np.testing.assert_array_equal(table.row("x", 0, 5), [1.0, HOLE, 3.0, HOLE, HOLE])
    np.testing.assert_array_equal(table.row("x", 99_999), [HOLE, HOLE])
    np.testing.assert_array_equal(table.row("y", 99_999), [HOLE, 5.0])


def test_a_channel_that_comes_late_or_stays_behind_has_holes() -> None:
    table = SampleTable()
    table.place(0, {"x": np.arange(5.0)})
    table.place(3, {"y": np.arange(4.0)})
    np.testing.assert_array_equal(table.row("x"), [0, 1, 2, 3, 4, HOLE, HOLE])
    np.testing.assert_array_equal(table.row("y"), [HOLE, HOLE, HOLE, 0, 1, 2, 3])
    np.testing.assert_array_equal(table.row("z"), [HOLE] * 7)


def test_a_table_that_has_become_large_moves_nothing() -> None:
    """To double it and to copy it kept the frames of a message waiting for a tenth of a second."""
    table = SampleTable()
    for first in range(0, 80_000, 8000):
        table.place(first, {"x": first + np.arange(8000.0)})
    held = table.row("x")
    for first in range(80_000, 640_000, 8000):
        table.place(first, {"x": first + np.arange(8000.0)})
    assert np.shares_memory(held, table.row("x"))
    np.testing.assert_array_equal(table.row("x"), np.arange(640_000.0))


@pytest.mark.parametrize("end", [None, 10])
def test_a_sample_number_beyond_all_scans_stores_nothing(end: int | None) -> None:
    table = SampleTable()
    assert table.place(10 * MOST_SAMPLES, {"x": np.arange(3.0)}, end) == 3
    assert table.extent == 0
    assert table.place(MOST_SAMPLES - 1, {"x": np.arange(3.0)}) == 2
    assert table.extent == MOST_SAMPLES
