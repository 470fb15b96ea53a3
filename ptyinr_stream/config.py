"""The configuration: one TOML file, every key named here, unknown ones refused. Only this module reads the environment.

Units stand in the keys (`_um`, `_kev`, `_s`, `_mb`); the properties give SI. Secrets are never in the file: a key that
ends in `_env` names an environment variable, one that ends in `_file` a file that holds the secret.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError, model_validator

from ptyinr_stream.errors import ConfigError
from ptyinr_stream.sections import (
    AssemblyConfig,
    AxisConfig,
    EncoderConfig,
    FilesConfig,
    FramesConfig,
    GeometryConfig,
    OutputConfig,
    PositionsConfig,
    RecordingConfig,
    Section,
    SteeringConfig,
    StreamConfig,
    StreamsConfig,
    TelemetryConfig,
    TiledConfig,
    TrainingConfig,
)

__all__ = [
    "AssemblyConfig",
    "AxisConfig",
    "Config",
    "EncoderConfig",
    "FilesConfig",
    "FramesConfig",
    "GeometryConfig",
    "OutputConfig",
    "PositionsConfig",
    "RecordingConfig",
    "Section",
    "SteeringConfig",
    "StreamConfig",
    "StreamsConfig",
    "TelemetryConfig",
    "TiledConfig",
    "TrainingConfig",
    "load_config",
    "parse_config",
    "secret",
    "systemd",
]


class Config(Section):
    """The whole file."""

    streams: StreamsConfig
    geometry: GeometryConfig = GeometryConfig()
    frames: FramesConfig = FramesConfig()
    positions: PositionsConfig
    files: FilesConfig = FilesConfig()
    assembly: AssemblyConfig = AssemblyConfig()
    training: TrainingConfig = TrainingConfig()
    tiled: TiledConfig = TiledConfig()
    output: OutputConfig = OutputConfig()
    recording: RecordingConfig = RecordingConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    steering: SteeringConfig = SteeringConfig()

    @property
    def recordings(self) -> Path | None:
        """The folder of the recordings; None where nothing is recorded."""
        if not self.recording.enabled:
            return None
        return self.recording.folder or (self.output.folder and self.output.folder / "recordings")

    @property
    def checkpoints(self) -> Path | None:
        """The folder of the checkpoints; None where none are written."""
        return self.output.folder and self.output.folder / "checkpoints" if self.training.checkpoint_s else None

    @property
    def frames_folder(self) -> Path:
        """Of the files that hold frames in place of memory."""
        return self.training.frames_folder or self.output.folder or Path(tempfile.gettempdir())

    @model_validator(mode="after")
    def _encoders_are_known(self) -> Config:
        if self.assembly.without_documents and (self.positions.axis0 is None or self.positions.axis1 is None):
            raise ValueError("assembly.without_documents needs positions.axis0 and axis1: nobody names the motors")
        return self

    @model_validator(mode="after")
    def _frames_come_from_somewhere(self) -> Config:
        if self.streams.frames is None and self.files.frames_key is None:
            raise ValueError("streams.frames is missing, or files.frames_key to read the frames from files")
        return self

    @property
    def reads_files(self) -> bool:
        """Whether any data are taken from documents and the files that they name."""
        return self.streams.positions is None or self.files.frames_key is not None

    @property
    def joining(self) -> AssemblyConfig:
        """How frames are joined: where a file may hold what the stream lost, it is waited for."""
        if self.assembly.fill_s or self.streams.frames is None or self.files.frames_key is None:
            return self.assembly
        return self.assembly.model_copy(update={"fill_s": self.files.wait_s})


def load_config(path: Path) -> Config:
    """Read and validate a TOML file.

    Raises:
        ConfigError: the file is missing, not TOML, or a key is unknown or wrong; one line a problem.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], source: str = "configuration") -> Config:
    """Validate a parsed configuration; `source` opens each complaint.

    >>> parse_config({"geometry": {"detector_pixel": 75}}, "hxn.toml")
    Traceback (most recent call last):
    ...
    ptyinr_stream.errors.ConfigError: hxn.toml: streams: missing
    hxn.toml: geometry.detector_pixel: unknown key; there are: detector, detector_pixel_um, detector_pixels_um, \
distance_m, distances_m, energy_kev, energy_from
    hxn.toml: positions: missing
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {_complaint(problem)}" for problem in error.errors())) from error


def secret(variable: str | None, file: Path | None = None) -> str | None:
    """The secret in the environment variable, else in the file, else None.

    Raises:
        ConfigError: the file is named but cannot be read or is empty.
    """
    if variable and os.environ.get(variable):
        return os.environ[variable]
    if file is None:
        return None
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise ConfigError(f"{file}: the secret cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: the secret is not text") from None  # the error quotes the file
    if not text:
        raise ConfigError(f"{file}: the secret is empty")
    return text


def systemd() -> tuple[str | None, float | None]:
    """Where systemd listens, and within how many seconds it wants a sign of life; None where it does not."""
    period = os.environ.get("WATCHDOG_USEC", "")
    return os.environ.get("NOTIFY_SOCKET") or None, 1e-6 * int(period) if period.isdigit() else None


def _complaint(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "file"
    if problem["type"] == "missing":
        return f"{where}: missing"
    if problem["type"] == "extra_forbidden":
        names = _section_at(problem["loc"][:-1]).model_fields
        return f"{where}: unknown key; there are: {', '.join(names)}"
    if problem["type"] == "model_type":
        return f"{where}: must be a table"
    if problem["type"] == "value_error":
        return f"{where}: {problem['ctx']['error']}"
    return f"{where}: {problem['msg']} (it is {problem['input']!r})"


def _section_at(path: tuple[str | int, ...]) -> type[Section]:
    """The table at a path, seen through `X | None` and through tables of tables."""
    found: Any = Config
    for part in path:
        annotation = found.model_fields[part].annotation if hasattr(found, "model_fields") else get_args(found)[-1]
        kinds = get_args(annotation)
        found = next(kind for kind in kinds if kind is not type(None)) if type(None) in kinds else annotation
    return found
