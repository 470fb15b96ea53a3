"""The daemon's status over HTTP and to systemd, with real sockets."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from copy import deepcopy
from pathlib import Path

import pytest

from ptyinr_stream.errors import EndpointError
from ptyinr_stream.telemetry import DEAF_S, LEAST_FREE_GB, STALLED_S, Heart, Telemetry, free_gb, problems

WELL = {
    "silent_s": 0.2,
    "reception_silent_s": 0.1,
    "disk_free_gb": 50.0,
    "scan": {
        "uid": "a",
        "phase": "training",
        "frames": 300,
        "expected": 516,
        "error": None,
        "first_frame_at": 17.0,
        "metrics": {"heldout_error": 0.41},
    },
    "streams": [{"road": "frames", "state": "streaming", "messages": 1200}, {"road": "documents", "state": "idle"}],
    "publishers": [{"name": "tiled", "published": 7, "failed": 0, "last_error": None}],
    "recording": {"state": "recording", "frames": 300, "error": None},
    "counts": {"frames.torn": 2},
}


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def told():
    """The status that is served, to be changed by the test."""
    return deepcopy(WELL)


@pytest.fixture
def server(told):
    telemetry = Telemetry(lambda: told, "127.0.0.1", 0).start()
    yield telemetry
    telemetry.stop()


def test_a_daemon_that_does_well_says_so(server):
    assert get(server.url + "/healthz") == (200, "ok\n")


def test_the_status_is_all_there_is(server, told):
    code, body = get(server.url + "/status")
    assert code == 200
    assert json.loads(body) == told


def test_prometheus_finds_numbers_with_labels(server):
    code, body = get(server.url + "/metrics")
    assert code == 200
    for line in (
        "ptyinr_healthy 1.0",
        "ptyinr_scan_frames 300.0",
        "ptyinr_scan_heldout_error 0.41",
        'ptyinr_stream_messages{road="frames"} 1200.0',
        'ptyinr_publisher_published{name="tiled"} 7.0',
        'ptyinr_recording_frames{kind="disk"} 300.0',
        'ptyinr_counts{kind="frames.torn"} 2.0',
    ):
        assert line in body.splitlines()
    assert "first_frame_at" not in body


def test_before_the_first_scan_there_are_numbers_too(server, told):
    told["scan"] = told["recording"] = None
    assert get(server.url + "/metrics")[0] == 200
    assert get(server.url + "/healthz")[0] == 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"silent_s": STALLED_S + 1}, "training has not come round"),
        ({"reception_silent_s": DEAF_S + 1}, "the process that receives has said nothing for 11 s"),
        ({"disk_free_gb": LEAST_FREE_GB / 2}, "the disk has 1.0 GB left"),
        ({"streams": [{"road": "frames", "state": "handshake failed"}]}, "stream frames: handshake failed"),
        ({"publishers": [{"name": "tiled", "last_error": "403"}]}, "publisher tiled: 403"),
        ({"scan": {"uid": "b", "error": "no energy"}}, "scan b: no energy"),
        ({"recording": {"error": "disk full"}}, "recording: disk full"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_counts_as_ill(server, told, change, said):
    told.update(change)
    code, body = get(server.url + "/healthz")
    assert code == 503
    assert said in body
    assert "ptyinr_healthy 0.0" in get(server.url + "/metrics")[1]


def test_silent_streams_between_scans_are_no_illness():
    idle = [{"road": "frames", "state": state} for state in ("disconnected", "connected", "idle")]
    assert problems({**WELL, "streams": idle}) == []


def test_another_path_names_the_paths_there_are(server):
    assert get(server.url + "/") == (404, "there are /healthz, /status and /metrics\n")


def test_an_address_in_use_is_an_error_in_one_line(server):
    with pytest.raises(EndpointError, match="cannot be bound"):
        Telemetry(lambda: WELL, "127.0.0.1", int(server.url.rpartition(":")[2])).start()


def test_systemd_is_told_that_all_is_ready_and_then_as_often_as_it_wants(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        heart = Heart(str(tmp_path / "notify"), watchdog_s=1e-6)
        heart.say(READY="1")
        assert systemd.recv(100) == b"READY=1"
        heart.beat("training scan a")
        assert systemd.recv(100) == b"WATCHDOG=1\nSTATUS=training scan a"
        slow = Heart(str(tmp_path / "notify"), watchdog_s=1e6)
        slow.beat()
        slow.say(STOPPING="1")
        assert systemd.recv(100) == b"STOPPING=1"


def test_without_systemd_a_heart_beats_in_silence(tmp_path: Path):
    for heart in (Heart(), Heart(str(tmp_path / "nobody"), 1e-6)):
        heart.beat("alive")
        heart.say(READY="1")
        assert heart.silent_s < 10


def test_the_free_space_is_that_of_the_disk_a_folder_will_lie_on(tmp_path: Path):
    assert free_gb(None) is None
    assert free_gb(tmp_path / "not" / "yet" / "there") == pytest.approx(free_gb(tmp_path), rel=0.1)
