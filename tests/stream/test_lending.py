"""Values and lent arrays between two ends, both in this process."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyinr.types import Batch
from ptyinr_stream import lending
from ptyinr_stream.frame_blocks import FRAMES, FrameBlocks, number_in, side_by_side, stacked
from ptyinr_stream.lending import Link, SharedBlocks
from ptyinr_stream.outputs import Joined

SHAPE, DTYPE = (30, 20), np.dtype(np.uint16)
pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory is shared on Linux only")


class Ends:
    """A lender and a borrower."""

    def __init__(self) -> None:
        self.shared = SharedBlocks()
        self.blocks = FrameBlocks(self.shared)
        one, other = socket.socketpair()
        self.lender, self.borrower = Link(one, self.shared), Link(other)

    def over(self, value: Any) -> Any:
        """What comes out at the other end."""
        self.lender.send(value)
        return self.borrower.receive()

    def frames(self, number: int, first: int = 1) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Counts and masks."""
        places = [self.blocks.place(SHAPE, DTYPE) for _ in range(number)]
        for value, (counts, mask) in enumerate(places, first):
            counts[:], mask[:] = value, value % 3 == 0
        return [counts for counts, _ in places], [mask for _, mask in places]

    def settle(self) -> None:
        """Let the borrower give back what nobody holds."""
        gc.collect()
        self.borrower.give_back()
        while select.select([self.lender], [], [], 0)[0]:
            assert self.lender.receive() is None


@pytest.fixture
def ends() -> Iterator[Ends]:
    both = Ends()
    yield both
    both.blocks._ahead.shutdown()
    both.lender.close()
    both.borrower.close()


def joined(counts: list[np.ndarray], masks: list[np.ndarray] | None = None) -> Joined:
    mask = None if masks is None else stacked(masks)
    return Joined("uid", Batch(np.arange(len(counts)), stacked(counts), np.zeros((len(counts), 2)), mask), 4.5)


def open_files() -> Counter[int]:
    """Of shared memory in this process, how many to each: what earlier tests left may go at any moment."""
    found = Counter[int]()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the folder's own
            if "memfd" in os.readlink(path):
                found[path.stat().st_ino] += 1
    return found


def opened_since(before: Counter[int]) -> int:
    """Files, and still open."""
    return (open_files() - before).total()


def test_frames_of_a_block_arrive_without_being_sent(ends: Ends) -> None:
    counts, masks = ends.frames(20)
    sent = joined(counts, masks)
    got = ends.over(sent)
    assert (got.uid, got.at) == ("uid", 4.5)
    for name in ("indices", "counts", "positions_m", "mask"):
        ours, theirs = getattr(sent.batch, name), getattr(got.batch, name)
        assert theirs.dtype == ours.dtype
        np.testing.assert_array_equal(theirs, ours)
    counts[7][:] = 999  # what a copy would not show
    assert (got.batch.counts[7] == 999).all()
    assert got.batch.counts.flags.writeable  # torch warns of arrays that are not


@pytest.mark.parametrize("turned", [np.fliplr, np.flipud, np.rot90, np.transpose, lambda counts: counts[2:-3, 4:9]])
def test_frames_that_are_turned_or_cropped_arrive_so_without_being_sent(
    ends: Ends, turned: Callable[[np.ndarray], np.ndarray]
) -> None:
    counts = [turned(counts) for counts, _ in zip(*ends.frames(20), strict=True)]
    counts[0][...] = np.arange(counts[0].size).reshape(counts[0].shape)
    for sent in (joined(counts[:1]), joined(counts)):
        got = ends.over(sent)
        np.testing.assert_array_equal(got.batch.counts, sent.batch.counts)
        assert int(got.batch.counts[0, 1, 2]) == counts[0].shape[1] + 2
    counts[7][1, 1] = 999  # what a copy would not show
    assert (got.batch.counts[7, 1, 1] == 999) == (turned.__name__ != "<lambda>")


def test_a_number_that_is_lent_is_seen_as_its_owner_writes_it(ends: Ends) -> None:
    number = number_in(ends.shared)
    assert number.tolist() == [0.0]
    seen = ends.over({"late": number})["late"]
    number[0] = 1.5
    assert seen.tolist() == [1.5]


def test_a_block_is_used_again_when_the_borrower_holds_nothing_of_it(ends: Ends) -> None:
    before = open_files()
    for _ in range(5):
        counts, masks = ends.frames(FRAMES)
        got = ends.over(joined(counts, masks))
        del counts, masks
        assert ends.lender.lent == 1
        ends.settle()
        assert ends.lender.lent == 1  # it is held
        held = got.batch.counts[3]
        del got
        ends.settle()
        assert ends.lender.lent == 1  # one view is enough
        del held
        ends.settle()
        assert ends.lender.lent == 0
    assert opened_since(before) <= 2


