"""Bluesky documents into events, whatever road they came by: runs, baselines, and data in files or in the documents.

Of a document is validated what is used, against event_model's own schema of it, and the rest is somebody's metadata:
a start document with an odd key, a descriptor without hints must not cost a scan. Legacy `resource` and `datum` become
the same events as `stream_resource` and `stream_datum`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeGuard, cast
from urllib.parse import quote

import numpy as np
from event_model import DocumentNames, schema_validators, unpack_datum_page, unpack_event_page

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import BaselineRead, DataRange, DataResource, Event, Reading, RunStarted, RunStopped

NAMES = frozenset(DocumentNames.__members__)
"""Of all the kinds of documents there are."""
HDF5 = "application/x-hdf5"
"""The one mimetype that can be read."""

UID = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
"""Of a run: it becomes the name of folders and of containers."""
_MOST_RUNS = 64  # whose stop documents were lost
_MOST_DATUMS = 2**17  # twice HXN's longest scan, should each of its frames have one
_LARGEST_INDEX = 2**31  # nothing downstream should allocate by what lies beyond
# Where areaDetector's file plugin puts images; specs of this kind do not say it.
_IMAGES = "/entry/data/data"
_IMAGE_SPECS = ("AD_HDF5", "AD_HDF5_SWMR", "MERLIN_FLY_STREAM_V2", "MERLIN_HDF5_BULK", "TPX_HDF5")

_SENSELESS = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)

_USED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "start": (("uid",), ()),
    "stop": (("run_start",), ()),
    "descriptor": (("uid", "run_start"), ("name",)),
    "event": (("descriptor", "data"), ("seq_num",)),
    "event_page": (("descriptor", "data"), ("seq_num",)),
    "resource": (("uid", "spec", "resource_path", "resource_kwargs"), ("root",)),
    "datum": (("datum_id", "resource", "datum_kwargs"), ()),
    "datum_page": (("datum_id", "resource", "datum_kwargs"), ()),
    "stream_resource": (("uid", "data_key", "uri", "parameters"), ("mimetype", "run_start")),
    "stream_datum": (("stream_resource", "descriptor", "indices", "seq_nums"), ()),
}
"""Of each kind of document the keys that it must have, and those that are looked at where it has them."""


@dataclass
class _Descriptor:
    """What one stream of a run records."""

    stream: str
    shapes: dict[str, tuple[int, ...]]
    external: frozenset[str]
    """Keys whose values name data elsewhere."""


@dataclass
class _Run:
    descriptors: dict[str, _Descriptor] = field(default_factory=dict)
    announced: set[str] = field(default_factory=set)
    """Legacy resources that have become a `DataResource`, by its uid."""


class DocumentReader:
    """Turns documents into events, run by run.

    Args:
        counts: gets `datum_unknown` for a datum that an event names and that never came.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._runs: dict[str, _Run] = {}  # oldest first
        self._run_of: dict[str, str] = {}  # descriptor uid -> run uid
        self._keys: dict[str, str] = {}  # uid of a stream resource -> its data key
        self._resources: dict[str, dict[str, Any]] = {}  # legacy ones
        self._datums: dict[str, dict[str, Any]] = {}

    def read(self, name: str, document: dict[str, Any]) -> list[Event] | None:
        """Give what a document of this name says; None if it says nothing to us.

        Raises:
            WireError: of kind `bad_document`; something that is used is missing or not what it must be.
        """
        if name not in _USED:
            return None
        try:
            if name == "event_page":
                document = _with_lists(document)
            _validate(name, document)
            return self._events(name, document)
        except _SENSELESS as error:
            raise WireError("bad_document", f"a {name} makes no sense: {type(error).__name__}: {error}") from error

    def _events(self, name: str, document: dict[str, Any]) -> list[Event] | None:
        match name:
            case "start":
                return [RunStarted(_uid(document, "uid"), document)]
            case "stop":
                run = _uid(document, "run_start")
                self._forget(run)
                status = document.get("exit_status", "success")
                return [RunStopped(run, status if isinstance(status, str) else "unknown")]
            case "descriptor":
                self._describe(document)
            case "event" | "event_page":
                return self._rows(document, paged=name == "event_page")
            case "resource":
                _keep(self._resources, document["uid"], document)
            case "datum" | "datum_page":
                datums: Iterable[Any] = [document] if name == "datum" else unpack_datum_page(cast(Any, document))
                for datum in datums:
                    _keep(self._datums, datum["datum_id"], datum)
            case "stream_resource":
                uid, key = document["uid"], document["data_key"]
                _keep(self._keys, uid, key)
                kind = document.get("mimetype", HDF5)
                return [DataResource(uid, key, document["uri"], kind, document["parameters"])]
            case "stream_datum":
                return self._range(document)
        return []

    def _describe(self, document: dict[str, Any]) -> None:
        uid, run = _uid(document, "uid"), _uid(document, "run_start")
        keys = document.get("data_keys")
        keys = {key: value for key, value in keys.items() if isinstance(value, dict)} if isinstance(keys, dict) else {}
        self._runs.setdefault(run, _Run()).descriptors[uid] = _Descriptor(
            stream=document.get("name", ""),
            shapes={key: _shape(value.get("shape")) for key, value in keys.items()},
            external=frozenset(key for key, value in keys.items() if value.get("external")),
        )
        self._run_of[uid] = run
        while len(self._runs) > _MOST_RUNS:
            self._forget(next(iter(self._runs)))

    def _forget(self, run: str) -> None:
        for uid in self._runs.pop(run, _Run()).descriptors:
            self._run_of.pop(uid, None)

    def _rows(self, document: dict[str, Any], paged: bool) -> list[Event] | None:
        """An event, or the events of a page."""
        uid = _uid(document, "descriptor")
        run = self._run_of.get(uid)
        if run is None:
            return None
        descriptor = self._runs[run].descriptors[uid]
        blank = {"uid": [], "time": [], "seq_num": [], "timestamps": {}, "filled": {}}
        rows: Iterable[Any] = unpack_event_page(cast(Any, blank | document)) if paged else [document]
        events: list[Event] = []
        for row in rows:
            data, number = row["data"], row.get("seq_num")
            if descriptor.stream == "baseline":
                events.append(BaselineRead(run, data))
            elif _is_index(number) and number:  # they begin at 1
                events += self._data(run, descriptor, number - 1, data)
        return events

    def _data(self, run: str, descriptor: _Descriptor, number: int, data: dict[str, Any]) -> list[Event]:
        """What is in an event, and what it names."""
        # Filled by a handler, an external key has the data itself.
        named = {key: data[key] for key in descriptor.external & data.keys() if isinstance(data[key], str)}
        inline = {key: value for key, value in data.items() if key not in named}
        events: list[Event] = [Reading(run, descriptor.stream, number, inline)] if inline else []
        for key, datum_id in named.items():
            datum = self._datums.pop(datum_id, None)
            resource = self._resources.get(datum["resource"]) if datum else None
            if datum is None or resource is None:
                self._counts["datum_unknown"] += 1
            else:
                events += self._legacy(run, descriptor, number, key, resource, datum["datum_kwargs"])
        return events

    def _legacy(
        self, run: str, descriptor: _Descriptor, number: int, key: str, resource: dict[str, Any], which: dict[str, Any]
    ) -> list[Event]:
        """A datum of a legacy resource, in the words of stream resources."""
        uid, how = f"{resource['uid']}/{key}", resource["resource_kwargs"]
        shape, frames, point = descriptor.shapes.get(key, ()), how.get("frame_per_point"), which.get("point_number", 0)
        if _is_index(frames) and frames:
            shape = (frames, *shape[-2:])
        if not _is_index(point):
            raise ValueError("point_number is no number")
        part = DataRange(uid, run, descriptor.stream, number, point, point + 1, shape)
        if uid in self._runs[run].announced:
            return [part]
        self._runs[run].announced.add(uid)
        path = PurePosixPath(resource.get("root", "/"), resource["resource_path"])
        uri = f"file://localhost{quote(str(path))}"
        return [DataResource(uid, key, uri, HDF5, _parameters(resource["spec"], how, which)), part]

    def _range(self, document: dict[str, Any]) -> list[Event] | None:
        uid, resource = _uid(document, "descriptor"), document["stream_resource"]
        run = self._run_of.get(uid)
        if run is None:
            return None
        descriptor = self._runs[run].descriptors[uid]
        start, stop = document["indices"]["start"], document["indices"]["stop"]
        first = document["seq_nums"]["start"] - 1
        if not (_is_index(start) and _is_index(stop) and _is_index(first) and start <= stop):
            raise ValueError(f"indices {start} to {stop}, from number {first + 1}")
        shape = descriptor.shapes.get(self._keys.get(resource, ""), ())
        return [DataRange(resource, run, descriptor.stream, first, start, stop, shape)]


