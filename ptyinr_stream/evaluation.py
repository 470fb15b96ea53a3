"""How good a reconstruction is: against the truth, another one, the frames it never saw, and itself from half the data.

Everything is computed here and drawn in `report`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr.dataset import pixels_held_out
from ptyinr.misfit import Misfit, misfit
from ptyinr.noise import Noise, estimate_noise
from ptyinr.resolution import Profile, profile
from ptyinr.simulate import expected_counts
from ptyinr_stream.comparison import Compared, Referred, other, shown, truth_of, with_reference, with_truth
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.halves import Halves
from ptyinr_stream.results import Result

Complex = NDArray[np.complexfloating]
Segment = tuple[tuple[float, float], tuple[float, float]]
"""(row, column) of start and end in metres, from the corner of the scanned field."""

PROFILE_WIDTH_PX = 5
_BLOCK = 64  # frames at a time


@dataclass(frozen=True)
class Line:
    """A profile through the reconstruction, and through the truth or the reference where there is one."""

    segment: Segment
    phase: Profile
    amplitude: Profile
    other_phase: Profile | None
    other_amplitude: Profile | None


@dataclass(frozen=True)
class Evaluation:
    """All that could be found out."""

    result: Result
    pixel_m: tuple[float, float]
    compared: Compared | None = None
    referred: Referred | None = None
    error: Misfit | None = None
    """In the scan's counts."""
    heldout: NDArray[np.bool_] | None = None
    """(n,) which of the result's frames were held out of training, where `error` is known."""
    noise: Noise | None = None
    """Of counts that are not whole, as estimated; None where a count is a photon."""
    noise_alone: float | None = None
    """The error of a model that is right, where `error` is known."""
    halves: Halves | None = None
    lines: tuple[Line, ...] = ()

    @property
    def heldout_pixels(self) -> NDArray[np.float64] | None:
        """(n,) the error of each frame on its pixels that were held out, where pixels were instead of frames."""
        return None if self.error is None else self.error.pixels

    @property
    def unit(self) -> str:
        """Of the errors."""
        return "photons" if self.noise is None else "counts"

    def numbers(self) -> dict[str, Any]:
        """What JSON can hold; None where a number is not finite, as the PSNR of what is equal."""
        attributes = self.result.attributes
        told: dict[str, Any] = {
            "result": self.result.name,
            **{name: attributes[name] for name in ("frames", "steps", "seconds", "version") if name in attributes},
            "pixel_nm": [1e9 * p for p in self.pixel_m],
        }
        if (c := self.compared) is not None:
            told["truth"] = {
                "name": c.name,
                "object": asdict(c.object),
                "probe": {**asdict(c.probe), "overlap": c.probe_overlap},
                "phase_correlation": c.phase_correlation,
                "shift_px": c.placed.shift_px,
                "ramp_rad_px": c.placed.ramp_rad_px,
            }
        if (r := self.referred) is not None:
            told["reference"] = {
                "name": r.name,
                "phase_correlation": r.phase_correlation,
                "probe_overlap": r.probe_overlap,
            }
        if (e := self.error) is not None and self.heldout is not None:
            told["amplitude_error"] = {
                "heldout": e.heldout,
                "heldout_frames": int(self.heldout.sum()),
                "heldout_pixels": 0.0 if self.heldout_pixels is None else 1 / self.result.pixel_holdout,
                "trained": e.trained,
                "trained_frames": int((~self.heldout).sum()),
                "noise_alone": self.noise_alone,
                "scale": e.scale,
                "unit": self.unit,
            }
            if (noise := self.noise) is not None:
                told["amplitude_error"] |= {"counts_a_photon": noise.gain, "sigma_counts": noise.variance**0.5}
        if (h := self.halves) is not None:
            told["split_halves"] = {
                "resolution_nm": None if h.rings.resolution_m is None else 1e9 * h.rings.resolution_m,
                "verdict": h.rings.verdict,
                "frames": h.frames,
                "seconds_each": h.seconds,
                "frequency_per_um": (1e-6 * h.rings.frequency_per_m).tolist(),
                "correlation": h.rings.correlation.tolist(),
                "half_bit": h.rings.half_bit.tolist(),
            }
        if self.lines:
            told["profiles"] = [_line_numbers(line) for line in self.lines]
        return _finite(told)


def evaluate(
    result: Result,
    *,
    scan: RecordedScan | None = None,
    truth: Result | None = None,
    reference: Result | None = None,
    halves: Halves | None = None,
    segments: tuple[Segment, ...] = (),
    ramp: bool = True,
) -> Evaluation:
    """Compare a result with everything that is given.

    Args:
        result: to be judged.
        scan: that it was made from; gives the held-out error, and the truth of a simulation.
        truth: what it should be; see `truth_of` for that of a scan.
        reference: another reconstruction of the same scan.
        halves: see `split_halves`.
        segments: lines to draw profiles along.
        ramp: whether a phase ramp is unknown, as it is unless the probe was known.

    Raises:
        ConfigError: two of them do not fit together; it says which and how.
    """
    pixel_m = _pixel(result, scan)
    if scan is not None:
        _require_fit(result, scan, pixel_m)
        truth = truth or truth_of(scan)
    try:
        compared = None if truth is None else with_truth(result, truth, ramp)
        referred = None if reference is None else with_reference(result, reference)
        lines = tuple(_line(result, compared, referred, segment, pixel_m) for segment in segments)
        found = Evaluation(result, pixel_m, compared, referred, halves=halves, lines=lines)
        return found if scan is None else _with_error(found, scan)
    except ValueError as complaint:
        raise ConfigError(f"{result.name}: {complaint}") from complaint


