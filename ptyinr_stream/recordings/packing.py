"""Events as bytes and back, without loss: a line of JSON, then the bytes of its arrays.

Documents stay readable by eye. What JSON cannot say carries a name with `$`: arrays and bytes point behind the line,
tuples and numpy's scalars are marked. Nothing is unpickled; a value that is none of these is kept as its text.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ptyinr_stream import events
from ptyinr_stream.errors import ScanFileError

_TYPES: dict[str, type] = {
    name: kind for name, kind in vars(events).items() if isinstance(kind, type) and is_dataclass(kind)
}


def pack(value: Any) -> bytes:
    r"""Serialise an event, or any value that events are made of.

    >>> pack(events.RunStopped("3b13cd65"))
    b'{"$type":"RunStopped","uid":"3b13cd65","exit_status":"success"}\n'
    """
    blocks: list[bytes] = []
    line = json.dumps(_plain(value, blocks), separators=(",", ":"))
    return b"".join([line.encode(), b"\n", *blocks])


def unpack(data: bytes) -> Any:
    """Give back what was packed.

    >>> unpack(pack((1, b"x", np.arange(3))))
    (1, b'x', array([0, 1, 2]))

    Raises:
        ScanFileError: the bytes are torn, or were written by a version that knows other events.
    """
    line, _, rest = data.partition(b"\n")
    try:
        return _revive(json.loads(line), rest)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ScanFileError(f"an event cannot be read, torn or of another version: {error!r}") from error


def _plain(value: Any, blocks: list[bytes]) -> Any:
    match value:
        case None | bool() | str():
            return value
        case np.generic() | np.ndarray() if not value.dtype.hasobject:
            at = _append(np.ascontiguousarray(value).tobytes(), blocks)
            shape = None if isinstance(value, np.generic) else list(value.shape)
            return {"$array": value.dtype.str, "shape": shape, "at": at}
        case int() | float():
            return value
        case list():
            return [_plain(item, blocks) for item in value]
        case tuple():
            return {"$tuple": [_plain(item, blocks) for item in value]}
        case bytes():
            return {"$bytes": _append(value, blocks)}
        case complex():
            return {"$complex": [value.real, value.imag]}
        case np.dtype():
            return {"$dtype": value.str}
        case dict():
            if all(isinstance(key, str) and not key.startswith("$") for key in value):
                return {key: _plain(item, blocks) for key, item in value.items()}
            return {"$items": [[_plain(key, blocks), _plain(item, blocks)] for key, item in value.items()]}
    if is_dataclass(value) and type(value).__name__ in _TYPES:
        known = {field.name: _plain(getattr(value, field.name), blocks) for field in fields(value)}
        return {"$type": type(value).__name__, **known}
    return str(value)


def _append(block: bytes, blocks: list[bytes]) -> list[int]:
    start = sum(map(len, blocks))
    blocks.append(block)
    return [start, len(block)]


def _revive(value: Any, blocks: bytes) -> Any:
    if isinstance(value, list):
        return [_revive(item, blocks) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$type": str(name), **known}:
            return _TYPES[name](**{key: _revive(item, blocks) for key, item in known.items()})
        case {"$array": str(dtype), "shape": shape, "at": at}:
            flat = np.frombuffer(_block(at, blocks), np.dtype(dtype)).copy()
            return flat[0] if shape is None else flat.reshape(shape)
        case {"$tuple": list(items)}:
            return tuple(_revive(item, blocks) for item in items)
        case {"$bytes": at}:
            return _block(at, blocks)
        case {"$complex": [real, imaginary]}:
            return complex(real, imaginary)
        case {"$dtype": str(dtype)}:
            return np.dtype(dtype)
        case {"$items": list(pairs)}:
            return {_revive(key, blocks): _revive(item, blocks) for key, item in pairs}
    return {key: _revive(item, blocks) for key, item in value.items()}


def _block(at: list[int], blocks: bytes) -> bytes:
    start, length = at
    block = blocks[start : start + length]
    if len(block) != length:
        raise ValueError(f"{len(block)} of {length} bytes")
    return block
