"""What HXN's control system, detector and encoders say during a scan, as bytes and as documents. No sockets."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgpack_numpy
import numpy as np
from event_model import ComposeRunBundle, ComposeStreamDatum, StreamRange, compose_run, compose_stream_resource
from numpy.typing import NDArray

from ptyinr_stream.config import AxisConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.wire import codecs

HXN_ENCODERS = PositionsConfig(
    axis0=AxisConfig(channel="/INENC2.VAL.Value", um_per_count=-9.542e-5),
    axis1=AxisConfig(channel="/INENC3.VAL.Value", um_per_count=-1.03297e-4),
)
"""Interferometers of the zone plate stage: zpssx along axis 0, zpssy along axis 1."""

_TYPE = "2D_FLY_PANDA"
IMAGE_KEY = "eiger2_image"
"""Data key of the frames."""

_MOTORS = ("zpssx", "zpssy")  # fast, slow


def json_message(message: dict[str, Any]) -> bytes:
    """A part of the frames' or the positions' road."""
    return json.dumps(message).encode()


def document_message(prefix: str, name: str, document: dict[str, Any]) -> bytes:
    """A document as `bluesky.callbacks.zmq` frames it, in msgpack."""
    return b" ".join([prefix.encode(), name.encode(), msgpack_numpy.packb(document)])


def series_header_parts(scan: RecordedScan, series: int, rate_hz: float, frames: int | None = None) -> list[bytes]:
    """What the detector says when it is armed for `frames`, by default all of the scan's."""
    n, h, w = scan.counts.shape
    configuration = {
        "nimages": 1,
        "ntrigger": n if frames is None else frames,
        "trigger_mode": "exte",
        "bit_depth_image": 8 * scan.counts.itemsize,
        "x_pixels_in_detector": w,
        "y_pixels_in_detector": h,
        "x_pixel_size": scan.geometry.detector_pixel_m,
        "y_pixel_size": scan.geometry.detector_pixel_m,
        "frame_time": 1 / rate_hz,
    }
    header = {"htype": "dheader-1.0", "series": series, "header_detail": "basic"}
    return [json_message(header), json_message(configuration)]


def exposure_ns(frame: int, rate_hz: float) -> tuple[int, int]:
    """When a frame's exposure begins and ends, since that of frame 0 began."""
    return int(1e9 * frame / rate_hz), int(1e9 * (frame + 1) / rate_hz)


def image_parts(pixels: NDArray[Any], series: int, frame: int, rate_hz: float) -> list[bytes]:
    """A frame (h, w), uint16 or uint32."""
    encoding = f"bs{8 * pixels.itemsize}-lz4<"
    data = codecs.encode(pixels, encoding)
    start_ns, stop_ns = exposure_ns(frame, rate_hz)
    times = {"start_time": start_ns, "stop_time": stop_ns, "real_time": stop_ns - start_ns}
    spec = {"shape": [pixels.shape[1], pixels.shape[0]], "type": pixels.dtype.name, "encoding": encoding}
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return [
        json_message({"htype": "dimage-1.0", "series": series, "frame": frame, "hash": digest}),
        json_message({"htype": "dimage_d-1.0", **spec, "size": len(data)}),
        data,
        json_message({"htype": "dconfig-1.0", **times}),
    ]


def encoder_counts(positions_m: NDArray[np.float64], positions: PositionsConfig) -> NDArray[np.float64]:
    """Whole counts (n, samples, 2) of encoders that move on steadily while frames are exposed at `positions_m` (n, 2).

    The mean of a frame's samples is its position to within half a count divided by the number of samples.
    """
    before = np.diff(positions_m, axis=0, prepend=positions_m[:1])
    after = np.diff(positions_m, axis=0, append=positions_m[-1:])
    step = np.where(np.abs(before) < np.abs(after), before, after)  # never the fly-back between lines
    samples = samples_of(positions)
    phase = (np.arange(samples) + 0.5) / samples - 0.5
    path_m = positions_m[:, None] + phase[:, None] * step[:, None]  # (n, samples, 2)
    exact = 1e6 * path_m / [axis.um_per_count for axis in positions.axes]
    # What rounding takes from one sample it gives to the next.
    return np.diff(np.rint(np.cumsum(exact, axis=1)), axis=1, prepend=0)


