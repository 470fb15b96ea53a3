"""Scans on their way through the engine: what is trained, when snapshots leave, and how each scan ends."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from ptyinr.annealing import LEAST_ANNEAL
from ptyinr.trainer import Trainer
from ptyinr.types import Batch
from ptyinr_stream.assembler import CalibrationAdded, CaptureBound, FramesMissing, Joined, ScanOpened, SeriesBound
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import run_documents
from ptyinr_stream.supersampling import Supersampling


def test_a_scan_is_opened_trained_shown_refined_finished_and_closed(bench):
    b = bench()
    b.open("a")
    assert (b.engine.status.phase, b.engine.status.expected) == ("waiting for frames", 72)
    b.baseline("a")
    assert b.work() == [False]
    b.join("a", range(68))
    b.work(5)
    assert b.engine.status.phase == "training"
    b.join("a", range(68, 72))
    b.work(3)
    b.close("a")
    b.work(3)
    assert b.engine.status.phase == "refining"
    assert b.engine.history == []
    b.work(3)
    assert b.sink.of("a") == ["open", *["live"] * b.sink.of("a").count("live"), "final", "close"]
    assert b.sink.of("a").count("live") >= 2
    final = b.sink.only("final", "a")
    assert final.indices.tolist() == list(range(72))
    assert final.frames == 72
    assert b.sink.only("close", "a")["frames_paired"] == 72
    assert b.sink.only("close", "a")["end_reason"] == "complete"
    status = b.engine.status
    assert b.engine.history == [status]
    assert (status.phase, status.frames, status.error) == ("done", 72, None)
    assert status.steps == final.step
    assert status.metrics == final.metrics
    assert status.report.paired == 72
    assert b.work() == [False]


def test_what_the_first_frames_have_told_stands_in_the_scans_record(bench):
    b = bench()
    b.open("a")
    b.engine.take(CalibrationAdded("a", {"frame_centre": [40, 30], "frame_hot_pixels_found": 2}), b.now)
    b.baseline("a")
    b.join("a", range(68))
    metadata = b.sink.only("open", "a").metadata
    assert (metadata["frame_centre"], metadata["frame_hot_pixels_found"]) == ([40, 30], 2)
    assert metadata["frame_orientation"] == "as_sent"


def test_snapshots_leave_three_times_as_often_at_first_as_configured(bench):
    b = bench(snapshot_s=6.0)
    b.begin("a")
    b.work(36)
    shown = [value for what, _, value in b.sink.heard if what == "live"]
    seconds = [snapshot.metrics["seconds"] for snapshot in shown]
    assert np.diff(seconds).tolist() == [2.0, 2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0]
    status = b.engine.status
    assert status.first_snapshot_at == 1000.0 + seconds[0]
    assert status.last_snapshot_at == 1000.0 + seconds[-1]
    assert status.longest_gap_s == 6.0
    assert status.first_frame_at == status.last_frame_at == 1000.0


def test_steps_are_taken_by_as_many_threads_as_are_chosen_but_the_search_for_the_probe(bench, monkeypatch):
    b = bench(blind=True)
    taken = []

    @contextmanager
    def step(now):
        before = b.engine.status.steps
        yield
        taken.append(before)

    monkeypatch.setattr(b.engine._threads, "step", step)
    b.begin("a")
    b.work(6)
    assert taken[0] == 1
    assert taken == [*range(1, b.engine.status.steps)]


def test_rates_are_full_while_frames_arrive_and_fall_while_refining(bench, monkeypatch):
    factors = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, anneal=1.0: factors.append(anneal) or step(self, anneal))
    b = bench(refine_s=12.0)
    b.begin("a")
    b.work(3)
    began = len(factors)
    b.close("a")
    b.work(12)
    assert factors[: began + 8] == [1.0] * (began + 8)
    assert factors[began + 8 :] == pytest.approx([0.775, 0.55, 0.325, LEAST_ANNEAL])
    assert b.phases == {"a": "done"}


def test_a_scan_is_refined_in_the_time_that_the_next_one_leaves_over(bench):
    b = bench(refine_s=1000.0)
    b.begin("a")
    b.work(3)
    b.close("a")
    b.work(2)
    b.open("b")
    b.baseline("b")
    assert b.work(4) == [True] * 4
    assert b.sink.of("a").count("final") == 0
    b.join("b", range(72))
    b.work()
    assert b.sink.of("a")[-2:] == ["final", "close"]
    assert b.sink.only("final", "a").step > 6
    b.work(3)
    assert (b.engine.status.uid, b.engine.status.phase) == ("b", "training")


def test_a_scan_that_is_opened_again_while_it_refines_is_finished_first(bench):
    b = bench(refine_s=1000.0)
    b.begin("a")
    b.work(3)
    b.close("a")
    b.work(2)
    b.begin("a", range(68))
    assert b.sink.of("a")[-3:] == ["final", "close", "open"]
    assert b.sink.only("final", "a").frames == 72
    b.work(3)
    b.close("a", 68)
    b.engine.stop(b.now)
    assert b.sink.of("a")[-2:] == ["final", "close"]
    assert [(status.uid, status.phase, status.frames) for status in b.engine.history] == [
        ("a", "done", 72),
        ("a", "done", 68),
    ]


def test_refinement_ends_before_its_time_when_nothing_is_gained_any_more(bench, monkeypatch):
    shown = Trainer.snapshot

    def stalled(self, final=False):
        snapshot = shown(self, final)
        return replace(snapshot, metrics={**snapshot.metrics, "heldout_error": 0.4})

    monkeypatch.setattr(Trainer, "snapshot", stalled)
    b = bench(refine_s=600.0, snapshot_s=10.0)
    b.begin("a")
    b.work(3)
    b.close("a")
    closed = b.now
    assert b.engine.status.ends_at == closed + 600.0
    while not b.engine.history:
        b.work(seconds=5.0)
    assert 300.0 <= b.now - closed <= 320.0  # 100 s of patience, 200 s in which the rates fall


def test_a_scan_that_still_receives_stragglers_keeps_them_while_the_next_one_trains(bench):
    b = bench()
    b.begin("a", range(68))
    b.work(3)
    steps = b.engine.status.steps
    b.begin("b")
    b.work(3)
    assert b.engine.status.uid == "b"
    assert b.sink.of("a").count("final") == 0
    b.join("a", range(68, 72))
    b.close("a")
    b.work()
    assert b.sink.of("a")[-2:] == ["final", "close"]
    final = b.sink.only("final", "a")
    assert (final.frames, final.step) == (72, steps)
    assert b.engine.status.uid == "b"
    assert b.engine.status.phase == "training"


def test_when_the_newer_scan_is_over_the_older_one_trains_on(bench):
    b = bench(refine_s=0.0)
    b.begin("a", range(68))
    b.work(2)
    b.begin("b")
    b.work(2)
    b.close("b")
    steps = b.engine.status.steps
    b.work(2)
    assert (b.engine.status.uid, b.engine.status.steps) == ("a", steps + 2)


def test_an_unknown_energy_fails_the_scan_with_its_reason_and_the_next_one_is_trained(bench):
    b = bench()
    b.open("a")
    b.join("a", range(72))
    assert b.work(2) == [False, False]
    b.close("a")
    assert b.phases == {"a": "failed"}
    assert "the photon energy is unknown" in b.engine.status.error
    assert b.engine.status.report.paired == 72
    assert b.sink.heard == []
    b.begin("b")
    assert b.work(2) == [True, True]
    assert b.sink.of("b") == ["open"]


def test_an_unknown_energy_is_the_reason_even_if_the_next_scan_has_begun(bench):
    b = bench()
    b.open("a")
    b.join("a", range(72))
    b.open("b")
    b.close("a")
    assert b.phases == {"a": "failed"}
    assert "the photon energy is unknown" in b.engine.history[0].error


def test_an_unknown_energy_is_the_reason_even_if_the_daemon_stops(bench):
    b = bench()
    b.open("a")
    b.join("a", range(72))
    b.engine.stop(b.now)
    assert "the photon energy is unknown" in b.engine.status.error


def test_frames_that_come_before_the_baseline_wait_for_it(bench):
    b = bench()
    b.open("a")
    b.join("a", range(30))
    b.join("a", range(30, 72))
    assert b.work() == [False]
    assert b.engine.status.frames == 72
    assert b.sink.heard == []
    b.baseline("a")
    b.work(2)
    b.close("a")
    b.engine.stop(b.now)
    assert b.sink.only("final", "a").frames == 72


def test_a_configured_energy_needs_no_baseline(bench):
    b = bench(energy_kev=12.0)
    b.open("a")
    b.join("a", range(72))
    assert b.work() == [True]
    assert b.sink.only("open", "a").metadata["xray_energy_kev"] == pytest.approx(12.0)


def test_a_scan_without_frames_fails_and_says_so(bench):
    b = bench()
    b.open("a")
    b.baseline("a")
    b.close("a", paired=0)
    assert b.phases == {"a": "failed"}
    assert b.engine.status.error == "no frame was joined with a position"
    assert b.sink.heard == []


def test_a_scan_of_which_no_frame_was_placed_says_why(bench):
    b = bench()
    b.open("a")
    b.close("a", paired=0, supersampling=Supersampling("contradicts", 10, 1))
    assert "1 would have been right" in b.engine.status.error


def test_what_is_bound_or_missing_does_not_concern_training(bench):
    b = bench()
    b.open("a")
    before = b.engine.status
    for output in (SeriesBound("a", 3), CaptureBound("a"), FramesMissing("a", np.arange(3))):
        b.engine.take(output, 0.0)
    assert b.engine.status == before


def test_without_refinement_the_close_is_the_end(bench):
    b = bench(refine_s=0.0)
    b.begin("a")
    b.work(2)
    b.close("a")
    assert b.sink.of("a") == ["open", "final", "close"]
    assert b.phases == {"a": "done"}


def test_fewer_frames_than_the_blind_start_waits_for_are_reconstructed_at_the_close(bench):
    b = bench(blind=True)
    b.begin("a", range(20))
    assert b.work(2) == [False, False]
    b.close("a", paired=20)
    b.work(8)
    assert b.phases == {"a": "done"}
    final = b.sink.only("final", "a")
    assert (final.frames, final.step) == (20, b.engine.status.steps)
    assert final.step > 1
    assert b.sink.only("close", "a")["frames_lost"] == 52


@pytest.mark.parametrize(("frames", "left"), [([3], 1), ([5], 0)])
@pytest.mark.parametrize("blind", [True, False])
def test_fewer_than_two_frames_to_train_on_fail_when_the_scan_closes(bench, blind, frames, left):
    """Frame 5 is held out."""
    b = bench(blind=blind, refine_s=0.0)
    b.begin("a", frames)
    b.close("a", paired=1)
    b.work(2)
    assert b.phases == {"a": "failed"}
    assert f"frames to train on: {left}" in b.engine.status.error
    assert b.sink.of("a") == ["open", "close"]


def test_the_search_for_the_probe_can_be_seen_before_it_takes_its_time(bench):
    b = bench(blind=True)
    b.begin("a")
    b.work()
    assert (b.engine.status.phase, b.engine.status.steps) == ("finding the probe", 0)
    b.work()
    assert (b.engine.status.phase, b.engine.status.steps) == ("training", 1)


def test_stopping_finishes_every_scan_with_what_it_has(bench):
    b = bench()
    b.begin("a", range(68))
    b.work(3)
    b.begin("b")
    b.engine.stop(b.now)
    assert b.sink.of("a")[-2:] == ["final", "close"]
    assert b.sink.of("b") == ["open", "final", "close"]
    assert b.sink.only("close", "b") == {"end_reason": "stopped", "frames_refused": 0}
    assert b.phases == {"a": "done", "b": "done"}
    assert b.work() == [False]


def test_frames_without_photons_are_waited_out_and_fail_the_scan_at_its_end(bench, caplog):
    b = bench(blind=True)
    dark = Batch(np.arange(72), np.zeros((72, 32, 24), np.uint16), b.recorded.positions_m)
    b.open("a")
    b.baseline("a")
    b.engine.take(Joined("a", dark), b.now)
    assert b.work() == [False]
    assert b.engine.status.phase == "waiting for frames"
    b.close("a")
    b.work(2)
    assert b.phases == {"a": "failed"}
    assert "no photons" in b.engine.status.error
    assert sum("cannot be reconstructed" in record.message for record in caplog.records) == 1
    assert b.sink.of("a") == ["open", "close"]


def test_a_result_that_is_not_finite_fails_the_scan_and_the_next_one_is_trained(bench, monkeypatch):
    def broken(self, final=False):
        raise ValueError("snapshot 3: object is not finite")

    b = bench()
    b.begin("a")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "snapshot", broken)
        b.work(8)
    assert (b.engine.status.phase, b.engine.status.error) == ("failed", "snapshot 3: object is not finite")
    b.close("a")
    assert b.sink.of("a") == ["open", "close"]
    b.begin("b")
    b.work(5)
    assert b.engine.status.phase == "training"


def test_a_probe_that_does_not_fit_the_frames_fails_the_scan_with_both_shapes(bench):
    b = bench(probe=np.ones((16, 16), np.complex64))
    b.begin("a")
    assert b.work() == [False]
    assert b.engine.status.phase == "failed"
    assert "(16, 16)" in b.engine.status.error
    assert "(modes, 32, 24)" in b.engine.status.error
    b.join("a", range(3))
    assert b.engine.status.frames == 75
    b.close("a")
    assert b.phases == {"a": "failed"}


def test_frames_far_from_the_commanded_range_are_refused_instead_of_filling_the_memory(bench):
    b = bench()
    b.open("a")
    b.baseline("a")
    b.join("a", range(72), shifted_m=2e-3)
    assert b.work(3) == [False] * 3
    assert b.engine.status.refused == 72
    b.close("a")
    b.work(2)
    assert b.phases == {"a": "failed"}
    assert "check the encoders and the commanded range" in b.engine.status.error


def test_a_commanded_range_that_no_memory_holds_fails_the_scan(bench):
    b = bench()
    _, document = next(run_documents(b.recorded, HXN_ENCODERS, "a", 404611, 10.0))
    document["scan"]["scan_input"] = [-1e4, 1e4, 9.0, -1e4, 1e4, 8.0]
    b.engine.take(ScanOpened("a", document, resolve(document, {}, HXN_ENCODERS)), b.now)
    b.baseline("a")
    b.join("a", range(72))
    assert b.engine.status.phase == "failed"
    assert "is it given in micrometres?" in b.engine.status.error
    assert b.sink.heard == []


def test_the_detectors_header_gives_the_energy_only_when_no_baseline_can_still_come(bench, caplog):
    b = bench()
    b.open("a")
    b.engine.take(SeriesBound("a", 7, {"photon_energy": 12000.0}), b.now)
    b.join("a", range(68))
    assert b.sink.heard == []
    b.now += 3.0
    b.work()
    told = b.sink.only("open", "a").metadata
    assert (told["energy_source"], told["xray_energy_kev"]) == ("detector header photon_energy", pytest.approx(12.0))
    assert "what the detector was once told" in told["optics_doubts"][0]
    assert told["optics_doubts"][0] in caplog.text


def test_a_wild_position_costs_its_frame_and_not_the_scan(bench):
    b = bench()
    b.begin("a", range(70))
    b.work(2)
    b.join("a", [70], shifted_m=2e-3)
    assert (b.engine.status.frames, b.engine.status.refused) == (70, 1)
    b.engine.stop(b.now)
    assert b.phases == {"a": "done"}
    assert b.sink.of("a")[-2:] == ["final", "close"]
    assert b.sink.only("close", "a")["frames_refused"] == 1


def test_what_belongs_to_no_open_scan_is_passed_over(bench):
    b = bench()
    b.join("nobody", range(3))
    b.baseline("nobody")
    b.close("nobody")
    assert b.engine.status is None
    assert b.engine.history == []


def test_only_the_last_hundred_scans_are_remembered(bench):
    b = bench()
    for number in range(103):
        b.open(f"run-{number}")
        b.close(f"run-{number}", paired=0)
    assert [status.uid for status in b.engine.history] == [f"run-{number}" for number in range(3, 103)]
