"""Two objects of one scan brought to the same place, phase and scale.

Ptychography knows an object only up to a shift that the probe shares, a phase and a scale that the probe undoes, and,
where the probe is unknown, a phase ramp that the probe undoes. `registered` takes them out; positions say the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes, fourier_shift, shift
from skimage.registration import phase_cross_correlation

Complex = NDArray[np.complexfloating]
Box = tuple[slice, slice]

IN_PLACE_PX = 0.02
"""A shift this close to whole pixels is taken as whole: interpolation of sharp edges would cost more than it mends."""
SPLINE = 5
"""Order of the interpolation by a part of a pixel: for half a pixel of the paper's object 2.6 dB better than 3."""
_PAD = 12  # pixels beyond a part, so that the ends of its splines lie outside
_STEPS = 8  # of least squares; three suffice where the correlation was right


@dataclass(frozen=True)
class Registered:
    """A reconstruction on the pixels of another object, here called the truth."""

    object: Complex
    """(H, W) shifted, its ramp taken out, scaled to the truth; 1 where `seen` is False."""
    seen: NDArray[np.bool_]
    """(H, W) where the reconstruction knows the object."""
    probe: Complex | None
    """(modes, h, w) with the same shift and the opposite ramp and scale, or None if none was given."""
    shift_px: tuple[float, float]
    """By which object and probe were moved beyond what the positions say."""
    ramp_rad_px: tuple[float, float]
    """Slope that was taken out of the object's phase along each axis."""


def registered(
    field: Complex,
    corners_px: NDArray[np.floating],
    truth: Complex,
    truth_corners_px: NDArray[np.floating],
    *,
    seen: NDArray[np.bool_] | None = None,
    truth_seen: NDArray[np.bool_] | None = None,
    probe: Complex | None = None,
    ramp: bool = True,
    shift: bool = True,
) -> Registered:
    """Bring `field` to the pixels of `truth`.

    Positions place it, a correlation of phase slopes finds the shift that is left, and least squares refine shift,
    ramp, phase and scale together, from there and from the positions alone: where there is more noise than object the
    correlation may lie anywhere, even where the probe would have left its window. The better of the two is taken. What
    is moved by whole pixels is not interpolated.

    Args:
        field: (H', W') complex object.
        corners_px: (n, 2) window corners in it.
        truth: (H, W) complex object to compare it with.
        truth_corners_px: (n, 2) corners of the same windows in the truth, in the same order.
        seen: (H', W') where `field` is known; None for everywhere.
        truth_seen: (H, W) where `truth` is known; None for everywhere.
        probe: (modes, h, w) or (h, w) that belongs to `field`.
        ramp: whether a phase ramp is unknown, as it is after a blind start.
        shift: whether a shift is, likewise; False takes the positions' word, to the whole pixel.

    Raises:
        ValueError: the corners do not belong together, or the two share less than 16 x 16 pixels.
    """
    if corners_px.shape != truth_corners_px.shape or not len(corners_px):
        raise ValueError(
            f"{len(corners_px)} and {len(truth_corners_px)} window corners: compare objects by the same frames"
        )
    known = np.ones(field.shape, bool) if seen is None else seen
    offset = np.median(truth_corners_px - corners_px, axis=0)
    whole = np.rint(offset)
    common = _taken(known, whole, (slice(0, truth.shape[0]), slice(0, truth.shape[1])), outside=False)
    if truth_seen is not None:
        common = common & truth_seen
    box = inner_box(np.asarray(binary_fill_holes(common), bool))
    target, trusted = truth[box], common[box]
    placed = whole
    for _ in range(2 if shift else 0):  # the second time the same part of the sample is in both boxes
        whole = whole + np.rint(_shift_between(_taken(field, whole, box), target))
    begun = [placed]
    if shift and (probe is None or (np.abs(whole - offset) <= np.array(probe.shape[-2:]) / 2).all()):
        begun.append(whole + _shift_between(_taken(field, whole, box), target))
    found = [_refined(field, target, box, each, trusted, ramp, shift) for each in begun]
    _, total, wave = min(found, key=lambda fit: fit[0])
    slopes = wave[:2]
    everywhere = (slice(0, truth.shape[0]), slice(0, truth.shape[1]))
    moved = _taken(field, total, everywhere) * _waves(wave, everywhere, box)
    there: NDArray[np.bool_] = _taken(known, np.rint(total), everywhere, outside=False)
    if (total != np.rint(total)).any():
        there = np.asarray(binary_erosion(there), bool)
    left = total - offset
    return Registered(
        object=np.where(there, moved, 1),
        seen=there,
        probe=None if probe is None else _with_probe(probe.reshape(-1, *probe.shape[-2:]), left, wave),
        shift_px=(float(left[0]), float(left[1])),
        ramp_rad_px=(-float(slopes[0].real), -float(slopes[1].real)),
    )


