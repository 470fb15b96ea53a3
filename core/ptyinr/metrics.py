"""How good a reconstruction is, compared with another of the same scan.

Ptychography knows an object only up to a common shift, a global phase and scale, and a phase ramp; all of them are
taken out before two objects are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift
from skimage.registration import phase_cross_correlation

Complex = NDArray[np.complexfloating]
RIM = 2 / 3
"""Of a window, left out on each side: the rim of the scanned field is lit by few frames."""


def phase_correlation(
    field: Complex,
    corners_px: NDArray[np.floating],
    reference: Complex,
    reference_corners_px: NDArray[np.floating],
    window: tuple[int, int],
) -> float:
    """Pearson correlation of two objects' phases over the middle of the field that both have scanned.

    Args:
        field: (H, W) complex object.
        corners_px: (n, 2) window corners in it.
        reference: (H', W') complex object of the same frames.
        reference_corners_px: (n, 2) window corners in it, in the same order.
        window: rows and columns of the probe.

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
    spectra = (np.fft.fft2(_slopes(array, middle)) for array in (theirs, mine))
    # The stub says `str`; None asks for plain, not phase, correlation, which noise does not lead astray.
    plain: Any = None
    offset, *_ = phase_cross_correlation(*spectra, space="fourier", upsample_factor=20, normalization=plain)
    moved = shift(mine.real, offset, order=3, cval=1.0) + 1j * shift(mine.imag, offset, order=3)
    a, b = moved[middle], theirs[middle]
    b = b * np.exp(-1j * np.angle(b.mean()))
    return float(np.corrcoef(np.angle(without_ramp(a, b)).ravel(), np.angle(b).ravel())[0, 1])


def without_ramp(field: Complex, reference: Complex) -> Complex:
    """`field` times the plane wave and the phase that bring it closest to `reference`, both (H, W).

    >>> rows, columns = np.mgrid[:40, :50]
    >>> truth = np.exp(1j * np.sin(rows / 5) * np.cos(columns / 7))
    >>> tilted = truth * np.exp(1j * (0.3 * rows - 0.11 * columns + 1.0))
    >>> bool(np.abs(without_ramp(tilted, truth) - truth).max() < 1e-6)
    True
    """
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    ratio = field * np.conj(reference)
    ratio = ratio / np.maximum(np.abs(ratio), 1e-12)
    size = 4 * max(field.shape)  # a quarter of a turn over the field is left for the plane fit
    peak = np.unravel_index(np.abs(np.fft.fft2(ratio, (size, size))).argmax(), (size, size))
    coarse = np.exp(-2j * np.pi * (peak[0] * rows + peak[1] * columns) / size)
    coarse = coarse * np.exp(-1j * np.angle((ratio * coarse).mean()))
    plane = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], axis=1)
    fit, *_ = np.linalg.lstsq(plane, np.angle(ratio * coarse).ravel(), rcond=None)
    return field * coarse * np.exp(-1j * (plane @ fit).reshape(rows.shape))


def _scanned(field: Complex, corners_px: NDArray[np.floating], window: tuple[int, int]) -> Complex:
    """The part of an object under its windows, at a mean amplitude of 1."""
    first = np.floor(corners_px.min(0) + 1e-3).astype(int)
    last = np.ceil(corners_px.max(0)).astype(int) + window
    part = field[max(first[0], 0) : last[0], max(first[1], 0) : last[1]]
    return part / np.abs(part).mean()


def _slopes(field: Complex, middle: tuple[slice, ...]) -> Complex:
    """Phase differences to the next row (real) and column (imaginary), less their mean: blind to phase and ramps."""
    unit = field / np.maximum(np.abs(field), 1e-12)
    slopes = []
    for axis in (0, 1):
        step = (unit * np.conj(np.roll(unit, 1, axis)))[middle]
        slopes.append(np.angle(step * np.exp(-1j * np.angle(step.mean()))))
    taper = np.outer(*(np.hanning(n) for n in slopes[0].shape))
    return (slopes[0] + 1j * slopes[1]) * taper
