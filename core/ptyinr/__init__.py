"""PtyINR: ptychography with implicit neural representations, on data that may still be growing.

Arrays in, arrays out: this package knows no files, sockets, threads, clocks or environment.

>>> from ptyinr import ScanGeometry
>>> geometry = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=75e-6, window=(64, 64))
>>> round(1e9 * geometry.pixel_m[0], 2)
20.83
"""

from .types import Batch, ScanGeometry, ScanRange, Snapshot

__all__ = ["Batch", "ScanGeometry", "ScanRange", "Snapshot"]
