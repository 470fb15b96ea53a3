"""Probes as a lens makes them: an aperture in the far field, out of focus by one number along each axis.

P(z) = F^-1{ A(nu) exp(i pi wavelength (z0 nu0^2 + z1 nu1^2)) }, where A is the lens's aperture, a point x of it seen at
the frequency nu = x / (wavelength * focal length), and z0 and z1 are the defoci along axis 0 and 1. The rays of a
frequency cross the sample wavelength * z * nu off the axis. Plain numpy, double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .types import ScanGeometry, require_lengths

SUBPIXELS = 8
"""Along each axis of a detector pixel, over which the edge of an aperture is averaged."""
LEAST_RADIUS_PX = 2.0
"""Of an aperture on the detector: a smaller one has a focus that fills the window."""


@dataclass(frozen=True)
class ZonePlate:
    """A round lens with a central stop.

    >>> lens = ZonePlate(diameter_m=240e-6, outermost_zone_m=30e-9, stop_m=80e-6)
    >>> round(1e3 * lens.focal_m(1.24e-10), 1)  # mm
    58.1

    Raises:
        ValueError: a length is not positive and finite, or the stop covers the lens.
    """

    diameter_m: float
    outermost_zone_m: float
    stop_m: float = 0.0
    """Diameter of the central stop; 0 for none."""

    def __post_init__(self) -> None:
        require_lengths(diameter_m=self.diameter_m, outermost_zone_m=self.outermost_zone_m)
        if not 0 <= self.stop_m < self.diameter_m:
            raise ValueError(
                f"stop_m is {self.stop_m:g}: it must be at least 0, and less than the diameter, {self.diameter_m:g} m"
            )

    def focal_m(self, wavelength_m: float) -> float:
        """Focal length: diameter * outermost zone / wavelength."""
        return self.diameter_m * self.outermost_zone_m / wavelength_m

    def rim(self, wavelength_m: float) -> tuple[float, float]:
        """The largest frequency along each axis, 1/m: half of one over the outermost zone, at any wavelength."""
        largest = self.diameter_m / 2 / (wavelength_m * self.focal_m(wavelength_m))
        return largest, largest

    def transmits(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Where the aperture is open, at fractions of the rim's frequency."""
        radius = np.hypot(y, x)
        return (radius <= 1) & (radius >= self.stop_m / self.diameter_m)


