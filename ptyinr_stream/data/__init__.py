"""Measured data that the package carries: a scan to try it on, and a reference to judge the result by."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files(__name__) / "siemens_star"))


def siemens_star() -> Path:
    """The scan file of the Siemens star: 516 frames of 128 x 128, measured at the Advanced Photon Source."""
    return _FOLDER / "siemens_star.h5"


def siemens_star_reference() -> Path:
    """A reconstruction of it: `lsqml_1mode_object` (490, 487) complex64, `lsqml_1mode_corners_px` (516, 2) float32."""
    return _FOLDER / "reference.npz"
