"""A scan in a Tiled server, to be replayed: a Bluesky run of HXN, or a container with the arrays of a scan file.

| of a run | where |
|---|---|
| frames | stream `primary`, `<detector>_image` or `<detector>`; (n, h, w), (n, 1, h, w) or (1, n, h, w) |
| positions | stream `primary`, along axis 0 and 1: encoder counts `inenc2_val`, `inenc3_val`, or µm `zpssx`, `zpssy` |
| distance | start document, `scan.detector_distance` |
| photon energy | stream `baseline`, `dcm_th` |

| of a container | |
|---|---|
| frames | `counts` (n, h, w) with DC in the centre, or `diffamp` as in a scan file |
| positions | `positions_m` (n, 2), or `points` (2, n) µm |
| optics | `lambda_nm`, `z_m`, `ccd_pixel_um`, `angle`: arrays or metadata |

Frames go out as they are stored: HXN's files have been turned against what its detector sends. Encoder counts, averaged
over each frame, become those that the beamline's encoders gave, by the factors of `HXN_ENCODERS`. Importing this module
takes a second, because it imports Tiled's client.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import numpy as np
import tiled.client.utils
from numpy.typing import NDArray
from tiled.client import from_context
from tiled.client.context import Context
from tiled.client.utils import ClientError

from ptyinr.types import HC_KEV_M, ScanGeometry
from ptyinr_stream.config import secret
from ptyinr_stream.errors import EndpointError, GeometryError, ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.optics import dcm_energy_kev

from .messages import HXN_ENCODERS
from .remote import WORKERS, RemoteFrames, patiently

_TIMEOUT = httpx.Timeout(300.0, connect=30.0)
_DETECTORS = ("eiger2", "eiger1", "eiger3", "eiger_mobile", "merlin1", "merlin2")
_PIXEL_M = {"merlin": 55e-6, "eiger": 75e-6}
_ENCODERS = (("inenc2_val", "zpssx"), ("inenc3_val", "zpssy"))  # counts, µm
_DEPTHS = ("", "data/", "internal/")  # of an array in a stream, by the age of the catalog


def read_catalog(uri: str, api_key_env: str = "PTYINR_TILED_API_KEY") -> RecordedScan:
    """Find what a replay needs; the frames themselves are fetched when they are asked for.

    Args:
        uri: of the run or the container, such as https://tiled.example.org/api/v1/metadata/hxn/migration/<uid>.
        api_key_env: the environment variable with the key; where it is unset, what `tiled login` has left is used.

    Raises:
        EndpointError: the server cannot be reached, or refuses.
        ScanFileError: there is no scan, or something of it is missing or wrong.
    """
    with _translated(uri), ExitStack() as opened:
        node = _connect(uri, secret(api_key_env))
        opened.callback(node.context.http_client.close)
        reader = _run if "start" in node.metadata else _container
        try:
            scan = reader(node, uri)
        except (GeometryError, KeyError, TypeError, ValueError) as error:
            raise ScanFileError(f"{uri}: {error}") from error
        opened.pop_all()
        weakref.finalize(scan.counts, node.context.http_client.close)
    return scan


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise EndpointError(f"{uri}: the server refuses: {error}") from error
    except httpx.HTTPError as error:
        raise EndpointError(f"{uri}: cannot be read: {type(error).__name__}: {error}") from error


def _connect(uri: str, api_key: str | None) -> Any:
    def connect() -> Any:
        here = urlsplit(uri).hostname in ("127.0.0.1", "localhost", "::1")  # no proxy leads here
        options = {"timeout": _TIMEOUT, "max_connections": WORKERS, "trust_env": not here, "show_progress": False}
        tiled.client.utils.TILED_RETRY_ATTEMPTS = 1  # `patiently` tries again
        context, path = Context.from_any_uri(uri, api_key=api_key, **options)
        with ExitStack() as opened:
            opened.callback(context.http_client.close)
            if api_key is None and context.server_info.authentication.providers:
                context.use_cached_tokens()
            node = from_context(context, node_path_parts=path)
            opened.pop_all()
        return node

    try:
        return patiently(connect)
    except (KeyError, ValueError, httpx.InvalidURL) as error:
        raise EndpointError(f"{uri}: is no node of a Tiled server: {error}") from error


def _run(run: Any, uri: str) -> RecordedScan:
    start = run.metadata["start"]
    scan = start.get("scan") or {}
    named = [name for name in scan.get("detectors", ()) if name.startswith(tuple(_PIXEL_M))]
    keys = {f"{name}{end}": name for name in (*named, *_DETECTORS) for end in ("_image", "")}
    key, node = _first(run, "primary", keys, uri)
    frames = _stack(node, f"{uri}: {key}")
    planned = int(np.prod(start.get("shape") or len(frames)))
    scale = [axis.um_per_count for axis in HXN_ENCODERS.axes]
    columns = []
    for names, um_per_count in zip(_ENCODERS, scale, strict=True):
        name, values = _first(run, "primary", names, uri)
        samples = np.ravel(patiently(values.read)).astype(np.float64)
        # Detector and encoders may each have stopped before the end of what was planned.
        per_frame = max(1, round(len(samples) / planned))
        um = samples[: len(samples) // per_frame * per_frame].reshape(-1, per_frame).mean(axis=1)
        columns.append(um * um_per_count if name.startswith("inenc") else um)
    n = min(map(len, columns))
    distance_m = scan.get("detector_distance")
    if distance_m is None:
        raise ValueError("the start document has no scan.detector_distance (metres)")
    _, angle = _first(run, "baseline", ("dcm_th",), uri)
    energy_kev = dcm_energy_kev(float(np.ravel(patiently(angle.read))[0]))
    pixel_m = next(size for kind, size in _PIXEL_M.items() if keys[key].startswith(kind))
    geometry = ScanGeometry(HC_KEV_M / energy_kev, float(distance_m), pixel_m, frames.shape[1:])
    positions_m = 1e-6 * np.stack([column[:n] for column in columns], axis=1)
    name = str(start.get("sample") or start.get("scan_id") or "run")
    return _recorded(frames, positions_m, geometry, name=name)


def _container(node: Any, uri: str) -> RecordedScan:
    def number(name: str, default: float | None = None) -> float:
        value = node.metadata.get(name, default)
        if name in node:
            value = np.ravel(patiently(node[name].read))[0]
        if value is None:
            raise ValueError(f"there is neither an array nor metadata {name}")
        return float(value)

    if "counts" in node:
        frames = _stack(node["counts"], f"{uri}: counts")
    elif "diffamp" in node:
        frames = _stack(node["diffamp"], f"{uri}: diffamp", np.dtype(np.uint32), _counts)
    else:
        raise ValueError("there is neither a Bluesky run nor a container with counts or diffamp")
    if "positions_m" in node:
        positions_m = np.asarray(patiently(node["positions_m"].read), np.float64)
    else:
        positions_m = 1e-6 * np.asarray(patiently(node["points"].read), np.float64).T
    geometry = ScanGeometry(1e-9 * number("lambda_nm"), number("z_m"), 1e-6 * number("ccd_pixel_um"), frames.shape[1:])
    return _recorded(frames, positions_m, geometry, angle_deg=number("angle", 0.0), name=node.path_parts[-1])


def _recorded(
    frames: RemoteFrames, positions_m: NDArray[np.float64], geometry: ScanGeometry, **more: Any
) -> RecordedScan:
    n = min(len(frames), len(positions_m))
    some = RemoteFrames((n, *frames.shape[1:]), frames.dtype, frames.fetch, frames.name)
    return RecordedScan(cast(NDArray[Any], some), np.ascontiguousarray(positions_m[:n]), geometry, **more)


def _first(run: Any, stream: str, keys: Mapping[str, Any] | tuple[str, ...], uri: str) -> tuple[str, Any]:
    """The first of several arrays that a stream has, wherever this catalog keeps it."""
    for key in keys:
        for root in (stream, f"streams/{stream}"):
            for depth in _DEPTHS:
                # A list of the children may be refused where a child is not.
                try:
                    return key, run[*f"{root}/{depth}{key}".split("/")]
                except KeyError:
                    continue
    raise ScanFileError(f"{uri}: the stream {stream} has none of {', '.join(keys)}")


def _stack(
    node: Any,
    name: str,
    dtype: np.dtype[Any] | None = None,
    convert: Callable[[NDArray[Any]], NDArray[Any]] = lambda block: block,
) -> RemoteFrames:
    """An array of images as frames (n, h, w), whichever way round its axis of length one lies."""
    shape, axis = tuple(node.shape), 0
    if len(shape) == 4 and shape[0] == 1:
        axis = 1
    elif not (len(shape) == 3 or (len(shape) == 4 and shape[1] == 1)):
        raise ScanFileError(f"{name} has the shape {shape}: (n, h, w), (n, 1, h, w) or (1, n, h, w) is needed")
    stored = np.dtype(node.dtype).newbyteorder("=")
    wanted = dtype or (np.dtype(np.uint16) if stored == np.uint8 else stored)
    window = (shape[-2], shape[-1])

    def fetch(start: int, stop: int) -> NDArray[Any]:
        block = node[start:stop] if axis == 0 else node[:, start:stop]
        return convert(np.asarray(block)).reshape(-1, *window).astype(wanted, copy=False)

    return RemoteFrames((shape[axis], *window), wanted, fetch, name)


def _counts(amplitudes: NDArray[Any]) -> NDArray[np.float64]:
    """Of a scan file's `diffamp`, whose DC lies at the corner."""
    return np.rint(np.fft.fftshift(amplitudes.astype(np.float64), axes=(-2, -1)) ** 2)
