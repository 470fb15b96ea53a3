"""PtyINR: ptychography with implicit neural representations, on data that may still be growing.

Arrays in, arrays out: this package knows no files, sockets, threads, clocks or environment.

>>> import numpy as np
>>> from ptyinr import Batch, ScanGeometry, ScanRange, Trainer
>>> geometry = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=75e-6, window=(16, 16))
>>> positions_m = np.stack(np.mgrid[:8, :8], -1).reshape(-1, 2) * 2 * geometry.pixel_m[0]
>>> counts = np.random.default_rng(0).poisson(50.0, (64, 16, 16))
>>> trainer = Trainer(geometry, ScanRange(tuple(positions_m.min(0)), tuple(positions_m.max(0))))
>>> trainer.append(Batch(np.arange(64), counts, positions_m))
>>> trainer.ready(complete=True), trainer.step().step, trainer.snapshot().probe.shape
(True, 1, (1, 16, 16))
"""

from typing import TYPE_CHECKING, Any

from .types import Batch, ScanGeometry, ScanRange, Snapshot

if TYPE_CHECKING:
    from .trainer import Trainer, TrainerSettings

__all__ = ["Batch", "ScanGeometry", "ScanRange", "Snapshot", "Trainer", "TrainerSettings"]


def __getattr__(name: str) -> Any:
    """Import the trainer when it is asked for: whoever needs only the types shall not wait for torch."""
    if name in ("Trainer", "TrainerSettings"):
        from . import trainer  # noqa: PLC0415

        return getattr(trainer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