def test_what_is_held_is_not_overwritten_by_what_comes_after(ends: Ends) -> None:
    held = []
    for number in range(1, 4 * FRAMES, FRAMES):
        counts, _ = ends.frames(FRAMES, number)
        held += [ends.over(joined(counts[portion])) for portion, _ in side_by_side(counts)]
    values = [int(frame[0, 0]) for got in held for frame in got.batch.counts]
    assert values == list(range(1, 4 * FRAMES + 1))


def test_single_frames_of_one_block_map_it_once(ends: Ends) -> None:
    counts, _ = ends.frames(FRAMES)
    before = open_files()
    held = [ends.over(joined([frame])) for frame in counts]
    assert [int(got.batch.counts[0, 0, 0]) for got in held] == list(range(1, FRAMES + 1))
    assert opened_since(before) <= 2
    assert ends.lender.lent == FRAMES


def test_arrays_that_lie_elsewhere_are_copied_and_one_mask_for_all_is_sent_once(ends: Ends) -> None:
    counts, _ = ends.frames(40)
    mask = np.arange(600).reshape(SHAPE) % 7 > 0
    sent = joined(counts[::2], [mask] * 20)
    got = ends.over(sent)
    np.testing.assert_array_equal(got.batch.counts, sent.batch.counts)
    np.testing.assert_array_equal(got.batch.mask, sent.batch.mask)
    assert got.batch.mask.strides[0] == 0
    assert ends.lender.lent == 0


@pytest.mark.parametrize("trouble", ["memfd_create", "ftruncate"])
def test_without_shared_memory_everything_is_copied(ends: Ends, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(os, trouble, refuse)
    before = open_files()
    counts, masks = ends.frames(20)
    got = ends.over(joined(counts, masks))
    np.testing.assert_array_equal(got.batch.counts[:, 0, 0], np.arange(1, 21))
    assert ends.lender.lent == 0
    assert not opened_since(before)


def test_no_more_than_so_many_blocks_are_shared(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "MOST_BLOCKS", 2)
    held = []
    for _ in range(4):
        counts, _masks = ends.frames(FRAMES)
        held.append(ends.over(joined(counts)))
    assert ends.lender.lent == 2
    assert [int(got.batch.counts[0, 0, 0]) for got in held] == [1] * 4


def test_a_block_is_forgotten_before_another_can_lie_at_its_address() -> None:
    shared = SharedBlocks()
    before = open_files()
    stop = threading.Event()
    kept: list[np.ndarray] = []

    def churn() -> None:
        while not stop.is_set():
            shared(2**16)

    other = threading.Thread(target=churn)
    other.start()
    try:
        for _ in range(300):
            kept = [shared(2**16), *kept[:2]]
            assert shared._files.keys() >= {one.__array_interface__["data"][0] for one in kept}
    finally:
        stop.set()
        other.join()
    kept.clear()
    assert not shared._files
    assert not opened_since(before)


def test_too_many_open_files_are_an_error_and_not_another_block(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, _ = ends.frames(20)
    ends.lender.send(joined(counts))
    received = socket.recv_fds

    def truncated(*given: Any) -> Any:
        head, files, *rest = received(*given)
        for file in files:
            os.close(file)
        return head, [], *rest

    monkeypatch.setattr(socket, "recv_fds", truncated)
    with pytest.raises(OSError, match="frames cannot be mapped: too many files are open"):
        ends.borrower.receive()


def test_a_large_value_arrives_whole_and_in_its_order(ends: Ends) -> None:
    large = np.arange(3_000_000)
    sender = threading.Thread(target=lambda: [ends.lender.send(value) for value in ("first", large, "last")])
    sender.start()
    got = [ends.borrower.receive() for _ in range(3)]
    sender.join()
    assert (got[0], got[2]) == ("first", "last")
    np.testing.assert_array_equal(got[1], large)


@pytest.mark.parametrize("torn", [b"", b"\1", struct.pack("=QqI", 100, -1, 0), struct.pack("=QqI", 9, -1, 0) + b"1234"])
def test_an_end_that_is_gone_is_the_end_of_the_file_wherever_it_stopped(torn: bytes) -> None:
    one, other = socket.socketpair()
    link = Link(other)
    one.sendall(torn)
    one.close()
    with pytest.raises(EOFError):
        link.receive()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        link.send(bytes(sys.getsizeof(torn)))
    link.close()


def test_what_could_not_be_sent_is_not_lent() -> None:
    ends = Ends()
    ends.borrower.close()
    counts, _ = ends.frames(20)
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        ends.lender.send(joined(counts))
    assert ends.lender.lent == 0
    ends.lender.close()
