"""What a GPU's first scan should not have to wait for."""

from __future__ import annotations

import numpy as np
import torch

from .optics import ZonePlate, focused_probe
from .phantoms import phantom
from .scans import jittered
from .simulate import simulate
from .training import reconstruct
from .types import ScanGeometry

_FRAMES = 12


def warm_up(device: str | torch.device) -> None:
    """Reconstruct next to nothing, blind, so that torch loads what it loads when it is first used.

    On an NVIDIA H100 whose libraries were not in memory yet that took 3.4 s; on a processor there is nothing to gain
    (2026-11-26). Torch's random numbers begin anew.

    Raises:
        RuntimeError: the device fails.
        ValueError: what it computes cannot be right.
    """
    geometry = ScanGeometry(wavelength_m=1.24e-10, distance_m=0.5, detector_pixel_m=55e-6, window=(32, 32))
    probe = focused_probe(ZonePlate(100e-6, 87e-9, 30e-6), geometry, defocus_m=4e-4, photons=1e6)
    corners = jittered((16, 16), (4, 4), np.random.default_rng(0))[:_FRAMES]
    scan = simulate(geometry, phantom("cells", (64, 64)), probe, corners)
    reconstruct(scan.counts, scan.positions_m, geometry, steps=2, device=device)
