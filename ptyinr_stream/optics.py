"""From documents to geometry: what a start document commands, and which optics hold for it. Pure functions.

Commanded motor coordinates are micrometres at HXN. What the configuration gives is trusted before what a document says:
`scan.detector_distance` is a constant in the text of HXN's plans, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ptyinr.types import HC_KEV_M, ScanGeometry, ScanRange
from ptyinr_stream.config import GeometryConfig, PositionsConfig
from ptyinr_stream.errors import GeometryError

_FLY_SCANS = ("2D_FLY_PANDA", "2D_FLY_CONT_PANDA")


@dataclass(frozen=True)
class ScanPlan:
    """The commanded grid, along the axes of the object array."""

    expected: int
    """Frames, lines times frames per line."""
    range: ScanRange
    line: int
    """Frames along the fast axis."""
    fast: Literal[0, 1]
    """The array axis along which the fast motor moves."""
    start_m: tuple[float, float]
    """The commanded corner at which frame 0 lies."""
    step_m: tuple[float, float]
    """Signed; from frame to frame along the fast axis, from line to line along the other."""
    snake: bool = False
    """Every second line runs backwards."""

    def commanded_m(self, frame: int) -> tuple[float, float]:
        """Where the plan meant a frame to be, in metres along (axis 0, axis 1)."""
        line, place = divmod(frame, self.line)
        if self.snake and line % 2:
            place = self.line - 1 - place
        steps = (place, line) if self.fast == 0 else (line, place)
        return self.start_m[0] + steps[0] * self.step_m[0], self.start_m[1] + steps[1] * self.step_m[1]


def scan_plan(start_document: Mapping[str, Any], positions: PositionsConfig) -> ScanPlan:
    """Read the commanded grid from a start document.

    Understood are HXN's two-dimensional PandA fly scans, whose `scan.scan_input` is [x0, x1, nx, y0, y1, ny], and the
    `extents` and `shape` of Bluesky's grid scans, slow motor first.

    Raises:
        GeometryError: the document describes no two-dimensional scan, or contradicts itself.
    """
    scan = start_document.get("scan")
    kind = scan.get("type") if isinstance(scan, Mapping) else None
    if isinstance(scan, Mapping) and isinstance(kind, str) and kind in _FLY_SCANS:
        x0, x1, nx, y0, y1, ny = _numbers(scan.get("scan_input"), 6, "scan.scan_input")
        ends, shape = ((x0, x1), (y0, y1)), (_count(nx, "scan.scan_input"), _count(ny, "scan.scan_input"))
        # A fly scan's line is divided into equal exposures; a grid scan also stops at its end.
        steps = tuple((stop - start) / n for (start, stop), n in zip(ends, shape, strict=True))
        snake = kind == "2D_FLY_CONT_PANDA"
    elif "extents" in start_document:
        slow, fast = (_numbers(extent, 2, "extents") for extent in _items(start_document["extents"], 2, "extents"))
        ends = ((fast[0], fast[1]), (slow[0], slow[1]))
        slow_n, fast_n = _numbers(start_document.get("shape"), 2, "shape")
        shape = (_count(fast_n, "shape"), _count(slow_n, "shape"))
        steps = tuple((stop - start) / max(n - 1, 1) for (start, stop), n in zip(ends, shape, strict=True))
        snake = _numbers(start_document.get("snaking", (False, False)), 2, "snaking")[1] != 0
    else:
        raise GeometryError(
            f"start document: scan.type is {kind!r}; a scan needs scan.type {' or '.join(_FLY_SCANS)} with "
            "scan.scan_input [x0, x1, nx, y0, y1, ny], or extents and shape"
        )
    expected = shape[0] * shape[1]
    announced = start_document.get("shape")
    if announced is not None and math.prod(_numbers(announced, 2, "shape")) != expected:
        raise GeometryError(f"start document: shape {announced} contradicts the {shape[0]} x {shape[1]} of scan_input")

    signs = (positions.axis0.motor_sign, positions.axis1.motor_sign)
    along = [
        [signs[a] * value / 1e6 for value in (*ends[motor], steps[motor])] for a, motor in enumerate(positions.motors)
    ]
    (start0, stop0, step0), (start1, stop1, step1) = along
    return ScanPlan(
        expected=expected,
        range=ScanRange((min(start0, stop0), min(start1, stop1)), (max(start0, stop0), max(start1, stop1))),
        line=shape[0],
        fast=0 if positions.motors[0] == 0 else 1,
        start_m=(start0, start1),
        step_m=(step0, step1),
        snake=snake,
    )


def scan_geometry(
    config: GeometryConfig,
    window: tuple[int, int],
    start_document: Mapping[str, Any],
    baseline: Mapping[str, Any],
) -> ScanGeometry:
    """Determine the optics of a scan, by order of trust: the configuration, then the documents.

    Args:
        config: what is known beforehand.
        window: rows and columns of the diffraction patterns.
        start_document: gives the distance, `scan.detector_distance` in metres.
        baseline: gives the photon energy, by `dcm_th` in degrees.

    Raises:
        GeometryError: the distance or the energy is neither configured nor in the documents, or makes no sense.
    """
    distance_m = config.distance_m
    if distance_m is None:
        scan = start_document.get("scan")
        value = scan.get("detector_distance") if isinstance(scan, Mapping) else None
        if value is None:
            raise GeometryError(
                "the detector distance is unknown: give geometry.distance_m in the configuration "
                "or scan.detector_distance (metres) in the start document"
            )
        distance_m = _number(value, "scan.detector_distance")
    wavelength_m = config.wavelength_m
    if wavelength_m is None:
        if "dcm_th" not in baseline:
            raise GeometryError(
                "the photon energy is unknown: give geometry.energy_kev in the configuration "
                "or dcm_th (degrees) in the baseline reading"
            )
        wavelength_m = HC_KEV_M / dcm_energy_kev(_number(baseline["dcm_th"], "baseline dcm_th"))
    try:
        return ScanGeometry(
            wavelength_m=wavelength_m,
            distance_m=distance_m,
            detector_pixel_m=1e-6 * config.detector_pixel_um,
            window=window,
        )
    except ValueError as error:
        raise GeometryError(str(error)) from error


def dcm_energy_kev(angle_deg: float) -> float:
    """Photon energy that HXN's Si(111) monochromator passes at a Bragg angle in degrees, with HXN's own constants.

    >>> round(dcm_energy_kev(9.5), 3)
    11.979

    Raises:
        GeometryError: the angle is not between 0 and 90 degrees.
    """
    if not 0 < angle_deg < 90:
        raise GeometryError(f"baseline dcm_th is {angle_deg} degrees: a Bragg angle lies between 0 and 90")
    return 12.39842 / (2 * 3.1355893 * math.sin(math.radians(angle_deg)))


def _items(value: Any, length: int, name: str) -> list[Any]:
    try:
        items = list(value)
    except TypeError:
        items = []
    if len(items) != length:
        raise GeometryError(f"start document: {name} is {value!r}: it must be a list of {length}")
    return items


def _numbers(value: Any, length: int, name: str) -> list[float]:
    return [_number(item, name) for item in _items(value, length, name)]


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    # Documents come off a wire: what is larger than any instrument must not become infinite further on.
    if not abs(number) < 1e15:
        raise GeometryError(f"{name} has {value!r} where a finite number is needed")
    return number


def _count(value: float, name: str) -> int:
    if value < 1 or value != int(value):
        raise GeometryError(f"start document: {name} has {value} where a number of frames is needed")
    return int(value)