def inner_box(mask: NDArray[np.bool_]) -> Box:
    """The bounding box of a mask, shrunk about its centre until nearly all of it is inside the mask.

    >>> inner_box(np.pad(np.ones((40, 30), bool), 5))
    (slice(5, 45, None), slice(5, 35, None))

    Raises:
        ValueError: nothing, or less than 16 x 16 pixels of it, is left.
    """
    if mask.any():
        first = np.array([np.flatnonzero(mask.any(axis=1 - axis))[0] for axis in (0, 1)])
        last = np.array([np.flatnonzero(mask.any(axis=1 - axis))[-1] + 1 for axis in (0, 1)])
        for share in np.arange(1.0, 0.0, -0.02):
            rim = np.rint((1 - share) / 2 * (last - first)).astype(int)
            box = (
                slice(int(first[0] + rim[0]), int(last[0] - rim[0])),
                slice(int(first[1] + rim[1]), int(last[1] - rim[1])),
            )
            if min(part.stop - part.start for part in box) < 16:
                break
            if mask[box].mean() > 0.995:
                return box
    raise ValueError("the objects share less than 16 x 16 known pixels: are they of the same scan, and large enough?")


def without_ramp(field: Complex, reference: Complex) -> Complex:
    """`field` times the plane wave and the phase that bring it closest to `reference`, both (H, W).

    >>> rows, columns = np.mgrid[:40, :50]
    >>> truth = np.exp(1j * np.sin(rows / 5) * np.cos(columns / 7))
    >>> tilted = truth * np.exp(1j * (0.3 * rows - 0.11 * columns + 1.0))
    >>> bool(np.abs(without_ramp(tilted, truth) - truth).max() < 1e-6)
    True
    """
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    down, right, constant = _ramp_between(field, reference)
    return field * np.exp(-1j * (down * rows + right * columns + constant))


def slopes(field: Complex, middle: tuple[slice, ...]) -> Complex:
    """Phase differences to the next row (real) and column (imaginary), less their mean: blind to phase and ramps."""
    unit = field / np.maximum(np.abs(field), 1e-12)
    found = []
    for axis in (0, 1):
        step = (unit * np.conj(np.roll(unit, 1, axis)))[middle]
        found.append(np.angle(step * np.exp(-1j * np.angle(step.mean()))))
    taper = np.outer(*(np.hanning(n) for n in found[0].shape))
    return (found[0] + 1j * found[1]) * taper


def shift_between(mine: Complex, theirs: Complex) -> NDArray[np.floating]:
    """(2,) pixels by which features `mine` have to be moved to lie on `theirs`, to a twentieth of a pixel."""
    spectra = (np.fft.fft2(array) for array in (theirs, mine))
    # The stub says `str`; None asks for plain, not phase, correlation, which noise does not lead astray.
    plain: Any = None
    offset, *_ = phase_cross_correlation(*spectra, space="fourier", upsample_factor=20, normalization=plain)
    return np.asarray(offset)


def _shift_between(mine: Complex, theirs: Complex) -> NDArray[np.floating]:
    inside = (slice(1, None), slice(1, None))
    return shift_between(slopes(mine, inside), slopes(theirs, inside))


def _ramp_between(field: Complex, reference: Complex) -> tuple[float, float, float]:
    """Radians per row, per column, and at the first element by which `field` runs ahead of `reference`."""
    rows, columns = np.mgrid[: field.shape[0], : field.shape[1]]
    ratio = field * np.conj(reference)
    ratio = ratio / np.maximum(np.abs(ratio), 1e-12)
    size = 4 * max(field.shape)  # a quarter of a turn over the field is left for the plane fit
    peak = np.unravel_index(np.abs(np.fft.fft2(ratio, (size, size))).argmax(), (size, size))
    turns = [2 * np.pi * (int(p) - size if p > size // 2 else int(p)) / size for p in peak]
    coarse = np.exp(-1j * (turns[0] * rows + turns[1] * columns))
    constant = float(np.angle((ratio * coarse).mean()))
    plane = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], axis=1)
    fit, *_ = np.linalg.lstsq(plane, np.angle(ratio * coarse * np.exp(-1j * constant)).ravel(), rcond=None)
    return turns[0] + float(fit[0]), turns[1] + float(fit[1]), constant + float(fit[2])


