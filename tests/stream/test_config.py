"""The configuration: the shipped files load, and whatever is wrong in one is said in a line that helps."""

from __future__ import annotations

import copy
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptyinr_stream.config import load_config, parse_config, secret
from ptyinr_stream.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "deploy" / "config"
VALUES = tomllib.loads((CONFIG / "demo.toml").read_text())


def changed(path: str, value: Any) -> dict[str, Any]:
    """The demo's values with one key set; tables on the way are made."""
    values = copy.deepcopy(VALUES)
    *tables, key = path.split(".")
    table = values
    for name in tables:
        table = table.setdefault(name, {})
    table[key] = value
    return values


def complaint(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, "hxn.toml")
    return str(caught.value)


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.toml")), ids=lambda file: file.name)
def test_a_shipped_file_loads(file: Path) -> None:
    assert load_config(file).geometry.detector_pixel_um == 75


def test_the_beamline_file_holds_no_host_name_and_no_secret_of_the_beamline() -> None:
    config = load_config(CONFIG / "hxn.toml")
    assert config.streams.documents.bind
    assert config.streams.frames.server_key_env == "PTYINR_FRAMES_SERVER_KEY"
    assert config.tiled.access_tags
    assert "bnl" not in (CONFIG / "hxn.toml").read_text()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("stream", "streams, geometry, frames, positions, assembly, training, tiled, output, recording"),
        ("streams.frames.wires", "endpoint, wire, socket, bind, prefix, server_key_env"),
        ("geometry.detector_pixel", "detector_pixel_um, distance_m, energy_kev"),
        ("positions.axis0.um_per_counts", "channel, um_per_count, motor_sign"),
        ("training.epochs", "device, refine_s, snapshot_s, holdout, seed, probe_file"),
    ],
)
def test_an_unknown_key_is_refused_with_its_path_and_the_names_there_are(path: str, names: str) -> None:
    assert complaint(changed(path, 1)) == f"hxn.toml: {path}: unknown key; there are: {names}"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("streams.frames.socket", "push", "'sub' or 'pull' (it is 'push')"),
        ("streams.frames.endpoint", "127.0.0.1:5559", "(it is '127.0.0.1:5559')"),
        ("geometry.detector_pixel_um", "large", "(it is 'large')"),
        ("geometry.detector_pixel_um", -75, "greater than 0 (it is -75)"),
        ("geometry.distance_m", float("inf"), "finite number (it is inf)"),
        ("frames.orientation", "mirrored", "'fliplr'"),
        ("frames.window", [256], "missing"),
        ("frames.window", [0, 256], "greater than 0 (it is 0)"),
        ("frames.centre", [-1, 20], "greater than or equal to 0 (it is -1)"),
        ("positions.samples_per_frame", 0, "greater than or equal to 1 (it is 0)"),
        ("positions.axis1.um_per_count", 0, "is 0: every frame would lie in one place"),
        ("positions.axis1.um_per_count", float("nan"), "finite number (it is nan)"),
        ("positions.axis1.motor_sign", 0, "1 or -1 (it is 0)"),
        ("tiled.port", 80000, "less than or equal to 65535 (it is 80000)"),
        ("tiled", "https://tiled.example.org", "must be a table"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_and_what_would_be_right(path: str, value: Any, says: str) -> None:
    said = complaint(changed(path, value))
    assert said.startswith(f"hxn.toml: {path}")
    assert says in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("positions.axis1.channel", "/INENC2.VAL.Value", "positions: axis0 and axis1 both read /INENC2.VAL.Value"),
        ("positions.motors", [1, 1], "positions: motors are [1, 1]: axis0 and axis1 move by different ones"),
    ],
)
def test_two_axes_never_share_an_encoder_or_a_motor(path: str, value: Any, says: str) -> None:
    assert complaint(changed(path, value)) == f"hxn.toml: {says}"


def test_every_problem_gets_a_line() -> None:
    values = changed("training.seed", "abc")
    del values["geometry"]
    values["assembly"] = {"settle": 3}
    assert [line.split(":")[1].strip() for line in complaint(values).splitlines()] == [
        "geometry",
        "assembly.settle",
        "training.seed",
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"[streams\n", b"endpoint = tcp://x", b"\xff\xfe[\x00"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml: not TOML: "):
        load_config(file)


def test_a_configuration_cannot_be_changed() -> None:
    config = parse_config(VALUES)
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3  # type: ignore[misc]


def test_units_become_si() -> None:
    geometry = parse_config(changed("geometry.energy_kev", 12.39841984)).geometry
    assert geometry.wavelength_m == pytest.approx(1e-10)
    assert parse_config(VALUES).geometry.wavelength_m is None


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    return file


def test_a_secret_comes_from_the_environment_before_the_file(monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    monkeypatch.setenv("PTYINR_TEST_KEY", "from-the-environment")
    assert secret("PTYINR_TEST_KEY", key_file) == "from-the-environment"
    monkeypatch.setenv("PTYINR_TEST_KEY", "")
    assert secret("PTYINR_TEST_KEY", key_file) == "from-the-file"
    monkeypatch.delenv("PTYINR_TEST_KEY")
    assert secret("PTYINR_TEST_KEY", key_file) == "from-the-file"
    assert secret("PTYINR_TEST_KEY") is None
    assert secret(None) is None


def test_a_secret_file_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: the secret cannot be read: No such file"):
        secret(None, tmp_path / "nowhere")
    (tmp_path / "blank").write_text(" \n")
    with pytest.raises(ConfigError, match="blank: the secret is empty"):
        secret(None, tmp_path / "blank")


def everything_said(error: BaseException) -> str:
    """The error and all that a log would print of it."""
    return "".join(traceback.format_exception(error)) + repr(error)


def test_no_error_tells_a_secret(tmp_path: Path) -> None:
    def said(call: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            call(*arguments)
        return everything_said(caught.value)

    binary = tmp_path / "binary"
    binary.write_bytes(b"hunter2\xff\xfe")
    assert "hunter2" not in said(secret, None, binary)
    # Where an operator may paste one by mistake:
    for path in ("tiled.api_key", "tiled.key", "streams.frames.server_key", "tiled"):
        assert "hunter2" not in said(parse_config, changed(path, "hunter2"))


def test_no_configuration_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYINR_TILED_API_KEY", "hunter2")
    config = parse_config(VALUES)
    assert secret(config.tiled.api_key_env, config.tiled.api_key_file) == "hunter2"
    assert "hunter2" not in repr(config) + str(config) + config.model_dump_json()
