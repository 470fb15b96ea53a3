"""The inbox holds back its senders and loses nothing; the outbox keeps the newest snapshot and every final one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ptyinr.types import Snapshot
from ptyinr_stream.channels import Inbox, Message, Outbox


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def message(number, size=1):
    return Message("frames", [bytes([number]) * size], float(number))


def snapshot(uid, step, final=False):
    return Snapshot(
        uid=uid,
        step=step,
        frames=1,
        object=np.ones((2, 2), np.complex64),
        probe=np.ones((1, 2, 2), np.complex64),
        coverage=np.ones((2, 2), np.float32),
        indices=np.zeros(1, np.int64),
        positions_px=np.zeros((1, 2)),
        pixel_m=(1e-9, 1e-9),
        final=final,
    )


def steps(outbox):
    outbox.close()
    found = []
    while not outbox.drained:
        taken = outbox.get(timeout=1)
        found.append((taken.uid, taken.step))
    return found


def test_messages_leave_the_inbox_in_the_order_in_which_they_came():
    inbox = Inbox(100)
    for number in range(3):
        assert inbox.put(message(number), 10)
    assert inbox.held_bytes == inbox.high_water_bytes == 30
    assert [inbox.get(timeout=1) for _ in range(3)] == [message(number) for number in range(3)]
    assert inbox.held_bytes == 0
    assert inbox.high_water_bytes == 30


def test_a_message_knows_the_size_of_its_parts():
    assert Message("frames", [b"abc", b"", b"de"], 0.0).size == 5


def test_a_full_inbox_holds_its_sender_until_there_is_room(pool):
    inbox = Inbox(10)
    inbox.put(message(0), 6)
    waiting = pool.submit(inbox.put, message(1), 6)
    assert inbox.get(timeout=5) == message(0)
    assert waiting.result(timeout=5)
    assert inbox.get(timeout=5) == message(1)
    assert inbox.high_water_bytes == 6  # they were never inside together


def test_a_message_larger_than_the_inbox_passes_when_it_is_empty(pool):
    inbox = Inbox(10)
    assert inbox.put(message(0), 1000)
    waiting = pool.submit(inbox.put, message(1), 1)
    assert inbox.get(timeout=5) == message(0)
    assert waiting.result(timeout=5)


def test_an_empty_inbox_answers_with_nothing_after_the_time_limit():
    inbox = Inbox(10)
    assert inbox.get(timeout=0) is None
    assert not inbox.drained


def test_closing_the_inbox_releases_everybody_and_keeps_what_is_inside(pool):
    inbox = Inbox(10)
    inbox.put(message(0), 10)
    refused = pool.submit(inbox.put, message(1), 10)
    inbox.close()
    assert refused.result(timeout=5) is False
    assert not inbox.drained
    assert inbox.get() == message(0)
    assert inbox.drained
    assert inbox.get() is None


def test_a_reader_that_waits_is_released_by_closing(pool):
    inbox, outbox = Inbox(10), Outbox()
    waiting = [pool.submit(inbox.get), pool.submit(outbox.get)]
    inbox.close()
    outbox.close()
    assert [future.result(timeout=5) for future in waiting] == [None, None]


def test_many_senders_lose_nothing_in_a_small_inbox(pool):
    inbox = Inbox(5)
    senders = [pool.submit(lambda: [inbox.put(message(k), 2) for k in range(100)]) for _ in range(3)]
    taken = [inbox.get(timeout=5) for _ in range(300)]
    assert all(all(sender.result(timeout=5)) for sender in senders)
    assert sorted(item.received for item in taken) == sorted(3 * list(map(float, range(100))))
    assert inbox.high_water_bytes <= 5


def test_the_newest_snapshot_replaces_the_one_that_waits():
    outbox = Outbox()
    for step in range(4):
        outbox.put(snapshot("a", step))
    assert outbox.replaced == 3
    assert steps(outbox) == [("a", 3)]


def test_a_final_snapshot_is_never_replaced_and_drops_its_elders():
    outbox = Outbox()
    outbox.put(snapshot("a", 1))
    outbox.put(snapshot("a", 2, final=True))
    outbox.put(snapshot("b", 1))
    outbox.put(snapshot("b", 2))
    outbox.put(snapshot("a", 3, final=True))  # the same run, reconstructed again
    assert steps(outbox) == [("a", 2), ("b", 2), ("a", 3)]


def test_finals_leave_in_the_order_in_which_they_came():
    outbox = Outbox()
    outbox.put(snapshot("a", 1))
    outbox.put(snapshot("b", 1, final=True))
    outbox.put(snapshot("a", 2, final=True))
    assert steps(outbox) == [("b", 1), ("a", 2)]


def test_a_closed_outbox_takes_nothing_more():
    outbox = Outbox()
    outbox.put(snapshot("a", 1))
    outbox.close()
    outbox.put(snapshot("a", 2))
    assert steps(outbox) == [("a", 1)]
    assert outbox.get() is None
