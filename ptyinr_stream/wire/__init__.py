"""Sans-IO decoders, one file a wire: bytes in, events out. No sockets, no clock, no threads.

Every module here defines `Decoder`, which the wire's name in the configuration finds. `codecs` decodes the images.
`native` is the shortest of them, and shows how a detector is added.
"""

from __future__ import annotations

import inspect
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol, TypeGuard

import numpy as np
import orjson

from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import ConfigError, WireError
from ptyinr_stream.events import Event
from ptyinr_stream.plugins import load_plugin

_LARGEST_NUMBER = 2**32  # series and frames beyond it are garbage, and nothing downstream should allocate by them
_LARGEST_IMAGE = 2**28  # bytes: four times an image of the largest detectors
_MOST_BRACKETS = 2**14
_OPTIONS = ("channel", "prefix")  # of a stream, and not of every wire


class WireDecoder(Protocol):
    """What every `Decoder` of this package can do.

    Its constructor takes, as keywords, the fields of `StreamConfig` that it wants to know; most want none.
    """

    counts: Counter[str]
    """Messages by what became of them; each decoder names its kinds."""

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Turn one ZeroMQ message, given as its parts, into events. Never raises: what it cannot read it counts."""
        ...


def decoder_of(stream: StreamConfig) -> WireDecoder:
    """Construct the decoder that a stream names, with the options that it takes.

    >>> decoder_of(StreamConfig(endpoint="tcp://127.0.0.1:5559", wire="eiger_v1", channel="threshold_2"))
    Traceback (most recent call last):
    ...
    ptyinr_stream.errors.ConfigError: wire 'eiger_v1' has no channel: leave out channel = 'threshold_2'

    Raises:
        ConfigError: there is no such wire, or an option is set that it does not have.
    """
    decoder = load_plugin(__name__, stream.wire).Decoder
    takes = inspect.signature(decoder).parameters
    for name in _OPTIONS:
        if name not in takes and (value := getattr(stream, name)):
            raise ConfigError(f"wire {stream.wire!r} has no {name}: leave out {name} = {value!r}")
    return decoder(**{name: getattr(stream, name) for name in takes})


def read_messages(
    parts: Iterable[bytes], read: Callable[[bytes], Iterable[Event]], counts: Counter[str]
) -> list[Event]:
    """The events of messages of one part each; one that cannot be read is counted, and what it said before stays."""
    events: list[Event] = []
    for part in parts:
        try:
            for event in read(part):
                events.append(event)
        except WireError as error:
            counts[error.kind] += 1
    return events


def is_number(value: Any) -> TypeGuard[int]:
    """Whether a value can be the number of a series or a frame, or one side of an image.

    >>> is_number(7), is_number(True), is_number(-1), is_number(7.0), is_number(2**32)
    (True, False, False, False, False)
    """
    return type(value) is int and 0 <= value < _LARGEST_NUMBER  # not isinstance: true is no frame number


def is_image_shape(shape: Any, dtype: np.dtype[Any]) -> TypeGuard[list[int]]:
    """Whether this is [rows, columns] (or the other way round) of an image that is worth the memory."""
    if not (isinstance(shape, list | tuple) and len(shape) == 2 and all(map(is_number, shape))):
        return False
    return 0 < math.prod(shape) * dtype.itemsize <= _LARGEST_IMAGE


def exposure_ns(start_ns: Any, stop_ns: Any) -> tuple[int, int] | None:
    """When an exposure began and ended, if it can have done so then."""
    if type(start_ns) is int and type(stop_ns) is int and 0 <= start_ns <= stop_ns < 2**63:
        return start_ns, stop_ns
    return None


def read_json(part: bytes, largest: int) -> Any:
    """What a part says in JSON; None where it says nothing, or is suspicious.

    Lists and maps take forty times their bytes in memory, numbers and text eight times: of the former only so many are
    read, and of all no more than `largest` bytes.

    >>> read_json(b'{"frame": 7}', 100), read_json(b'{"frame": ', 100), read_json(b"[]" * 50, 99)
    ({'frame': 7}, None, None)
    """
    if len(part) > largest or part.count(b"[") + part.count(b"{") > _MOST_BRACKETS:
        return None
    try:
        return orjson.loads(part)
    except ValueError:
        pass
    try:
        return json.loads(part)  # it knows NaN, which some senders write
    except (ValueError, RecursionError):
        return None


def plain(value: Any, deepest: int = 16) -> Any:
    """What JSON can say of a value off the wire: dates become text, and what it has no word for becomes None.

    So does what lies deeper than any header is.

    >>> plain({"energy": 12000.0, "translation": (0.0, 2.05), "secret": b"?", 3: 4})
    {'energy': 12000.0, 'translation': [0.0, 2.05], 'secret': None}
    """
    match value:
        case bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat()
        case list() | tuple() if deepest:
            return [plain(item, deepest - 1) for item in value]
        case Mapping() if deepest:
            return {key: plain(item, deepest - 1) for key, item in value.items() if isinstance(key, str)}
    return None
