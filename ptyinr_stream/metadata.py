"""What a publisher is told about a scan: one flat record, in the words that HXN's dashboards already read."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ptyinr.types import ScanGeometry, ScanRange
from ptyinr_stream.scan import ScanReport


def plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata if every destination can store it.

    Tiled cannot export a container whose metadata is nested or has a None, and a numpy number breaks its client.

    Raises:
        ValueError: a value is not a str, bool, int, finite float, or a list of them; it names the key.
    """
    for key, value in metadata.items():
        for item in value if type(value) is list else [value]:
            if type(item) not in (str, bool, int, float) or (type(item) is float and not math.isfinite(item)):
                raise ValueError(
                    f"metadata {key!r} is {item!r} ({type(item).__name__}): only str, bool, int, finite float "
                    "and lists of them can be published"
                )
    return metadata


@dataclass(frozen=True)
class ScanRecord:
    """What is known of a scan when its reconstruction begins.

    Raises:
        ValueError: the metadata is not flat and plain.
    """

    uid: str
    scan_id: int
    started_at: float
    """Seconds since 1970."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Flat: str, bool, int, finite float, or lists of them."""

    def __post_init__(self) -> None:
        plain(self.metadata)


def scan_record(
    uid: str,
    document: Mapping[str, Any],
    geometry: ScanGeometry,
    scan_range: ScanRange,
    convention: Mapping[str, Any],
) -> ScanRecord:
    """The record of a scan from its start document, its optics and the convention of its frames."""
    scan = document.get("scan")
    nested = scan if isinstance(scan, Mapping) else {}
    shape = document.get("shape")
    numbers = [int(n) for n in shape] if isinstance(shape, list | tuple) and len(shape) == 2 else []
    range_um = [1e6 * (b - a) for a, b in zip(scan_range.lower_m, scan_range.upper_m, strict=True)]
    scan_id = _whole(document.get("scan_id"))
    metadata: dict[str, Any] = {
        "raw_uid": uid,
        "scan_id": scan_id,
        "scan_num": scan_id,
        "recon_mode": "ptyinr",
        "x_pixel_m": geometry.pixel_m[0],
        "y_pixel_m": geometry.pixel_m[1],
        "x_range_um": range_um[0],
        "y_range_um": range_um[1],
        "xray_energy_kev": geometry.energy_kev,
        "wavelength_m": geometry.wavelength_m,
        "distance_m": geometry.distance_m,
        "detector_pixel_m": geometry.detector_pixel_m,
        **dict(zip(("x_num", "y_num"), numbers, strict=False)),
        **{key: _flat(value) for key, value in convention.items() if value is not None},
        **{key: _flat(document[key]) for key in ("sample", "scan_name", "plan_name") if document.get(key)},
        **({"scan_type": str(nested["type"])} if "type" in nested else {}),
    }
    started = document.get("time")
    return ScanRecord(uid, scan_id, float(started) if isinstance(started, int | float) else time.time(), metadata)


def report_record(report: ScanReport) -> dict[str, Any]:
    """What became of a scan's frames, flat and plain."""
    names = ("expected", "frames", "paired", "duplicates", "surplus", "misfits", "without_position", "without_frame")
    counts = {f"frames_{name}" if name != "frames" else "frames_received": getattr(report, name) for name in names}
    return {
        **counts,
        "frames_lost": report.lost,
        "positions_partial": report.partial_positions,
        "exit_status": report.exit_status or "unknown",
        "end_reason": report.reason,
    }


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def _flat(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [item if isinstance(item, str | bool | int | float) else str(item) for item in value]
    return value if isinstance(value, str | bool | int | float) else str(value)