def position_messages(
    counts: NDArray[np.float64], positions: PositionsConfig, rate_hz: float, flush_s: float
) -> Iterator[tuple[int, dict[str, Any]]]:
    """PandA data messages of `counts` (n, samples, 2), each with the frame after which it goes out.

    They cover `flush_s` and one sample more, so that, as on the beamline, they do not end where frames do.
    """
    samples, flat = counts.shape[1], counts.reshape(-1, 2)
    trigger_s = (np.arange(len(flat)) + 0.5) / (samples * rate_hz)
    size = int(flush_s * rate_hz * samples) + 1
    for number, first in enumerate(range(0, len(flat), size)):
        chunk = slice(first, min(first + size, len(flat)))
        channels = {
            positions.axes[0].channel: flat[chunk, 0],
            positions.axes[1].channel: flat[chunk, 1],
            "/PCAP.TS_TRIG.Value": trigger_s[chunk],
        }
        datasets = {
            name: {"dtype": "float64", "size": len(data), "starting_sample_number": first, "data": data.tolist()}
            for name, data in channels.items()
        }
        yield (chunk.stop - 1) // samples, {"msg_type": "data", "frame_number": number, "datasets": datasets}


def run_documents(
    scan: RecordedScan, positions: PositionsConfig, uid: str | None, scan_id: int, rate_hz: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and documents of a `fly2dpd`: three before the first frame, the others after the last.

    Each is composed, and so dated, when it is asked for.

    Raises:
        GeometryError: no angle of a Si(111) monochromator gives the scan's wavelength.
    """
    run = RunDocuments(scan, positions, uid, scan_id, rate_hz)
    yield from run.opening()
    yield from run.at_the_end()
    yield from run.closing()


class RunDocuments:
    """Names and documents of a run, each composed, and so dated, when it is asked for.

    Raises:
        GeometryError: no angle of a Si(111) monochromator gives the scan's wavelength.
    """

    def __init__(
        self, scan: RecordedScan, positions: PositionsConfig, uid: str | None, scan_id: int, rate_hz: float
    ) -> None:
        self._scan = scan
        self._readings = {"dcm_th": _monochromator_deg(scan.geometry.energy_kev), "zpsth": scan.angle_deg}
        self._samples = samples_of(positions) * len(scan.counts)
        metadata = _start_metadata(scan, positions, scan_id, rate_hz)
        self._run = compose_run(uid=uid or str(uuid.uuid4()), metadata=metadata)
        motor = {"source": "REPLAY", "dtype": "number", "shape": []}
        self._baseline = self._run.compose_descriptor("baseline", dict.fromkeys(self._readings, motor))

    def opening(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Three: before the first frame."""
        yield "start", dict(self._run.start_doc)
        yield "descriptor", dict(self._baseline.descriptor_doc)
        yield self._reading()

    def at_the_end(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """As at HXN: one page names files with everything in it, and here there are none."""
        scan, samples = self._scan, [self._samples]
        encoder = {"source": "PANDA", "dtype": "array", "dtype_str": "<i4", "shape": samples, "external": "FILESTORE:"}
        image = {"source": "REPLAY", "dtype": "array", "shape": list(scan.counts.shape), "external": "FILESTORE:"}
        keys = {"inenc2_val": encoder, "inenc3_val": encoder, IMAGE_KEY: image}
        primary = self._run.compose_descriptor("primary", keys)
        yield "descriptor", dict(primary.descriptor_doc)
        page = primary.compose_event_page(
            data={key: [f"{uuid.uuid4()}/0"] for key in keys},
            timestamps={key: [time.time()] for key in keys},
            filled={key: [False] for key in keys},
        )
        yield "event_page", dict(page)

    def file_of_images(self, uri: str, dataset: str) -> FileDocuments:
        """As ophyd-async does: the images lie in one file, which grows."""
        return FileDocuments(self._run, self._scan, uri, dataset)

    def closing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Two: after the last frame."""
        yield self._reading()
        yield "stop", dict(self._run.compose_stop())

    def _reading(self) -> tuple[str, dict[str, Any]]:
        return "event", dict(self._baseline.compose_event(self._readings, dict.fromkeys(self._readings, time.time())))


class FileDocuments:
    """Documents of a file with the images of a run."""

    def __init__(self, run: ComposeRunBundle, scan: RecordedScan, uri: str, dataset: str) -> None:
        shape, dtype = [1, *scan.counts.shape[1:]], scan.counts.dtype.newbyteorder("<").str
        image = {"source": "REPLAY", "dtype": "array", "dtype_numpy": dtype, "shape": shape, "external": "STREAM:"}
        self._descriptor = run.compose_descriptor("primary", {IMAGE_KEY: image}).descriptor_doc
        self._resource = compose_stream_resource(
            start=run.start_doc,
            mimetype="application/x-hdf5",
            uri=uri,
            data_key=IMAGE_KEY,
            parameters={"dataset": dataset, "chunk_shape": shape},
        ).stream_resource_doc
        self._compose = ComposeStreamDatum(self._resource, itertools.count())

    def introduction(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Two that name the file."""
        yield "descriptor", dict(self._descriptor)
        yield "stream_resource", dict(self._resource)

    def written(self, start: int, stop: int) -> tuple[str, dict[str, Any]]:
        """Say that frames `start` to `stop` can be read."""
        datum = self._compose(
            indices=StreamRange(start=start, stop=stop),
            seq_nums=StreamRange(start=start + 1, stop=stop + 1),
            descriptor=self._descriptor,
        )
        return "stream_datum", dict(datum)


def _start_metadata(scan: RecordedScan, positions: PositionsConfig, scan_id: int, rate_hz: float) -> dict[str, Any]:
    signs = [axis.motor_sign for axis in positions.axes]
    axes = [positions.motors.index(0), positions.motors.index(1)]  # along which the fast and the slow motor move
    motors_um = 1e6 * (scan.positions_m * signs)[:, axes]  # (n, 2) fast, slow
    shape = _grid(motors_um[:, 0])
    lower, upper = motors_um.min(axis=0), motors_um.max(axis=0)
    forwards = motors_um[0] - lower <= upper - motors_um[0]  # the plan begins where the scan began
    x0, y0 = np.where(forwards, lower, upper).tolist()
    x1, y1 = np.where(forwards, upper, lower).tolist()
    fast, slow = _MOTORS
    return {
        "scan_id": scan_id,
        "beamline_id": "HXN",
        "sample": scan.name,
        "scan_name": scan.name,
        "plan_type": "generator",
        "plan_name": "fly2dpd",
        "motors": [fast, slow],
        "motor1": fast,
        "motor2": slow,
        "shape": shape,
        "fly_type": "grid",
        "scan": {
            "type": _TYPE,
            "scan_input": [x0, x1, float(shape[0]), y0, y1, float(shape[1])],
            "sample_name": scan.name,
            "detectors": ["eiger2", "panda1"],
            "detector_distance": scan.geometry.distance_m,
            "dwell": 1 / rate_hz,
            "fast_axis": {"motor_name": fast, "units": "um"},
            "slow_axis": {"motor_name": slow, "units": "um"},
            "shape": shape,
        },
    }


def samples_of(positions: PositionsConfig) -> int:
    """Encoder samples of a frame."""
    return positions.samples(_TYPE) or 1


def _grid(fast: NDArray[np.float64]) -> list[int]:
    """Points a line and lines of a raster, from the fly-backs of its fast axis; [n, 1] of anything else."""
    ends = np.flatnonzero(np.abs(np.diff(fast)) > 0.5 * np.ptp(fast)) + 1
    lines = len(ends) + 1
    points = len(fast) // lines
    regular = len(fast) == points * lines > lines and np.array_equal(ends, points * np.arange(1, lines))
    return [points, lines] if regular else [len(fast), 1]


def _monochromator_deg(energy_kev: float) -> float:
    """Bragg angle, by HXN's formula and constants."""
    sine = 12.39842 / (2 * 3.1355893 * energy_kev)
    if sine > 1:
        raise GeometryError(
            f"the scan's {energy_kev:.3f} keV lie below what a Si(111) monochromator can give, 1.978 keV"
        )
    return math.degrees(math.asin(sine))
