"""What comes from files is treated as what comes from streams."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr_stream.calibration import QUIET_AFTER_STOP_S
from ptyinr_stream.config import parse_config
from ptyinr_stream.events import (
    CaptureStarted,
    EncodedImage,
    FrameArrived,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesStarted,
)
from ptyinr_stream.joining import FIRST_SERIES_OF_FILES, Joining
from ptyinr_stream.outputs import Joined, Output, ScanClosed

FRAMES, SHAPE = 4, (40, 40)
CONFIG = parse_config(
    {
        "streams": {
            road: {"endpoint": "tcp://127.0.0.1:*", "wire": wire}
            for road, wire in {"documents": "bluesky", "frames": "eiger_v1", "positions": "panda"}.items()
        },
        "geometry": {"detector_pixel_um": 75.0},
        "frames": {"window": [32, 32], "centre": "auto"},  # found in more frames than there are
        "positions": {
            "axis0": {"channel": "y", "um_per_count": 1.0},
            "axis1": {"channel": "x", "um_per_count": 1.0},
            "samples_per_frame": 1,
        },
        "assembly": {"gate": False, "settle_s": 3.0},
    }
)


def arrived(series: int, number: int) -> FrameArrived:
    counts = np.random.default_rng(number).poisson(1.0, SHAPE).astype(np.uint16)
    return FrameArrived(series, number, EncodedImage(counts.tobytes(), SHAPE, counts.dtype, "<"))


def joined(outputs: list[Output]) -> list[int]:
    return [int(index) for output in outputs if isinstance(output, Joined) for index in output.batch.indices]


@pytest.mark.parametrize("series", [7, FIRST_SERIES_OF_FILES])
def test_frames_that_wait_for_others_of_their_series_are_in_time_for_a_run_that_has_stopped(series: int) -> None:
    joining = Joining(CONFIG)
    scan = {"type": "2D_FLY_PANDA", "scan_input": [0.0, 1.0, float(FRAMES), 0.0, 1.0, 2.0]}
    at = np.arange(2.0 * FRAMES)
    events = [
        RunStarted("a", {"uid": "a", "scan": scan}),
        CaptureStarted(run="a"),
        SeriesStarted(series, 2 * FRAMES, run="a"),
        PositionsArrived(0, {"y": at, "x": at}),
        *(arrived(series, number) for number in range(FRAMES)),
        RunStopped("a", "abort"),
    ]
    outputs = [output for event in events for output in joining.feed(event, 0.0)]
    assert not joined(outputs)
    outputs = joining.tick(QUIET_AFTER_STOP_S)
    assert joined(outputs) == list(range(FRAMES))
    [closed] = [output for output in joining.tick(4.0) if isinstance(output, ScanClosed)]
    assert (closed.report.frames, closed.report.paired, closed.report.exit_status) == (FRAMES, FRAMES, "abort")
    assert not joining.assembler.counts["documents_foreign"]  # each event is handed on once
