"""The tables of the configuration: every key, its unit, its default and what it means. `config` puts them together."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ptyinr.types import HC_KEV_M
from ptyinr_stream.errors import ConfigError

Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, Field(gt=0)]
Index = Annotated[int, Field(ge=0)]
Length = Annotated[float, Field(gt=0)]


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
    channel: str | None = None
    """Only for `eiger_v2`: which of several energy thresholds; None takes threshold_1, or the only one there is."""
    server_key_env: str | None = None
    """Name of the environment variable with the server's CURVE public key; unset means an unencrypted stream."""
    secret_key_env: str | None = None
    """Environment variable with our own CURVE secret key, where the server keeps a list of clients; its public half is
    what the list must hold. Unset means a new pair for each connection."""
    secret_key_file: Path | None = None
    """A file with that key, read when the variable is unset."""
    unpickle_from_anybody: bool = False
    """Only for `bluesky`, and dangerous: accept documents in pickle, Bluesky's default, and so run whatever code
    anybody who reaches the endpoint sends. Loopback only, and a proxy there must listen on loopback only, too."""

    @model_validator(mode="after")
    def _encrypted_or_not(self) -> StreamConfig:
        if self.server_key_env is None and (self.secret_key_env or self.secret_key_file):
            raise ValueError("a secret key encrypts nothing without the server's: give server_key_env")
        return self

    @model_validator(mode="after")
    def _strangers_run_nothing_here(self) -> StreamConfig:
        if not self.unpickle_from_anybody:
            return self
        if self.wire != "bluesky":
            raise ValueError(f"unpickle_from_anybody is for wire = 'bluesky'; nothing is pickled on {self.wire!r}")
        if not _is_loopback(self.endpoint):
            raise ValueError(
                f"unpickle_from_anybody would let everybody who reaches {self.endpoint} run code here; it is for "
                "endpoints on loopback, such as tcp://127.0.0.1:5568. Give the publisher a serializer instead"
            )
        return self


class StreamsConfig(Section):
    """The three roads of a scan."""

    documents: StreamConfig
    frames: StreamConfig | None = None
    """Left out: from the files that the documents name, by `files.frames_key`."""
    positions: StreamConfig | None = None
    """Left out: from the documents and the files that they name; the channels are data keys."""


class GeometryConfig(Section):
    """Optics. What is given here overrules the documents; what is left out is taken from them."""

    detector: str | None = None
    """The frames' detector by its name in the documents; None takes the first of `scan.detectors` in a table below."""
    detector_pixel_um: float | None = Field(default=None, gt=0)
    """None takes it from `detector_pixels_um`."""
    detector_pixels_um: dict[str, Length] = {"eiger*": 75.0, "merlin*": 55.0, "maxipix*": 55.0}
    """By the detector's name; * stands for any letters, the first that fits counts."""
    distance_m: float | None = Field(default=None, gt=0)
    """Sample to detector; None takes it from `distances_m`, and last `scan.detector_distance` from the documents."""
    distances_m: dict[str, Length] = {}
    """Calibrated distances, by the detector's name like its pixel."""
    energy_kev: float | None = Field(default=None, gt=0)
    """None takes the first of `energy_from` in the baseline reading, and last the detector's own header."""
    energy_from: tuple[str, ...] = ("dcm_th",)
    """Baseline readings in order of trust: `dcm_th` is the monochromator's angle (degrees, Si 111), others energies."""

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
    centre: tuple[Index, Index] | Literal["auto"] | None = None
    """Row and column of the beam in the oriented image; "auto" finds it in each scan's first frames; None takes the
    middle."""
    saturated: int | None = Field(default=None, gt=0)
    """Counts from which a pixel is not trusted; the largest value of the data type never is."""
    mask_file: Path | None = None
    """Of the image as sent, nonzero where a pixel may be trusted: .npy, `mask` of an HDF5 file, or TIFF."""
    hot_pixels: bool = False
    """Find pixels that are hot, or dead, in each scan's first frames, and do not trust them."""
    first_frames: Annotated[int, Field(ge=32, le=1024)] = 64
    """In which the beam and hot pixels are found: so many wait until the last of them has come."""

    @field_validator("centre", mode="before")
    @classmethod
    def _is_a_place(cls, value: Any) -> Any:
        pair = isinstance(value, list | tuple) and len(value) == 2
        if value in (None, "auto") or (pair and all(type(n) is int and n >= 0 for n in value)):
            return value
        raise ValueError(f'is {value!r}: give row and column, such as [531, 514], or "auto"')

    @model_validator(mode="after")
    def _can_be_centred(self) -> FramesConfig:
        if self.centre == "auto" and (self.window is None or self.dc == "corner"):
            raise ValueError('centre = "auto" needs a window to lay around the beam, and dc = "centre"')
        return self

    @property
    def calibrated(self) -> bool:
        """Whether a scan's first frames tell how all of them are to be treated."""
        return self.centre == "auto" or self.hot_pixels


