"""Pairing by frame id, one situation of the beamline after the other."""

from __future__ import annotations

import numpy as np
import pytest
from desk import AssemblerDesk

from ptyinr_stream.assembler import (
    BaselineAdded,
    CalibrationAdded,
    CaptureBound,
    Frame,
    Joined,
    ScanClosed,
    ScanOpened,
    SeriesBound,
)
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    EncodedImage,
    FrameArrived,
    FramesCalibrated,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)

Y, X = "/INENC3.VAL.Value", "/INENC2.VAL.Value"


def positions_config(samples_per_frame=1, **more):
    return PositionsConfig.model_validate(
        {
            "axis0": {"channel": Y, "um_per_count": 1e-3},
            "axis1": {"channel": X, "um_per_count": -2e-3, "motor_sign": -1},
            "samples_per_frame": samples_per_frame,
            "motors": (1, 0),
            **more,
        }
    )


def start(uid, nx, ny, kind="2D_FLY_PANDA"):
    scan = {"type": kind, "scan_input": [-1.0, 1.0, float(nx), -2.0, 2.0, float(ny)]}
    return RunStarted(uid, {"uid": uid, "motors": ["zpssx", "zpssy"], "shape": [nx, ny], "scan": scan})


def frame(series, number, value=None, shape=(2, 2), mask=None):
    return Frame(series, number, np.full(shape, number if value is None else value, np.uint16), mask)


def samples(first, y, x=None):
    y = np.asarray(y, float)
    return PositionsArrived(first, {Y: y, X: y + 0.5 if x is None else np.asarray(x, float)})


class Desk(AssemblerDesk):
    """With what these tests ask for."""

    def __init__(self, positions=None, **assembly):
        # Positions here are easy to read rather than where the scan commands them.
        super().__init__(positions or positions_config(), **{"gate": False, **assembly})

    def kinds(self):
        names = [type(output).__name__ for output in self.outputs]
        return [name for name in names if not name.endswith("Bound")]

    def pairs(self, uid):
        """{frame: (value of its pixels, y counts, x counts)} of all batches of a run."""
        found = {}
        for output in self.outputs:
            if isinstance(output, Joined) and output.uid == uid:
                batch = output.batch
                assert batch.counts.dtype == np.uint16
                assert (np.diff(batch.indices) > 0).all()
                for index, counts, at in zip(batch.indices, batch.counts, batch.positions_m, strict=True):
                    assert index not in found
                    found[int(index)] = (int(counts[0, 0]), round(at[0] / 1e-9, 6), round(at[1] / -2e-9, 6))
        return found

    def report(self, uid):
        [closed] = [o for o in self.outputs if isinstance(o, ScanClosed) and o.uid == uid]
        assert not [o for o in self.outputs[self.outputs.index(closed) :] if isinstance(o, Joined) and o.uid == uid]
        report = closed.report
        fates = (
            report.paired,
            report.duplicates,
            report.surplus,
            report.misfits,
            report.without_position,
            report.gated,
        )
        assert report.frames == sum(fates)
        assert report.paired == len(self.pairs(uid))
        return report


def test_a_scan_in_the_order_of_the_beamline_is_joined_and_closed_when_complete():
    desk = Desk(positions_config(2))
    desk.feed(start("a", 2, 2), BaselineRead("a", {"dcm_th": 9.5}))
    desk.feed(SeriesStarted(6, 1), frame(6, 0), SeriesEnded(6))  # the detector's warm-up
    desk.feed(CaptureStarted(), SeriesStarted(7, 4), samples(0, [10, 12, 20]), frame(7, 1), frame(7, 0))
    desk.feed(samples(3, [22, 30, 32, 40, 42]), frame(7, 2), frame(7, 3), SeriesEnded(7), CaptureEnded(2))

    opened, added, *joined, closed = [o for o in desk.outputs if not isinstance(o, SeriesBound | CaptureBound)]
    assert [o for o in desk.outputs if isinstance(o, SeriesBound | CaptureBound)] == [
        CaptureBound("a"),
        SeriesBound("a", 7),
    ]
    assert opened == ScanOpened("a", start("a", 2, 2).document, opened.layout)
    assert opened.expected == 4
    assert opened.range.lower_m == pytest.approx((-2e-6, -1e-6))
    assert added == BaselineAdded("a", {"dcm_th": 9.5})
    assert [output.batch.indices.tolist() for output in joined] == [[0], [1], [2], [3]]
    assert desk.pairs("a") == {k: (k, 10 * k + 11, 10 * k + 11.5) for k in range(4)}
    assert closed.report.reason == "complete"
    assert closed.report.lost == 0


