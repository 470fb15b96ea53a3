"""Scans whose truth is known: a probe, an object and positions in, counts out. Plain numpy, double precision.

I_j = |F{P(r - d_j) O(r + c_j)}|^2, F the unitary discrete Fourier transform, |FFT| / sqrt(h w); c_j a window's integer
corner, 0 <= d_j < 1 the rest of its position, by a Fourier shift of the probe. None of it is shared with the model that
is trained, so that each can be tested against the other.

Noise as in the paper, eqs. 6 to 8, with I_max the brightest pixel of all frames, and as a detector has it:

| noise | counts |
|---|---|
| none | I |
| photons | Poisson(I), the only one whose counts are whole |
| poisson | Poisson(alpha I / I_max) I_max / alpha |
| gaussian | I + N(0, sigma), nowhere below 0 |
| mixed | the `poisson` counts + N(0, sigma), nowhere below 0 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .types import Batch, ScanGeometry

NOISES = ("none", "photons", "poisson", "gaussian", "mixed")

MOST_COUNTS = 2.0**31
"""In a pixel, before noise and after it: half of what a uint32 or a scan file holds."""

_BLOCK_PIXELS = 2**22  # of frames and modes at a time


@dataclass(frozen=True)
class SimulatedNoise:
    """What a detector adds; see the table above.

    Raises:
        ValueError: the kind is unknown, or a strength is not positive and finite.
    """

    kind: str = "none"
    alpha: float = 10.0
    """Photons in the brightest pixel, of `poisson` and `mixed`."""
    sigma: float = 100.0
    """Counts, of `gaussian` and `mixed`."""

    def __post_init__(self) -> None:
        if self.kind not in NOISES:
            raise ValueError(f"noise {self.kind!r} is unknown; there are: {', '.join(NOISES)}")
        for name, value in (("alpha", self.alpha), ("sigma", self.sigma)):
            if not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: it must be positive")

    def added_to(self, expected: NDArray[np.float64], random: np.random.Generator) -> NDArray[Any]:
        """Counts of all frames (n, h, w): uint16 or uint32 of `photons`, else float32.

        Raises:
            ValueError: a pixel counts more than `MOST_COUNTS`.
        """
        counts: NDArray[Any] = random.poisson(expected) if self.kind == "photons" else expected
        if self.kind in ("poisson", "mixed"):
            unit = expected.max() / self.alpha
            counts = random.poisson(expected / unit) * unit
        if self.kind in ("gaussian", "mixed"):
            counts = np.maximum(counts + random.normal(0, self.sigma, counts.shape), 0)
        if counts.max() > MOST_COUNTS:
            raise ValueError(
                f"with {self.kind} noise, alpha {self.alpha:g} and sigma {self.sigma:g}, a pixel counts "
                f"{counts.max():.3g}: at most {MOST_COUNTS:.3g} fit: give fewer photons, a larger alpha or a smaller "
                f"sigma"
            )
        if self.kind == "photons":  # the largest uint16 and uint32 mark pixels that carry no measurement
            return counts.astype(np.uint16 if counts.max() < 2**16 - 1 else np.uint32)
        return counts.astype(np.float32)


@dataclass(frozen=True)
class Simulation:
    """A scan and its truth."""

    counts: NDArray[Any]
    """(n, h, w) uint16 or uint32 of counted photons, float32 of any other noise; DC in the centre."""
    positions_m: NDArray[np.float64]
    """(n, 2) the middles of the windows, from the middle of the object."""
    geometry: ScanGeometry
    mask: NDArray[np.bool_] | None
    """(h, w) True where a pixel may be trusted; None trusts them all."""
    object: NDArray[np.complex64]
    """(H, W) transmission."""
    probe: NDArray[np.complex128]
    """(modes, h, w) root photons."""
    positions_px: NDArray[np.float64]
    """(n, 2) window corners in `object`, fractional."""

    def batch(self) -> Batch:
        """All frames, as the trainer takes them."""
        mask = None if self.mask is None else np.broadcast_to(self.mask, self.counts.shape)
        return Batch(np.arange(len(self.counts)), self.counts, self.positions_m, mask)


def expected_counts(
    field: NDArray[np.complexfloating], probe: NDArray[np.complexfloating], positions_px: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The mean of what a perfect detector counts.

    Args:
        field: (H, W) object.
        probe: (h, w), or (modes, h, w) that add in intensity.
        positions_px: (n, 2) window corners in `field`, fractional.

    Returns:
        (n, h, w) photons, DC in the centre.

    Raises:
        ValueError: a window leaves the object.
    """
    modes = probe.reshape(-1, *probe.shape[-2:]).astype(np.complex128)
    h, w = modes.shape[1:]
    corners = np.floor(positions_px).astype(np.int64)
    offsets = positions_px - corners
    last = np.array(field.shape) - (h, w)
    if len(corners) and ((corners < 0) | (corners > last)).any():
        outside = np.flatnonzero(((corners < 0) | (corners > last)).any(1))
        raise ValueError(
            f"windows {outside[:5].tolist()} of {h} x {w} pixels leave the object of {field.shape[0]} x "
            f"{field.shape[1]}: their corners must lie in 0..{last[0]}, 0..{last[1]}"
        )
    spectra, nu = np.fft.fft2(modes), (np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    windows = np.lib.stride_tricks.sliding_window_view(field, (h, w))
    counts = np.empty((len(corners), h, w))
    most = max(1, _BLOCK_PIXELS // modes.size)
    for block in (slice(start, start + most) for start in range(0, len(corners), most)):
        dy, dx = offsets[block].T[:, :, None, None]
        light = np.fft.ifft2(spectra * np.exp(-2j * np.pi * (nu[0] * dy + nu[1] * dx))[:, None])  # (n, modes, h, w)
        waves = np.fft.fft2(light * windows[corners[block, 0], corners[block, 1]][:, None], norm="ortho")
        counts[block] = np.fft.fftshift(np.square(np.abs(waves)).sum(1), axes=(1, 2))
    return counts


def simulate(
    geometry: ScanGeometry,
    field: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.floating],
    *,
    photons: float | None = None,
    noise: SimulatedNoise | None = None,
    mask: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> Simulation:
    """Measure an object that is known.

    Args:
        geometry: the optics.
        field: (H, W) object.
        probe: (h, w) or (modes, h, w) root photons.
        positions_px: (n, 2) window corners in `field`, fractional.
        photons: of the mean frame, to which the probe is scaled; None takes the probe as it is.
        noise: default none.
        mask: (h, w) False where a pixel shall hold garbage.
        seed: of noise and garbage.

    Raises:
        ValueError: the arrays do not fit together, the mask is not of truths, a window leaves the object, no light
            reaches the detector or more than can be counted, or photons is not positive.
    """
    if probe.shape[-2:] != geometry.window or (mask is not None and mask.shape != geometry.window):
        shapes = f"probe {probe.shape}" + ("" if mask is None else f" and mask {mask.shape}")
        raise ValueError(f"{shapes} must have the rows and columns of the window, {geometry.window}")
    if mask is not None and mask.dtype != np.bool_:
        raise ValueError(f"mask is {mask.dtype}: give bool, True where a pixel may be trusted")
    random = np.random.default_rng([seed, 1])  # not the stream that drew an object of the same seed
    modes = probe.reshape(-1, *geometry.window).astype(np.complex128)
    expected = expected_counts(field, modes, positions_px)
    mean = expected.sum() / max(len(expected), 1)
    if not (np.isfinite(mean) and mean > 0):
        raise ValueError(f"the mean frame holds {mean} photons: object and probe must be finite, and light must pass")
    if photons is not None:
        if not (np.isfinite(photons) and photons > 0):
            raise ValueError(f"photons is {photons}: the mean frame needs a positive number of them")
        expected *= photons / mean
        modes *= np.sqrt(photons / mean)
    if expected.max() > MOST_COUNTS:
        raise ValueError(f"the brightest pixel would count {expected.max():.3g} photons: at most {MOST_COUNTS:.3g} fit")
    noise = noise or SimulatedNoise()
    counts = noise.added_to(expected, random)
    if not (counts if mask is None else counts[:, mask]).any():
        raise ValueError(
            f"not a photon arrives in a trusted pixel: {len(counts)} frames expect {expected.sum():.3g} photons, noise "
            f"is {noise.kind!r} and alpha {noise.alpha:g}: give more photons or a larger alpha"
        )
    if mask is not None:
        garbage = random.integers(0, 2 * int(counts.max()) + 2, (len(counts), int((~mask).sum())))
        counts[:, ~mask] = np.minimum(garbage, 2**16 - 2)
    corners = np.asarray(positions_px, dtype=np.float64)
    middle = (np.array(field.shape) - geometry.window) / 2
    return Simulation(
        counts=counts,
        positions_m=(corners - middle) * geometry.pixel_m,
        geometry=geometry,
        mask=mask,
        object=field.astype(np.complex64),
        probe=modes,
        positions_px=corners,
    )


def faulty_detector(
    window: tuple[int, int], random: np.random.Generator, *, dead: float = 0.002, gap_px: int = 0
) -> NDArray[np.bool_]:
    """A mask (h, w), True where a pixel may be trusted: dead pixels, and the gap between two modules.

    Args:
        window: rows and columns.
        random: where the dead pixels are.
        dead: their share.
        gap_px: columns of the gap, right of an eighth of the window from the centre, where light still falls.
    """
    mask = random.random(window) >= dead
    start = window[1] // 2 + window[1] // 8
    mask[:, start : start + gap_px] = False
    return mask
