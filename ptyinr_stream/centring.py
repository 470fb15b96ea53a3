"""Where the beam is: the middle of the bright cone in a mean pattern, found by its symmetry. Pure functions.

A zone plate's far field is a disc with a dark middle, a Laue lens's a rectangle, a pinhole's a peak. Their brightest
pixel and their centre of mass say little: lenses are lit unevenly, samples scatter to one side, and a module gap takes
a part away. But every such aperture looks the same when it is turned by 180 degrees. So the centre is the point about
which the bright area, its brightness limited, agrees best with itself, counting pairs of trusted pixels only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SMOOTHING_PX = 1.5
DIM = 0.25
"""Of the typical brightness of the light: what is dimmer lies outside the cone; what is brighter counts as typical."""
BACKGROUND_PERCENTILE = 10.0
LEAST_SYMMETRY = 0.7
"""The Siemens star reaches 0.98, with a gap across its cone 0.85; noise less than 0.1."""


@dataclass(frozen=True)
class Beam:
    """A bright cone on the detector."""

    centre: tuple[float, float]
    """Row and column."""
    symmetry: float
    """How well the cone agrees with itself turned by 180 degrees: 1 where it is the same, 0 as noise would."""
    radius: float
    """Of the disc that has as many pixels as are bright."""


def find_beam(level: NDArray[Any], trusted: NDArray[np.bool_]) -> Beam | None:
    """Find the beam in a mean pattern; None where there is no light, or none that looks like a cone.

    Args:
        level: (rows, columns) mean counts; what they are where they are not trusted does not matter.
        trusted: (rows, columns).
    """
    if not trusted.any():
        return None
    weight = trusted.astype(np.float32)
    share = gaussian_filter(weight, SMOOTHING_PX)
    light = gaussian_filter(np.where(trusted, level, 0).astype(np.float32), SMOOTHING_PX)
    light = np.divide(light, share, where=trusted, out=np.zeros_like(light))
    light -= np.percentile(light[trusted], BACKGROUND_PERCENTILE)
    light = np.where(trusted, np.maximum(light, 0), 0)
    total = float(light.sum(dtype=np.float64))
    if total <= 0:
        return None
    typical = float(np.square(light, dtype=np.float64).sum()) / total  # the brightness at which a photon is found
    cone = np.where(light < DIM * typical, 0, np.minimum(light, typical))
    agreement, similarity = _turned(cone, weight)
    # Among the places where most of the cone meets itself, the one where what meets is most alike: a gap beside the
    # middle lets less of it meet at the true centre than elsewhere.
    similarity[agreement < 0.5 * agreement.max()] = 0
    at = np.unravel_index(int((agreement * similarity).argmax()), agreement.shape)
    seen = cone[trusted].astype(np.float64)
    chance = float(seen.mean() ** 2 / np.square(seen).mean())  # the similarity of pixels in any order
    symmetry = (float(similarity[at]) - chance) / max(1 - chance, 1e-9)
    if symmetry < LEAST_SYMMETRY:
        return None
    row, column = (_vertex(agreement * similarity, (int(at[0]), int(at[1])), axis) / 2 for axis in (0, 1))
    return Beam((row, column), symmetry, float(np.sqrt(np.count_nonzero(cone) / np.pi)))


def _turned(cone: NDArray[np.float32], weight: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For every point, by twice its row and column: how much of the cone meets itself, and how alike it is there."""
    fft: Any = scipy.fft  # whose stubs know no single precision
    shape = [fft.next_fast_len(2 * n - 1, real=True) for n in cone.shape]
    spectrum, squares, weights = (fft.rfft2(array, shape) for array in (cone, cone**2, weight))
    agreement, possible = (fft.irfft2(s, shape) for s in (spectrum * spectrum, squares * weights))
    # (a - b)^2 summed over the trusted pairs is 2 (possible - agreement).
    least = 1e-3 * float(agreement.max())
    similarity = np.divide(agreement, possible, where=possible > least, out=np.zeros_like(agreement))
    return agreement, np.clip(similarity, 0, 1)


def _vertex(score: NDArray[Any], at: tuple[int, int], axis: int) -> float:
    """The maximum of the parabola through a peak and its neighbours along one axis."""
    line = score[:, at[1]] if axis == 0 else score[at[0]]
    k = at[axis]
    if not 0 < k < len(line) - 1:
        return float(k)
    before, peak, after = (float(line[i]) for i in (k - 1, k, k + 1))
    bend = before - 2 * peak + after
    return k + (0.5 * (before - after) / bend if bend < 0 else 0.0)