class AxisConfig(Section):
    """One encoder and how it maps to an axis of the object array."""

    channel: str
    """Dataset name on the wire, such as /INENC2.VAL.Value; without a stream of positions, the data key or the dataset
    in its file."""
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


class EncoderConfig(Section):
    """One motor of the beamline and how it is read; what is left out is taken from `table`."""

    channel: str | None = None
    """Dataset name on the wire; None means that no encoder can be read: its frames lie where they were commanded."""
    um_per_count: float | None = None
    """Signed so that positions grow with the motor's own coordinate."""
    motor_sign: Literal[1, -1] = 1
    """-1 where the motor's coordinate grows towards smaller array indices."""
    rotation: str | None = None
    """The baseline reading, in degrees, of the rotation that foreshortens its motion; None for a motor along it."""

    @field_validator("um_per_count")
    @classmethod
    def _moves(cls, value: float | None) -> float | None:
        if value == 0:
            raise ValueError("is 0: every frame would lie in one place")
        return value


class PositionsConfig(Section):
    """How encoder samples become positions of frames."""

    table: Literal["hxn"] | None = None
    """A known table of motors and their encoders; the start document's `motors` choose from it."""
    encoders: dict[str, EncoderConfig] = {}
    """Motors by name, beside the table and before it."""
    axis0: AxisConfig | None = None
    """Array rows; given, it overrules what the motor's name would choose."""
    axis1: AxisConfig | None = None
    """Array columns, likewise."""
    samples_per_frame: int | None = Field(default=None, ge=1)
    """None takes it from `samples_by_type`."""
    samples_by_type: dict[str, Size] = {"2D_FLY_PANDA": 10, "2D_FLY_CONT_PANDA": 1, "FIP_2D_FLY": 10}
    """Encoder samples of a frame, by `scan.type`, else by the plan's name; no document tells them."""
    motors: tuple[Literal[0, 1], Literal[0, 1]] = (0, 1)
    """Which of the start document's motors (0 fast, 1 slow) moves along axis 0 and axis 1."""
    time_channel: str = "/PCAP.TS_TRIG.Value"
    """Dataset with the time of each sample, by which `samples_per_frame` and the detector's frames are checked."""
    zero: Literal["motor", "scan_start"] = "motor"
    """Where the encoders read zero: where the motors do, or anywhere; then the first frame lies at the scan's start."""
    foreshorten: bool = True
    """Shorten what moves across a rotation axis by the cosine of its angle, beyond 45 degrees by the sine."""
    mirror_beyond_minus_45: bool = False
    """From -45 degrees on the foreshortened axis runs the other way."""
    angle_deg: float | None = None
    """The sample's rotation; None takes it from the baseline reading that the motor names."""

    @model_validator(mode="after")
    def _axes_differ(self) -> PositionsConfig:
        if self.axis0 is not None and self.axis1 is not None and self.axis0.channel == self.axis1.channel:
            raise ValueError(f"axis0 and axis1 both read {self.axis0.channel}")
        if self.motors[0] == self.motors[1]:
            raise ValueError(f"motors are {list(self.motors)}: axis0 and axis1 move by different ones")
        if not (self.table or self.encoders) and (self.axis0 is None or self.axis1 is None):
            raise ValueError('give axis0 and axis1, or table = "hxn", or encoders by the names of motors')
        return self

    def samples(self, kind: str) -> int | None:
        """Encoder samples of a frame of a kind of scan; None where nobody knows."""
        return self.samples_by_type.get(kind) if self.samples_per_frame is None else self.samples_per_frame

    @property
    def axes(self) -> tuple[AxisConfig, AxisConfig]:
        """Both axes, of a configuration that gives them.

        Raises:
            ConfigError: one is left to the motors' names.
        """
        if self.axis0 is None or self.axis1 is None:
            raise ConfigError("positions: axis0 and axis1 are not both given")
        return self.axis0, self.axis1


