"""The configuration: one TOML file, every key named here, unknown ones refused. Only this module reads the environment.

Units stand in the keys (`_um`, `_kev`, `_s`, `_mb`); the properties give SI. Secrets are never in the file: a key that
ends in `_env` names an environment variable, one that ends in `_file` a file that holds the secret.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ptyinr.types import HC_KEV_M
from ptyinr_stream.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, Field(gt=0)]
Index = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A table of the file. Frozen; a key that is not a field is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # A key pasted where its variable's name belongs must not come out in a traceback.
        hide_input_in_errors=True,
    )


class StreamConfig(Section):
    """One ZeroMQ stream: where it comes from and how its messages are spelled."""

    endpoint: str = Field(pattern=r"^(tcp|ipc|inproc)://.+")
    """For example tcp://127.0.0.1:5559."""
    wire: str
    """The decoder: the name of a module of `ptyinr_stream.wire`."""
    socket: Literal["sub", "pull"] = "sub"
    bind: bool = False
    """Bind the endpoint and let the sender connect, instead of connecting to it."""
    prefix: str = ""
    """Only for `bluesky`: the publisher's topic prefix."""
    server_key_env: str | None = None
    """Name of the environment variable with the server's CURVE public key; unset means an unencrypted stream."""


class StreamsConfig(Section):
    """The three roads of a scan."""

    documents: StreamConfig
    frames: StreamConfig
    positions: StreamConfig


class GeometryConfig(Section):
    """Optics. What is given here overrules the documents; what is left out is taken from them."""

    detector_pixel_um: float = Field(gt=0)
    distance_m: float | None = Field(default=None, gt=0)
    """Sample to detector; None takes `scan.detector_distance` from the start document."""
    energy_kev: float | None = Field(default=None, gt=0)
    """None derives it from the monochromator angle `dcm_th` (degrees, Si 111) of the baseline reading."""

    @property
    def wavelength_m(self) -> float | None:
        """From the photon energy, where it is given."""
        return None if self.energy_kev is None else HC_KEV_M / self.energy_kev


Orientation = Literal["as_sent", "fliplr", "flipud", "rot90", "rot180", "rot270", "transpose", "antitranspose"]
"""The eight ways to lay a detector image over the laboratory frame, by numpy's names."""


class FramesConfig(Section):
    """How a detector image becomes a diffraction pattern with DC in the centre."""

    orientation: Orientation = "as_sent"
    """Applied to the whole image, before the crop."""
    dc: Literal["centre", "corner"] = "centre"
    window: tuple[Size, Size] | None = None
    """Rows and columns to keep; None keeps all."""
    centre: tuple[Index, Index] | None = None
    """Row and column of the beam in the oriented image; None takes the middle."""
    saturated: int | None = Field(default=None, gt=0)
    """Counts from which a pixel is not trusted; the largest value of the data type never is."""


class AxisConfig(Section):
    """One encoder and how it maps to an axis of the object array."""

    channel: str
    """Dataset name on the wire, such as /INENC2.VAL.Value."""
    um_per_count: float
    """Signed so that positions grow towards larger array indices."""
    motor_sign: Literal[1, -1] = 1
    """-1 where the motor's coordinate in the start document grows towards smaller array indices."""

    @field_validator("um_per_count")
    @classmethod
    def _moves(cls, value: float) -> float:
        if value == 0:
            raise ValueError("is 0: every frame would lie in one place")
        return value


class PositionsConfig(Section):
    """How encoder samples become positions of frames."""

    axis0: AxisConfig
    """Array rows."""
    axis1: AxisConfig
    """Array columns."""
    samples_per_frame: int = Field(default=10, ge=1)
    motors: tuple[Literal[0, 1], Literal[0, 1]] = (0, 1)
    """Which of the start document's `motors` (0 fast, 1 slow) moves along axis 0 and axis 1."""
    zero: Literal["motor", "scan_start"] = "motor"
    """Where the encoders read zero: where the motors do, or anywhere; then the first frame lies at the scan's start."""

    @model_validator(mode="after")
    def _axes_differ(self) -> PositionsConfig:
        if self.axis0.channel == self.axis1.channel:
            raise ValueError(f"axis0 and axis1 both read {self.axis0.channel}")
        if self.motors[0] == self.motors[1]:
            raise ValueError(f"motors are {list(self.motors)}: axis0 and axis1 move by different ones")
        return self


