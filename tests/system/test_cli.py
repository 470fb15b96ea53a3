"""The command line as a user meets it: what went wrong is one line on standard error and exit status 2."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import zmq
from daemons import commands, read_until

from ptyinr_stream import cli
from ptyinr_stream.config import Config
from ptyinr_stream.data import siemens_star
from ptyinr_stream.formats.ptyinr_h5 import write_scan
from ptyinr_stream.tiled_server import EmbeddedServer

pytestmark = pytest.mark.system

COMMANDS = ("demo", "run", "replay", "reconstruct", "check")
LONG_S = 60


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Iterator[Command]:
    """Calls the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTYINR_TILED_API_KEY", raising=False)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ptyinr-stream", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return Ended(int(ended.value.code or 0), streams.out, streams.err)

    yield call
    logging.disable(logging.NOTSET)
    logging.getLogger("ptyinr_stream").setLevel(logging.NOTSET)


@pytest.fixture
def scan_file(tmp_path, simulated) -> Path:
    write_scan(tmp_path / "scan.h5", simulated)
    return tmp_path / "scan.h5"


def configuration(folder: Path, changes: str = "", **streams: str) -> Path:
    """A configuration file whose streams are bound to free ports; `changes` are appended to its text."""
    wires = {"documents": '"bluesky"', "frames": '"eiger_v1"\nsocket = "pull"', "positions": '"panda"'}
    ends = {road: streams.get(road, 'endpoint = "tcp://127.0.0.1:*"\nbind = true') for road in wires}
    text = "".join(f"[streams.{road}]\n{ends[road]}\nwire = {wire}\n" for road, wire in wires.items())
    text += "[geometry]\ndetector_pixel_um = 75.0\n"
    for axis, (channel, um) in enumerate((("/INENC2.VAL.Value", -9.542e-5), ("/INENC3.VAL.Value", -1.03297e-4))):
        text += f'[positions.axis{axis}]\nchannel = "{channel}"\num_per_count = {um}\n'
    if "[tiled]" not in changes:
        text += f'[tiled]\nfolder = "{folder}/tiled"\nport = 0\n'
    (folder / "config.toml").write_text(text + changes)
    return folder / "config.toml"


def complaint(ended: Ended) -> str:
    """The one line on standard error."""
    assert ended.status == 2, ended
    assert "Traceback" not in ended.err
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


# Scan files


@pytest.mark.parametrize("arguments", [("replay",), ("reconstruct", "--output", "out.h5")])
def test_a_missing_scan_file_is_named(command, arguments):
    assert "no.h5: there is no such file" in complaint(command(*arguments, "no.h5"))