def test_positions_that_come_in_bulk_make_one_batch():
    desk = Desk().feed(start("a", 3, 1), SeriesStarted(1, 3), frame(1, 2), frame(1, 0), frame(1, 1), CaptureStarted())
    desk.feed(samples(0, [5, 6, 7]))
    [joined] = [output for output in desk.outputs if isinstance(output, Joined)]
    assert joined.batch.indices.tolist() == [0, 1, 2]
    assert joined.batch.counts[:, 0, 0].tolist() == [0, 1, 2]


def test_a_late_start_document_binds_what_waited_for_it():
    desk = Desk(preroll_s=10)
    desk.feed(SeriesStarted(1, 300), CaptureStarted(), samples(0, range(300)), *(frame(1, k) for k in range(300)))
    desk.feed(SeriesEnded(1), CaptureEnded(1))
    assert not desk.outputs
    assert desk.assembler.waiting_frames == 300
    desk.feed(start("a", 30, 10), after=5)
    assert desk.assembler.waiting_frames == 0
    assert desk.pairs("a") == {k: (k, k, k + 0.5) for k in range(300)}
    assert max(len(output.batch.indices) for output in desk.outputs if isinstance(output, Joined)) < 300


def test_a_complete_scan_waits_for_the_baseline_that_follows_a_late_start_document():
    desk = Desk().feed(SeriesStarted(1, 2), CaptureStarted(), samples(0, [1, 2]), frame(1, 0), frame(1, 1))
    desk.feed(start("a", 2, 1), BaselineRead("a", {"dcm_th": 9.5}))
    assert desk.kinds() == ["ScanOpened", "Joined", "BaselineAdded", "ScanClosed"]


def test_a_complete_scan_without_any_further_document_closes_after_the_settling_time():
    desk = Desk(settle_s=3).feed(SeriesStarted(1, 2), CaptureStarted(), samples(0, [1, 2]), frame(1, 0), frame(1, 1))
    desk.feed(start("a", 2, 1)).wait(2.9)
    assert desk.kinds() == ["ScanOpened", "Joined"]
    desk.wait(0.2)
    assert desk.report("a").reason == "complete"


def test_a_complete_scan_is_called_so_even_if_reception_ends_first():
    desk = Desk().feed(SeriesStarted(1, 2), CaptureStarted(), samples(0, [1, 2]), frame(1, 0), frame(1, 1))
    desk.feed(start("a", 2, 1)).finish()
    assert desk.report("a").reason == "complete"


def test_frames_wait_for_a_start_document_no_longer_than_the_preroll():
    desk = Desk(preroll_s=10).feed(SeriesStarted(1, 4), CaptureStarted(), samples(0, [0, 1]), frame(1, 0))
    desk.wait(6).feed(samples(2, [2, 3]), frame(1, 1)).wait(6)
    assert desk.assembler.counts["frames_foreign"] == 1
    desk.feed(start("a", 2, 2), frame(1, 2))
    assert set(desk.pairs("a")) == {1, 2}


def test_frames_that_wait_for_a_start_document_are_bounded_in_bytes():
    desk = Desk(inbox_mb=1e-4).feed(SeriesStarted(1, 20), *(frame(1, k, shape=(2, 5)) for k in range(20)))
    assert desk.assembler.waiting_frames == 5
    assert desk.assembler.counts["frames_foreign"] == 15


def test_a_scan_without_positions_closes_and_says_so():
    desk = Desk().feed(start("a", 2, 2), SeriesStarted(1, 4), frame(1, 0), frame(1, 3), RunStopped("a", "abort"))
    desk.wait(3.1)
    report = desk.report("a")
    assert (report.reason, report.exit_status) == ("settled", "abort")
    assert (report.without_position, report.paired, report.lost) == (2, 0, 2)


def test_stragglers_after_the_stop_document_are_joined_until_the_scan_has_settled():
    desk = Desk(settle_s=3).feed(start("a", 2, 2), CaptureStarted(), SeriesStarted(1, 4), RunStopped("a"))
    desk.wait(2).feed(samples(0, [0, 1, 2, 3])).wait(2).feed(frame(1, 0)).wait(2).feed(frame(1, 1)).wait(3)
    assert set(desk.pairs("a")) == {0, 1}
    assert desk.report("a").reason == "settled"
    desk.feed(frame(1, 2))
    assert set(desk.pairs("a")) == {0, 1}
    assert desk.assembler.counts["frames_foreign"] == 1


