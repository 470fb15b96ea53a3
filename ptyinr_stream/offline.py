"""A recorded scan reconstructed without the stream: the same trainer, all frames at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ptyinr.settings import TrainerSettings
from ptyinr.trainer import Trainer
from ptyinr.training import train
from ptyinr.types import Batch, Snapshot
from ptyinr_stream import __version__
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.publishers.files import write_result


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
        trainer.append(Batch(np.arange(len(scan.counts)), np.asarray(scan.counts), scan.positions_m, scan.mask))
        snapshot = train(
            trainer,
            lambda: (time.monotonic() - began) / max(seconds, 1e-9),
            lambda: progress(time.monotonic() - began, trainer) if progress is not None else None,
        )
    except ValueError as error:
        raise ScanFileError(f"{scan.name}: {error}") from error
    spent = time.monotonic() - began
    snapshot = replace(snapshot, metrics={**snapshot.metrics, "seconds": spent})
    configuration = json.dumps({"settings": asdict(settings), "seconds": seconds, "device": device})
    attributes = {"seconds": spent, "version": __version__, "configuration": configuration}
    write_result(output, snapshot, attributes)
    return snapshot
