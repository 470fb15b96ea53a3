"""What a publisher is told about a scan: one flat record, in the words that HXN's dashboards already read."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptyinr_stream.motors import Layout
from ptyinr_stream.optics import Optics
from ptyinr_stream.scan_report import Ranges, ScanReport

YEAR_9999 = 2.5e11
"""Seconds since 1970; no calendar reaches further."""
_MOST_RANGES = 200
"""Of frame numbers: what is lost at random must not make metadata of megabytes."""


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
    optics: Optics,
    layout: Layout,
    convention: Mapping[str, Any],
) -> ScanRecord:
    """The record of a scan from its start document, its optics and the conventions of its positions and its frames.

    As in HXN's own records x is the fast motor, whichever axis of the arrays it moves along. Documents come off a wire:
    what is no plain value in them is published as text, and never an error.
    """
    scan = document.get("scan")
    nested = scan if isinstance(scan, Mapping) else {}
    geometry, plan = optics.geometry, layout.plan
    x, y = plan.fast, 1 - plan.fast
    range_um = [1e6 * (b - a) for a, b in zip(plan.range.lower_m, plan.range.upper_m, strict=True)]
    scan_id = _number(document.get("scan_id"))
    scan_id = int(scan_id) if math.isfinite(scan_id) else 0
    given = {**optics.describe(), **layout.describe(), **convention}
    named = {key: document[key] for key in ("sample", "scan_name", "plan_name") if document.get(key) is not None}
    metadata: dict[str, Any] = {
        "raw_uid": uid,
        "scan_id": str(scan_id),
        "scan_num": str(scan_id),
        "recon_mode": "ptyinr",
        "x_pixel_m": geometry.pixel_m[x],
        "y_pixel_m": geometry.pixel_m[y],
        "x_num": plan.line,
        "y_num": plan.expected // plan.line,
        "x_range_um": range_um[x],
        "y_range_um": range_um[y],
        "xray_energy_kev": geometry.energy_kev,
        "wavelength_m": geometry.wavelength_m,
        "distance_m": geometry.distance_m,
        "detector_pixel_m": geometry.detector_pixel_m,
        **{key: _flat(value) for key, value in (*given.items(), *named.items()) if value is not None},
        **({"scan_type": str(nested["type"])} if "type" in nested else {}),
    }
    started = _number(document.get("time"))
    return ScanRecord(uid, scan_id, started if 0 <= started < YEAR_9999 else time.time(), metadata)


def report_record(report: ScanReport) -> dict[str, Any]:
    """What became of a scan's frames, flat and plain."""
    names = ("expected", "frames", "paired", "duplicates", "surplus", "misfits", "without_position", "without_frame")
    counts = {f"frames_{name}" if name != "frames" else "frames_received": getattr(report, name) for name in names}
    alignment, supersampling = report.alignment, report.supersampling
    return {
        **counts,
        "frames_lost": report.lost,
        "frames_gated": report.gated,
        "frames_dropped_for_memory": report.dropped_for_memory,
        "missing_frames": _numbers(report.missing_frames),
        "unplaced_frames": _numbers(report.unplaced_frames),
        "gated_frames": _numbers(report.gated_frames),
        "partial_start": report.partial_start,
        "positions_partial": report.partial_positions,
        "samples_surplus": report.surplus_samples,
        "gate": report.gate,
        "alignment": alignment.verdict,
        "alignment_lines_checked": alignment.checked,
        "alignment_lines": list(alignment.lines[:_MOST_RANGES]),
        "alignment_offsets": list(alignment.offsets[:_MOST_RANGES]),
        "samples_per_frame": supersampling.per_frame,
        "supersampling": str(supersampling),
        "exit_status": report.exit_status or "unknown",
        "end_reason": report.reason,
        **{
            f"positions_span_ratio_axis{axis}": ratio
            for axis, ratio in enumerate(report.span_ratios)
            if ratio is not None
        },
    }


def _numbers(ranges: Ranges) -> list[str]:
    """Runs of frame numbers for people and programs: `12-40`, `77`; the first of very many."""
    texts = [f"{first}-{last}" if last > first else str(first) for first, last in ranges[:_MOST_RANGES]]
    return texts + ([f"and {len(ranges) - _MOST_RANGES} more"] if len(ranges) > _MOST_RANGES else [])


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.integer | np.floating) else math.nan


def _flat(value: object) -> Any:
    return [_text(item) for item in value] if isinstance(value, list | tuple) else _text(value)


def _text(value: object) -> Any:
    known = type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))
    return value if known else str(value)
