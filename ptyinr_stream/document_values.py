"""Values out of documents that came off a wire: each is what it must be, or a `GeometryError` says where it is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ptyinr_stream.errors import GeometryError


def section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A map inside a document; empty where there is none.

    >>> section({"scan": {"type": "2D_FLY_PANDA"}}, "scan")["type"], section({"scan": "2D"}, "scan")
    ('2D_FLY_PANDA', {})
    """
    value = document.get(key)
    return value if isinstance(value, Mapping) else {}


def items(value: Any, length: int, name: str) -> list[Any]:
    """A list of a given length."""
    try:
        found = list(value)
    except TypeError:
        found = []
    if len(found) != length:
        raise GeometryError(f"start document: {name} is {value!r}: it must be a list of {length}")
    return found


def numbers(value: Any, length: int, name: str) -> list[float]:
    """A list of so many finite numbers."""
    return [number(item, name) for item in items(value, length, name)]


def number(value: Any, name: str) -> float:
    """A finite number."""
    try:
        found = float(value)
    except (OverflowError, TypeError, ValueError):
        found = math.nan
    # What is larger than any instrument must not become infinite further on.
    if not abs(found) < 1e15:
        raise GeometryError(f"{name} has {value!r} where a finite number is needed")
    return found


def count(value: Any, name: str) -> int:
    """A whole number, at least 1."""
    found = number(value, name)
    if found < 1 or found != int(found):
        raise GeometryError(f"start document: {name} has {value} where a number of frames is needed")
    return int(found)


def names(value: Any) -> list[str]:
    """The strings of a list; none where it is no list."""
    return [str(item) for item in value if isinstance(item, str)] if isinstance(value, list | tuple) else []
