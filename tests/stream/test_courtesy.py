"""Training gives way to reading, for a while."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ptyinr_stream import courtesy
from ptyinr_stream.courtesy import CALM_S, LATE_S, MOST_S, MOST_STEPS, give_way


class Clock:
    """Time passes in pauses only."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(courtesy, "time", SimpleNamespace(monotonic=lambda: self.now))

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_step_waits_until_messages_are_read_in_time_again(clock: Clock) -> None:
    give_way(lambda: 0.5 - clock.now, 10.0, clock.pause)
    assert clock.now == pytest.approx(0.5 - LATE_S + CALM_S, abs=0.01)


def test_a_burst_soon_after_another_is_waited_for_too(clock: Clock) -> None:
    bursts = (0.0, 0.02), (0.08, 0.1), (0.18, 0.2)
    give_way(lambda: float(any(a <= clock.now < b for a, b in bursts)), 10.0, clock.pause)
    assert clock.now == pytest.approx(0.2 + CALM_S, abs=0.01)


@pytest.mark.parametrize(("step_s", "least"), [(0.008, 0.5), (0.03, 0.2), (0.06, 0.1)])
def test_bursts_that_come_again_and_again_leave_training_its_share(clock: Clock, step_s: float, least: float) -> None:
    trained = 0.0
    while clock.now < 20.0:
        give_way(lambda: float(clock.now % 0.1 < 0.02), step_s, clock.pause)
        clock.now += step_s
        trained += step_s
    assert trained / clock.now > least


def test_a_step_does_not_wait_where_messages_are_read_in_time(clock: Clock) -> None:
    give_way(lambda: LATE_S, 10.0, clock.pause)
    assert clock.now == 0.0


@pytest.mark.parametrize("step_s", [0.0, 0.002, 0.05, 6.0])
def test_training_keeps_a_share_of_its_time_where_reading_never_catches_up(clock: Clock, step_s: float) -> None:
    give_way(lambda: 60.0, step_s, clock.pause)
    assert clock.now == pytest.approx(min(MOST_STEPS * step_s, MOST_S))
