"""What training has learned, on disk: the daemon killed at any instant goes on from here.

A checkpoint is written beside its name and renamed when it is whole, and the one before is kept: a torn or truncated
file costs the time between two, never the scan. It holds tensors, numbers and text, and nothing in it is unpickled.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptyinr_stream.errors import CheckpointError

_log = logging.getLogger(__name__)

_NAMES = ("checkpoint.pt", "checkpoint.before.pt")
_UNFINISHED = "checkpoint.tmp"
"""Stays where the daemon is killed while it writes."""


class Checkpoints:
    """A folder with one for each scan that has begun and is not over: `<folder>/<run uid>/checkpoint.pt`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def begun(self) -> set[str]:
        """The scans that have begun and are not over, in this life of the daemon or in one before."""
        return {path.name for path in self._folder.iterdir()} if self._folder.is_dir() else set()

    def begin(self, uid: str) -> None:
        """Note that a scan has begun."""
        with contextlib.suppress(OSError):  # `save` says so
            (self._folder / uid).mkdir(parents=True, exist_ok=True)

    def save(self, uid: str, state: Mapping[str, Any]) -> None:
        """Replace the scan's checkpoint by a state, in one step.

        Raises:
            CheckpointError: it cannot be written; the one before is still there.
        """
        import torch  # noqa: PLC0415  whoever only notes what begins need not wait for it

        newest, before = (self._folder / uid / name for name in _NAMES)
        memory = io.BytesIO()
        torch.save(dict(state), memory)
        unfinished = newest.with_name(_UNFINISHED)
        try:
            newest.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(memory.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if newest.exists():
                newest.replace(before)
            unfinished.replace(newest)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise CheckpointError(f"{newest}: cannot be written: {error.strerror}; training goes on without") from error

    def states(self, uid: str) -> Iterator[dict[str, Any]]:
        """The states that can be read of a scan, newest first, each when it is asked for. What is torn is reported."""
        import torch  # noqa: PLC0415

        for name in _NAMES:
            path = self._folder / uid / name
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
                _log.warning("%s: is torn and left out: %s", path, str(error).splitlines()[0] if str(error) else error)
            else:
                if isinstance(state, dict):
                    yield state

    def forget(self, uid: str) -> None:
        """Remove what is kept of a scan that is over."""
        for name in (*_NAMES, _UNFINISHED):
            with contextlib.suppress(OSError):
                (self._folder / uid / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self._folder / uid).rmdir()
