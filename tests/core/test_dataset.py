"""The growing dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr import Batch
from ptyinr.dataset import Dataset

CPU = torch.device("cpu")


def frames(indices, mask=None, shape=(8, 10)):
    """Each pixel of frame i counts (i + 1) * (1 + its number)."""
    indices = np.asarray(indices, np.int64)
    counts = (indices[:, None, None] + 1) * np.arange(1, 1 + np.prod(shape)).reshape(1, *shape)
    return Batch(indices, counts, np.zeros((len(indices), 2)), mask)


def corners(indices):
    return np.stack([np.asarray(indices) * 1.5, np.asarray(indices) * -2.25], axis=1)


def filled(batches, holdout=10):
    dataset = Dataset((8, 10), holdout, CPU)
    for indices in batches:
        dataset.append(frames(indices), corners(indices))
    return dataset


@pytest.mark.parametrize("holdout", [2, 3, 10])
def test_every_nth_frame_is_held_out_by_its_number_not_by_its_arrival(holdout):
    order = np.random.default_rng(0).permutation(60)
    dataset = filled(np.split(order, [7, 30]), holdout)
    held = sorted(dataset.indices[dataset.heldout].tolist())
    assert held == [i for i in range(60) if i % holdout == holdout // 2]
    trained = sorted(dataset.indices[dataset.training].tolist())
    assert trained == sorted(set(range(60)) - set(held))


def test_no_frame_is_held_out_if_none_is_wanted():
    dataset = filled([range(60)], holdout=0)
    assert len(dataset.heldout) == 0
    assert dataset.training.tolist() == list(range(60))


@pytest.mark.parametrize("holdout", [1, -1])
def test_a_holdout_of_all_frames_is_refused(holdout):
    with pytest.raises(ValueError, match=f"holdout is {holdout}"):
        Dataset((8, 8), holdout, CPU)


@settings(deadline=None)
@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=4))
def test_frames_in_any_order_keep_their_own_corner_and_amplitudes(order, cuts):
    dataset = filled(np.split(np.array(order), sorted(cuts)))
    assert len(dataset) == 12
    assert dataset.indices.tolist() == list(order)
    np.testing.assert_array_equal(dataset.corners_px, corners(order))
    expected = np.fft.ifftshift(np.sqrt(frames(order).counts), axes=(1, 2))
    np.testing.assert_allclose(dataset.amplitudes(np.arange(12)).numpy(), expected, rtol=1e-6)


def test_growth_keeps_what_was_there():
    dataset = Dataset((8, 10), 10, CPU)
    for start in range(0, 700, 70):  # past the first 256 and their double
        dataset.append(frames(range(start, start + 70)), corners(range(start, start + 70)))
    everything = np.arange(700)
    np.testing.assert_array_equal(dataset.indices, everything)
    np.testing.assert_array_equal(dataset.corners_px, corners(everything))
    np.testing.assert_allclose(dataset.amplitudes(everything)[:, 4, 5].numpy(), np.sqrt(everything + 1), rtol=1e-6)
    assert len(dataset.training) + len(dataset.heldout) == len(dataset) == 700


@pytest.mark.parametrize("shape", [(8, 10), (9, 11), (8, 9)])
def test_the_zero_frequency_moves_from_the_centre_to_the_corner(shape):
    dataset, batch = Dataset(shape, 10, CPU), frames([0], shape=shape)
    dataset.append(batch, corners([0]))
    centre = batch.counts[0, shape[0] // 2, shape[1] // 2]
    assert dataset.amplitudes(np.array([0]))[0, 0, 0] == pytest.approx(np.sqrt(centre))


@pytest.mark.parametrize("bad", [np.nan, -7.0, np.inf, -np.inf])
def test_a_masked_pixel_is_minus_one_whatever_was_counted_in_it(bad):
    batch = frames([0, 1])
    counts, mask = batch.counts.astype(float), np.ones(batch.counts.shape, bool)
    counts[1, 4, 5], mask[1, 4, 5] = bad, False
    dataset = Dataset((8, 10), 10, CPU)
    dataset.append(Batch(batch.indices, counts, batch.positions_m, mask), corners([0, 1]))
    amplitudes = dataset.amplitudes(np.array([0, 1]))
    assert amplitudes[1, 0, 0] == -1
    assert (amplitudes < 0).sum() == 1


def test_frames_of_another_shape_are_refused_and_leave_no_trace():
    dataset = filled([[0, 1]])
    with pytest.raises(ValueError, match=r"frames are \(10, 8\) pixels"):
        dataset.append(frames([2], shape=(10, 8)), corners([2]))
    assert len(dataset) == 2
    assert len(dataset.training) == 2
