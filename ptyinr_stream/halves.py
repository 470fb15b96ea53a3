"""A scan reconstructed twice, from its even and from its odd frames: what both show is not noise."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptyinr.probe_start import SURE
from ptyinr.registration import inner_box, registered
from ptyinr.resolution import RingCorrelation, ring_correlation
from ptyinr.settings import TrainerSettings
from ptyinr.types import Snapshot
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.formats import RecordedScan

Complex = NDArray[np.complexfloating]

LIT = 0.06
"""Of the light at the brightest pixel: both halves must have as much where they are correlated."""


@dataclass(frozen=True)
class Halves:
    """Two reconstructions, from the even and from the odd frames."""

    even: Complex
    """(h, w) the part that both have seen well."""
    odd: Complex
    """(h, w) the same, registered to `even`."""
    rings: RingCorrelation
    frames: tuple[int, int]
    seconds: float
    """Of training, each."""
    probe: str = "found anew in each half"
    """What the probe was, for people."""


def split_halves(
    scan: RecordedScan, seconds: float, reconstruct: Callable[[RecordedScan, Path, int], Snapshot]
) -> Halves:
    """Reconstruct the even and the odd frames apart, and correlate what they have in common.

    Args:
        scan: in the order of acquisition.
        seconds: that each takes, to be told.
        reconstruct: (scan, file to write, 0 or 1) to a snapshot. The number should go into the seed: networks that
            start alike leave alike textures where data say little, and would seem to resolve them.

    Raises:
        ConfigError: a half has too few frames, or the two share no field.
    """
    if len(scan.counts) < 4:
        raise ConfigError(f"{scan.name}: has {len(scan.counts)} frames: too few for two halves, of two at least")
    parts = [
        replace(
            scan, counts=scan.counts[k::2], positions_m=scan.positions_m[k::2], name=f"{scan.name}-{name}", truth=None
        )
        for k, name in enumerate(("even", "odd"))
    ]
    with tempfile.TemporaryDirectory() as folder:
        even, odd = (reconstruct(part, Path(folder) / f"{k}.h5", k) for k, part in enumerate(parts))
    # Where the even frames lie in the object of the odd ones: their frames differ, their positions' origin does not.
    anchor = np.median(odd.positions_px - parts[1].positions_m[odd.indices] / odd.pixel_m, axis=0)
    there = parts[0].positions_m[even.indices] / odd.pixel_m + anchor
    lit = [half.coverage >= LIT for half in (even, odd)]
    try:
        placed = registered(odd.object, there, even.object, even.positions_px, seen=lit[1], truth_seen=lit[0])
        box = inner_box(placed.seen & lit[0])
        rings = ring_correlation(even.object[box], placed.object[box], even.pixel_m)
    except ValueError as error:
        raise ConfigError(f"{scan.name}: the halves cannot be compared: {_reason(even, odd) or error}") from error
    return Halves(even.object[box], placed.object[box], rings, (even.frames, odd.frames), seconds)


def _reason(even: Snapshot, odd: Snapshot) -> str:
    """Why two halves are unlike, if it is that a probe was not found; else nothing."""
    halves, needed = {"even": even, "odd": odd}, TrainerSettings.start_frames
    reasons = []
    if min(even.frames, odd.frames) < needed:
        reasons.append(f"they have {even.frames} and {odd.frames} frames, a probe is sought in {needed}")
    # One that was given has no confidence.
    if unsure := [name for name, half in halves.items() if half.metrics.get("start_confidence", SURE) < SURE]:
        reasons.append(f"the {' and '.join(unsure)} frames' start was not sure of its probe")
    return f"{'; '.join(reasons)}: give a scan of more frames or more overlap, or --probe" if reasons else ""
