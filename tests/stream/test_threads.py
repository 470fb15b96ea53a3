"""As many threads as make steps short, while they are taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ptyinr_stream.threads import LONGEST_S, Threads


class Steps:
    """Steps that take as long as `takes_s` says of the threads that torch would use; it notes when, and how many."""

    def __init__(self, most: int, takes_s: Callable[[int, float], float]) -> None:
        self.now = 0.0
        self.used: list[tuple[float, int]] = []
        self._takes_s, self.threads = takes_s, Threads(most)

    def until(self, end: float) -> Steps:
        while self.now < end:
            with self.threads.step(lambda: self.now):
                self.used.append((self.now, torch.get_num_threads()))
                self.now += self._takes_s(self.used[-1][1], self.now)
        return self

    def taken_by(self, threads: int, since: float = 0.0) -> int:
        return sum(number == threads and at >= since for at, number in self.used)


@pytest.fixture(autouse=True)
def threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_all_threads_go_on_where_they_are_faster_and_one_is_tried_ever_more_seldom() -> None:
    steps = Steps(2, lambda threads, now: 0.04 if threads == 2 else 0.07).until(300.0)
    assert steps.threads.number == 2
    assert 4 <= steps.taken_by(1) <= 20
    assert steps.taken_by(2) * 0.04 > 0.99 * 300


def test_one_thread_goes_on_where_others_want_the_processor_and_all_when_they_have_it_again() -> None:
    def takes_s(threads: int, now: float) -> float:
        return (2.0 if threads == 2 else 0.08) if 10.0 <= now < 100.0 else (0.04 if threads == 2 else 0.07)

    steps = Steps(2, takes_s).until(10.0)
    assert steps.threads.number == 2
    steps.until(20.0)
    assert steps.threads.number == 1
    steps.until(100.0)
    assert steps.taken_by(2, since=20.0) <= 5
    steps.until(100.0 + LONGEST_S + 5.0)
    assert steps.threads.number == 2


def test_others_that_come_late_in_a_long_scan_are_noticed_as_soon() -> None:
    steps = Steps(2, lambda threads, now: 1.0 if threads == 2 and now >= 1000 else 0.05 if threads == 2 else 0.09)
    steps.until(1010.0)
    assert steps.threads.number == 1


def test_a_single_slow_step_changes_nothing() -> None:
    steps = Steps(2, lambda threads, now: 3.0 if 5.0 <= now < 5.01 else (0.04 if threads == 2 else 0.07)).until(60.0)
    assert steps.threads.number == 2
    assert steps.taken_by(1) <= 12


def test_what_torch_uses_is_left_alone_where_there_is_no_choice() -> None:
    torch.set_num_threads(2)
    Steps(1, lambda threads, now: 0.1).until(10.0)
    assert torch.get_num_threads() == 2


def test_a_step_that_fails_leaves_the_number_as_it_was() -> None:
    threads = Threads(2)
    with pytest.raises(ValueError, match="no light"), threads.step(lambda: 0.0):
        raise ValueError("no light")
    assert (threads.number, torch.get_num_threads()) == (2, 2)
