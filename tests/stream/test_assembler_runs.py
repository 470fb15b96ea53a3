"""Series and captures that know their run, as files do that documents name; frames from elsewhere than the stream."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.assembler import Assembler, Frame, Joined, Output, ScanClosed
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import (
    CaptureEnded,
    CaptureStarted,
    Event,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)

POSITIONS = PositionsConfig.model_validate(
    {
        "axis0": {"channel": "y", "um_per_count": 1.0},
        "axis1": {"channel": "x", "um_per_count": 1.0},
        "samples_per_frame": 1,
    }
)
N = 6


def started(uid: str) -> RunStarted:
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 3.0, -1.0, 1.0, 2.0]}
    return RunStarted(uid, {"uid": uid, "scan": scan})


def frames(series: int, numbers: range = range(N)) -> list[Frame]:
    return [Frame(series, number, np.full((2, 2), number, np.uint16)) for number in numbers]


def samples() -> PositionsArrived:
    return PositionsArrived(0, {"y": np.linspace(-1, 1, N), "x": np.linspace(-1, 0.9, N)})


def fed(*events: Event | Frame | float) -> tuple[Assembler, list[Output]]:
    """What becomes of events that come one after the other; a number is a pause of so many seconds."""
    assembler, outputs, now = Assembler(POSITIONS, AssemblyConfig()), [], 0.0
    for event in events:
        if isinstance(event, float | int):
            now += event
            outputs += assembler.tick(now)
        else:
            now += 0.01
            outputs += assembler.feed(event, now)
    return assembler, outputs


def joined(outputs: list[Output]) -> list[tuple[str, int]]:
    return [(o.uid, index) for o in outputs if isinstance(o, Joined) for index in o.batch.indices.tolist()]


@pytest.mark.parametrize("run", ["first", "second"])
def test_what_knows_its_run_is_bound_to_no_other(run: str) -> None:
    _, outputs = fed(
        started("first"),
        started("second"),
        SeriesStarted(2**32, N, run=run),
        CaptureStarted(run=run),
        *frames(2**32),
        samples(),
    )
    assert sorted(joined(outputs)) == [(run, number) for number in range(N)]


def test_what_knows_a_run_that_is_over_waits_in_vain() -> None:
    assembler, outputs = fed(
        started("open"), SeriesStarted(1, N, run="over"), CaptureStarted(run="over"), *frames(1), samples()
    )
    assert joined(outputs) == []
    assert assembler.waiting_frames == N


def test_frames_from_a_file_fill_the_holes_of_the_stream() -> None:
    assembler, outputs = fed(started("a"), SeriesStarted(7, N), samples(), *frames(7, range(4)), RunStopped("a"))
    outputs += assembler.fill("a", frames(-1, range(3, N)), 0.2)
    assert sorted(joined(outputs)) == [("a", number) for number in range(N)]
    (closed,) = (output for output in outputs if isinstance(output, ScanClosed))
    assert (closed.report.paired, closed.report.duplicates, closed.report.lost) == (N, 1, 0)
    assert assembler.fill("a", frames(-1), 0.3) == []
    assert assembler.counts["frames_foreign"] == N


TAIL = range(N - 4, N)


def tail(series: int = 7) -> list[Event | Frame]:
    """What is still received of a scan when the daemon is started in its middle."""
    late = PositionsArrived(TAIL.start, {"y": np.full(4, 0.5), "x": np.full(4, 0.5)})
    images = [Frame(series, number, np.full((2, 2), 90, np.uint16)) for number in TAIL]
    return [*images[:2], late, *images[2:]]


@pytest.mark.parametrize("ends", [[], [SeriesEnded(7), CaptureEnded(3)]], ids=["without ends", "with ends"])
@pytest.mark.parametrize("told", [RunStopped("unheard of"), 3.0], ids=["its stop document comes", "silence"])
@pytest.mark.parametrize("armed", [[CaptureStarted("armed")], []], ids=["armed", "its arming is lost"])
@pytest.mark.parametrize("headed", [[SeriesStarted(8, N)], []], ids=["headed", "its header is lost"])
def test_the_end_of_a_scan_in_whose_middle_reception_began_is_not_taken_for_the_next_one(
    ends: list[Event], told: Event | float, armed: list[Event], headed: list[Event]
) -> None:
    """The next scan has as many frames, so that their last numbers are the same."""
    assembler, outputs = fed(*tail(), *ends, told, started("next"), *headed, *armed, *frames(8), samples())
    batches = [output.batch for output in outputs if isinstance(output, Joined)]
    assert sorted(joined(outputs)) == [("next", number) for number in range(N)]
    assert sorted(int(counts[0, 0]) for batch in batches for counts in batch.counts) == list(range(N))
    assert np.sort(np.concatenate([batch.positions_m for batch in batches])[:, 0]) == pytest.approx(
        1e-6 * np.linspace(-1, 1, N)
    )
    assembler.finish()
    assert assembler.counts["frames_foreign"] == len(TAIL)


def test_what_comes_of_it_after_its_document_does_not_go_to_the_next_scan_either() -> None:
    _, outputs = fed(RunStopped("unheard of"), *tail(), SeriesEnded(7), started("next"), SeriesStarted(8, N))
    assert joined(outputs) == []


def test_a_capture_whose_first_messages_are_lost_is_not_the_end_of_the_scan_before() -> None:
    late = PositionsArrived(2, {"y": np.linspace(0, 1, N - 2), "x": np.linspace(0, 0.9, N - 2)})
    few = PositionsArrived(0, {"y": np.full(2, 0.5), "x": np.full(2, 0.5)})
    _, outputs = fed(PositionsArrived(1, few.channels), 3.0, started("a"), SeriesStarted(8, N), late, *frames(8))
    assert sorted(joined(outputs)) == [("a", number) for number in range(2, N)]


def test_a_stop_document_of_another_instrument_disowns_nothing_of_an_open_scan() -> None:
    _, outputs = fed(started("a"), RunStopped("unheard of"), *frames(7, range(1, N)), CaptureStarted(), samples())
    assert sorted(joined(outputs)) == [("a", number) for number in range(1, N)]


def test_what_began_before_its_late_start_document_needs_no_beginning() -> None:
    """The detector's subscription is slower than that to the encoders, and documents come late."""
    _, outputs = fed(*frames(7, range(2, N)), samples(), started("a"))
    assert sorted(joined(outputs)) == [("a", number) for number in range(2, N)]


def test_a_late_stop_document_of_a_scan_that_is_closed_disowns_nothing() -> None:
    _, outputs = fed(
        *[started("a"), SeriesStarted(7, N), *frames(7), samples(), 40.0],
        *[*frames(8, range(1, N)), RunStopped("a"), started("b"), CaptureStarted(), samples()],
    )
    assert sorted(joined(outputs))[N:] == [("b", number) for number in range(1, N)]
