"""Bluesky documents as `bluesky.callbacks.zmq` publishes them: `prefix b" " name b" " payload`, in one part.

The payload is msgpack, with arrays as msgpack_numpy spells them, or JSON. Bluesky's own default is pickle, and a pickle
is a wish to run code here: it is refused, unless the configuration accepts it from anybody. msgpack_numpy would also
unpickle arrays of objects: those are refused always, and arrays of plain numbers and strings are read.

`Decoder.counts`: `documents` read; the names of documents that say nothing to us (`bulk_events`; an `event` of a run
that began before we listened); `other_prefix`; `unknown_name`; `pickle_refused`; `object_refused`; `undecodable`;
`bad_document` without what it must have; `datum_unknown`. The first of each kind that is passed over is logged.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections import Counter
from typing import Any

import msgpack
import numpy as np

from ptyinr_stream.documents import NAMES, DocumentReader
from ptyinr_stream.errors import WireError
from ptyinr_stream.events import Event

_log = logging.getLogger(__name__)

_PLAIN_DTYPE = re.compile(r"[<>|=]?[biufcSU]\d{1,6}")
_MALFORMED = (KeyError, OverflowError, RecursionError, TypeError, ValueError, msgpack.exceptions.UnpackException)


class Decoder:
    r"""Read documents: starts, baselines and stops become events.

    >>> decoder = Decoder(prefix="hxn")
    >>> decoder.feed([b"hxn start " + msgpack.packb({"uid": "3b13cd65"})])
    [RunStarted(uid='3b13cd65', document={'uid': '3b13cd65'})]
    >>> decoder.feed([b"hxn stop " + b"\x80\x04]\x94."]), decoder.counts["pickle_refused"]
    ([], 1)
    """

    def __init__(self, *, prefix: str = "", unpickle_from_anybody: bool = False) -> None:
        """`unpickle_from_anybody` runs whatever code the sender of a pickle wrote into it."""
        self.counts: Counter[str] = Counter()
        self._prefix = prefix.encode()
        self._unpickle = unpickle_from_anybody
        self._reader = DocumentReader(self.counts)

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read one message. Never raises."""
        events: list[Event] = []
        for part in parts:
            try:
                name, document = self._unpack(part)
                said = self._reader.read(name, document)
            except WireError as error:
                if not self.counts[error.kind]:
                    _log.warning("documents: %s; later ones of this kind are only counted", error)
                self.counts[error.kind] += 1
            else:
                self.counts[name if said is None else "documents"] += 1
                events += said or []
        return events

    def _unpack(self, message: bytes) -> tuple[str, dict[str, Any]]:
        prefix, _, rest = message.partition(b" ")
        name, _, payload = rest.partition(b" ")
        if prefix != self._prefix:
            raise WireError("other_prefix", f"prefix {prefix[:20]!r}, where {self._prefix!r} is configured")
        if name not in _NAMES:
            raise WireError("unknown_name", f"{name[:20]!r} is not a document's name")
        document = self._payload(payload)
        if not isinstance(document, dict):
            raise WireError("bad_document", f"a {type(document).__name__} is not a document")
        return _NAMES[name], document

    def _payload(self, payload: bytes) -> Any:
        # In msgpack these first bytes are an empty map and the number 123, which no document is.
        if payload.startswith(b"\x80"):
            return self._pickled(payload)
        try:
            if payload.startswith(b"{"):
                return json.loads(payload)
            return msgpack.unpackb(payload, strict_map_key=False, object_hook=_revive)
        except _MALFORMED as error:
            raise WireError("undecodable", f"neither msgpack nor JSON: {error}") from error

    def _pickled(self, payload: bytes) -> Any:
        if not self._unpickle:
            raise WireError(
                "pickle_refused",
                "a pickled document is refused, for whoever sends a pickle runs code in its reader. Give Bluesky's "
                "Publisher another serializer (deploy/bluesky/publish_documents.py does) or, where nobody else reaches "
                "the endpoint, set streams.documents.unpickle_from_anybody = true",
            )
        try:
            return pickle.loads(payload)  # noqa: S301  the configuration asks for it, by a name that says what it is
        except Exception as error:  # code of the sender may raise anything
            raise WireError("undecodable", f"a pickle that cannot be read: {error}") from error


_NAMES = {name.encode(): name for name in NAMES}


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
