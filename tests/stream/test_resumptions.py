"""Going on with scans after a crash, but not for ever with one that crashes every life."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ptyinr_stream.config import RecordingConfig
from ptyinr_stream.events import RunStarted
from ptyinr_stream.recordings.folder import unfinished
from ptyinr_stream.recordings.resumptions import MOST, Attempts, Resumptions, attempts
from ptyinr_stream.recordings.run import RunWriter
from ptyinr_stream.recordings.space import Space


def record(folder: Path, uid: str) -> Path:
    """A recording whose writer was killed."""
    writer = RunWriter(folder / uid, uid, {})
    writer.append(1, 0.0, RunStarted(uid, {"uid": uid}))
    writer.flush()
    return folder / uid


class Life:
    """One that goes on with what there is."""

    def __init__(self, folder: Path) -> None:
        self.attempts = Attempts()
        resumptions = Resumptions(unfinished(folder), self.attempts.begun)
        self.uids = []
        for recording in resumptions:
            with recording:
                self.uids.append(recording.uid)
        self.left_alone = resumptions.left_alone


def test_a_scan_that_has_ended_three_lives_is_left_alone_and_the_log_says_how_to_finish_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = record(tmp_path, "bad")
    for life in range(MOST):
        lived = Life(tmp_path)
        assert (lived.uids, lived.left_alone, attempts(folder)) == (["bad"], 0, life + 1)
    assert not [record for record in caplog.records if record.name.startswith("ptyinr_stream")]
    record(tmp_path, "good")
    lived = Life(tmp_path)
    assert (lived.uids, lived.left_alone, attempts(folder)) == (["good"], 1, MOST)
    [said] = [record for record in caplog.records if record.name.startswith("ptyinr_stream")]
    assert said.levelno == logging.ERROR
    assert said.message.startswith(f"run bad is left alone: {MOST} lives of the daemon have ended")
    assert said.message.endswith(f"ptyinr-stream reconstruct {folder}")


def test_the_attempt_is_on_disk_before_a_life_begins_with_a_scan_and_not_before_that(tmp_path: Path) -> None:
    folders = {uid: record(tmp_path, uid) for uid in ("one", "two")}
    begun: list[str] = []
    for recording in Resumptions(unfinished(tmp_path)):
        begun.append(recording.uid)
        assert {uid for uid, folder in folders.items() if attempts(folder)} == set(begun)
        recording.close()
    assert len(begun) == 2


def test_a_life_that_was_stopped_does_not_count(tmp_path: Path) -> None:
    folder = record(tmp_path, "run")
    Life(tmp_path)  # and killed
    for _ in range(2 * MOST):
        lived = Life(tmp_path)
        assert (lived.uids, attempts(folder)) == (["run"], 2)
        lived.attempts.stopped()
        assert attempts(folder) == 1


def test_a_scan_that_has_been_finished_begins_anew_and_others_do_not(tmp_path: Path) -> None:
    one, two = record(tmp_path, "one"), record(tmp_path, "two")
    Life(tmp_path)
    ended = Life(tmp_path).attempts
    ended.finished({"one", "elsewhere"})
    ended.finished({"one", "elsewhere"})
    assert (attempts(one), attempts(two)) == (0, 2)
    ended.stopped()
    assert (attempts(one), attempts(two)) == (0, 1)
    assert {path.name for path in one.iterdir()} == {"000-journal.h5", "recording.h5", ".spare"}


@pytest.mark.parametrize("text", ["", "two", "-4", "\0\0"])
def test_a_torn_number_is_none(tmp_path: Path, text: str) -> None:
    folder = record(tmp_path, "run")
    (folder / "attempts").write_text(text)
    assert attempts(folder) == 0
    assert Life(tmp_path).uids == ["run"]
    assert attempts(folder) == 1


def test_a_scan_goes_on_where_attempts_cannot_be_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = record(tmp_path, "run")
    (folder / "attempts").mkdir()
    assert Life(tmp_path).uids == ["run"]
    assert "attempts: cannot be written, attempts are not counted" in caplog.text
    assert not (folder / ".attempts").exists()


def test_a_number_that_goes_while_room_is_made_for_another_recording_disturbs_nothing(tmp_path: Path) -> None:
    folder = record(tmp_path, "run")
    (folder / "attempts").symlink_to("nowhere")  # listed, and no longer there when it is looked at
    space = Space(tmp_path, RecordingConfig(free_gb=0.0, cap_gb=1e-9, when_full="delete_oldest"))
    space.survey(set())
    reason = space.shortage(0)
    assert reason is not None
    assert "recording.cap_gb allows" in reason