def test_silence_on_all_roads_ends_a_scan_only_after_its_first_frame():
    desk = Desk(idle_s=30).feed(start("a", 2, 2), SeriesStarted(1, 4), CaptureStarted()).wait(1000)
    assert desk.kinds() == ["ScanOpened"]
    desk.feed(frame(1, 0)).wait(29).feed(samples(0, [1])).wait(29)
    assert desk.kinds() == ["ScanOpened", "Joined"]
    desk.wait(2)
    assert desk.report("a").reason == "idle"


def test_a_run_that_died_without_a_stop_document_gives_way_to_the_next():
    desk = Desk().feed(start("dead", 2, 1)).wait(100)
    desk.feed(start("a", 2, 1), BaselineRead("a", {}), CaptureStarted(), SeriesStarted(1, 2), samples(0, [1, 2]))
    desk.feed(frame(1, 0), frame(1, 1))
    assert desk.report("dead").reason == "superseded"
    assert desk.report("a").reason == "complete"


def test_a_second_run_gets_its_own_series_while_the_first_still_gets_stragglers():
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), CaptureStarted(), samples(0, [1, 2]), frame(1, 0, 10))
    desk.feed(start("b", 2, 1), SeriesStarted(2, 2), frame(2, 0, 20), CaptureStarted(), samples(0, [3, 4]))
    desk.feed(frame(1, 1, 11), frame(2, 1, 21), RunStopped("a"), RunStopped("b"))
    assert desk.pairs("a") == {0: (10, 1, 1.5), 1: (11, 2, 2.5)}
    assert desk.pairs("b") == {0: (20, 3, 3.5), 1: (21, 4, 4.5)}


def test_a_start_document_never_takes_the_unfinished_series_of_the_run_before():
    desk = Desk().feed(start("a", 2, 1), CaptureStarted(), SeriesStarted(1, 2), frame(1, 0), start("b", 2, 1))
    desk.feed(frame(1, 1), samples(0, [1, 2])).finish()
    assert set(desk.pairs("a")) == {0, 1}
    assert desk.report("b").frames == 0


def test_a_series_number_that_is_used_again_belongs_to_the_new_run():
    desk = Desk()
    for uid, value in (("a", 10), ("b", 20)):
        desk.feed(start(uid, 2, 1), BaselineRead(uid, {}), CaptureStarted(), SeriesStarted(1, 2))
        desk.feed(samples(0, [value, value]), frame(1, 0, value), frame(1, 1, value), RunStopped(uid))
    assert desk.pairs("b") == {0: (20, 20, 20.5), 1: (20, 20, 20.5)}


def test_late_frames_of_a_closed_scan_never_join_the_next_one():
    desk = Desk().feed(start("a", 2, 1), CaptureStarted(), SeriesStarted(1, 2), samples(0, [1, 2]), frame(1, 0))
    desk.feed(RunStopped("a")).wait(4).feed(start("b", 2, 1), CaptureStarted(), samples(0, [5, 6]), frame(1, 1))
    desk.feed(SeriesStarted(2, 2), frame(2, 0)).finish()
    assert set(desk.pairs("b")) == {0}
    assert desk.report("b").foreign == 1


def test_a_series_without_header_is_bound_when_it_shows_more_than_a_warm_up_has():
    desk = Desk().feed(start("a", 3, 1), samples(1, [1, 2]), frame(9, 0))
    assert desk.assembler.waiting_frames == 1
    desk.feed(frame(9, 1), frame(9, 2))
    assert set(desk.pairs("a")) == {1, 2}
    desk.finish()
    assert desk.report("a").without_position == 1


def test_a_series_of_another_length_is_not_taken():
    desk = Desk().feed(start("a", 3, 1), SeriesStarted(1, 4), frame(1, 0), frame(1, 1), SeriesStarted(2, 3))
    desk.feed(samples(0, [1, 2, 3]), frame(2, 1, 99)).finish()
    assert desk.pairs("a") == {1: (99, 2, 2.5)}
    assert desk.assembler.counts["frames_foreign"] == 2


def test_a_series_armed_again_before_its_first_frame_takes_the_place_of_the_first():
    desk = Desk().feed(start("a", 2, 1), CaptureStarted(), SeriesStarted(1, 2), SeriesEnded(1), CaptureStarted())
    desk.feed(SeriesStarted(2, 2), samples(0, [1, 2]), frame(2, 0), frame(2, 1), RunStopped("a"))
    assert desk.report("a").reason == "complete"


