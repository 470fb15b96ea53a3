"""A scan on disk: one folder a run, written while it is measured, readable at any moment and after any death.

    <folder>/<run uid>/
        000-journal.h5      what came for the run but frames, in the daemon's first life: documents, positions, times
        000-series-7.h5     the frames of detector series 7, bytes as they came
        001-...             the same of the daemon's next life, if it died during the scan
        recording.h5        the master: all frames as one virtual dataset, the state, documents and positions by name
        attempts            while a life goes on with it, and after it was killed: how many have, see `resumptions`

The segments are the recording. Each is an HDF5 file in SWMR mode, which has three consequences (measured, HDF5 2.0):
what was flushed before its writer was killed can be read, with `swmr=True` only; a killed one can never be opened for
writing again, so that each life writes its own; no dataset can be added later, so that a series, whose first frame
tells the shape, begins its own. The master is a convenience for other programs, replaced as a whole whenever a segment
is added and at the end; the reader here takes only state and report from it.

SWMR needs a local disk or a parallel file system; over NFS it promises nothing.

| dataset of a segment | |
|---|---|
| `events` | a row each: `order` of arrival in its life, `time` (s of the Unix epoch), `kind`, `start`, `length` |
| `bytes` | events of kind 1, packed (see `packing`): `length` bytes from `start` |
| `frames/data` | (n, rows, columns): kind 2 is its chunk `start`, of `length` bytes, with the attribute `event` |
| `frames/id` | (n, 2): series and frame of each |
| `exposures` | series, frame, start_ns, stop_ns: kind 3 is its row `start` |
"""

from __future__ import annotations

from pathlib import Path

MASTER = "recording.h5"
FORMAT = "ptyinr-stream recording"
VERSION = 1


def is_recording(path: Path) -> bool:
    """Whether a path is a recording's folder."""
    return path.is_dir() and any(path.glob("[0-9][0-9][0-9]-*.h5"))
