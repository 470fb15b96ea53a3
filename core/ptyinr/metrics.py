"""How good a reconstruction is, compared with another of the same scan or with the truth.

Ptychography knows an object only up to a common shift, a global phase and scale, and a phase ramp; all of them are
taken out before two objects are compared: `phase_correlation` does so by itself, the others want `registered` fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, shift
from skimage.metrics import structural_similarity

from .registration import shift_between, slopes, without_ramp

Complex = NDArray[np.complexfloating]
RIM = 2 / 3
"""Of a window, left out on each side: the rim of the scanned field is lit by few frames."""
CENTRAL = 0.75
"""Of the truth along each axis that is compared: 181 of the paper's 241 pixels."""
MEDIAN_TRUST = 0.1
"""How far the ratio of medians may lie from the least-squares scale, relative to it, before it is mistrusted."""


def phase_correlation(
    field: Complex,
    corners_px: NDArray[np.floating],
    reference: Complex,
    reference_corners_px: NDArray[np.floating],
    window: tuple[int, int],
    *,
    rows: tuple[int, int] | None = None,
) -> float:
    """Pearson correlation of two objects' phases over the middle of the field that both have scanned.

    Args:
        field: (H, W) complex object.
        corners_px: (n, 2) window corners in it.
        reference: (H', W') complex object of the same frames.
        reference_corners_px: (n, 2) window corners in it, in the same order.
        window: rows and columns of the probe.
        rows: first and last row of the middle that are compared, of a scan that is not complete; None compares all.

    Raises:
        ValueError: the two have different numbers of frames, or the field has no middle.
    """
    if corners_px.shape != reference_corners_px.shape:
        raise ValueError(
            f"{len(corners_px)} and {len(reference_corners_px)} frames: compare objects of the same frames"
        )
    mine, theirs = (
        _scanned(array, corners, window) for array, corners in ((field, corners_px), (reference, reference_corners_px))
    )
    rim = [int(RIM * n) for n in window]
    shape = [min(a, b) for a, b in zip(mine.shape, theirs.shape, strict=True)]
    if any(n - 2 * r < 16 for n, r in zip(shape, rim, strict=True)):
        raise ValueError(f"the scanned field of {shape} pixels has no middle inside a rim of {rim}")
    mine, theirs = mine[: shape[0], : shape[1]], theirs[: shape[0], : shape[1]]
    middle = tuple(slice(r, n - r) for r, n in zip(rim, shape, strict=True))
    offset = shift_between(slopes(mine, middle), slopes(theirs, middle))
    moved = shift(mine.real, offset, order=3, cval=1.0) + 1j * shift(mine.imag, offset, order=3)
    part = slice(*rows) if rows else slice(None)
    a, b = moved[middle][part], theirs[middle][part]
    b = b * np.exp(-1j * np.angle(b.mean()))
    return float(np.corrcoef(np.angle(without_ramp(a, b)).ravel(), np.angle(b).ravel())[0, 1])


@dataclass(frozen=True)
class Fidelity:
    """How near a complex field comes to the truth, as the paper measures it; infinite where nothing differs."""

    amplitude_psnr_db: float
    """20 log10(1 / rms difference), eq. 9, scaled to equal medians if `MEDIAN_TRUST` allows, and clipped at 1."""
    phase_psnr_db: float
    """20 log10(pi / rms difference), eq. 10, after the best global phase; differences never jump by 2 pi."""
    amplitude_ssim: float
    """Structural similarity for a range of 1."""
    phase_ssim: float
    """Structural similarity for a range of 2 pi."""
    pixels: int
    """That were compared."""


def central(shape: tuple[int, ...], fraction: float = CENTRAL) -> tuple[slice, slice]:
    """The middle of an array, where every pixel is lit by many frames.

    >>> central((241, 241))
    (slice(30, 211, None), slice(30, 211, None))
    """
    size = [round(fraction * n) for n in shape]
    rows, columns = (slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, size, strict=True))
    return rows, columns


def object_fidelity(field: Complex, truth: Complex, seen: NDArray[np.bool_] | None = None) -> Fidelity:
    """Compare an object with the truth over the central three quarters of the truth.

    Args:
        field: (H, W) complex, on the pixels of the truth, see `registration.registered`.
        truth: (H, W) complex, of amplitudes up to 1.
        seen: (H, W) where `field` is known; other pixels are not compared.

    Raises:
        ValueError: the shapes differ, or nothing is known in the middle.
    """
    _require_same_shape(field, truth)
    middle = central(truth.shape)
    known = np.ones(truth.shape, bool) if seen is None else seen
    return _fidelity(field[middle], truth[middle], known[middle])