def test_a_truncated_scan_file_is_named(command, scan_file):
    whole = scan_file.read_bytes()
    scan_file.write_bytes(whole[: len(whole) // 2])
    assert re.search(r"scan\.h5: not a readable HDF5 file, or torn", complaint(command("replay", scan_file)))


def test_positions_that_are_not_finite_name_the_frames(command, scan_file):
    with h5py.File(scan_file, "a") as file:
        file["points"][1, 3] = np.nan
    said = complaint(command("reconstruct", scan_file, "--output", "out.h5"))
    assert "points are not finite for frames [3]" in said


def test_points_of_a_wrong_shape_say_which_is_right(command, scan_file):
    with h5py.File(scan_file, "a") as file:
        points = file["points"][()]
        del file["points"]
        file["points"] = points.T
    assert "points has the shape (72, 2): (2, 72) is needed" in complaint(command("replay", scan_file))


# Configurations


@pytest.mark.parametrize("name", ["run", "check"])
def test_an_unknown_key_names_its_path_and_those_that_are_known(command, tmp_path, name):
    config = configuration(tmp_path, "[training]\nrefine = 3\n")
    said = complaint(command(name, "--config", config))
    assert "config.toml: training.refine: unknown key; there are: " in said
    assert "refine_s" in said


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_missing_configuration_is_named(command, name):
    assert "no.toml: cannot be read" in complaint(command(name, "--config", "no.toml"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('[training]\ndevice = "quantum"\n', "training.device: 'quantum' cannot be used"),
        ('[training]\nprobe_file = "no.npy"\n', "no.npy: cannot be read as a probe"),
        ('[training]\nframes_folder = "/dev/null"\n', "training.frames_folder: /dev/null: frames cannot be kept there"),
        ("[training]\nholdout = 1\n", "training.holdout: is 1"),
        ("[training]\nseed = -1\n", "training.seed: "),
        ('[output]\nfolder = "config.toml/results"\n', "output.folder: config.toml/results cannot be created"),
        ('[tiled]\nuri = "http://127.0.0.1:9/api/v1"\n', "needs an API key: set the environment variable"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_before_the_first_scan(command, tmp_path, changes, said):
    assert said in complaint(command("run", "--config", configuration(tmp_path, changes)))


# Addresses


def test_a_tiled_port_in_use_is_refused(command, tmp_path, taken_port):
    config = configuration(tmp_path, f'[tiled]\nfolder = "tiled"\nport = {taken_port}\n')
    assert f"tiled.port: 127.0.0.1:{taken_port} cannot be bound" in complaint(command("run", "--config", config))


def test_a_stream_bound_to_a_port_in_use_is_refused(command, tmp_path, taken_port):
    config = configuration(tmp_path, documents=f'endpoint = "tcp://127.0.0.1:{taken_port}"\nbind = true')
    said = complaint(command("run", "--config", config))
    assert f"tcp://127.0.0.1:{taken_port}: the address is in use" in said


def test_a_replay_to_a_port_in_use_is_refused(command, scan_file, taken_port):
    said = complaint(command("replay", scan_file, "--frames", f"tcp://127.0.0.1:{taken_port}", "--quiet"))
    assert f"tcp://127.0.0.1:{taken_port}: cannot be bound: Address already in use" in said


def test_a_replay_that_nobody_hears_gives_up(command, scan_file):
    roads = [f"--{road}=tcp://127.0.0.1:*" for road in ("documents", "frames", "positions")]
    said = complaint(command("replay", scan_file, *roads, "--wait", "0.2", "--quiet"))
    assert "nobody has come for the documents within 0.2 s" in said


def test_a_demo_on_a_port_in_use_is_refused(command, taken_port):
    assert f"tiled.port: 127.0.0.1:{taken_port} cannot be bound" in complaint(command("demo", "--port", taken_port))


def test_a_tiled_server_that_refuses_the_key_is_named(command, tmp_path, monkeypatch):
    with EmbeddedServer(tmp_path / "theirs", "right") as server:
        config = configuration(tmp_path, f'[tiled]\nuri = "{server.uri}"\n')
        monkeypatch.setenv("PTYINR_TILED_API_KEY", "wrong")
        said = complaint(command("run", "--config", config))
        assert server.uri in said
        assert "401" in said
        checked = command("check", "--config", config)
    assert checked.status == 1
    assert re.search(r"FAIL tiled .*401", checked.out)


# Reconstruction


def test_an_output_in_a_missing_folder_is_refused_at_once(command, scan_file):
    said = complaint(command("reconstruct", scan_file, "--output", "no/out.h5"))
    assert "no/out.h5: the folder no does not exist" in said


def test_an_output_that_is_a_folder_is_refused_at_once(command, scan_file, tmp_path):
    assert "is a folder" in complaint(command("reconstruct", scan_file, "--output", tmp_path))


@pytest.mark.parametrize(
    ("output", "source"), [("scan.h5", "scan.h5"), ("probe.npy", "probe.npy"), ("probe.h5", "probe.npy")]
)
def test_a_result_is_never_written_over_what_it_is_made_from(command, scan_file, output, source):
    np.save("probe.npy", np.ones((32, 24), np.complex64))
    Path("probe.png").hardlink_to("probe.npy")  # where the picture beside probe.h5 would go
    before = scan_file.read_bytes(), Path("probe.npy").read_bytes()
    said = complaint(command("reconstruct", scan_file.name, "--probe", "probe.npy", "--output", output))
    assert f": would be written over {source}, which it is made from: give another file" in said
    assert (scan_file.read_bytes(), Path("probe.npy").read_bytes()) == before


def test_a_result_is_no_picture(command, scan_file):
    said = complaint(command("reconstruct", scan_file, "--output", "out.png"))
    assert "out.png: the picture goes to a .png beside the result: give it another suffix, .h5" in said
    assert not Path("out.png").exists()


def test_a_probe_of_another_size_names_both(command, scan_file):
    np.save("probe.npy", np.ones((16, 16), np.complex64))
    said = complaint(command("reconstruct", scan_file, "--output", "out.h5", "--probe", "probe.npy"))
    assert "(16, 16)" in said
    assert "(modes, 32, 24)" in said
    assert not Path("out.h5").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--holdout", "1"), "holdout is 1: give 0 to train on all frames, or 2 and more"),
        (("--device", "quantum"), "'quantum' cannot be used"),
        (("--probe", "no.npy"), "no.npy: cannot be read as a probe"),
    ],
)
def test_a_wrong_option_of_a_reconstruction_says_what_would_be_right(command, scan_file, option, said):
    assert said in complaint(command("reconstruct", scan_file, "--output", "out.h5", *option))


def test_a_reconstruction_writes_its_result_and_a_picture_beside_it(command, scan_file):
    ended = command("reconstruct", scan_file, "--output", "out.h5", "--seconds", "0", "--device", "cpu")
    assert ended.status == 0
    assert "out.h5: 72 frames, 1 steps, held-out amplitude error" in ended.out
    assert ended.err == ""
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    with h5py.File("out.h5") as file:
        assert file["probe"].shape == (1, 32, 24)


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--rate", "inf"),
        ("demo", "--refine", "nan"),
        ("replay", "scan.h5", "--rate", "nan"),
        ("replay", "scan.h5", "--rate", "inf"),
        ("replay", "scan.h5", "--wait", "inf"),
        ("reconstruct", "scan.h5", "--output", "out.h5", "--seconds", "inf"),
        ("check", "--config", "config.toml", "--timeout", "inf"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_the_name_of_its_option(command, arguments):
    ended = command(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert arguments[-2].strip("-") in ended.err
    assert "Traceback" not in ended.err


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_mentions_every_option_and_what_the_command_does(command, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ended = command(name, "--help")
    assert ended.status == 0
    import typer

    parameters = typer.main.get_command(cli.app).commands[name].params  # type: ignore[attr-defined]
    for parameter in parameters:
        for spelling in parameter.opts if parameter.param_type_name == "option" else ["SCAN"]:
            assert spelling in ended.out
        assert parameter.help
    assert len(ended.out.splitlines()) > 5


def test_no_command_at_all_shows_the_help(command):
    ended = command()
    assert all(name in ended.out + ended.err for name in COMMANDS)


# Check


def lines_of(ended: Ended) -> dict[str, tuple[str, str]]:
    """Verdict and reason of each part."""
    found = [re.fullmatch(r"(ok|FAIL) +(\w+) +(.*)", line) for line in ended.out.splitlines()]
    assert all(found), ended.out
    return {match[2]: (match[1], match[3]) for match in found if match}


def test_check_says_a_line_for_every_part_when_all_is_well(command, tmp_path):
    np.save(tmp_path / "probe.npy", np.ones((8, 8), np.complex64))
    ended = command("check", "--config", configuration(tmp_path, '[training]\nprobe_file = "probe.npy"\n'))
    assert ended.status == 0, ended
    assert ended.err == ""
    verdicts = lines_of(ended)
    assert {name: mark for name, (mark, _) in verdicts.items()} == dict.fromkeys(
        ("documents", "frames", "positions", "tiled", "device", "probe"), "ok"
    )


def test_check_shakes_hands_with_a_sender_and_fails_when_one_is_missing(command, tmp_path, closed_port):
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        config = configuration(
            tmp_path,
            documents=f'endpoint = "tcp://127.0.0.1:{port}"',
            positions=f'endpoint = "tcp://127.0.0.1:{closed_port}"',
        )
        ended = command("check", "--config", config, "--timeout", "2")
    assert ended.status == 1
    verdicts = lines_of(ended)
    assert verdicts["documents"][0] == "ok"
    assert "the handshake succeeds" in verdicts["documents"][1]
    assert verdicts["positions"] == (
        "FAIL", f"tcp://127.0.0.1:{closed_port}: the machine is there, but nobody listens on this port",
    )  # fmt: skip
    assert verdicts["tiled"][0] == "ok"


def test_check_knows_a_wire_that_does_not_exist_and_an_output_that_cannot_be_written(command, tmp_path):
    config = configuration(tmp_path, '[output]\nfolder = "config.toml/results"\n')
    config.write_text(config.read_text().replace("eiger_v1", "eiger_v9"))
    ended = command("check", "--config", config)
    assert ended.status == 1
    verdicts = lines_of(ended)
    assert verdicts["frames"][0] == "FAIL"
    assert "eiger_v1" in verdicts["frames"][1]
    assert verdicts["output"][0] == "FAIL"


# A process of its own


@pytest.fixture
def started(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line in a process."""
    with commands(tmp_path) as start:
        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_in_order(tmp_path, started, number):
    process = started("run", "--config", configuration(tmp_path))
    said = read_until(process, "waiting for scans")
    for road in ("documents", "frames", "positions"):
        assert re.search(rf"^{road} +from tcp://127\.0\.0\.1:\d+$", said, re.M)
    link = r"http://127\.0\.0\.1:\d+/ui/browse/processed/ptyinr"
    assert re.search(rf"^publishing to {link}; waiting for scans$", said, re.M)
    process.send_signal(number)
    out, err = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, err
    assert "stopping" in out
    assert "Traceback" not in err


def test_replay_and_run_make_a_result_together(tmp_path, started, simulated):
    short = replace(simulated, counts=simulated.counts[:20], positions_m=simulated.positions_m[:20])
    write_scan(tmp_path / "scan.h5", short)
    changes = '[training]\nrefine_s = 0.0\ndevice = "cpu"\n[output]\nfolder = "results"\n[assembly]\nsettle_s = 0.5\n'
    path = configuration(tmp_path, changes)
    path.write_text(path.read_text().replace('wire = "bluesky"', 'wire = "bluesky"\nprefix = "hxn"'))
    daemon = started("run", "--config", path)
    said = read_until(daemon, "waiting for scans")
    roads = [f"--{road}={endpoint}" for road, endpoint in re.findall(r"(\w+) +from (tcp://\S+)", said)]
    sender = started("replay", "scan.h5", "--wire", "multipart", "--connect", "--rate", "200", *roads)
    out, err = sender.communicate(timeout=LONG_S)
    assert sender.returncode == 0, err
    uid = re.search(r"run (\S+): 20 frames sent", out)[1]
    read_until(daemon, f"scan {uid}: done, 20 frames, 1 steps", "stderr")
    daemon.terminate()
    _, err = daemon.communicate(timeout=LONG_S)
    assert daemon.returncode == 0, err
    with h5py.File(tmp_path / "results" / uid / "result.h5") as file:
        assert file.attrs["frames"] == 20
        settings = Config.model_validate_json(file.attrs["configuration"])
    assert settings == Config.model_validate(tomllib.loads(path.read_text()))


def test_a_file_that_is_no_scan_is_one_line_in_a_process_too(tmp_path, started):
    process = started("replay", siemens_star().with_name("reference.npz"))
    out, err = process.communicate(timeout=LONG_S)
    complaint(Ended(process.returncode, out, err))