@dataclass(frozen=True)
class LaueLenses:
    """A pair of crossed multilayer Laue lenses: each focuses along one axis, so that the aperture is a rectangle.

    Raises:
        ValueError: a length is not positive and finite.
    """

    aperture_m: tuple[float, float]
    """Along axis 0 and axis 1."""
    focus_m: tuple[float, float]
    """Focal lengths along axis 0 and axis 1."""

    def __post_init__(self) -> None:
        for axis in (0, 1):
            require_lengths(**{f"aperture_m[{axis}]": self.aperture_m[axis], f"focus_m[{axis}]": self.focus_m[axis]})

    def rim(self, wavelength_m: float) -> tuple[float, float]:
        """The largest frequency along each axis, 1/m."""
        y, x = (a / 2 / (wavelength_m * f) for a, f in zip(self.aperture_m, self.focus_m, strict=True))
        return y, x

    def transmits(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Where the aperture is open, at fractions of the rim's frequency."""
        return (np.abs(y) <= 1) & (np.abs(x) <= 1)


def focused_probe(
    lens: ZonePlate | LaueLenses,
    geometry: ScanGeometry,
    *,
    defocus_m: float = 0.0,
    astigmatism_m: float = 0.0,
    photons: float = 1.0,
) -> NDArray[np.complex128]:
    """The light of a lens in the plane of the sample.

    Args:
        lens: its aperture.
        geometry: gives the window and the sample pixel.
        defocus_m: mean of the defoci along both axes.
        astigmatism_m: defocus along axis 0 less that along axis 1.
        photons: sum of |P|^2.

    Returns:
        (h, w) root photons, the focus in the middle, at `[h // 2, w // 2]`.

    Raises:
        ValueError: the aperture does not fit on the detector or is too small for it, or the defocused light does not
            fit into the window, where its phase cannot be sampled either.
    """
    rim = lens.rim(geometry.wavelength_m)
    defoci = defocus_m + astigmatism_m / 2, defocus_m - astigmatism_m / 2
    for axis in (0, 1):
        _require_fit(geometry, axis, rim[axis], defoci[axis])
    nu = [np.fft.fftfreq(n, d=p) for n, p in zip(geometry.window, geometry.pixel_m, strict=True)]
    step = [1 / (n * p) for n, p in zip(geometry.window, geometry.pixel_m, strict=True)]
    aperture = averaged(
        lambda dy, dx: lens.transmits((nu[0][:, None] + dy * step[0]) / rim[0], (nu[1] + dx * step[1]) / rim[1]),
        SUBPIXELS,
    )
    phase = [np.pi * geometry.wavelength_m * z * f**2 for z, f in zip(defoci, nu, strict=True)]
    probe = np.fft.fftshift(np.fft.ifft2(aperture * np.exp(1j * (phase[0][:, None] + phase[1]))))
    return probe * np.sqrt(photons / np.square(np.abs(probe)).sum())


def averaged(
    inside: Callable[[float, float], NDArray[np.bool_] | NDArray[np.float64]], subpixels: int
) -> NDArray[np.float64]:
    """The mean of `inside(dy, dx)` over subpixels, at offsets of less than half a pixel from the pixels' centres."""
    offsets = ((np.arange(subpixels) + 0.5) / subpixels - 0.5).tolist()
    total = np.zeros(())
    for dy in offsets:
        for dx in offsets:
            total = total + inside(dy, dx)
    return total / subpixels**2


def cropped(probe: NDArray[np.complexfloating], window: tuple[int, int]) -> NDArray[np.complexfloating]:
    """The middle of a probe (h, w) or (modes, h, w), at the same sample pixel.

    Raises:
        ValueError: the probe is smaller than the window.
    """
    start = [(n - m) // 2 for n, m in zip(probe.shape[-2:], window, strict=True)]
    if min(start) < 0:
        raise ValueError(f"a probe of {probe.shape[-2:]} pixels cannot be cropped to {window}")
    return probe[..., start[0] : start[0] + window[0], start[1] : start[1] + window[1]]


def lit_diameter_m(probe: NDArray[np.complexfloating], pixel_m: tuple[float, float], power: float = 0.9) -> float:
    """Diameter of the disc around the centre of mass of |P|^2 that holds a share of the power.

    Args:
        probe: (h, w) or (modes, h, w).
        pixel_m: sample pixel along each axis.
        power: the share.
    """
    intensity = np.square(np.abs(probe)).reshape(-1, *probe.shape[-2:]).sum(0)
    intensity = intensity / intensity.sum()
    y, x = (np.arange(n) * p for n, p in zip(intensity.shape, pixel_m, strict=True))
    radius = np.hypot((y - intensity.sum(1) @ y)[:, None], x - intensity.sum(0) @ x).ravel()
    order = radius.argsort()
    inside = np.cumsum(intensity.ravel()[order])
    return float(2 * np.interp(power, inside, radius[order]))


def _require_fit(geometry: ScanGeometry, axis: int, rim: float, defocus_m: float) -> None:
    n, pixel_m = geometry.window[axis], geometry.pixel_m[axis]
    radius = rim * n * pixel_m  # of the aperture, in detector pixels
    if radius > n / 2:
        raise ValueError(
            f"the lens lights {2 * radius:.0f} detector pixels along axis {axis}, the window has {n}: widen it, "
            f"or move the detector to {_rounded(np.floor, geometry.distance_m * n / (2 * radius))} m or nearer"
        )
    if radius < LEAST_RADIUS_PX:
        raise ValueError(
            f"the lens lights {2 * radius:.1f} detector pixels along axis {axis}, so that its focus fills the window: "
            f"move the detector to {_rounded(np.ceil, geometry.distance_m * LEAST_RADIUS_PX / radius)} m or farther"
        )
    farthest = n * pixel_m / (2 * geometry.wavelength_m * rim)
    if not abs(defocus_m) <= farthest:
        raise ValueError(
            f"a defocus of {1e6 * defocus_m:.4g} um along axis {axis} spreads the light beyond the window of {n} "
            f"pixels, where it cannot be sampled: at most {_rounded(np.floor, 1e6 * farthest)} um fit"
        )


def _rounded(way: Callable[[float], float], value: float) -> str:
    """Three digits, so that what is named as a limit lies within it."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 2)
    return f"{way(value / unit) * unit:.3g}"