def _pixel(result: Result, scan: RecordedScan | None) -> tuple[float, float]:
    if result.pixel_m is not None:
        return result.pixel_m
    if scan is not None:
        return scan.geometry.pixel_m
    raise ConfigError(f"{result.name}: has no attribute pixel_m: give the scan, whose optics say it")


def _require_fit(result: Result, scan: RecordedScan, pixel_m: tuple[float, float]) -> None:
    if result.indices.min() < 0 or result.indices.max() >= len(scan.counts):
        raise ConfigError(
            f"{result.name}: holds frames up to {result.indices.max()}, {scan.name} has {len(scan.counts)}: "
            f"give the scan that it was made from"
        )
    if result.window != scan.geometry.window:
        raise ConfigError(f"{result.name}: windows of {result.window}, {scan.name} has {scan.geometry.window} pixels")
    if not np.allclose(pixel_m, scan.geometry.pixel_m, rtol=1e-3, atol=0):
        theirs = scan.geometry.pixel_m
        raise ConfigError(
            f"{result.name}: pixels of {1e9 * pixel_m[0]:.4g} x {1e9 * pixel_m[1]:.4g} nm, {scan.name} has "
            f"{1e9 * theirs[0]:.4g} x {1e9 * theirs[1]:.4g} nm"
        )


def _with_error(found: Evaluation, scan: RecordedScan) -> Evaluation:
    """How far the modelled amplitudes are from the scan's, and how far noise alone would put them."""
    result, counts = found.result, scan.counts[found.result.indices]
    n = 0 if result.pixel_holdout else result.holdout  # where pixels were held out every frame was trained on
    heldout = result.indices % n == n // 2 if n > 1 else np.zeros(len(result.indices), bool)

    def kept_apart(part: slice) -> NDArray[np.bool_]:
        pixels = pixels_held_out(result.indices[part], result.window, result.pixel_holdout)
        return np.fft.fftshift(pixels.numpy(), axes=(1, 2))

    pixels = kept_apart if result.pixel_holdout else None
    error = misfit(result.object, result.probe, result.positions_px, counts, heldout, scan.mask, pixels)
    noise, alone = None, error.photon_noise
    if not scan.whole:
        noise = estimate_noise(counts, scan.mask)
        alone = _alone(noise, result, scan.mask, error.scale)
    return replace(found, error=error, heldout=heldout, noise=noise, noise_alone=alone)


def _alone(noise: Noise, result: Result, mask: NDArray[np.bool_] | None, scale: float) -> float:
    """Mean (sqrt(I) - sqrt(x))^2 of counts I that are drawn around the modelled ones x of some frames."""
    some = np.unique(np.linspace(0, len(result.positions_px) - 1, _BLOCK).astype(int))
    expected = scale**2 * expected_counts(result.object, result.probe, result.positions_px[some])
    expected = expected if mask is None else expected[:, mask]
    random = np.random.default_rng(0)
    drawn = noise.gain * random.poisson(expected / noise.gain) + random.normal(0, noise.variance**0.5, expected.shape)
    return float(np.mean((np.sqrt(drawn.clip(0)) - np.sqrt(expected)) ** 2))


def _line(
    result: Result,
    compared: Compared | None,
    referred: Referred | None,
    segment: Segment,
    pixel_m: tuple[float, float],
) -> Line:
    field, seen, box = shown(result, compared)
    phase, amplitude = _profiles(field[box], seen[box], segment, pixel_m)
    beside = other(compared, referred, result)
    if beside is None:
        return Line(segment, phase, amplitude, None, None)
    return Line(segment, phase, amplitude, *_profiles(beside[1][box], beside[2][box], segment, pixel_m))


def _profiles(
    field: Complex, seen: NDArray[np.bool_], segment: Segment, pixel_m: tuple[float, float]
) -> tuple[Profile, Profile]:
    """Phase and amplitude along a line; the phase from the interpolated field, so that it does not jump."""
    width_m = PROFILE_WIDTH_PX * min(pixel_m)
    real, imaginary, amplitude = (
        profile(part, pixel_m, *segment, width_m=width_m, known=seen)
        for part in (field.real, field.imag, np.abs(field))
    )
    phase = np.angle(real.values + 1j * imaginary.values)
    known = np.isfinite(phase)
    phase[known] = np.unwrap(phase[known])
    return Profile(real.distance_m, phase), amplitude


def _line_numbers(line: Line) -> dict[str, Any]:
    told: dict[str, Any] = {"from_um": [1e6 * x for x in line.segment[0]], "to_um": [1e6 * x for x in line.segment[1]]}
    for name in ("phase", "amplitude", "other_phase", "other_amplitude"):
        if (found := getattr(line, name)) is not None:
            edge = found.edge_m
            told[f"{name}_edge_nm"] = None if edge is None else 1e9 * edge
            told[name] = found.values.tolist()
    told["distance_nm"] = (1e9 * line.phase.distance_m).tolist()
    return told


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