def _validate(name: str, document: dict[str, Any]) -> None:
    needed, others = _USED[name]
    used = {key: document[key] for key in (*needed, *others) if key in document}
    if missing := [key for key in needed if key not in used]:
        raise WireError("bad_document", f"a {name} needs {' and '.join(missing)}")
    for error in schema_validators[DocumentNames[name]].iter_errors(used):
        # At the root these say only which other keys a document should have.
        if error.absolute_path or error.validator not in ("required", "unevaluatedProperties", "additionalProperties"):
            where = ".".join(map(str, error.absolute_path))
            raise WireError("bad_document", f"a {name}: {where}: {error.message[:200]}")


def _uid(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not (isinstance(value, str) and UID.fullmatch(value)):
        raise WireError("bad_document", f"{key} is no uid")
    return value


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST_INDEX


def _shape(value: Any) -> tuple[int, ...]:
    """The shape of one datum; () where it is not said, or not known beforehand."""
    return tuple(value) if isinstance(value, list | tuple) and all(map(_is_index, value)) else ()


def _parameters(spec: str, how: dict[str, Any], which: dict[str, Any]) -> dict[str, Any]:
    """Where in its file a legacy datum lies, as far as is known of its spec."""
    if isinstance(which.get("field"), str):
        return {"spec": spec, "dataset": f"/{which['field']}"}
    dataset = how.get("dataset", _IMAGES if spec in _IMAGE_SPECS else None)
    return {"spec": spec} if dataset is None else {"spec": spec, "dataset": dataset}


def _with_lists(page: dict[str, Any]) -> dict[str, Any]:
    """A page whose columns are lists, whatever arrays they came as."""
    data = page.get("data")
    if not isinstance(data, dict):
        return page
    return {**page, "data": {key: _list(column) for key, column in data.items()}}


def _list(column: Any) -> Any:
    if not isinstance(column, np.ndarray):
        return column
    return list(column) if column.ndim > 1 else column.tolist()


def _keep(memory: dict[str, Any], uid: str, value: Any) -> None:
    memory[uid] = value
    while len(memory) > _MOST_DATUMS:
        del memory[next(iter(memory))]
