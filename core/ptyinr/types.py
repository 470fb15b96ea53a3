"""What flows into and out of the core: frozen values made of host arrays. No torch here.

Arrays are indexed (axis 0, axis 1) = (row, column). Positions are metres along (axis 0, axis 1) and grow towards
larger indices. Diffraction patterns have their zero frequency (DC) at `[h // 2, w // 2]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

LARGEST_COUNT = 1e30
"""Of a pixel: sums of squares of larger ones leave single precision."""
HC_KEV_M = 1.239841984e-9
"""Planck's constant times the speed of light, in keV m (CODATA 2018)."""


def require_lengths(**lengths_m: float) -> None:
    """Refuse lengths that cannot be.

    Raises:
        ValueError: one is not positive and finite; it is named.
    """
    for name, value in lengths_m.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}: it must be a positive, finite number of metres")


def require_choices(settings: object) -> None:
    """Refuse words that are none of those that a field of a dataclass may be (`Literal`).

    Raises:
        ValueError: one is not; it is named, with what would be right.
    """
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal and getattr(settings, name) not in get_args(hint):
            words = ", ".join(map(repr, get_args(hint)))
            raise ValueError(f"{name} is {getattr(settings, name)!r}, not one of {words}")


def all_positive(*values: float) -> bool:
    """Whether all are above 0 and finite; a nan is not.

    >>> all_positive(1, 2.5), all_positive(1, float("nan")), all_positive(0)
    (True, False, False)
    """
    return all(0 < value < float("inf") for value in values)


@dataclass(frozen=True)
class ScanGeometry:
    """The optics of a far-field scan, from which the sample pixel is derived.

    >>> star = ScanGeometry(wavelength_m=1.409e-10, distance_m=1.92, detector_pixel_m=75e-6, window=(128, 128))
    >>> [round(1e9 * p, 2) for p in star.pixel_m]
    [28.18, 28.18]

    Raises:
        ValueError: an optical number is not positive and finite, or the window is smaller than 8 pixels.
    """

    wavelength_m: float
    distance_m: float
    """Sample to detector."""
    detector_pixel_m: float
    window: tuple[int, int]
    """Rows and columns of the diffraction patterns, and so of the probe."""

    def __post_init__(self) -> None:
        require_lengths(**{name: getattr(self, name) for name in ("wavelength_m", "distance_m", "detector_pixel_m")})
        object.__setattr__(self, "window", tuple(int(n) for n in self.window))  # a list equals no shape
        if min(self.window) < 8:
            raise ValueError(f"window is {self.window}: diffraction patterns need at least 8 x 8 pixels")

    @property
    def pixel_m(self) -> tuple[float, float]:
        """Sample pixel along each axis: wavelength * distance / (n * detector pixel)."""
        reach = self.wavelength_m * self.distance_m / self.detector_pixel_m
        return reach / self.window[0], reach / self.window[1]

    @property
    def energy_kev(self) -> float:
        """Photon energy in keV."""
        return HC_KEV_M / self.wavelength_m


@dataclass(frozen=True)
class ScanRange:
    """The commanded extent of a scan, in metres: it anchors the object's coordinates and its canvas.

    Raises:
        ValueError: a bound is not finite, or an upper bound lies below its lower bound.
    """

    lower_m: tuple[float, float]
    upper_m: tuple[float, float]

    def __post_init__(self) -> None:
        if not np.isfinite([*self.lower_m, *self.upper_m]).all():
            raise ValueError(f"scan range {self.lower_m}..{self.upper_m} m is not finite")
        if self.upper_m[0] < self.lower_m[0] or self.upper_m[1] < self.lower_m[1]:
            raise ValueError(f"scan range {self.lower_m}..{self.upper_m} m runs backwards: give the lower corner first")

    @classmethod
    def of(cls, positions_m: NDArray[np.float64]) -> ScanRange:
        """The extent of positions (n, 2)."""
        lower, upper = positions_m.min(axis=0), positions_m.max(axis=0)
        return cls((float(lower[0]), float(lower[1])), (float(upper[0]), float(upper[1])))


