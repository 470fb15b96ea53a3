"""The inbox holds back its senders and loses nothing; the outbox keeps the newest snapshot and every final one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.events import EncodedImage, FrameArrived, FrameFound, PositionsArrived, SeriesStarted


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as threads:
        yield threads


def message(number, size=1):
    return Message("frames", [bytes([number]) * size], float(number))


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
    inbox = Inbox(10)
    waiting = pool.submit(inbox.get)
    inbox.close()
    assert waiting.result(timeout=5) is None


def test_many_senders_lose_nothing_in_a_small_inbox(pool):
    inbox = Inbox(5)
    senders = [pool.submit(lambda: [inbox.put(message(k), 2) for k in range(100)]) for _ in range(3)]
    taken = [inbox.get(timeout=5) for _ in range(300)]
    assert all(all(sender.result(timeout=5)) for sender in senders)
    assert sorted(item.received for item in taken) == sorted(3 * list(map(float, range(100))))
    assert inbox.high_water_bytes <= 5


def test_what_a_source_has_decoded_counts_by_its_images_and_samples():
    image = EncodedImage(bytes(70), (7, 10), np.dtype(np.uint8), "<")
    samples = PositionsArrived(0, {"x": np.zeros(3), "y": np.zeros(3)})
    events = (SeriesStarted(1), FrameArrived(1, 0, image), FrameFound("a", 1, image), samples)
    assert Message("files", [], 0.0, events).size == 70 + 70 + 48
