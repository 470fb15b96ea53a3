"""A reconstruction beside the truth, or beside another reconstruction, on the same pixels. The unseen is left out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptyinr.metrics import Fidelity, object_fidelity, overlap, phase_correlation, probe_fidelity
from ptyinr.registration import Box, Registered, registered
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.pictures import flattened
from ptyinr_stream.results import Result

Complex = NDArray[np.complexfloating]


@dataclass(frozen=True)
class Compared:
    """A reconstruction and the truth, on the truth's pixels."""

    name: str
    """Of the truth."""
    placed: Registered
    truth: Complex
    """(H, W)."""
    truth_probe: Complex
    """(h, w)."""
    seen: NDArray[np.bool_]
    """(H, W) where both are known."""
    corners_px: NDArray[np.float64]
    """(n, 2) window corners in the truth."""
    object: Fidelity
    probe: Fidelity
    probe_overlap: float
    phase_correlation: float | None
    """None where the field has no middle."""


@dataclass(frozen=True)
class Referred:
    """A reference on the reconstruction's pixels: another opinion, not the truth."""

    name: str
    placed: Registered
    probe_overlap: float
    phase_correlation: float | None


def scanned_field(corners_px: NDArray[np.floating], window: tuple[int, int], shape: tuple[int, ...]) -> Box:
    """The part of an object under its windows."""
    first = np.maximum(np.floor(corners_px.min(0) + 1e-3), 0).astype(int)
    last = np.minimum(np.ceil(corners_px.max(0) - 1e-3) + window, shape).astype(int)
    return slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))


def shown(result: Result, compared: Compared | None) -> tuple[Complex, NDArray[np.bool_], Box]:
    """The reconstruction as profiles and pictures take it: on the truth's pixels where there is one, else flattened.

    Returns:
        The object (H, W), where it is known (H, W), and the scanned field in it.
    """
    if compared is not None:
        box = scanned_field(compared.corners_px, result.window, compared.truth.shape)
        return compared.placed.object, compared.placed.seen, box
    box = scanned_field(result.positions_px, result.window, result.object.shape)
    return flattened(result.object, result.coverage), result.seen, box


def other(
    compared: Compared | None, referred: Referred | None, result: Result
) -> tuple[str, Complex, NDArray[np.bool_]] | None:
    """What `shown` is to be compared with, on the same pixels: its name, the object and where it is known."""
    if compared is not None:
        return "truth", compared.truth, compared.seen
    if referred is None:
        return None
    flat = flattened(result.object, result.coverage)
    # What flattening does to the result it does to the reference, which is registered to it.
    turn = flat * np.conj(result.object) / np.maximum(np.abs(result.object) ** 2, 1e-12)
    return "reference", referred.placed.object * turn, referred.placed.seen & result.seen


def truth_of(scan: RecordedScan) -> Result | None:
    """The truth of a simulated scan as a result whose every pixel is known; None where there is none.

    Raises:
        ConfigError: its windows leave its object.
    """
    if (truth := scan.truth) is None:
        return None
    try:
        return Result(
            name=f"{scan.name} (truth)",
            object=truth.object,
            probe=truth.probe,
            positions_px=truth.positions_px,
            indices=np.arange(len(truth.positions_px)),
            coverage=np.ones(truth.object.shape, np.float32),
            pixel_m=scan.geometry.pixel_m,
        )
    except ValueError as error:
        raise ConfigError(f"{scan.name}: truth: {error}") from error


def _common(one: Result, two: Result) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Window corners of the frames that both have."""
    common, mine, theirs = np.intersect1d(one.indices, two.indices, return_indices=True)
    if not len(common):
        raise ValueError(f"no frame is also in {two.name}: give one of the same scan")
    if one.window != two.window:
        raise ValueError(f"windows of {one.window} pixels, {two.name} has {two.window}")
    if one.pixel_m and two.pixel_m and not np.allclose(one.pixel_m, two.pixel_m, rtol=1e-3, atol=0):
        mine_nm, theirs_nm = (" x ".join(f"{1e9 * p:.4g}" for p in each.pixel_m or ()) for each in (one, two))
        raise ValueError(f"pixels of {mine_nm} nm, {two.name} has {theirs_nm} nm")
    return one.positions_px[mine], two.positions_px[theirs]


def with_truth(result: Result, truth: Result, ramp: bool = True) -> Compared:
    """Bring a result to the truth and measure how near it comes.

    Args:
        result: to be judged.
        truth: of the same frames.
        ramp: whether a phase ramp is unknown, as it is unless the probe was known.

    Raises:
        ValueError: they have no frame or hardly a pixel in common.
    """
    mine, theirs = _common(result, truth)
    placed = registered(
        result.object,
        mine,
        truth.object,
        theirs,
        seen=result.seen,
        truth_seen=truth.seen,
        probe=result.main_probe,
        ramp=ramp,
    )
    seen = placed.seen & truth.seen
    if placed.probe is None:
        raise ValueError("a probe is needed")
    return Compared(
        name=truth.name,
        placed=placed,
        truth=truth.object,
        truth_probe=truth.main_probe,
        seen=seen,
        corners_px=theirs,
        object=object_fidelity(placed.object, truth.object, seen),
        probe=probe_fidelity(placed.probe[0], truth.main_probe),
        probe_overlap=overlap(placed.probe[0], truth.main_probe),
        phase_correlation=_phase_correlation(result, mine, truth, theirs),
    )


def with_reference(result: Result, reference: Result) -> Referred:
    """Bring a reference to a result and measure how alike they are.

    Raises:
        ValueError: they have no frame or hardly a pixel in common.
    """
    mine, theirs = _common(result, reference)
    seen, probe = reference.seen, reference.main_probe
    placed = registered(reference.object, theirs, result.object, mine, seen=seen, truth_seen=result.seen, probe=probe)
    likeness = 0.0 if placed.probe is None else overlap(placed.probe[0], result.main_probe)
    return Referred(reference.name, placed, likeness, _phase_correlation(result, mine, reference, theirs))


def _phase_correlation(
    one: Result, mine: NDArray[np.float64], two: Result, theirs: NDArray[np.float64]
) -> float | None:
    try:
        return phase_correlation(one.object, mine, two.object, theirs, one.window)
    except ValueError:  # a small field is all rim
        return None
