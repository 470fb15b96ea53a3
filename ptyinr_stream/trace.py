"""Which position each frame was given, and when: a table for whoever suspects the join.

Nothing is written while a scan runs. What is kept are the arrays of indices and positions that the batches hold anyway.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ptyinr_stream.outputs import Joined, Output, ScanClosed

_log = logging.getLogger(__name__)

HEADER = "order,frame,axis0_um,axis1_um,joined_at_s"


class Trace:
    """Writes `<folder>/<run uid>.csv` when a scan is closed: a row a frame, in the order in which they were joined.

    Args:
        folder: is made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scans: dict[str, list[np.ndarray]] = {}

    def take(self, output: Output) -> None:
        """Take what the assembler gives. A file that cannot be written is logged, and nothing else suffers."""
        match output:
            case Joined(uid, batch, at):
                times = np.full(len(batch.indices), at)
                rows = np.column_stack([batch.indices, 1e6 * batch.positions_m, times])
                self._scans.setdefault(uid, []).append(rows)
            case ScanClosed(uid):
                if rows := self._scans.pop(uid, None):
                    self._write(uid, np.concatenate(rows))
            case _:
                pass

    def _write(self, uid: str, rows: np.ndarray) -> None:
        # A uid comes off a wire and must not lead out of the folder.
        path = self._folder / ("".join(c if c.isalnum() or c in "-_" else "_" for c in uid)[:128] + ".csv")
        table = np.column_stack([np.arange(len(rows)), rows])
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, table, fmt=["%d", "%d", "%.6f", "%.6f", "%.6f"], delimiter=",", header=HEADER, comments="")
        except OSError as error:
            _log.warning("%s: the trace cannot be written: %s", path, error)
