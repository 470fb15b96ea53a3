"""What the next scan begins with: the probe of the last good scan with the same optics, and its object if that is told.

Optics rarely change between scans, and a probe that is known saves the blind start and most of the training. It is
never forced upon data: the trainer checks it against the first frames and refuses it if they contradict it.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptyinr.types import ScanGeometry, Snapshot

_log = logging.getLogger(__name__)

_MOST = 16
"""Optics that are remembered, the newest."""
_SAME = 2e-3
"""Relative difference of wavelengths and of distances: 10 eV at 5 keV, a millimetre at half a metre."""


@dataclass(frozen=True)
class Start:
    """What a scan may begin with."""

    probe: np.ndarray | None = None
    """(modes, h, w) complex."""
    of: str = ""
    """The scan it comes from, or its file."""
    state: Mapping[str, Any] | None = None
    """Of the trainer that scanned the same region, if its object is to be the start."""


class WarmStart:
    """Remembers good scans, by their optics; over a restart too, if it has a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: OrderedDict[tuple[Any, ...], tuple[ScanGeometry, Start]] = OrderedDict()

    def keep(self, geometry: ScanGeometry, snapshot: Snapshot, state: Mapping[str, Any] | None = None) -> None:
        """Remember the final snapshot of a good scan, and the state that its object lives in."""
        key = (geometry.window, geometry.detector_pixel_m)
        probe = np.array(snapshot.probe)
        self._kept.pop(key, None)
        self._kept[key] = geometry, Start(probe, snapshot.uid, state)
        while len(self._kept) > _MOST:
            self._kept.popitem(last=False)
        if self._folder is None:
            return
        path = self._path(geometry)
        optics = np.array([geometry.wavelength_m, geometry.distance_m])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with (unfinished := path.with_suffix(".tmp")).open("wb") as file:
                np.savez(file, probe=probe, optics=optics, uid=np.array(snapshot.uid))
            unfinished.replace(path)
        except OSError as error:
            _log.warning("%s: the probe is not remembered over a restart: %s", path, error.strerror)

    def start(self, geometry: ScanGeometry) -> Start:
        """The probe for a scan with these optics; without one where none is known."""
        key = (geometry.window, geometry.detector_pixel_m)
        known = self._kept.get(key) or self._stored(geometry)
        if known is None or not _same(known[0], geometry):
            return Start()
        return known[1]

    def _path(self, geometry: ScanGeometry) -> Path:
        h, w = geometry.window
        return (self._folder or Path()) / f"probe-{h}x{w}-{1e6 * geometry.detector_pixel_m:g}um.npz"

    def _stored(self, geometry: ScanGeometry) -> tuple[ScanGeometry, Start] | None:
        path = self._path(geometry)
        if self._folder is None or not path.is_file():
            return None
        try:
            with np.load(path) as file:
                wavelength_m, distance_m = file["optics"].tolist()
                start = Start(file["probe"], str(file["uid"]))
            return ScanGeometry(wavelength_m, distance_m, geometry.detector_pixel_m, geometry.window), start
        except (OSError, EOFError, KeyError, ValueError) as error:
            _log.warning("%s: is torn and left out: %s", path, error)
            return None


def _same(one: ScanGeometry, other: ScanGeometry) -> bool:
    return math.isclose(one.wavelength_m, other.wavelength_m, rel_tol=_SAME) and math.isclose(
        one.distance_m, other.distance_m, rel_tol=_SAME
    )