@dataclass(frozen=True)
class Batch:
    """Frames joined with positions by frame id: all that the core ever receives.

    Raises:
        ValueError: the arrays do not fit together or are of another kind, a count is negative or not finite, a position
            is not finite, or a frame number is negative or there twice.
    """

    indices: NDArray[np.int64]
    """(n,) frame numbers in acquisition order, from 0."""
    counts: NDArray[Any]
    """(n, h, w) photon counts, any real dtype, DC in the centre."""
    positions_m: NDArray[np.float64]
    """(n, 2) metres."""
    mask: NDArray[np.bool_] | None = None
    """(n, h, w) or (h, w), True where a pixel may be trusted; None trusts them all."""

    def __post_init__(self) -> None:
        n = len(self.indices)
        if self.counts.ndim != 3 or len(self.counts) != n or self.positions_m.shape != (n, 2):
            raise ValueError(
                f"a batch of {n} indices needs counts ({n}, h, w) and positions ({n}, 2), "
                f"not {self.counts.shape} and {self.positions_m.shape}"
            )
        if n and (self.indices.min() < 0 or len(np.unique(self.indices)) < n):
            raise ValueError(f"frame numbers are 0 or more, and each is there once: {self.indices[:9].tolist()}")
        if self.counts.dtype.kind not in "uif":
            raise ValueError(f"counts are {self.counts.dtype}: give integers or floats, the intensities of patterns")
        if self.mask is not None and self.mask.dtype != np.bool_:
            raise ValueError(f"mask is {self.mask.dtype}: give bool, True where a pixel may be trusted")
        if self.mask is not None and self.mask.shape not in (self.counts.shape, self.counts.shape[1:]):
            raise ValueError(f"mask {self.mask.shape} must have the shape of counts {self.counts.shape}, or of a frame")
        if not np.isfinite(self.positions_m).all():
            bad = self.indices[~np.isfinite(self.positions_m).all(axis=1)]
            raise ValueError(f"positions of frames {bad[:5].tolist()} are not finite")
        if np.issubdtype(self.counts.dtype, np.unsignedinteger):
            return  # of any value they are photon counts, and at 2,000 frames a second a look is not free
        trusted = self.counts if self.mask is None else self.counts[np.broadcast_to(self.mask, self.counts.shape)]
        if np.issubdtype(self.counts.dtype, np.floating) and not np.isfinite(trusted).all():
            raise ValueError("counts are not finite: mask the pixels that carry no measurement")
        if trusted.size and trusted.min() < 0:
            raise ValueError(
                f"counts reach {trusted.min()}: photon counts are never negative; give intensities, not dB"
            )
        if trusted.size and trusted.max() > LARGEST_COUNT:
            raise ValueError(f"counts reach {trusted.max():g}: beyond {LARGEST_COUNT:g} single precision ends")


@dataclass(frozen=True)
class Snapshot:
    """All that the core ever gives: host arrays, read-only and finite."""

    uid: str
    """The reconstruction it belongs to; the stream uses the run's uid."""
    step: int
    frames: int
    """How many frames the dataset held."""
    object: NDArray[np.complex64]
    """(H, W) transmission; 1 where `coverage` is 0."""
    probe: NDArray[np.complex64]
    """(modes, h, w), scaled so that |FFT(probe * object)| / sqrt(h * w) is the amplitude of a pattern."""
    coverage: NDArray[np.float32]
    """(H, W) the light that each pixel has received, 1 at the brightest; 0 where hardly any has fallen."""
    indices: NDArray[np.int64]
    """(n,) the frames in the dataset, ascending."""
    positions_px: NDArray[np.float64]
    """(n, 2) row and column of each frame's window corner in `object`, fractional, in the order of `indices`."""
    pixel_m: tuple[float, float]
    metrics: dict[str, float] = field(default_factory=dict)
    final: bool = False
    positions_m: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 2)))
    """(n, 2) the middle of each frame's window, in the coordinates of the batches, to a hundred-thousandth of a
    pixel."""
    judges: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """(m,) the frames that measured the error: held out, if any are."""
    judged: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """(m,) the mean squared amplitude error of each of them, in counts."""

    def __post_init__(self) -> None:
        for name in ("object", "probe", "coverage", "indices", "positions_px", "positions_m", "judges", "judged"):
            array = getattr(self, name)
            if not np.isfinite(array).all():
                raise ValueError(f"snapshot {self.step}: {name} is not finite")
            array.setflags(write=False)