class AssemblyConfig(Section):
    """When a scan begins and ends, given three roads without a common order."""

    preroll_s: float = Field(default=60.0, gt=0)
    """How long frames and positions wait for their start document."""
    settle_s: float = Field(default=3.0, ge=0)
    """How long after the stop document stragglers may still arrive."""
    idle_s: float = Field(default=30.0, gt=0)
    """Silence on all roads after which a scan without a stop document is over."""
    inbox_mb: float = Field(default=1024.0, gt=0)
    """Received and not yet joined messages; when full, receiving waits and ZeroMQ buffers."""


class TrainingConfig(Section):
    """What the reconstruction may spend."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    refine_s: float = Field(default=90.0, ge=0)
    """At most so long training goes on after the last frame: until it gains no more, or the next scan needs the
    device."""
    snapshot_s: float = Field(default=3.0, gt=0)
    """Seconds between snapshots."""
    holdout: int = Field(default=10, ge=0)
    """Every n-th frame (index % n == n // 2) only measures the error; 0 trains on all."""
    seed: Index = 0
    probe_file: Path | None = None
    """A starting probe (.npy complex, or `probe` in an HDF5 file) for every scan; refused by frames that contradict
    it."""
    warm_start: bool = True
    """Begin with the probe of the last good scan with the same optics, unless the first frames contradict it."""
    same_region: bool = False
    """Begin with its object too, where the commanded range is the same: repeats, and small turns of a tomogram."""
    checkpoint_s: float = Field(default=20.0, ge=0)
    """Seconds between checkpoints, from which a daemon that was killed goes on; 0 writes none. They need
    `output.folder`."""

    @field_validator("holdout")
    @classmethod
    def _trains(cls, value: int) -> int:
        if value == 1:
            raise ValueError("is 1: no frame would be left to train on; give 0 to hold none out, or 2 and more")
        return value


class TiledConfig(Section):
    """Where reconstructions are published."""

    uri: str | None = None
    """An existing server, such as https://tiled.example.org/api/v1; None starts an embedded one."""
    path: str = "processed/ptyinr"
    """Container under which each reconstruction gets its own."""
    api_key_env: str = "PTYINR_TILED_API_KEY"
    """Environment variable with the key; the embedded server generates one when it is unset."""
    api_key_file: Path | None = None
    """A file with the key, read when the variable is unset."""
    access_tags: tuple[str, ...] = ()
    """Put on every node; facility servers refuse nodes without one."""
    folder: Path = Path("tiled")
    """Only embedded: catalog and arrays."""
    host: str = "127.0.0.1"
    """Only embedded. Anything but loopback lets the network read."""
    port: Port = 8000
    """Only embedded; 0 takes any free port."""


class OutputConfig(Section):
    """Files beside Tiled."""

    folder: Path | None = None
    """`<folder>/<run uid>/result.h5` and `snapshots/*.png`; None writes none."""
    every_snapshot: bool = True
    """Keep a PNG of every snapshot, not of the final one only."""


class TelemetryConfig(Section):
    """How the daemon does, over HTTP: /healthz, /status, and /metrics for Prometheus."""

    port: Port | None = None
    """None serves nothing; 0 takes any free port."""
    host: str = "127.0.0.1"
    """Anything but loopback lets the network read."""


class SteeringConfig(Section):
    """How the reconstruction stands, for plans: see `publishers/steering.py`."""

    endpoint: str | None = Field(default=None, pattern=r"^(tcp|ipc|inproc)://.+")
    """Where to publish, such as tcp://127.0.0.1:5580; None publishes nothing."""


class Config(Section):
    """The whole file."""

    streams: StreamsConfig
    geometry: GeometryConfig
    frames: FramesConfig = FramesConfig()
    positions: PositionsConfig
    assembly: AssemblyConfig = AssemblyConfig()
    training: TrainingConfig = TrainingConfig()
    tiled: TiledConfig = TiledConfig()
    output: OutputConfig = OutputConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    steering: SteeringConfig = SteeringConfig()


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
    hxn.toml: geometry.detector_pixel_um: missing
    hxn.toml: geometry.detector_pixel: unknown key; there are: detector_pixel_um, distance_m, energy_kev
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
    section: Any = Config
    for part in path:
        section = section.model_fields[part].annotation
    return section
