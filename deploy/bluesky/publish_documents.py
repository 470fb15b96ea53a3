"""Send the documents of a RunEngine to ptyinr-stream: one file for the beamline's profile, needing nothing else of it.

Copy it into a folder of its own, and write into an IPython startup file that comes after the one that makes `RE`, such
as `~/.ipython/profile_collection/startup/98-ptyinr-documents.py`:

    import sys
    sys.path.append("/opt/ptyinr-stream/bluesky")
    from publish_documents import subscribe
    subscribe(RE, "tcp://ptyinr.example.org:5567")

Import it, do not paste it: what a startup file defines lies in the user's namespace, where the next `text = ...` at the
prompt would replace a function of this name.

The address is the one that the daemon binds (`streams.documents` with `bind = true`); no proxy stands between. Needed
beside bluesky, which brings msgpack and msgpack-numpy: pyzmq (`pip install bluesky[zmq]`).

Data taking comes first. With nobody at the address, with a daemon that hangs, with metadata that no wire can carry, a
plan takes its course: documents are dropped, the first failure is logged, nothing is raised. Bluesky alone does not
promise that: a serializer that raises aborts the plan, and plain msgpack raises at the first datetime in a start
document. Its default, pickle, is not used: whoever reads a pickle runs what it says.
"""

from __future__ import annotations

import datetime
import enum
import logging
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import zmq
from bluesky.callbacks.zmq import Publisher

logger = logging.getLogger("publish_documents")

LINGER_MS = 1000
"""How long closing may wait for documents under way."""
MAX_DEPTH = 32
"""Deeper values, and so values that hold themselves, are sent as text."""
PACK = partial(msgpack.packb, default=msgpack_numpy.encode, unicode_errors="replace")
"""Msgpack of a plain document; numeric arrays are spelled as `msgpack_numpy` spells them."""


def subscribe(RE: Any, address: str, prefix: bytes = b"hxn") -> int:  # noqa: N803 (the name it has in every profile)
    """Publish every document of `RE` from now on.

    Args:
        RE: the RunEngine.
        address: where the daemon listens, such as tcp://ptyinr.example.org:5567.
        prefix: the topic; `streams.documents.prefix` of the daemon's configuration must be the same.

    Returns:
        The token for `RE.unsubscribe`.

    Raises:
        ValueError: the prefix contains a space.
        zmq.ZMQError: the address is not an address. A host that does not answer is no error.
    """
    return RE.subscribe(DocumentPublisher(address, prefix))


class DocumentPublisher(Publisher):
    """Bluesky's publisher with msgpack for pickle, and with no way to disturb a plan."""

    def __init__(self, address: str, prefix: bytes = b"hxn") -> None:
        super().__init__(address, prefix=prefix, serializer=PACK)
        # ZeroMQ's default waits for ever: with a subscriber that had stopped reading, close() never returned.
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._complained = False

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        """Send one document, or drop it."""
        try:
            # Plain first: the base class makes a deep copy, which locks, sockets and devices refuse.
            super().__call__(name, plain(doc))
        except Exception:
            if not self._complained:
                logger.exception("a %s document was not published; later failures are not logged", name)
            self._complained = True


def plain(value: Any, depth: int = 0) -> Any:
    """The same value made of what msgpack carries; never raises, never changes its argument.

    >>> plain({"when": datetime.date(2026, 3, 1), "tags": {2, 1}, 7: 2**70, "n": np.int64(3)})
    {'when': '2026-03-01', 'tags': [1, 2], '7': '1180591620717411303424', 'n': 3}
    """
    try:
        return text(value) if depth > MAX_DEPTH else _plain(value, depth + 1)
    except Exception:  # noqa: BLE001 (what stands in somebody's metadata may raise anything)
        return text(value)


def text(value: Any) -> str:
    """`str(value)`, or the type's name where that fails."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001 (as above)
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    match value:
        case enum.Enum():
            return plain(value.value, depth)
        case None | bool() | str() | bytes():
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else text(value)
        case float():
            return float(value)
        case datetime.date() | datetime.time():
            return value.isoformat()
        case bytearray() | memoryview():
            return bytes(value)
        case np.ndarray():
            # Arrays of anything else, above all of objects, `msgpack_numpy` would pickle.
            return value if value.dtype.kind in "biufc" else plain(value.tolist(), depth)
        case np.generic():
            number = value.item()  # of a longdouble: itself
            return text(value) if isinstance(number, np.generic) else plain(number, depth)
        case Mapping():
            return {name if type(name) is str else text(name): plain(item, depth) for name, item in value.items()}
        case list() | tuple() | deque():
            return [plain(item, depth) for item in value]
        case set() | frozenset():
            return sorted((plain(item, depth) for item in value), key=text)
    return text(value)