class FilesConfig(Section):
    """Data in files that the documents name.

    They are read as they grow where there is no stream of the frames, or of the positions. Of a stream of frames those
    that it lost are read when the scan is over.
    """

    frames_key: str | None = None
    """Data key of the detector's images, such as `eiger2_image`."""
    stream: str = "primary"
    """Name of the Bluesky stream that records frames and positions."""
    paths: dict[str, str] = {}
    """Where this machine sees folders that the documents name: "/data" = "/nsls2/data/hxn/legacy"."""
    wait_s: float = Field(default=30.0, gt=0)
    """How long a file may take to show what the documents announce; then that is lost."""
    frames: FramesConfig | None = None
    """The convention of images in files, where it is not that of the stream; left out: as in [frames]."""


class AssemblyConfig(Section):
    """When a scan begins and ends, given three roads without a common order."""

    preroll_s: float = Field(default=60.0, gt=0)
    """How long frames and positions wait for their start document."""
    settle_s: float = Field(default=3.0, ge=0)
    """How long after the stop document stragglers may still arrive."""
    idle_s: float = Field(default=30.0, gt=0)
    """Silence on all roads after which a scan without a stop document is over."""
    inbox_mb: float = Field(default=1024.0, gt=0)
    """Received and not yet joined messages; when full, ZeroMQ holds an eighth of it more a stream, then senders wait.

    What a PUB socket cannot send in time it drops, at its own limit."""
    waiting_mb: float = Field(default=4000.0, gt=0)
    """Memory for decoded frames of an open scan that wait for their positions; when full, the oldest are dropped, and
    counted in its report. A recording still has them. 64 frames lie in one block and go only together: give room for
    many blocks."""
    supersampling: Literal["stop", "follow", "ignore"] = "stop"
    """What to do when the samples' times contradict `samples_per_frame`: place no more frames of that scan, follow what
    they show if no frame is placed yet, or place frames all the same."""
    gate: bool = True
    """Keep frames from training that were taken while the stages settled."""
    gate_margin: float = Field(default=0.2, gt=0)
    """By how much of its extent a position may leave the commanded range, on each side, or the commanded line."""
    fill_s: float = Field(default=0.0, ge=0)
    """How long a scan that is over stays open for frames that never came, to be read from the detector's file; 0 waits
    for none."""
    without_documents: bool = False
    """No start document will come: open a scan by its detector series and position capture alone. `geometry` then needs
    distance and energy."""
    scan_input: tuple[float, float, Size, float, float, Size] | None = None
    """Only without documents: [x0, x1, nx, y0, y1, ny], fast and slow motor in micrometres. None, or another number of
    frames, takes it from the encoders when three lines are there."""


class TrainingConfig(Section):
    """What the reconstruction may spend."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    refine_s: float = Field(default=90.0, ge=0)
    """At most so long training goes on after the last frame: until it gains no more, or the next scan needs the
    device."""
    snapshot_s: float = Field(default=3.0, gt=0)
    """Seconds between snapshots; a third of them in the first seconds of a scan's training."""
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
    frames_on_disk_above_mb: int = Field(default=4096, ge=0)
    """Of a scan's amplitudes, from which on its frames are kept in a file instead of the processor's memory; a GPU
    keeps them itself."""
    backlog_mb: float = Field(default=512.0, ge=0)
    """Memory for joined frames that training has not taken yet; what is more waits in a file."""
    frames_folder: Path | None = None
    """Where these files lie; None takes `output.folder`, or the system's folder for temporary files."""
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
    trace: bool = False
    """Write `<folder>/traces/<run uid>.csv` when a scan is over: each frame's position, in the order of joining."""

    @model_validator(mode="after")
    def _traces_somewhere(self) -> OutputConfig:
        if self.trace and self.folder is None:
            raise ValueError("trace is set, but no folder to write it to")
        return self


class RecordingConfig(Section):
    """What was received, kept on disk as it came: a scan survives the daemon, and can be replayed."""

    enabled: bool = True
    folder: Path | None = None
    """`<folder>/<run uid>/`, on a local disk. None takes `recordings` in `output.folder`; where there is none either,
    nothing is recorded."""
    cap_gb: float = Field(default=500.0, gt=0)
    """Of all recordings together."""
    free_gb: float = Field(default=5.0, ge=0)
    """What stays free on their disk."""
    when_full: Literal["stop", "delete_oldest"] = "stop"
    """At either limit: end the recording in progress, marked incomplete, or delete the oldest ones whose scans are over
    first."""
    buffer_mb: float = Field(default=512.0, gt=0)
    """Memory for what is received and not yet written; when full, pairing waits for the disk, ten seconds at most."""


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


def _is_loopback(endpoint: str) -> bool:
    parts = urlsplit(endpoint)
    if parts.scheme != "tcp":
        return True  # ipc and inproc
    try:
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
