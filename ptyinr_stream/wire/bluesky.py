"""Bluesky documents as `bluesky.callbacks.zmq` publishes them: `prefix b" " name b" " payload`, the payload in msgpack.

Nothing is ever unpickled: a pickle is a wish to run code here. Bluesky's publisher pickles by default, and
msgpack_numpy pickles arrays of objects. Arrays of plain numbers and strings are read.

`Decoder.counts`: `documents` read; the names of documents that say nothing to us (`descriptor`, `event` ...);
`other_prefix`; `unknown_name`; `pickle_refused`; `object_refused`; `undecodable`; `bad_document` without the keys it
must have.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgpack
import numpy as np
from event_model import DocumentNames

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import BaselineRead, Event, RunStarted, RunStopped

_PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d{1,6}")
_UID = re.compile(r"\w[\w.-]{0,127}", re.ASCII)  # becomes the name of folders and of containers
_MOST_BASELINES = 64  # runs whose stop document was lost
_MALFORMED = (KeyError, OverflowError, RecursionError, TypeError, ValueError, msgpack.exceptions.UnpackException)


class Decoder:
    r"""Read documents: starts, baselines and stops become events.

    >>> decoder = Decoder(prefix="hxn")
    >>> decoder.feed([b"hxn start " + msgpack.packb({"uid": "3b13cd65"})])
    [RunStarted(uid='3b13cd65', document={'uid': '3b13cd65'})]
    >>> decoder.feed([b"hxn stop " + b"\x80\x04]\x94."]), decoder.counts["pickle_refused"]
    ([], 1)
    """

    def __init__(self, *, prefix: str = "") -> None:
        self.counts: Counter[str] = Counter()
        self._prefix = prefix.encode()
        self._baselines: dict[str, str] = {}  # descriptor uid -> run uid

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read one message. Never raises."""
        events: list[Event] = []
        for part in parts:
            try:
                events += self._document(*self._unpack(part))
            except WireError as error:
                self.counts[error.kind] += 1
        return events

    def _unpack(self, message: bytes) -> tuple[str, dict[str, Any]]:
        prefix, _, rest = message.partition(b" ")
        name, _, payload = rest.partition(b" ")
        if prefix != self._prefix:
            raise WireError("other_prefix", f"prefix {prefix[:20]!r}")
        if name not in _NAMES:
            raise WireError("unknown_name", f"{name[:20]!r} is not a document's name")
        if payload.startswith(b"\x80"):  # in msgpack an empty map, which no document is
            raise WireError("pickle_refused", "the payload is pickled: give the publisher msgpack as its serializer")
        try:
            document = msgpack.unpackb(payload, strict_map_key=False, object_hook=_revive)
        except _MALFORMED as error:
            raise WireError("undecodable", f"not msgpack: {error}") from error
        if not isinstance(document, dict):
            raise WireError("bad_document", f"a {type(document).__name__} is not a document")
        return _NAMES[name], document

    def _document(self, name: str, document: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        match name:
            case "start":
                events = [RunStarted(_uid(document, "uid"), document)]
            case "descriptor" if document.get("name") == "baseline":
                self._baselines[_uid(document, "uid")] = _uid(document, "run_start")
                while len(self._baselines) > _MOST_BASELINES:
                    del self._baselines[next(iter(self._baselines))]
            case "event" | "event_page" if (descriptor := _uid(document, "descriptor")) in self._baselines:
                rows = _rows(document.get("data"), paged=name == "event_page")
                events = [BaselineRead(self._baselines[descriptor], values) for values in rows]
            case "stop":
                run = _uid(document, "run_start")
                self._baselines = {key: value for key, value in self._baselines.items() if value != run}
                status = document.get("exit_status", "success")
                events = [RunStopped(run, status if isinstance(status, str) else "unknown")]
            case _:
                self.counts[name] += 1
                return []
        self.counts["documents"] += 1
        return events


_NAMES = {name.encode(): name for name in DocumentNames.__members__}


def _uid(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not (isinstance(value, str) and _UID.fullmatch(value)):
        raise WireError("bad_document", f"{key} is no uid")
    return value


def _rows(data: Any, paged: bool) -> list[dict[str, Any]]:
    """The readings of an event, or of each event of a page."""
    if not isinstance(data, dict):
        raise WireError("bad_document", "an event needs data")
    if not paged:
        return [data]
    columns = [column.tolist() if isinstance(column, np.ndarray) else column for column in data.values()]
    if not all(isinstance(column, list) for column in columns):
        raise WireError("bad_document", "the data of an event page must be lists")
    return [dict(zip(data, row, strict=True)) for row in zip(*columns, strict=False)]


def _revive(value: dict[Any, Any]) -> Any:
    """Make numpy values of the maps that msgpack_numpy makes of them.

    msgpack_numpy.decode is not for strangers: it unpickles kind 'O', and a dtype of '|O' makes the bytes of the message
    pointers, which ends the process.
    """
    if b"complex" in value:
        return complex(value[b"data"])
    if b"nd" not in value:
        return value
    kind, dtype, data = value.get(b"kind"), value.get(b"type"), value.get(b"data")
    if kind == b"O" or (isinstance(dtype, str) and "O" in dtype):
        raise WireError("object_refused", "an array of objects")
    if not (isinstance(dtype, str) and _PLAIN_DTYPE.fullmatch(dtype) and isinstance(data, bytes)):
        raise WireError("undecodable", f"an array of {str(dtype)[:40]}")
    flat = np.frombuffer(data, dtype)
    if value[b"nd"] is True:
        return flat.reshape(value[b"shape"])
    if len(flat) != 1:
        raise WireError("undecodable", f"{len(flat)} numbers for one")
    return flat[0]
