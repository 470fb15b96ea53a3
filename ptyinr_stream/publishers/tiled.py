"""Reconstructions as a Tiled tree, laid out as HXN's dashboards read it.

    <path>/<run uid>/            one a reconstruction; <run uid>-2 where that key is taken
        live/object, live/probe  (2, H, W) float32: amplitude, phase; overwritten by every snapshot
        live/coverage            (H, W) float32
        final/...                the same at the end, and
        final/probe_modes        (modes, 2, h, w) float32, where there are several modes
        final/indices            (n,) int64: the frame of each row of positions_um
        positions_um             (n, 2) float64: the centre of each frame's window in the object, along (axis 0, axis 1)
        metrics                  one row a snapshot, all columns float64

Importing this module takes a second, because it imports Tiled's client.
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pyarrow as pa
import tiled.client.utils
from numpy.typing import NDArray
from tiled.client import from_context
from tiled.client.container import Container
from tiled.client.context import Context
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource

from ptyinr.types import Snapshot
from ptyinr_stream.errors import PublishError

from .base import ScanRecord, node_name

logger = logging.getLogger(__name__)

CLIENT_ATTEMPTS = 2
"""The second is for a connection that was closed meanwhile. Tiled's own 10 take 24 s; the publisher's thread tries
again anyway, and with a newer snapshot."""
TABLE_ATTEMPTS = 2
"""Snapshots of a run with which the metrics table may be refused before it is done without."""
TIMEOUT = httpx.Timeout(30.0, connect=3.0)
METRICS = ("heldout_error", "loss")
"""Columns of the metrics table even when the first snapshot does not have them yet."""


@dataclass
class _Run:
    """A scan and the nodes made for it so far: after an interruption, the next snapshot goes on with these."""

    scan: ScanRecord
    opened: float
    nodes: dict[str, Any] = field(default_factory=dict)
    """Tiled's clients by path below the run; "" is the run itself."""
    previous: Container | None = None
    """The container that this one continues, until it says so."""
    rows: int = 0
    """Of the metrics."""
    table_refusals: int = 0