def probe_fidelity(probe: Complex, truth: Complex) -> Fidelity:
    """Compare a probe with the true one over the whole window, both divided by their greatest amplitude.

    Where there is no light the phase is arbitrary and counts as much as anywhere: see `overlap` for a fair number.

    Args:
        probe: (h, w) complex, shifted like the registered object.
        truth: (h, w) complex.

    Raises:
        ValueError: the shapes differ, or a probe is zero.
    """
    _require_same_shape(probe, truth)
    peaks = np.abs(probe).max(), np.abs(truth).max()
    if not min(peaks) > 0:
        raise ValueError("a probe without light cannot be compared")
    return _fidelity(probe / peaks[0], truth / peaks[1], np.ones(truth.shape, bool))


def overlap(probe: Complex, truth: Complex) -> float:
    """|<P, P'>| / (|P| |P'|): 1 for equal fields whatever their scale and global phase.

    >>> round(overlap(np.array([[1, 1j]]), np.array([[2j, -2]])), 6), overlap(np.array([[1, 0]]), np.array([[0, 1]]))
    (1.0, 0.0)
    """
    norm = np.linalg.norm(probe) * np.linalg.norm(truth)
    return min(1.0, float(np.abs(np.vdot(probe, truth)) / norm)) if norm > 0 else 0.0


def best_phase(differences: NDArray[np.floating]) -> float:
    """The constant that leaves wrapped phase differences, any shape, with the least mean square, exactly.

    On a circle the least-squares mean is one of n, in which the k lowest values have gone round once.

    >>> abs(round(best_phase(np.array([3.1, -3.1, 3.0])), 4))
    3.0944
    """
    ordered = np.sort((np.ravel(differences) + np.pi) % (2 * np.pi) - np.pi)
    n, k = len(ordered), np.arange(len(ordered))
    means = ordered.mean() + 2 * np.pi * k / n
    round_once = 4 * np.pi * np.concatenate([[0.0], np.cumsum(ordered[:-1])]) + 4 * np.pi**2 * k
    return float(means[(round_once / n - means**2).argmin()])


def _fidelity(field: Complex, truth: Complex, known: NDArray[np.bool_]) -> Fidelity:
    """Of two fields (h, w) where they are known."""
    if not known.any():
        raise ValueError("no known pixel lies in the middle of the truth: there is nothing to compare")
    mine, theirs = np.abs(field), np.abs(truth)
    mine = np.clip(mine * _median_scale(mine[known], theirs[known]), None, max(1.0, float(theirs.max())))
    differences = np.angle(field * np.conj(truth))
    differences = np.angle(np.exp(1j * (differences - best_phase(differences[known]))))
    phase = np.angle(truth * np.exp(-1j * np.angle(truth[known].mean())))
    return Fidelity(
        amplitude_psnr_db=_psnr((mine - theirs)[known], 1.0),
        phase_psnr_db=_psnr(differences[known], np.pi),
        amplitude_ssim=_ssim(mine, theirs, known, 1.0),
        phase_ssim=_ssim(phase + differences, phase, known, 2 * np.pi),
        pixels=int(known.sum()),
    )


def _median_scale(mine: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """The ratio of the medians; least squares where half of the field is dark and the ratio is one of noise."""
    squares = float((mine**2).sum())
    least = float((mine * theirs).sum()) / squares if squares > 0 else 1.0
    median = float(np.median(mine))
    scale = float(np.median(theirs)) / median if median > 0 else 0.0
    return scale if abs(scale - least) <= MEDIAN_TRUST * least else least


def _psnr(differences: NDArray[np.floating], peak: float) -> float:
    square = float(np.mean(differences.astype(np.float64) ** 2))
    return 10 * float(np.log10(peak**2 / square)) if square > 0 else float("inf")


def _ssim(mine: NDArray[np.floating], theirs: NDArray[np.floating], known: NDArray[np.bool_], span: float) -> float:
    """Mean over the windows of 7 x 7 that are known; nan where none is."""
    if min(known.shape) < 7:
        return float("nan")
    inside = np.asarray(binary_erosion(known, np.ones((7, 7), bool)), bool)
    # What comes back depends on the options, which its stub cannot say.
    answer: Any = structural_similarity(mine.astype(float), theirs.astype(float), data_range=span, full=True)
    return float(answer[1][inside].mean()) if inside.any() else float("nan")


def _require_same_shape(field: Complex, truth: Complex) -> None:
    if field.shape != truth.shape or field.ndim != 2:
        raise ValueError(
            f"fields of {field.shape} and {truth.shape} pixels: two of the same (rows, columns) are needed"
        )


def _scanned(field: Complex, corners_px: NDArray[np.floating], window: tuple[int, int]) -> Complex:
    """The part of an object under its windows, at a mean amplitude of 1."""
    first = np.floor(corners_px.min(0) + 1e-3).astype(int)
    last = np.ceil(corners_px.max(0)).astype(int) + window
    part = field[max(first[0], 0) : last[0], max(first[1], 0) : last[1]]
    return part / np.abs(part).mean()
