"""`ptyinr-stream replay` as a user meets it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from typer.testing import CliRunner, Result

from ptyinr_stream import cli
from ptyinr_stream.commands.replay import WIRES_HELP
from ptyinr_stream.errors import StreamError
from ptyinr_stream.formats.ptyinr_h5 import write_scan
from ptyinr_stream.replay import WIRES

pytestmark = pytest.mark.system

ROADS = ("documents", "frames", "positions")
Replay = Callable[..., Result]


@pytest.fixture
def scan_file(tmp_path, simulated) -> Path:
    write_scan(tmp_path / "scan.h5", simulated)
    return tmp_path / "scan.h5"


@pytest.fixture
def replay(scan_file, monkeypatch, tmp_path) -> Replay:
    """Calls the command, in an empty folder, with a scan of 72 frames."""
    monkeypatch.chdir(tmp_path)

    def call(*options: object, scan: object = scan_file) -> Result:
        return CliRunner().invoke(cli.app, ["replay", str(scan), *map(str, options)])

    return call


def complaint(result: Result) -> str:
    assert isinstance(result.exception, StreamError), result.output
    return str(result.exception)


@contextmanager
def listening() -> Iterator[list[str]]:
    """Three receivers that bind; yields the options with which a replay finds them."""
    with zmq.Context() as context, ThreadPoolExecutor(1) as pool:
        sockets = [context.socket(zmq.SUB) for _ in ROADS]
        ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in sockets]
        for socket in sockets:
            socket.subscribe(b"")
            socket.linger = 0
        done: Future[None] = pool.submit(_drain, sockets)
        roads = zip(ROADS, ports, strict=True)
        try:
            yield ["--connect", *(f"--{road}=tcp://127.0.0.1:{port}" for road, port in roads)]
        finally:
            with context.socket(zmq.PUB) as bell:
                bell.connect(f"tcp://127.0.0.1:{ports[0]}")
                while not done.done():
                    bell.send(b"enough")
            for socket in sockets:
                socket.close()


def _drain(sockets: list[zmq.Socket[bytes]]) -> None:
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            if socket.recv() == b"enough":
                return


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--drop", "1.5"),
        ("--drop", "-0.1"),
        ("--drop", "nan"),
        ("--duplicate", "2"),
        ("--duplicate", "often"),
        ("--reorder", "-1"),
        ("--reorder", "2.5"),
        ("--late-join", "-1"),
        ("--seed", "-1"),
        ("--rate", "0"),
        ("--repeat", "0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_the_name_of_its_option(replay, option, value):
    result = replay(option, value)
    assert result.exit_code == 2
    assert f"'{option}'" in result.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--wire", "kafka"], "there are: cbor, files, holoptycho, hxn, multipart, native, proxy"),
        (["--faults-on", "frames,sky"], "there is no road 'sky'; there are: documents, frames, positions"),
        (["--delay", "soon"], "--delay is 'soon': give seconds, or ROAD=SECONDS such as frames=0.5"),
        (["--delay", "frames=-1"], "the delay of frames is -1 s: it must be finite and not negative"),
        (["--delay", "sky=1"], "there is no road 'sky'"),
        (["--delay", "inf"], "the delay of positions is inf s"),
        (["--wire", "files", "--drop", "0.1"], "sends no frames"),
        (["--wire", "files", "--warm-up"], "sends no frames"),
        (["--uid", "one", "--repeat", "2"], "--uid is 'one' with --repeat 2: one run has one uid"),
        (["--uid", ""], "--uid is '': give up to 128 letters"),
        (["--uid", "my scan"], "--uid is 'my scan': give up to 128 letters"),
        (["--uid", "../elsewhere"], "--uid is '../elsewhere': give up to 128 letters"),
        (["--secret-key-env", "NO_SUCH_KEY"], "names NO_SUCH_KEY, but this environment variable is not set"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(replay, options, said):
    assert said in complaint(replay(*options))


def test_a_key_that_is_none_is_refused_and_not_quoted(replay, monkeypatch):
    monkeypatch.setenv("FRAMES_KEY", "hunter2")
    said = complaint(replay("--secret-key-env", "FRAMES_KEY"))
    assert said.startswith("FRAMES_KEY holds 7 characters that are no CURVE secret key")
    assert "hunter2" not in said


def test_a_tiled_server_that_is_not_there_is_named(replay, monkeypatch):
    from ptyinr_stream.replay import catalog

    monkeypatch.setattr(catalog, "patiently", lambda read: read())
    said = complaint(replay(scan="tiled:http://127.0.0.1:9/api/v1/metadata/run"))
    assert said.startswith("http://127.0.0.1:9/api/v1/metadata/run: cannot be read: ConnectError")


def test_a_replay_without_faults_says_how_many_frames_were_sent(replay):
    with listening() as roads:
        result = replay("--rate", 2000, "--quiet", *roads), replay("--rate", 2000, *roads)
    assert [one.exit_code for one in result] == [0, 0]
    assert result[0].output == ""
    assert ": 72 frames sent" in result[1].output
    assert "can be paired" not in result[1].output


def test_a_run_has_the_uid_that_it_is_given(replay):
    with listening() as roads:
        result = replay("--rate", 2000, "--uid", "a-run-of-ours", *roads)
    assert "run a-run-of-ours: 72 frames sent" in result.output


def test_a_replay_with_faults_says_what_was_lost_and_what_can_be_paired(replay):
    faults = ("--drop", 0.1, "--duplicate", 0.1, "--reorder", 2, "--late-join", 9, "--seed", 5, "--delay", 0.05)
    with listening() as roads:
        said, again = (replay("--rate", 2000, *faults, *roads).output for _ in range(2))
    frames, _, pairs = lines = [line for line in said.splitlines() if line.startswith("  ")]
    assert [line.split(":")[0] for line in lines[:2]] == ["  frames", "  positions"]
    for kind in ("dropped", "duplicated", "reordered", "late"):
        assert kind in frames
    assert re.fullmatch(
        r"  \d+ of 72 frames can be paired(, \d+ more with some of their encoder samples)? \(seed 5\)", pairs
    )
    assert all(line in again for line in lines)


def test_the_help_tells_of_every_wire_and_fault():
    assert all(f"`{wire}`" in WIRES_HELP for wire in WIRES)
    said = CliRunner().invoke(cli.app, ["replay", "--help"], env={"COLUMNS": "200"}).output
    for option in ("--wire", "--drop", "--duplicate", "--reorder", "--delay", "--late-join", "--seed", "--faults-on"):
        assert option in said