class TiledPublisher:
    """Publishes to a Tiled server, embedded or a facility's.

    Tiled cannot change an array's shape: when the canvas grows, a new container goes on, with `continues` in its
    metadata, and the old one names it in `continued_in`.

    Args:
        uri: The API, such as http://127.0.0.1:8000/api/v1.
        path: The container of all reconstructions, slash separated; created where missing.
        api_key: Has to allow reading, writing and creating nodes; deleting is not needed.
        access_tags: Put on every node.
    """

    def __init__(self, uri: str, path: str, api_key: str, access_tags: tuple[str, ...] = ()) -> None:
        self._uri, self._path = uri, path.strip("/")
        self._api_key = api_key
        self._tags = list(access_tags) or None
        self._root: Container | None = None
        self._runs: dict[str, _Run] = {}

    def check(self) -> str:
        """Try what a reconstruction will need, leaving nothing behind, and say so in one line.

        Raises:
            PublishError: the server cannot be reached, or does not let us create nodes under `path`.
        """
        with self._translated_errors():
            root = self._catalog()
            child = next(iter(root), None)
            # Creating what exists already is refused with 403 or with 409, and 409 means that we may.
            created = _create_container(root, child or f"check-{secrets.token_hex(4)}", {}, self._tags)
            if created is not None and child is None:
                with _expected(httpx.codes.FORBIDDEN):  # the key need not be allowed to delete
                    root.delete_contents(created.path_parts[-1])
        self._disconnect_if_idle()
        return f"{self._uri}: {self._path} can be read and written"

    def open(self, scan: ScanRecord) -> None:
        """Remember the scan; its container is made with its first snapshot."""
        self._runs[scan.uid] = _Run(scan, time.monotonic())

    def publish(self, snapshot: Snapshot) -> None:
        """Write the snapshot's arrays, and then the step they belong to.

        Raises:
            PublishError: the server is away, refuses the key or the access tags, or fails; the next call goes on.
        """
        run = self._runs[snapshot.uid]
        arrays = _arrays(snapshot)
        with self._translated_errors():
            if any(path in run.nodes and not _fits(run.nodes[path], array) for path, array in arrays.items()):
                run = self._runs[snapshot.uid] = _Run(run.scan, run.opened, previous=run.nodes[""])
            if "" not in run.nodes:
                run.nodes[""] = self._begun_run(run) or self._new_run(run, snapshot)
            if run.previous is not None:
                key = run.nodes[""].path_parts[-1]
                run.previous.update_metadata({"continued_in": key}, drop_revision=True)
                run.previous = None
            for path, array in arrays.items():
                self._write(run, path, array)
            for node in (run.nodes[f"{_folder(snapshot)}/object"], run.nodes[""]):
                node.update_metadata({"step": snapshot.step, "frames": snapshot.frames}, drop_revision=True)
            self._add_metrics(run, snapshot)

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """Add the report to the run's metadata, `complete` it if there is a final result, and end its streams.

        Raises:
            PublishError: as `publish`.
        """
        run = self._runs.get(uid)
        if run is not None and "" in run.nodes:
            with self._translated_errors():
                complete = "final/object" in run.nodes
                run.nodes[""].update_metadata({**report, "complete": complete}, drop_revision=True)
                for node in run.nodes.values():
                    node.close_stream()
        self._runs.pop(uid, None)
        self._disconnect_if_idle()

    def _catalog(self) -> Container:
        """The container of all reconstructions, created where missing."""
        if self._root is None:
            with ExitStack() as opened:
                node = self._connect()
                opened.callback(node.context.http_client.close)
                for key in filter(None, self._path.split("/")):
                    node = node[key] if key in node else self._container(node, key)
                opened.pop_all()
            self._root = node
        return self._root

    def _connect(self) -> Container:
        tiled.client.utils.TILED_RETRY_ATTEMPTS = CLIENT_ATTEMPTS
        here = urlsplit(self._uri).hostname in ("127.0.0.1", "localhost", "::1")  # no proxy leads here
        options = {"timeout": TIMEOUT, "trust_env": not here, "show_progress": False}
        try:
            context, node_path = Context.from_any_uri(self._uri, api_key=self._api_key, **options)
            with ExitStack() as opened:
                opened.callback(context.http_client.close)
                root = from_context(context, node_path_parts=node_path)
                opened.pop_all()
        except (ValueError, httpx.InvalidURL) as error:  # neither JSON nor what Tiled says about itself
            raise PublishError(f"{self._uri} is not the API of a Tiled server: {_first_line(error)}") from error
        return root

    def _container(self, parent: Container, key: str) -> Container:
        created = _create_container(parent, key, {}, self._tags)
        return parent[key] if created is None else created  # None: somebody else, or an unheard answer, was faster

    def _begun_run(self, run: _Run) -> Container | None:
        """The container that an earlier life of the daemon has begun for a scan that goes on, with what is in it."""
        if not run.scan.metadata.get("resumed") or run.previous is not None:
            return None
        catalog, name = self._catalog(), node_name(run.scan.uid)
        node = None
        for key in (name, *(f"{name}-{n}" for n in range(2, 1000))):
            if key not in catalog:
                break
            node = catalog[key]
        if node is None or node.metadata.get("complete") or "continued_in" in node.metadata:
            return None
        for path in list(node):
            if path == "metrics":
                run.nodes[path] = node[path]
                run.rows = len(run.nodes[path].read())
            elif path in ("live", "final"):
                run.nodes[path] = node[path]
                run.nodes |= {f"{path}/{key}": node[path][key] for key in list(node[path])}
        node.update_metadata(
            {"resumed": True, "resumptions": node.metadata.get("resumptions", 0) + 1}, drop_revision=True
        )
        return node

    def _new_run(self, run: _Run, snapshot: Snapshot) -> Container:
        scan, catalog = run.scan, self._catalog()
        metadata = {
            "raw_uid": scan.uid,
            "scan_id": str(scan.scan_id),
            "scan_num": str(scan.scan_id),
            "started_at": datetime.fromtimestamp(scan.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "recon_mode": "ptyinr",
            "x_pixel_m": float(snapshot.pixel_m[1]),
            "y_pixel_m": float(snapshot.pixel_m[0]),
            "complete": False,
            **scan.metadata,
        }
        if run.previous is not None:
            metadata["continues"] = run.previous.path_parts[-1]
        name = node_name(scan.uid)
        for key in (name, *(f"{name}-{n}" for n in range(2, 1000))):
            if (node := _create_container(catalog, key, metadata | {"run_uid": key}, self._tags)) is not None:
                return node
        raise PublishError(f"{self._uri}: {self._path} already holds 999 reconstructions of {scan.uid}")

    def _write(self, run: _Run, path: str, array: NDArray[Any]) -> None:
        # Tiled stores any array with the right number of bytes, and a wrong number of them is a 500 for it.
        if not np.isfinite(array).all():
            raise PublishError(f"{path} of {run.scan.uid} is not finite: it is not published")
        if path not in run.nodes:
            folder, _, key = path.rpartition("/")
            if folder not in run.nodes:
                run.nodes[folder] = self._container(run.nodes[""], folder)
            run.nodes[path] = self._new_array(run.nodes[folder], key, array)
        if not _fits(run.nodes[path], array):
            raise PublishError(f"{path} of {run.scan.uid} exists with another shape")
        run.nodes[path].write(np.ascontiguousarray(array))

    def _new_array(self, parent: Container, key: str, array: NDArray[Any]) -> Any:
        # In one chunk, however large: readers of several chunks were given halves of two snapshots.
        structure = ArrayStructure(
            data_type=BuiltinDtype.from_numpy_dtype(array.dtype),
            chunks=tuple((n,) for n in array.shape),
            shape=array.shape,
        )
        source = DataSource(structure=structure, structure_family=StructureFamily.array)
        with _expected(httpx.codes.CONFLICT):
            return parent.new(StructureFamily.array, [source], key=key, access_tags=self._tags)
        return parent[key]

    def _add_metrics(self, run: _Run, snapshot: Snapshot) -> None:
        """Add a row, or go without: a server that has no storage for tables still gets its images."""
        try:
            if run.table_refusals < TABLE_ATTEMPTS:
                self._append_metrics(run, snapshot)
        except httpx.HTTPError as error:
            run.table_refusals += "metrics" not in run.nodes and isinstance(error, httpx.HTTPStatusError)
            where = f"{self._uri}: {self._path}/{run.nodes[''].path_parts[-1]}/metrics"
            logger.warning("%s: step %d is missing: %s", where, snapshot.step, _first_line(error))

    def _append_metrics(self, run: _Run, snapshot: Snapshot) -> None:
        """Add a row. Tiled never repeats an append whose answer was lost, so two rows may share a `seq`, not a step."""
        row = {
            "seq": run.rows,
            "step": snapshot.step,
            "frames": snapshot.frames,
            "seconds": time.monotonic() - run.opened,
        }
        if "metrics" not in run.nodes:
            columns = [*row, *sorted({*METRICS, *snapshot.metrics} - {*row})]
            with _expected(httpx.codes.CONFLICT):
                run.nodes["metrics"] = run.nodes[""].create_appendable_table(
                    pa.schema([(column, pa.float64()) for column in columns]), key="metrics", access_tags=self._tags
                )
        if "metrics" not in run.nodes:
            run.nodes["metrics"] = run.nodes[""]["metrics"]
        table = run.nodes["metrics"]
        row |= snapshot.metrics
        table.append_partition(0, pa.table({column: [float(row.get(column, math.nan))] for column in table.columns}))
        run.rows += 1

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Turn what Tiled's client raises into a PublishError of one line."""
        where = f"{self._uri}: {self._path}"
        try:
            yield
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                tags = ", ".join(self._tags or ["none"])
                raise PublishError(
                    f"{where}: the API key or the access tags ({tags}) are refused: {_first_line(error)}"
                ) from error
            if code == httpx.codes.NOT_FOUND:
                self._forget()
            raise PublishError(f"{where}: {_first_line(error)}") from error
        except httpx.HTTPError as error:
            raise PublishError(f"{self._uri} cannot be reached: {_first_line(error)}") from error

    def _disconnect_if_idle(self) -> None:
        if self._root is not None and not self._runs:
            self._root.context.http_client.close()
            self._root = None

    def _forget(self) -> None:
        """Begin anew: the server has lost what was written, as one that was started with an empty folder has."""
        if self._root is not None:
            self._root.context.http_client.close()
            self._root = None
        self._runs = {uid: _Run(run.scan, run.opened) for uid, run in self._runs.items()}


def _arrays(snapshot: Snapshot) -> dict[str, NDArray[Any]]:
    """What a snapshot publishes, by path below the run."""
    folder = _folder(snapshot)
    arrays: dict[str, NDArray[Any]] = {
        f"{folder}/object": _amplitude_phase(snapshot.object),
        f"{folder}/probe": _amplitude_phase(snapshot.probe[0]),
        f"{folder}/coverage": np.asarray(snapshot.coverage, np.float32),
    }
    if snapshot.final and len(snapshot.probe) > 1:
        arrays["final/probe_modes"] = np.stack([_amplitude_phase(mode) for mode in snapshot.probe])
    if snapshot.final and len(snapshot.indices):  # Tiled's arrays cannot be empty
        centre = np.array(snapshot.probe.shape[1:]) // 2
        arrays["final/indices"] = np.asarray(snapshot.indices, np.int64)
        arrays["positions_um"] = (snapshot.positions_px + centre) * np.array(snapshot.pixel_m) * 1e6
    return arrays


def _folder(snapshot: Snapshot) -> str:
    return "final" if snapshot.final else "live"


def _amplitude_phase(field: NDArray[np.complexfloating]) -> NDArray[np.float32]:
    """A complex (h, w) field as (2, h, w)."""
    return np.stack([np.abs(field), np.angle(field)]).astype(np.float32)


def _fits(node: Any, array: NDArray[Any]) -> bool:
    return node.shape == array.shape and node.dtype == array.dtype


def _create_container(
    parent: Container, key: str, metadata: dict[str, Any], tags: list[str] | None
) -> Container | None:
    """Create a container; None if the key is taken."""
    with _expected(httpx.codes.CONFLICT):
        return parent.create_container(key, metadata=metadata, access_tags=tags)
    return None


@contextmanager
def _expected(code: int) -> Iterator[None]:
    """Pass over a refusal with this status."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code != code:
            raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