def test_a_short_capture_that_was_over_before_the_start_document_is_not_taken():
    desk = Desk().feed(CaptureStarted(), samples(0, [7, 7]), CaptureEnded(1))
    desk.feed(start("a", 4, 1), CaptureStarted(), SeriesStarted(1, 4), samples(0, [0, 1, 2, 3]), frame(1, 1))
    assert desk.pairs("a") == {1: (1, 1, 1.5)}
    desk.wait(61)
    assert desk.assembler.counts["positions_foreign"] == 1


def test_a_capture_that_was_over_and_lost_its_tail_is_taken_because_its_end_tells():
    desk = Desk().feed(SeriesStarted(1, 4), frame(1, 0), CaptureStarted(), samples(0, [5, 6]), CaptureEnded(2))
    desk.feed(start("a", 4, 1))
    assert desk.pairs("a") == {0: (0, 5, 5.5)}


def test_a_run_that_is_no_scan_is_passed_over_with_all_that_arrives_in_it(caplog):
    desk = Desk().feed(RunStarted("line", {"uid": "line", "scan": {"type": "1D_FLY_PANDA"}}), CaptureStarted())
    desk.feed(SeriesStarted(1, 2), samples(0, [8, 9]), frame(1, 0), frame(1, 1), BaselineRead("line", {}))
    desk.feed(RunStopped("line"))
    assert "1D_FLY_PANDA" in caplog.text
    desk.feed(start("a", 2, 1), SeriesStarted(2, 2), CaptureStarted(), frame(2, 0), frame(2, 1), samples(0, [1, 2]))
    assert desk.pairs("a") == {0: (0, 1, 1.5), 1: (1, 2, 2.5)}
    counts = desk.assembler.counts
    assert (counts["runs_passed_over"], counts["frames_foreign"], counts["positions_foreign"]) == (1, 2, 1)
    assert counts["documents_foreign"] == 0


def test_sample_numbers_that_begin_again_are_a_new_capture_even_without_its_start():
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), CaptureStarted(), samples(0, [1, 2]), frame(1, 0))
    desk.feed(RunStopped("a")).wait(4)
    desk.feed(start("b", 2, 1), SeriesStarted(2, 2), samples(0, [5]), samples(1, [6]), frame(2, 0), frame(2, 1))
    assert desk.pairs("b") == {0: (0, 5, 5.5), 1: (1, 6, 6.5)}


def test_samples_after_a_capture_that_has_ended_in_full_begin_another():
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), CaptureStarted(), samples(0, [1]), CaptureEnded(1))
    desk.feed(RunStopped("a")).wait(4)
    desk.feed(start("b", 2, 1), SeriesStarted(2, 2), samples(1, [6]), frame(2, 1))
    assert desk.pairs("b") == {1: (1, 6, 6.5)}


def test_a_hole_in_the_samples_is_a_hole_and_never_a_shift():
    desk = Desk(positions_config(2)).feed(start("a", 4, 1), SeriesStarted(1, 4), CaptureStarted())
    desk.feed(samples(0, [0, 2]), samples(3, [7, 9, 11]), *(frame(1, k) for k in range(4)))
    assert set(desk.pairs("a")) == {0, 2}
    desk.feed(RunStopped("a")).wait(4)
    assert desk.pairs("a") == {0: (0, 1, 1.5), 1: (1, 7, 7.5), 2: (2, 10, 10.5)}
    report = desk.report("a")
    assert (report.partial_positions, report.without_position) == (1, 1)


def test_a_frame_with_samples_on_one_axis_only_has_no_position():
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), CaptureStarted(), frame(1, 0))
    desk.feed(PositionsArrived(0, {Y: np.array([1.0])}), PositionsArrived(0, {X: np.array([np.nan])})).finish()
    assert desk.report("a").without_position == 1


def test_every_frame_has_one_fate_and_the_report_tells_it():
    desk = Desk().feed(start("a", 3, 1), SeriesStarted(1, 3), CaptureStarted(), samples(0, [1, 2, 3, 4, 5]))
    desk.feed(frame(1, 0), frame(1, 0, 77), frame(1, 3), frame(1, 1, shape=(3, 3)), RunStopped("a")).wait(4)
    report = desk.report("a")
    assert (report.paired, report.duplicates, report.surplus, report.misfits) == (1, 1, 1, 1)
    assert (report.without_frame, report.surplus_samples, report.lost) == (2, 2, 2)
    assert desk.pairs("a")[0][0] == 0  # the first of its number counts


