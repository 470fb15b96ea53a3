"""A recorded scan reconstructed without the stream: the same trainer, all frames at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ptyinr.trainer import Trainer, TrainerSettings, annealed
from ptyinr.types import Batch, Snapshot
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.publishers.files import write_result

LOOKS = 20
"""How often the state is judged in the given time."""


def reconstruct(
    scan: RecordedScan,
    output: Path,
    *,
    seconds: float,
    settings: TrainerSettings,
    probe: np.ndarray | None = None,
    device: str = "cpu",
    progress: Callable[[float, Trainer], None] | None = None,
) -> Snapshot:
    """Train on a whole scan for some time and write the result.

    Args:
        scan: what was recorded.
        output: the HDF5 file to write, see `publishers.files.write_result`.
        seconds: of training, the search for the probe included.
        settings: of the trainer.
        probe: (modes, h, w) complex to start from; None finds one in the data.
        device: torch's name.
        progress: called after every step with the seconds spent.

    Returns:
        The final snapshot.

    Raises:
        ScanFileError: the scan cannot be reconstructed; it says why.
        PublishError: the file cannot be written.
    """
    began = time.monotonic()
    try:
        trainer = Trainer(scan.geometry, scan.scan_range, settings, uid=scan.name, probe=probe, device=device)
        mask = None if scan.mask is None else np.broadcast_to(scan.mask, scan.counts.shape)
        trainer.append(Batch(np.arange(len(scan.counts)), scan.counts, scan.positions_m, mask))
        spent, next_look = 0.0, seconds / LOOKS
        while spent < seconds or not trainer.steps:
            trainer.step(annealed(spent / max(seconds, 1e-9)))
            spent = time.monotonic() - began
            if spent >= next_look:
                trainer.snapshot()  # judges the state, so that the final one is not worse than the best
                next_look += seconds / LOOKS
            if progress is not None:
                progress(spent, trainer)
        snapshot = trainer.snapshot(final=True)
    except ValueError as error:
        raise ScanFileError(f"{scan.name}: {error}") from error
    spent = time.monotonic() - began
    snapshot = replace(snapshot, metrics={**snapshot.metrics, "seconds": spent})
    configuration = json.dumps({"settings": asdict(settings), "seconds": seconds, "device": device})
    attributes = {"seconds": spent, "version": version("ptyinr-stream"), "configuration": configuration}
    write_result(output, snapshot, attributes)
    return snapshot
