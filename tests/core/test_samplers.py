"""A step's frames: those of one tile, at most so many, and none forgotten."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr import Batch
from ptyinr.dataset import Dataset
from ptyinr.samplers import LEAST_REACH_PX, MOST_PIXELS_OF_A_TILE, REACH, Sampler, draw_tile, reach_px
from ptyinr.settings import TrainerSettings

scans = st.tuples(
    st.integers(1, 60), st.floats(0, 900), st.floats(0, 900), st.floats(-500, 500), st.integers(0, 2**32 - 1)
)


def corners(scan):
    n, height, width, first, seed = scan
    return first + np.random.default_rng(seed).uniform(0, 1, (n, 2)) * (height, width)


@settings(deadline=None)
@given(scans, st.integers(1, 40), st.sampled_from([(32, 32), (128, 64), (256, 256)]))
def test_a_tile_has_frames_not_too_many_and_all_within_its_reach(scan, most, window):
    places = corners(scan)
    random = np.random.default_rng(scan[-1])
    reach = np.maximum(REACH * np.array(window), LEAST_REACH_PX)
    for _ in range(5):
        rows = draw_tile(places, reach_px(window), most, random)
        assert 1 <= len(rows) <= most
        assert len(set(rows.tolist())) == len(rows)
        assert (np.ptp(places[rows], axis=0) <= reach + 1e-5).all()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("extent", [(0, 400), (400, 0), (300, 300), (20, 20)])
def test_every_frame_is_seen(extent, seed):
    random = np.random.default_rng(seed)
    places = random.uniform(-200, 0) + random.uniform(0, 1, (80, 2)) * extent
    seen = np.zeros(80, int)
    for _ in range(400):
        seen[draw_tile(places, reach_px((128, 128)), 20, random)] += 1
    assert seen.min() >= 5


def test_tiles_at_the_rim_are_as_full_as_others():
    random = np.random.default_rng(0)
    rows, columns = np.meshgrid(np.arange(0, 400, 20.0), np.arange(0, 400, 20.0), indexing="ij")
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    frames = [len(draw_tile(places, reach_px((128, 128)), 1000, random)) for _ in range(300)]
    assert 25 <= min(frames) <= max(frames) <= 36  # 102 px hold 5 or 6 of them along each axis


def test_a_tile_at_the_rim_includes_the_rim():
    """The tile is pushed back until it ends at the last frame; rounding must not leave that frame out."""
    random = np.random.default_rng(0)
    for _ in range(300):
        last = random.uniform(-300, 300)
        places = np.array([[last, 0.0], [last - 500, 0.0]])
        assert sum(len(draw_tile(places, reach_px((128, 128)), 5, random)) for _ in range(4)) == 4


def test_a_single_frame_is_its_own_tile():
    assert draw_tile(np.array([[3.7, -8.1]]), reach_px((32, 32)), 64, np.random.default_rng(0)).tolist() == [0]


def line_of_frames(frames):
    """A dataset of frames in a row, each two windows from the next."""
    dataset = Dataset((32, 32), 0, torch.device("cpu"))
    batch = Batch(np.arange(frames), np.ones((frames, 32, 32), np.uint16), np.zeros((frames, 2)))
    dataset.append(batch, np.stack([np.arange(frames) * 200.0, np.zeros(frames)], axis=1))
    return dataset


def drawn(sampler, dataset, times, error=lambda row: 1.0):
    """How often each frame was drawn."""
    counts = np.zeros(len(dataset), int)
    for _ in range(times):
        rows = sampler.draw(dataset)
        sampler.note(rows, np.array([error(row) for row in rows]))
        counts[rows] += 1
    return counts


@pytest.mark.parametrize(
    ("attention", "error"), [("new", lambda row: 1.0), ("worst", lambda row: 9.0 if row > 7 else 1.0)]
)
def test_attention_is_paid_to_frames_that_are_new_or_badly_explained(attention, error):
    sampler = Sampler(TrainerSettings(attention=attention), (32, 32), np.random.default_rng(0))
    drawn(sampler, line_of_frames(8), 60, error)
    later = drawn(sampler, line_of_frames(10), 10, error)
    assert sampler.curious
    assert later[8:].sum() > 2 * later[:8].sum()


def test_without_attention_all_frames_are_alike():
    sampler = Sampler(TrainerSettings(), (32, 32), np.random.default_rng(0))
    assert not sampler.curious
    counts = np.zeros(10, int)
    for _ in range(400):
        counts[sampler.draw(line_of_frames(10))] += 1
    assert counts.min() > 15


def test_a_small_step_draws_a_third_of_the_frames():
    dataset = Dataset((32, 32), 0, torch.device("cpu"))
    frames = 400
    corners = np.random.default_rng(1).uniform(0, 60, (frames, 2))
    dataset.append(Batch(np.arange(frames), np.ones((frames, 32, 32), np.uint16), np.zeros((frames, 2))), corners)
    sampler = Sampler(TrainerSettings(), (32, 32), np.random.default_rng(0))
    assert 0.3 < len(sampler.draw(dataset, small=True)) / len(sampler.draw(dataset)) < 0.33


@pytest.mark.parametrize("frames", [80, 200, 1000])
def test_where_many_frames_cost_no_more_than_few_a_step_has_that_many(frames):
    dataset = Dataset((32, 32), 0, torch.device("cpu"))
    corners = np.random.default_rng(1).uniform(0, 1000, (frames, 2))
    dataset.append(Batch(np.arange(frames), np.ones((frames, 32, 32), np.uint16), np.zeros((frames, 2))), corners)
    sampler = Sampler(TrainerSettings(), (32, 32), np.random.default_rng(0), least_pixels=100 * 32 * 32)
    rows = [sampler.draw(dataset) for _ in range(20)]
    if frames <= 100:
        assert all(np.array_equal(each, np.arange(frames)) for each in rows)
    else:
        assert 70 < np.mean([len(each) for each in rows]) <= 100
        spread = np.mean([np.ptp(corners[each], axis=0) for each in rows])
        assert spread < 1.1 * 1000 * (100 / frames) ** 0.5


def test_a_number_of_frames_that_was_asked_for_is_kept():
    dataset = Dataset((32, 32), 0, torch.device("cpu"))
    corners = np.random.default_rng(1).uniform(0, 60, (400, 2))
    dataset.append(Batch(np.arange(400), np.ones((400, 32, 32), np.uint16), np.zeros((400, 2))), corners)
    settings = TrainerSettings(frames_per_step=30)
    sampler = Sampler(settings, (32, 32), np.random.default_rng(0), least_pixels=100 * 32 * 32)
    assert len(sampler.draw(dataset)) == 30


@pytest.mark.parametrize("frames", [80, 1000])
def test_however_far_the_stage_runs_a_tile_does_not_outgrow_memory(frames):
    """One wild position would make the object's network compute all that lies between."""
    dataset = Dataset((32, 32), 0, torch.device("cpu"))
    corners = np.concatenate([np.random.default_rng(1).uniform(0, 60, (frames - 1, 2)), [[7000.0, 7000.0]]])
    dataset.append(Batch(np.arange(frames), np.ones((frames, 32, 32), np.uint16), np.zeros((frames, 2))), corners)
    sampler = Sampler(TrainerSettings(), (32, 32), np.random.default_rng(0), least_pixels=100 * 32 * 32)
    for _ in range(50):
        rows = sampler.draw(dataset)
        assert (np.ptp(corners[rows], axis=0) + 32).prod() <= MOST_PIXELS_OF_A_TILE
