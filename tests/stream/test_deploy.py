"""What an operator installs: shipped configurations name what exists, the unit and the container file hold together."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ptyinr_stream import cli
from ptyinr_stream.config import load_config
from ptyinr_stream.motors import resolve
from ptyinr_stream.optics import scan_optics
from ptyinr_stream.plugins import load_plugin
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.wire import decoder_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "ptyinr-stream.service"
CONTAINERFILE = DEPLOY / "container" / "Containerfile"
CONFIGS = sorted((DEPLOY / "config").glob("*.toml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_every_wire_of_a_shipped_configuration_exists(file: Path) -> None:
    streams = load_config(file).streams
    for stream in filter(None, (streams.documents, streams.frames, streams.positions)):
        assert decoder_of(stream).feed([b"nonsense"]) == []


def test_the_demo_configuration_listens_where_and_as_replay_sends() -> None:
    config = load_config(DEPLOY / "config" / "demo.toml")
    streams = config.streams
    sends = {name: parameter.default for name, parameter in inspect.signature(cli.replay).parameters.items()}
    for road in ("documents", "frames", "positions"):
        assert getattr(streams, road).endpoint == sends[road]
        assert getattr(streams, road).bind == sends["connect"]
    encoder = load_plugin("ptyinr_stream.replay.wires", sends["wire"]).Encoder
    assert (streams.frames.wire, streams.frames.socket) == (
        encoder.wire,
        {"pub": "sub", "push": "pull"}[encoder.socket],
    )
    assert streams.documents.prefix == sends["prefix"]
    assert config.positions == HXN_ENCODERS


def test_the_beamline_configuration_lays_hxns_fast_axis_along_the_rows() -> None:
    config = load_config(DEPLOY / "config" / "hxn.toml")
    start = {
        "motors": ["zpssx", "zpssy"],
        "shape": [100, 50],
        "scan": {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 100, -0.5, 0.5, 50], "detector_distance": 2.05},
    }
    layout = resolve(start, {"zpsth": 0.0}, config.positions)
    plan = layout.plan
    assert [axis.channel for axis in layout.axes] == ["/INENC3.VAL.Value", "/INENC2.VAL.Value"]
    assert [axis.um_per_count for axis in layout.axes] == [-1.03297e-4, -9.542e-5]
    assert layout.samples_per_frame == 10
    assert (plan.expected, plan.line, plan.fast) == (5000, 100, 1)
    assert plan.range.lower_m == pytest.approx((-0.5e-6, -1e-6))
    assert config.frames.window is not None
    geometry = scan_optics(config.geometry, config.frames.window, start, {"dcm_th": 9.5}).geometry
    assert geometry.distance_m == 2.05
    assert 1e9 * geometry.pixel_m[0] == pytest.approx(11.05, abs=0.01)


@pytest.mark.parametrize("plan", ["fly2dpd_mll", "fly2dpd_in_tomography", "pt_fly2dcontpd", "fly2dpd_coarse"])
def test_the_beamline_configuration_serves_every_stage_without_a_change(documents, plan: str) -> None:
    start, baseline = documents(plan)
    layout = resolve(start, baseline, load_config(DEPLOY / "config" / "hxn.toml").positions)
    assert [axis.motor for axis in layout.axes] == start["motors"][::-1]


def test_the_publisher_uses_the_prefix_and_the_port_of_the_shipped_configuration() -> None:
    documents = load_config(DEPLOY / "config" / "hxn.toml").streams.documents
    text = (DEPLOY / "bluesky" / "publish_documents.py").read_text()
    assert f'prefix: bytes = b"{documents.prefix}"' in text
    assert f":{documents.endpoint.rsplit(':')[-1]}" in text


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit, re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def test_systemd_accepts_the_unit_without_a_word(tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    program = settings(UNIT.read_text())["ExecStart"][0].split()[0]
    copy = tmp_path / UNIT.name
    # The daemon is not installed where the tests run.
    copy.write_text(UNIT.read_text().replace(f"ExecStart={program} ", f"ExecStart={sys.executable} "))
    done = subprocess.run([verify, "verify", copy], capture_output=True, text=True, check=False)
    # Its status is 0 for keys it does not know; it only speaks of them.
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_does_not_restart_a_daemon_whose_configuration_is_wrong(tmp_path: Path) -> None:
    unit = settings(UNIT.read_text())
    arguments = unit["ExecStart"][0].split()[1:]
    wrong = tmp_path / "config.toml"
    wrong.write_text("[streams]\n")
    done = subprocess.run(
        [sys.executable, "-m", "ptyinr_stream", *arguments[:-1], wrong],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "core"), str(ROOT)])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "streams.documents: missing" in done.stderr
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == [str(done.returncode)]


def test_nothing_in_the_unit_takes_the_gpu_away() -> None:
    assert not {"PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute"} & settings(UNIT.read_text()).keys()


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, rest) of a Containerfile, comments dropped, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


CONTAINER = instructions(CONTAINERFILE.read_text())
KNOWN = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "RUN", "USER", "VOLUME", "WORKDIR"}


def test_the_container_file_is_made_of_known_instructions() -> None:
    assert {name for name, _ in CONTAINER} <= KNOWN
    assert CONTAINER[0][0] == "FROM"


def test_what_the_container_copies_exists() -> None:
    sources = [
        source
        for name, rest in CONTAINER
        if name == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    ]
    assert {"pyproject.toml", "core", "ptyinr_stream"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_container_copies_all_that_the_build_reads() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = " ".join(rest for name, rest in CONTAINER if name == "COPY").split()
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(copied)
    assert {path.split("/")[0] for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]} <= set(
        copied
    )


def test_the_container_runs_the_daemon_and_not_as_root() -> None:
    last = dict(CONTAINER)
    assert last["USER"] not in ("root", "0")
    command = json.loads(last["ENTRYPOINT"]) + json.loads(last["CMD"])
    assert command == ["ptyinr-stream", "run", "--config", "/etc/ptyinr-stream/config.toml"]
    assert settings(UNIT.read_text())["ExecStart"][0].endswith(" ".join(command))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "ptyinr-stream" in project["project"]["scripts"]


def test_the_container_installs_the_torch_that_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (wanted,) = [item for item in project["project"]["dependencies"] if item.startswith("torch")]
    assert f'pip install --index-url ${{TORCH_INDEX}} "{wanted}"' in CONTAINERFILE.read_text()