def test_channels_of_other_names_are_counted_and_named_once(caplog):
    desk = Desk().feed(start("a", 2, 1), *[PositionsArrived(k, {"/INENC4": np.zeros(1)}) for k in range(2)])
    assert desk.assembler.counts["positions_without_channel"] == 2
    assert caplog.text.count("/INENC4") == 1


def test_masks_travel_with_their_frames():
    mask = np.array([[True, False], [True, True]])
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), frame(1, 0), frame(1, 1, mask=mask), CaptureStarted())
    desk.feed(samples(0, [1, 2]))
    [joined] = [output for output in desk.outputs if isinstance(output, Joined)]
    assert joined.batch.mask is not None
    assert joined.batch.mask.tolist() == [[[True, True], [True, True]], mask.tolist()]


@pytest.mark.parametrize("late", [False, True])
def test_what_first_frames_have_told_reaches_their_scan_before_them(late):
    told = FramesCalibrated(1, {"frame_centre": [40, 30]})
    desk = Desk().feed(CaptureStarted(), samples(0, [1, 2]), *([] if late else [start("a", 2, 1)]))
    desk.feed(SeriesStarted(1, 2), told, frame(1, 0), frame(1, 1), *([start("a", 2, 1)] if late else []))
    order = [kind for kind in desk.kinds() if kind not in ("Joined", "SeriesBound", "CaptureBound")]
    assert order == ["ScanOpened", "CalibrationAdded"]
    assert CalibrationAdded("a", told.told) in desk.outputs
    assert len(desk.pairs("a")) == 2


def test_encoders_that_read_zero_anywhere_are_laid_on_the_commanded_start():
    desk = Desk(positions_config(zero="scan_start"))
    desk.feed(start("a", 2, 2), SeriesStarted(1, 4), CaptureStarted(), frame(1, 1), samples(1, [5100]))
    assert desk.kinds() == ["ScanOpened"]
    desk.feed(samples(0, [5000]), frame(1, 0))
    [second, first] = [output.batch for output in desk.outputs if isinstance(output, Joined)]
    # The slow motor, axis 0, starts at -2 um; the fast one at -1 um, which is +1 um by its sign.
    assert first.positions_m == pytest.approx(np.array([[-2e-6, 1e-6]]))
    assert second.positions_m == pytest.approx(np.array([[-2e-6 + 100e-9, 1e-6 - 200e-9]]))


def test_without_samples_of_frame_0_the_lowest_frame_lies_where_the_plan_meant_it_to_be():
    desk = Desk(positions_config(zero="scan_start"))
    desk.feed(start("a", 2, 2), SeriesStarted(1, 4), CaptureStarted(), frame(1, 3), samples(2, [7000]))
    assert desk.kinds() == ["ScanOpened"]
    desk.feed(samples(3, [7000], [6500.5]))  # a whole line by now: frame 0 is lost
    [joined] = [output.batch for output in desk.outputs if isinstance(output, Joined)]
    # Frame 2 begins the second line, at (0, 1) um; frame 3 lies one step of 1 um on.
    assert joined.positions_m == pytest.approx(np.array([[0.0, 1e-6 + 1e-6]]))


def test_at_the_latest_the_close_of_a_scan_anchors_it():
    desk = Desk(positions_config(zero="scan_start"))
    desk.feed(start("a", 4, 1), SeriesStarted(1, 4), CaptureStarted(), frame(1, 1), samples(1, [7000])).finish()
    [joined] = [output.batch for output in desk.outputs if isinstance(output, Joined)]
    assert joined.positions_m == pytest.approx(np.array([[-2e-6, 0.5e-6]]))
    assert desk.report("a").partial_positions == 0


def test_an_encoded_image_is_refused():
    image = EncodedImage(b"", (2, 2), np.dtype("u2"), "<")
    with pytest.raises(TypeError, match="Frame"):
        Desk().feed(FrameArrived(1, 0, image))


def test_every_open_scan_is_closed_once_when_nothing_more_will_come():
    desk = Desk().feed(start("a", 2, 1), SeriesStarted(1, 2), frame(1, 0), SeriesStarted(3, 9), frame(3, 0))
    assert desk.assembler.open_scans == [{"uid": "a", "expected": 2, "frames": 1, "paired": 0}]
    desk.finish().finish()
    assert desk.report("a").reason == "stopped"
    assert desk.assembler.counts["frames_foreign"] == 1