def _refined(
    field: Complex,
    target: Complex,
    box: Box,
    total: NDArray[np.floating],
    trusted: NDArray[np.bool_],
    ramp: bool,
    free: bool,
) -> tuple[float, NDArray[np.floating], NDArray[np.complexfloating]]:
    """Least squares of the shift and of the logarithm of the wave (down, right, at the box's middle), and what is left.

    A step solves target = moved - d . grad + (i k . x + c) target for the shift d, the slopes k and the complex c.
    """
    mine = _taken(field, total, box)
    start = _ramp_between(mine, target) if ramp else (0.0, 0.0, float(np.angle(np.vdot(target, mine))))
    middle = [n / 2 for n in target.shape]
    constant = start[2] + start[0] * middle[0] + start[1] * middle[1]
    scale = np.log(np.sqrt(np.mean(np.abs(target) ** 2) / max(float(np.mean(np.abs(mine) ** 2)), 1e-30)))
    wave = np.array([-start[0], -start[1], scale - 1j * constant])
    axes = np.meshgrid(*(np.arange(n) - n / 2 for n in target.shape), indexing="ij")
    weight = trusted * np.outer(*(np.hanning(n + 2)[1:-1] for n in target.shape))
    tilts = [1j * axis * target for axis in axes] if ramp else []
    shifts = [-part for part in np.gradient(target)]
    moving = [free, free]
    for step in range(_STEPS):
        if step == _STEPS - 2:  # the last two fit the wave to what will be delivered
            near = np.abs(total - np.rint(total)) < IN_PLACE_PX
            total, moving = np.where(near, np.rint(total), total), [False, False]
        directions = [part for part, moves in zip(shifts, moving, strict=True) if moves] + tilts + [target, 1j * target]
        rest = target - _taken(field, total, box) * _waves(wave, box, box)
        basis = np.stack([part.ravel() for part in directions])
        weighted = (basis * weight.ravel()).conj()
        change = np.linalg.lstsq((weighted @ basis.T).real, (weighted @ rest.ravel()).real, rcond=None)[0]
        if any(moving):
            total = total + np.clip(change[:2], -1, 1)
            change = change[2:]
        if ramp:
            wave[:2] += change[:2]
        wave[2] += change[-2] + 1j * change[-1]
    rest = target - _taken(field, total, box) * _waves(wave, box, box)
    return float((weight * np.abs(rest) ** 2).sum()), total, wave


def _waves(wave: NDArray[np.complexfloating], region: Box, box: Box) -> Complex:
    """The plane wave over a region; its slopes turn about the middle of the box that it was fitted in."""
    rows, columns = (
        np.arange(part.start, part.stop) - (inner.start + inner.stop) / 2
        for part, inner in zip(region, box, strict=True)
    )
    return np.exp(wave[2] + 1j * (wave[0].real * rows[:, None] + wave[1].real * columns[None, :]))


def _taken(field: NDArray[Any], total: NDArray[np.floating], region: Box, outside: Any = 1) -> NDArray[Any]:
    """The region of the field moved by `total` pixels; `outside` where the field does not reach."""
    whole = np.rint(total).astype(int)
    rest = total - whole
    pad = _PAD if rest.any() else 0
    first = np.array([part.start for part in region]) - whole - pad
    last = np.array([part.stop for part in region]) - whole + pad
    out: NDArray[Any] = np.full(last - first, outside, dtype=field.dtype)
    low, high = np.maximum(first, 0), np.minimum(last, field.shape)
    if (high > low).all():
        inner = tuple(slice(a - f, b - f) for a, b, f in zip(low, high, first, strict=True))
        out[inner] = field[low[0] : high[0], low[1] : high[1]]
    if not pad:
        return out
    real, imaginary = (shift(part, rest, order=SPLINE, mode="nearest") for part in (np.real(out), np.imag(out)))
    return (real + 1j * imaginary)[pad:-pad, pad:-pad]


def _with_probe(probe: Complex, left: NDArray[np.floating], wave: NDArray[np.complexfloating]) -> Complex:
    """What becomes of the probe when its object is moved and multiplied by the wave."""
    if np.abs(left).max() >= IN_PLACE_PX:
        probe = np.stack([np.fft.ifft2(fourier_shift(np.fft.fft2(mode), left)) for mode in probe])
    rows, columns = (np.arange(n) - n / 2 for n in probe.shape[1:])
    return probe * np.exp(-wave[2].real - 1j * (wave[0].real * rows[:, None] + wave[1].real * columns[None, :]))
