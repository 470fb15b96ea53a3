"""A scan's first frames wait until beam and faulty pixels are known; none is lost, and nothing changes afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ptyinr_stream import calibration
from ptyinr_stream.calibration import Calibration
from ptyinr_stream.config import FramesConfig
from ptyinr_stream.events import (
    EncodedImage,
    Event,
    FrameArrived,
    FramesCalibrated,
    FrameTimed,
    PixelMaskSent,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)

SHAPE = (90, 80)
AUTO = {"window": (32, 32), "centre": "auto", "first_frames": 32}


def image(centre: tuple[int, int] = (40, 30), frame: int = 0, hot: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    rows, columns = np.meshgrid(*(np.arange(n) - c for n, c in zip(SHAPE, centre, strict=True)), indexing="ij")
    distance = np.hypot(rows, columns)
    expected = np.where((distance < 12) & (distance > 4), 8.0, 0.02)
    counts = np.random.default_rng(frame).poisson(expected).astype(np.uint16)
    if hot is not None:
        counts[hot] = 900
    return counts


def arrived(counts: NDArray[Any], frame: int, series: int = 1) -> FrameArrived:
    shape = (counts.shape[0], counts.shape[1])
    return FrameArrived(series, frame, EncodedImage(counts.tobytes(), shape, counts.dtype, "<"))


def frames(n: int, series: int = 1, first: int = 0, **given: Any) -> list[FrameArrived]:
    return [arrived(image(frame=frame, **given), frame, series) for frame in range(first, first + n)]


def fed(stage: Calibration, events: list[Any], now: float = 0.0) -> list[Event]:
    return [out for event in events for out in stage.feed(event, now)]


def told(events: list[Event]) -> list[dict[str, Any]]:
    return [event.told for event in events if isinstance(event, FramesCalibrated)]


def numbers(events: list[Event]) -> list[int]:
    return [event.frame for event in events if isinstance(event, FrameArrived)]


def test_without_anything_to_find_nothing_waits() -> None:
    stage = Calibration(FramesConfig(window=(32, 32)))
    events = [SeriesStarted(1, 3), *frames(3), SeriesEnded(1)]
    assert fed(stage, events) == events
    assert stage.convention(1).apply(image())[0].shape == (32, 32)


def test_frames_wait_until_the_beam_is_known_and_then_all_go_on_in_their_order() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    assert fed(stage, [SeriesStarted(1, 40), *frames(31)]) == [SeriesStarted(1, 40)]
    assert stage.held_frames == 31
    out = fed(stage, frames(9, first=31))
    assert isinstance(out[0], FramesCalibrated)
    assert numbers(out) == list(range(40))
    assert told(out) == [{"frame_centring": "found", "frame_centre": [40, 30]}]
    counts, _ = stage.convention(1).apply(image(frame=7))
    np.testing.assert_array_equal(counts, image(frame=7)[24:56, 14:46])
    assert stage.convention(1).describe()["frame_centre"] == [40, 30]


def test_the_centre_is_that_of_the_oriented_image() -> None:
    stage = Calibration(FramesConfig(**AUTO, orientation="fliplr"))
    (found,) = told(fed(stage, frames(32)))
    assert found["frame_centre"] == [40, 79 - 30]


def test_other_events_pass_while_frames_wait() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    timed = FrameTimed(1, 0, 0, 1)
    assert fed(stage, [*frames(1), timed]) == [timed]


def test_a_short_series_decides_at_its_end() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    out = fed(stage, [SeriesStarted(1, 5), *frames(5), SeriesEnded(1)])
    assert [type(event).__name__ for event in out] == [
        "SeriesStarted",
        "FramesCalibrated",
        *["FrameArrived"] * 5,
        "SeriesEnded",
    ]
    assert told(out)[0]["frame_centre"] == pytest.approx([40, 30], abs=1)


@pytest.mark.parametrize("way", ["tick", "stopped", "next", "again", "finish"])
def test_no_frame_waits_for_ever(way: str) -> None:
    stage = Calibration(FramesConfig(**AUTO))
    assert fed(stage, frames(5)) == []
    if way == "tick":
        assert stage.tick(calibration.QUIET_S - 0.1) == []
        out = stage.tick(calibration.QUIET_S)
    elif way == "stopped":
        assert fed(stage, [RunStopped("a")]) == [RunStopped("a")]
        out = stage.tick(calibration.QUIET_AFTER_STOP_S)
    elif way == "finish":
        out = stage.finish()
    else:
        out = fed(stage, [SeriesStarted(1 if way == "again" else 2)])
    assert numbers(out) == list(range(5))
    assert stage.held_frames == 0


def test_held_frames_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_HELD_BYTES", 10 * 2 * SHAPE[0] * SHAPE[1])
    out = fed(Calibration(FramesConfig(**AUTO)), frames(10))
    assert numbers(out) == list(range(10))


def test_a_beam_that_has_not_moved_keeps_its_centre_and_one_that_has_gets_its_own() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    centres = []
    for series, centre in enumerate([(40, 30), (41, 29), (48, 30)]):
        out = fed(stage, [SeriesStarted(series, 32), *frames(32, series, centre=centre), SeriesEnded(series)])
        centres.append(told(out)[0]["frame_centre"])
    assert centres == [[40, 30], [40, 30], [48, 30]]


def test_a_warm_up_frame_decides_nothing_for_the_scan() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    fed(stage, [SeriesStarted(1, 1), *frames(1, centre=(42, 31)), SeriesEnded(1), SeriesStarted(2, 32)])
    (found,) = told(fed(stage, frames(32, series=2)))
    assert (found["frame_centre"], found["frame_centring"]) == ([40, 30], "found")


def test_dark_frames_before_the_shutter_opens_are_waited_out() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    random = np.random.default_rng(0)
    dark = [arrived(random.poisson(0.01, SHAPE).astype(np.uint16), frame) for frame in range(40)]
    assert fed(stage, dark) == []
    out = fed(stage, frames(32, first=40))
    assert numbers(out) == list(range(72))
    assert told(out)[0]["frame_centre"] == [40, 30]


def test_without_a_beam_the_middle_is_taken_and_a_warning_given(caplog: pytest.LogCaptureFixture) -> None:
    stage = Calibration(FramesConfig(**AUTO))
    random = np.random.default_rng(0)
    noise = [arrived(random.poisson(3.0, SHAPE).astype(np.uint16), frame) for frame in range(128)]
    out = fed(stage, noise)
    assert numbers(out) == list(range(128))
    assert told(out)[0]["frame_centre"] == [45, 40]
    assert "no beam is found in its first 128 frames" in caplog.text


def test_a_window_that_would_leave_the_image_is_moved_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    stage = Calibration(FramesConfig(**AUTO))
    (found,) = told(fed(stage, frames(32, centre=(40, 68))))
    assert (found["frame_centre"], found["frame_centring"]) == ([40, 64], "found, and moved so that the window fits")
    assert "the window is moved to [40, 64]" in caplog.text


def test_faulty_pixels_have_no_weight_and_others_keep_their_counts() -> None:
    stage = Calibration(FramesConfig(**AUTO, hot_pixels=True))
    hot = (35, 30)
    out = fed(stage, frames(32, hot=hot))
    assert told(out)[0]["frame_hot_pixels_found"] == 1
    raw = image(frame=3, hot=hot)
    raw[45, 33] = 65535
    counts, mask = stage.convention(1).apply(raw)
    assert mask is not None
    assert np.argwhere(~mask).tolist() == [[35 - 24, 30 - 14], [45 - 24, 33 - 14]]
    np.testing.assert_array_equal(counts[mask], raw[24:56, 14:46][mask])


def test_one_flash_does_not_make_a_pixel_hot() -> None:
    stage = Calibration(FramesConfig(window=(32, 32), hot_pixels=True, first_frames=32))
    flash = image(frame=0)
    flash[60, 60] = 60_000
    (found,) = told(fed(stage, [arrived(flash, 0), *frames(31, first=1)]))
    assert (found["frame_hot_pixels_found"], "frame_centre" in found) == (0, False)


def test_the_detectors_mask_and_the_file_hold_from_the_first_frame(tmp_path: Path) -> None:
    file = tmp_path / "mask.npy"
    static, sent = np.ones(SHAPE, np.bool_), np.ones(SHAPE, np.bool_)
    static[40, 31] = sent[41, 31] = False
    np.save(file, static)
    stage = Calibration(FramesConfig(window=(32, 32), centre=(40, 49), orientation="fliplr", mask_file=file))
    fed(stage, [SeriesStarted(1), PixelMaskSent(1, sent), *frames(1)])
    counts, mask = stage.convention(1).apply(image())
    assert mask is not None
    column = SHAPE[1] - 1 - 31 - (49 - 16)
    assert np.argwhere(~mask).tolist() == [[16, column], [17, column]]
    assert not counts[~mask].any()


def test_a_blinding_gap_does_not_draw_the_centre() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    events = []
    for frame in range(32):
        counts = image(frame=frame)
        counts[60:66] = 65535
        events.append(arrived(counts, frame))
    (found,) = told(fed(stage, events))
    assert found["frame_centre"] == [40, 30]


def test_a_frame_that_cannot_be_decoded_waits_with_the_others() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    torn = FrameArrived(1, 0, EncodedImage(b"torn", SHAPE, np.dtype(np.uint16), "bs16-lz4<"))
    out = fed(stage, [torn, *frames(32, first=1)])
    assert numbers(out) == list(range(33))


def test_memory_of_old_series_ends() -> None:
    stage = Calibration(FramesConfig(**AUTO))
    for series in range(100):
        fed(stage, [SeriesStarted(series), SeriesEnded(series)])
    assert len(stage._series) <= calibration.MOST_SERIES + 1
