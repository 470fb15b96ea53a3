"""The master: all segments of a recording as one file, for any program that reads HDF5, and how the recording stands.

It is written anew, beside the old one, and takes its place in one step. A growing recording is read with `swmr=True`:

| | |
|---|---|
| attributes | `uid`, `state`, `reason`; as JSON `configuration`, `report`, `counts` |
| `frames/data`, `frames/id` | virtual: frames of all segments; (series, frame) of each |
| `documents` | JSON of start, baseline, stop ..., as they came |
| `positions/...` | once the recording has ended: `first_sample`, `length` of each message, and its channels' samples |

Frames of another shape or type than the first segment's stay in their segments, and are in `frames/id` of none.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from ptyinr_stream.events import PositionsArrived

from . import FORMAT, MASTER, VERSION
from .segment import WRITE_ERRORS, frames_of, opened, read_attributes, write_attributes

State = Literal["growing", "interrupted", "complete", "incomplete"]
"""`growing` while a daemon writes, and after one was killed; `interrupted` where it ended before its scan did;
`incomplete` where the disk failed or was full."""


@dataclass(frozen=True)
class Standing:
    """How a recording stands."""

    uid: str
    state: State = "growing"
    reason: str = ""
    """Of a state that is not `complete`."""
    configuration: str = "{}"
    """JSON."""
    report: dict[str, Any] = field(default_factory=dict)
    """The scan's, once it has closed."""
    counts: dict[str, int] = field(default_factory=dict)
    """What was received in the recording's time and belonged to no scan."""


def write_master(
    folder: Path, standing: Standing, documents: Sequence[str] = (), positions: Sequence[PositionsArrived] = ()
) -> None:
    """Write the master of the segments there are.

    Raises:
        OSError: it cannot be written; the old one stands.
        RuntimeError: likewise.
    """
    segments = sorted(folder.glob("[0-9][0-9][0-9]-*.h5"))
    new = folder / f".{MASTER}"
    with h5py.File(new, "w", libver="latest") as file:
        known = {**asdict(standing), "report": json.dumps(standing.report), "counts": json.dumps(standing.counts)}
        write_attributes(file, {"format": FORMAT, "format_version": str(VERSION), **known})
        _link_frames(file, segments)
        file["documents"] = np.array([document.encode() for document in documents], bytes)
        if positions:
            _lay_positions(file.create_group("positions"), positions)
    os.replace(new, folder / MASTER)


def read_standing(folder: Path) -> Standing | None:
    """How a recording stands; None without a readable master."""
    try:
        with opened(folder / MASTER) as file:
            known = read_attributes(file)
            texts = {name: known[name] for name in ("uid", "state", "reason", "configuration")}
            found = {name: json.loads(known[name]) for name in ("report", "counts")}
            return Standing(**texts, **found)  # pyright: ignore[reportArgumentType]
    except (*WRITE_ERRORS, KeyError, ValueError):
        return None


def read_documents(folder: Path) -> list[str]:
    """The documents in the master, none where there is none."""
    try:
        with opened(folder / MASTER) as file:
            return [document.decode() for document in file["documents"][()]]
    except (*WRITE_ERRORS, KeyError):
        return []


def _link_frames(file: h5py.File, segments: Sequence[Path]) -> None:
    found = [entry for entry in frames_of(list(segments)) if entry[1][0]]
    alike = [(path, len_) for path, (len_, *shape), dtype in found if (tuple(shape), dtype) == _form(found[0])]
    if not alike:
        return
    shape, dtype = _form(found[0])
    for name, rest, kind in (("data", shape, dtype), ("id", (2,), np.dtype(np.int64))):
        frames = sum(length for _, length in alike)
        layout = h5py.VirtualLayout((frames, *rest), kind, maxshape=(None, *rest))
        start = 0
        for number, (path, length) in enumerate(alike):
            source = h5py.VirtualSource(path.name, f"frames/{name}", (length, *rest), kind, maxshape=(None, *rest))
            if number < len(alike) - 1:
                layout[start : start + length] = source[:length]
            else:  # the one that may still grow
                layout[start : h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
            start += length
        file.create_virtual_dataset(f"frames/{name}", layout, fillvalue=0)


def _form(found: tuple[Path, tuple[int, ...], np.dtype[Any]]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    _, (_, *shape), dtype = found
    return tuple(shape), dtype


def _lay_positions(group: h5py.Group, positions: Sequence[PositionsArrived]) -> None:
    """One row a sample in the order of arrival; NaN where a message lacked the channel."""
    lengths = [max(map(len, message.channels.values()), default=0) for message in positions]
    group["first_sample"] = np.array([message.first_sample for message in positions], np.int64)
    group["length"] = np.array(lengths, np.int64)
    for name in sorted({name for message in positions for name in message.channels}):
        samples = np.full(sum(lengths), np.nan)
        start = 0
        for message, length in zip(positions, lengths, strict=True):
            values = message.channels.get(name, np.zeros(0))
            samples[start : start + len(values)] = values
            start += length
        with contextlib.suppress(ValueError):  # a name that HDF5 cannot have; the segments hold it
            group[name.strip("/").replace("/", ".") or "unnamed"] = samples
