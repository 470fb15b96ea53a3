"""Series and captures that know their run, as files do that documents name; frames from elsewhere than the stream."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.assembler import Assembler, Frame, Joined, Output, ScanClosed
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import (
    CaptureStarted,
    Event,
    PositionsArrived,
    RunStarted,
    RunStopped,
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


def fed(*events: Event | Frame) -> tuple[Assembler, list[Output]]:
    assembler = Assembler(POSITIONS, AssemblyConfig())
    outputs = [output for now, event in enumerate(events) for output in assembler.feed(event, 0.01 * now)]
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
