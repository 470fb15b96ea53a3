"""Hot and dead pixels are told from the pattern: its rim, its speckles, its noise."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.faulty_pixels import faulty_pixels


@pytest.fixture
def level() -> np.ndarray:
    """A bright disc with a sharp rim in the dark, 64 frames of Poisson noise."""
    rows, columns = np.meshgrid(np.arange(60) - 30, np.arange(50) - 20, indexing="ij")
    expected = np.where(np.hypot(rows, columns) < 14, 12.0, 0.05)
    return np.random.default_rng(5).poisson(64 * expected) / 64


def found(level: np.ndarray, trusted: np.ndarray | None = None) -> tuple[list[list[int]], list[list[int]]]:
    hot, dead = faulty_pixels(level, np.ones(level.shape, np.bool_) if trusted is None else trusted, 64)
    return np.argwhere(hot).tolist(), np.argwhere(dead).tolist()


def test_a_sharp_rim_and_noise_hold_no_faulty_pixel(level: np.ndarray) -> None:
    assert found(level) == ([], [])


def test_hot_pixels_are_found_in_the_dark_in_the_light_and_side_by_side(level: np.ndarray) -> None:
    places = [[3, 3], [3, 4], [4, 4], [30, 20], [59, 49]]
    for row, column in places:
        level[row, column] = 300
    assert found(level) == (places, [])


def test_a_pixel_that_never_counts_in_the_light_is_dead_and_one_in_the_dark_is_not(level: np.ndarray) -> None:
    level[30, 20] = level[33, 22] = level[2, 2] = 0
    assert found(level) == ([], [[30, 20], [33, 22]])


def test_a_beamstop_is_no_fault(level: np.ndarray) -> None:
    level[25:35, 15:25] = 0
    assert found(level) == ([], [])


def test_what_is_not_trusted_is_neither_found_nor_a_neighbour(level: np.ndarray) -> None:
    trusted = np.ones(level.shape, np.bool_)
    trusted[10:14] = False
    level[10:14] = 65535
    level[14, 7] = 300
    assert found(level, trusted) == ([[14, 7]], [])
