"""The growing dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr import Batch
from ptyinr import dataset as module
from ptyinr.dataset import Dataset, MemoryStore

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


@pytest.mark.parametrize("masked", ["nowhere", "alike", "each"])
def test_a_batch_of_many_blocks_is_kept_as_its_frames_one_by_one_would_be(monkeypatch, masked):
    random = np.random.default_rng(0)
    masks = {"nowhere": None, "alike": random.random((8, 10)) > 0.3, "each": random.random((50, 8, 10)) > 0.3}
    mask = masks[masked]
    whole, single = Dataset((8, 10), 10, CPU), Dataset((8, 10), 10, CPU)
    monkeypatch.setattr(module, "BLOCK_PIXELS", 7 * 80)
    whole.append(frames(range(50), mask), corners(range(50)))
    for i in range(50):
        own = mask[i : i + 1] if mask is not None and mask.ndim == 3 else mask
        single.append(frames([i], own), corners([i]))
    everything = np.arange(50)
    assert torch.equal(whole.amplitudes(everything), single.amplitudes(everything))
    np.testing.assert_array_equal(whole.photons(everything), single.photons(everything))
    np.testing.assert_array_equal(whole.trusted(everything), single.trusted(everything))


class Full(MemoryStore):
    """Takes so many writes and then, once, no more."""

    def __init__(self, writes):
        super().__init__((8, 10), CPU)
        self.left = writes

    def write(self, row, amplitudes):
        self.left -= 1
        if self.left == -1:
            raise OSError("full")
        super().write(row, amplitudes)


def test_a_batch_that_the_store_refuses_half_way_leaves_nothing_and_the_next_takes_its_place(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_PIXELS", 7 * 80)
    dataset = Dataset((8, 10), 10, CPU, Full(writes=3))
    dataset.append(frames(range(10)), corners(range(10)))
    fractions = frames(range(10, 30))
    fractions = Batch(fractions.indices, fractions.counts + 0.5, fractions.positions_m)
    with pytest.raises(OSError, match="full"):
        dataset.append(fractions, corners(range(10, 30)))
    assert len(dataset) == 10
    assert dataset.whole
    dataset.append(frames(range(30, 50)), corners(range(30, 50)))
    there = [*range(10), *range(30, 50)]
    assert dataset.indices.tolist() == there
    expected = np.fft.ifftshift(np.sqrt(frames(there).counts), axes=(1, 2))
    np.testing.assert_allclose(dataset.amplitudes(np.arange(30)).numpy(), expected, rtol=1e-6)


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


def test_one_mask_for_all_frames_is_the_same_mask_for_each():
    mask = np.random.default_rng(0).random((8, 10)) > 0.3
    found = []
    for one in (mask, np.repeat(mask[None], 3, 0)):
        dataset = Dataset((8, 10), 10, CPU)
        dataset.append(frames([0, 1, 2], one), corners([0, 1, 2]))
        found.append(dataset.amplitudes(np.arange(3)))
        counts = frames([0, 1, 2]).counts
        np.testing.assert_allclose(dataset.photons(np.arange(3)), (counts * mask).sum((1, 2)), rtol=1e-6)
    assert torch.equal(*found)
    assert np.array_equal(np.fft.fftshift(found[0][0].numpy() >= 0), mask)


def test_counts_are_whole_until_one_frame_is_not():
    dataset = filled([[0, 1]])
    assert dataset.whole
    batch = frames([2])
    dataset.append(Batch(batch.indices, batch.counts.astype(np.float32), batch.positions_m), corners([2]))
    assert not dataset.whole


@pytest.mark.parametrize("holdout", [2, 3, 5, 7, 10])
def test_pixels_are_held_out_of_every_frame_and_judge_it(holdout):
    dataset = filled([range(40)], holdout)
    rows = np.arange(40)
    assert torch.equal(dataset.shown(rows[dataset.training]), dataset.amplitudes(dataset.training))
    dataset.hold_out_pixels()
    assert dataset.training.tolist() == dataset.heldout.tolist() == list(range(40))
    shown, judged, every = dataset.shown(rows), dataset.judged(rows), dataset.amplitudes(rows)
    assert ((shown < 0) != (judged < 0)).all()  # a pixel does one or the other
    assert torch.equal(torch.maximum(shown, judged), every)
    assert (judged >= 0).float().mean().item() == pytest.approx(1 / holdout, rel=0.1)


@pytest.mark.parametrize("holdout", [2, 3, 4, 5, 7, 8, 10])
def test_no_two_pixels_held_out_are_neighbours_and_they_move_from_frame_to_frame(holdout):
    dataset = filled([range(holdout)], holdout)
    dataset.hold_out_pixels()
    held = dataset.judged(np.arange(holdout)) >= 0
    assert not (held[:, 1:] & held[:, :-1]).any()
    assert not (held[:, :, 1:] & held[:, :, :-1]).any()
    assert torch.equal(held.sum(0), torch.ones(8, 10, dtype=torch.int64))  # each in its turn


def test_which_pixels_are_held_out_follows_from_the_frames_number_not_its_arrival():
    order = np.random.default_rng(0).permutation(30)
    one, other = filled([range(30)]), filled(np.split(order, [4, 11]))
    for dataset in (one, other):
        dataset.hold_out_pixels()
    assert torch.equal(one.shown(order), other.shown(np.arange(30)))


def test_a_masked_pixel_neither_trains_nor_judges():
    mask = np.ones((8, 10), bool)
    mask[2:5] = False
    dataset = Dataset((8, 10), 10, CPU)
    dataset.append(frames(range(20), mask), corners(range(20)))
    dataset.hold_out_pixels()
    trusted = torch.from_numpy(np.fft.ifftshift(mask))
    for part in (dataset.shown(np.arange(20)), dataset.judged(np.arange(20))):
        assert (part[:, ~trusted] == -1).all()


def test_no_pixel_is_held_out_if_nothing_is_to_be():
    dataset = filled([range(20)], holdout=0)
    dataset.hold_out_pixels()
    assert len(dataset.heldout) == 0
    assert torch.equal(dataset.shown(np.arange(20)), dataset.amplitudes(np.arange(20)))


def test_a_frame_with_hardly_any_light_is_not_lit():
    batch = frames(range(20, 40))
    counts = batch.counts.copy()
    counts[3], counts[4] = 0, counts[4] // 50
    dataset = Dataset((8, 10), 0, CPU)
    dataset.append(Batch(batch.indices, counts, batch.positions_m), corners(batch.indices))
    assert sorted(set(range(20)) - set(dataset.lit_training.tolist())) == [3, 4]


def test_frames_of_another_shape_are_refused_and_leave_no_trace():
    dataset = filled([[0, 1]])
    with pytest.raises(ValueError, match=r"frames are \(10, 8\) pixels"):
        dataset.append(frames([2], shape=(10, 8)), corners([2]))
    assert len(dataset) == 2
    assert len(dataset.training) == 2
