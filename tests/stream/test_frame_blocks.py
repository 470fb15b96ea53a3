"""Memory for frames: places in turn, views instead of copies, and blocks that return."""

import gc
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyinr_stream.frame_blocks import FRAMES, FrameBlocks, side_by_side, stacked

SHAPE, DTYPE = (6, 5), np.dtype(np.uint16)


def filled(blocks, number, shape=SHAPE, dtype=DTYPE, first=0):
    """Counts and masks, each with its number in it."""
    places = [blocks.place(shape, dtype) for _ in range(number)]
    for value, (counts, mask) in enumerate(places, first):
        counts[:], mask[:] = value, value % 2
    return [counts for counts, _ in places], [mask for _, mask in places]


def joined(frames):
    for portion, array in side_by_side(frames):
        np.testing.assert_array_equal(array, stacked(frames[portion]))
    return [array for _, array in side_by_side(frames)]


def values(arrays):
    return [int(frame[0, 0]) for array in arrays for frame in array]


def test_frames_that_came_in_turn_are_handed_on_without_a_copy():
    counts, masks = filled(FrameBlocks(), 3 * FRAMES)
    for frames in (counts, masks):
        arrays = joined(frames)
        assert [len(array) for array in arrays] == [FRAMES] * 3
        assert all(np.shares_memory(array, frame) for array, frame in zip(arrays, frames[::FRAMES], strict=True))
        assert all(array.dtype == frames[0].dtype for array in arrays)
    assert values(joined(counts)) == list(range(3 * FRAMES))
    assert values(joined(masks)) == [0, 1] * (3 * FRAMES // 2)


@given(st.lists(st.integers(0, 199), min_size=1, max_size=120), st.booleans())
def test_any_frames_in_any_order_are_joined_as_they_are(order, alone):
    counts, _ = filled(FrameBlocks(), 200)
    chosen = [counts[k].copy() if alone and k % 3 else counts[k] for k in order]
    arrays = joined(chosen)
    assert values(arrays) == order
    assert all(len(array) <= FRAMES for array in arrays)


def test_a_hole_costs_a_portion_of_its_own_and_many_holes_a_copy():
    counts, _ = filled(FrameBlocks(), FRAMES)
    assert [len(array) for array in joined([*counts[:20], *counts[21:]])] == [20, FRAMES - 21]
    [every_other] = joined(counts[::2])
    assert values([every_other]) == list(range(0, FRAMES, 2))
    assert not np.shares_memory(every_other, counts[0])


def test_no_frames_are_no_portions():
    assert side_by_side([]) == []


def test_one_mask_for_all_frames_is_not_copied():
    mask = np.eye(4, dtype=bool)
    all_of_them = stacked([mask] * 7)
    assert all_of_them.shape == (7, 4, 4)
    assert np.shares_memory(all_of_them, mask)


def test_a_block_is_used_again_when_its_last_view_is_gone_and_not_before():
    blocks = FrameBlocks()
    counts, _ = filled(blocks, FRAMES)
    where, [array] = counts[0].__array_interface__["data"][0], joined(counts)
    del counts
    gc.collect()
    others, _ = filled(blocks, FRAMES, first=500)
    assert values([array]) == list(range(FRAMES))
    assert others[0].__array_interface__["data"][0] != where
    part = array[5:6, 2:]
    del array, others
    gc.collect()
    filled(blocks, 2 * FRAMES, first=900)
    assert (part == 5).all()
    del part
    gc.collect()
    again = [filled(blocks, FRAMES)[0] for _ in range(3)]
    assert where in [frames[0].__array_interface__["data"][0] for frames in again]


def test_memory_is_bounded_while_frames_come_and_go():
    blocks = FrameBlocks()
    filled(blocks, FRAMES)
    tracemalloc.start()
    try:
        for _ in range(50):
            filled(blocks, 10 * FRAMES)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 13 * FRAMES * 3 * 6 * 5 + 3 * 10 * FRAMES * 400  # ten blocks and what is around their views


def test_large_frames_lie_in_blocks_of_a_few():
    counts, _ = filled(FrameBlocks(), 20, (1000, 1000), np.dtype(np.uint32))
    assert [len(array) for array in joined(counts)] == [8, 8, 4]
    assert values(joined(counts)) == list(range(20))


def test_memory_is_made_ready_ahead_where_one_block_was_not_enough():
    taken = []

    def memory(size):
        taken.append((size, threading.current_thread()))
        return np.empty(size, np.uint8)

    blocks, size = FrameBlocks(memory), 3 * FRAMES * 6 * 5
    kept = [filled(blocks, FRAMES)]
    assert taken == [(size, threading.main_thread())]
    kept += [filled(blocks, FRAMES, first=number * FRAMES) for number in (1, 2, 3)]
    blocks._ahead.shutdown()
    here, ahead = ([made for made, by in taken if (by is threading.main_thread()) == main] for main in (True, False))
    assert (here, ahead) == ([size, size], [size, size, size])  # the third, the fourth, and one more
    assert [value for counts, _ in kept for value in values(joined(counts))] == list(range(4 * FRAMES))


def test_frames_whose_form_changes_each_time_have_nothing_made_ready_for_them():
    taken = []
    blocks = FrameBlocks(lambda size: taken.append(threading.current_thread()) or np.empty(size, np.uint8))
    for number in range(20):
        filled(blocks, 1, (6 + number % 2, 5))
    assert set(taken) == {threading.main_thread()}


@pytest.mark.parametrize(("shape", "dtype"), [((7, 5), np.uint16), (SHAPE, np.uint32), (SHAPE, np.float32)])
def test_frames_of_another_form_get_blocks_of_their_own(shape, dtype):
    blocks = FrameBlocks()
    counts, _ = filled(blocks, 10)
    others, masks = filled(blocks, 10, shape, np.dtype(dtype))
    assert [array.shape for array in joined(counts)] == [(10, *SHAPE)]
    assert [(array.shape, array.dtype) for array in joined(others)] == [((10, *shape), dtype)]
    assert masks[0].shape == shape
    assert values(joined(counts)) == values(joined(others)) == list(range(10))
