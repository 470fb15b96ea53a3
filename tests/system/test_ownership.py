"""Who may write recordings into a folder, and who waits for it: real locks."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest

from ptyinr_stream.errors import EndpointError, HandoverError
from ptyinr_stream.recordings.ownership import Ownership

pytestmark = pytest.mark.system

LONG_S = 60.0


def test_a_folder_is_given_to_one_daemon_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ptyinr_stream")
    first = Ownership(tmp_path / "new")
    first.take_over()
    assert first.held
    with pytest.raises(EndpointError, match="another daemon records there; give each an output folder of its own"):
        Ownership(tmp_path / "new", lives_s=0.0)
    first.outlive()
    assert not first.wanted
    with pytest.raises(HandoverError, match="a process that a daemon has left behind still records there"):
        Ownership(tmp_path / "new", given_up=lambda: True).take_over()

    def wait() -> None:
        second = Ownership(tmp_path / "new")
        second.take_over(LONG_S)
        second.release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    while "waiting until the process that still records there" not in caplog.text:
        assert waiting.is_alive()
    assert first.wanted
    first.release()
    waiting.join(LONG_S)
    assert not waiting.is_alive()
    first.release()  # twice is as well
    assert not first.held
    assert not first.wanted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_held_by_nobody(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    nobody = Ownership(tmp_path / "new")
    nobody.take_over()
    assert not nobody.held


def test_a_file_in_the_place_of_the_folder_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    nobody = Ownership(tmp_path / "file")
    nobody.take_over()
    assert not nobody.held
    assert (tmp_path / "file").read_text() == ""
