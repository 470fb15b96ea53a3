"""PtyINR: ptychography with implicit neural representations, on data that may still be growing.

Arrays in, arrays out: this package knows no files, sockets, threads, clocks or environment.

>>> import numpy as np
>>> import ptyinr
>>> from ptyinr.optics import ZonePlate, focused_probe
>>> from ptyinr.phantoms import phantom
>>> from ptyinr.scans import raster
>>> from ptyinr.simulate import simulate
>>> geometry = ptyinr.ScanGeometry(wavelength_m=1.24e-10, distance_m=0.5, detector_pixel_m=55e-6, window=(32, 32))
>>> probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), geometry, defocus_m=4e-4, photons=1e6)
>>> scan = simulate(geometry, phantom("cells", (64, 64)), probe, raster((32, 32), (4, 4)))
>>> snapshot = ptyinr.reconstruct(scan.counts, scan.positions_m, geometry, steps=30)
>>> snapshot.frames, snapshot.probe.shape, snapshot.metrics["heldout_error"] < 2
(81, (1, 32, 32), True)
"""

from typing import TYPE_CHECKING, Any

from .types import Batch, ScanGeometry, ScanRange, Snapshot

if TYPE_CHECKING:
    from .settings import TrainerSettings, upstream_settings
    from .trainer import Trainer
    from .training import reconstruct, train

__all__ = [
    "Batch",
    "ScanGeometry",
    "ScanRange",
    "Snapshot",
    "Trainer",
    "TrainerSettings",
    "reconstruct",
    "train",
    "upstream_settings",
]


def __getattr__(name: str) -> Any:
    """Import what trains when it is asked for: whoever needs only the types shall not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import settings, trainer, training  # noqa: PLC0415

    found = next(module for module in (settings, trainer, training) if hasattr(module, name))
    return getattr(found, name)
