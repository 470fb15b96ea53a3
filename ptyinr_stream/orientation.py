"""Which way round the detector lies, asked of a recorded scan. Scores and what follows from them; prints nothing.

A detector can be read in 8 orientations, and positions can be mapped onto the axes of arrays in 8 ways (two axes, two
signs): 64 pairs. Data cannot tell all of them apart, and this is exactly how far they can.

Let g turn the detector and h the positions, both of the eight symmetries of a square, and let the far field be
I_j(q) = |F[P(r) O(r + r_j)](q)|^2 for probe P, object O and positions r_j.

* Turning both alike changes nothing but the picture: P(g^-1 r) and O(g^-1 r) give the patterns I_j(g^-1 q) at the
  positions g r_j. So only c = h^-1 g matters, and the 64 pairs fall into 8 classes of 8.
* Conjugating both changes I(q) into I(-q): P* and O* explain the patterns of c turned by 180 degrees at the same
  positions. So c and -c are explained equally well, and data leave 4 classes of 16: the upright one and the one turned
  by 180 degrees, the two mirrored ones, the two turned by 90 degrees, the two transposed ones.
* These 4 differ, unless the scan is a line, or frames do not overlap: then no frame is explained by its neighbours.

Within a class, 8 pairs are the same picture, turned; the other 8 are its twin, of opposite phase and mirrored about the
probe's focus. The twin can only be told from the sample: whatever absorbs X-rays also advances their phase, which is
negative here, so that log amplitude and phase go together in the true picture and against each other in its twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ptyinr.dataset import DARK
from ptyinr.misfit import misfit
from ptyinr.settings import TrainerSettings
from ptyinr.training import reconstruct
from ptyinr.types import Snapshot
from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.frames import oriented
from ptyinr_stream.sections import Orientation

NAMES: tuple[Orientation, ...] = get_args(Orientation)
"""Of the eight ways, by numpy's names; a position map of a name moves positions as that orientation moves pixels."""
CLASSES: tuple[tuple[Orientation, Orientation], ...] = (
    ("as_sent", "rot180"),
    ("fliplr", "flipud"),
    ("rot90", "rot270"),
    ("transpose", "antitranspose"),
)
"""What data can tell apart, while positions stay as they are: each orientation and its twin."""

FRAMES = 100
STEPS = 30
LIGHT = 0.95
"""Of the photons: the middle of the patterns that holds so many is looked at; the rest is resolution, and time."""
SMALLEST_WINDOW, LARGEST_WINDOW = 32, 128
"""Of that middle, along each axis."""
HOLDOUT = 6
CLEAR = 1.1
"""The ratio of errors from which the better is better. On the Siemens star wrong ones differ by 1 % and the right one
by a factor of 2 to 3."""
CLEAR_SIGMA = 4.0
"""And by so many standard errors of the frames' differences."""
ABSORBING = 0.3
"""Correlation of log amplitude and phase from which it tells a picture from its twin."""
ABSORPTION_LIGHT = 0.3
"""Of the brightest pixel's, where amplitude and phase are looked at."""

_MATRICES: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    "as_sent": ((1, 0), (0, 1)),
    "fliplr": ((1, 0), (0, -1)),
    "flipud": ((-1, 0), (0, 1)),
    "rot90": ((0, -1), (1, 0)),
    "rot180": ((-1, 0), (0, -1)),
    "rot270": ((0, 1), (-1, 0)),
    "transpose": ((0, 1), (1, 0)),
    "antitranspose": ((0, -1), (-1, 0)),
}


def matrix(name: str) -> NDArray[np.int64]:
    """Where an orientation moves (row, column), counted from the middle: (2, 2)."""
    return np.array(_MATRICES[name])


def name_of(moves: NDArray[np.int64]) -> Orientation:
    """The inverse of `matrix`."""
    return next(name for name in NAMES if (matrix(name) == moves).all())


def relative(orientation: Orientation, positions: Orientation = "as_sent") -> int:
    """The class of a pair of a detector's orientation and a map of positions, as an index of `CLASSES`.

    >>> relative("fliplr"), relative("fliplr", "fliplr"), relative("rot90", "transpose")
    (1, 0, 1)
    """
    alone = name_of(matrix(positions).T @ matrix(orientation))
    return next(k for k, names in enumerate(CLASSES) if alone in names)


@dataclass(frozen=True)
class Verdict:
    """How well each class explains frames that were not trained on."""

    errors: tuple[float, ...]
    """Mean squared difference of amplitudes, of each of `CLASSES`."""
    sigmas: tuple[float, ...]
    """By how many standard errors each is worse than the best."""
    absorption: tuple[float, ...]
    """Correlation of log amplitude and phase of the picture that each orientation named first in `CLASSES` gives."""
    frames: int
    """That were looked at."""

    @property
    def best(self) -> int:
        """Index of the class of the least error."""
        return int(np.argmin(self.errors))

    @property
    def possible(self) -> tuple[int, ...]:
        """All classes that are not clearly worse than the best."""
        least = min(self.errors)
        worse = [e >= CLEAR * least and s >= CLEAR_SIGMA for e, s in zip(self.errors, self.sigmas, strict=True)]
        return tuple(k for k, is_worse in enumerate(worse) if not is_worse or k == self.best)

    @property
    def margin(self) -> float:
        """Error of the second best over that of the best."""
        least, second, *_ = sorted(self.errors)
        return second / least if least > 0 else float("inf")

    @property
    def likely(self) -> Orientation | None:
        """Which of the best class absorbs as X-rays do; None where the sample hardly absorbs."""
        correlation = self.absorption[self.best]
        return CLASSES[self.best][0 if correlation > 0 else 1] if abs(correlation) >= ABSORBING else None


def find_orientation(
    scan: RecordedScan,
    *,
    frames: int = FRAMES,
    steps: int = STEPS,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Verdict:
    """Reconstruct neighbouring frames in each of the four ways that data can tell apart.

    Args:
        scan: patterns in the orientation to be judged, positions along the axes of arrays as they are mapped now.
        frames: how many to look at, neighbours around the middle of the scan.
        steps: of training, for each.
        seed: of random numbers.
        device: torch's name.
        progress: called with the number of ways that are done.

    Raises:
        ScanFileError: the scan cannot be reconstructed; it says why.
    """
    rows = _neighbours(scan, frames)
    settings = TrainerSettings(holdout=HOLDOUT, holdout_of="frames", seed=seed)
    heldout = np.arange(len(rows)) % HOLDOUT == HOLDOUT // 2
    if heldout.sum() < 2:
        raise ScanFileError(
            f"{scan.name}: {len(rows)} frames with light: some 60 are needed to tell orientations apart"
        )
    by_frame, absorption = [], []
    for done, (name, _) in enumerate(CLASSES):
        part = _bright_middle(turned(scan, name, rows))
        try:
            snapshot = reconstruct(
                part.counts,
                part.positions_m,
                part.geometry,
                steps=steps,
                mask=part.mask,
                settings=settings,
                device=device,
            )
        except ValueError as error:
            raise ScanFileError(f"{scan.name}: {error}") from error
        found = misfit(snapshot.object, snapshot.probe, snapshot.positions_px, part.counts, heldout, part.mask)
        by_frame.append(found.frames[heldout])
        absorption.append(_absorption(snapshot))
        if progress is not None:
            progress(done + 1)
    errors = np.stack(by_frame)  # (4, n)
    differences = errors - errors[errors.mean(1).argmin()]
    spread = differences.std(1, ddof=1) / np.sqrt(differences.shape[1])
    sigmas = np.divide(differences.mean(1), spread, where=spread > 0, out=np.zeros(len(errors)))
    return Verdict(tuple(errors.mean(1).tolist()), tuple(sigmas.tolist()), tuple(absorption), len(rows))


def turned(scan: RecordedScan, orientation: Orientation, rows: NDArray[np.int64] | None = None) -> RecordedScan:
    """A scan, or some of its frames, with the detector in another orientation; DC stays where it is, positions too."""
    part = slice(None) if rows is None else rows
    counts = np.stack([_turned(image, orientation) for image in scan.counts[part]])
    mask = None if scan.mask is None else _turned(scan.mask, orientation)
    geometry = replace(scan.geometry, window=(counts.shape[1], counts.shape[2]))
    return replace(scan, counts=counts, positions_m=scan.positions_m[part], mask=mask, geometry=geometry, truth=None)


def remapped(positions: PositionsConfig, change: Orientation) -> PositionsConfig:
    """The configuration of encoders after its positions have been moved by a map."""
    moves = matrix(change)
    axes = positions.axes
    source = [int(np.flatnonzero(row)[0]) for row in moves]
    signs = [int(row[k]) for row, k in zip(moves, source, strict=True)]
    new = [
        axes[k].model_copy(
            update={"um_per_count": sign * axes[k].um_per_count, "motor_sign": sign * axes[k].motor_sign}
        )
        for k, sign in zip(source, signs, strict=True)
    ]
    motors = (positions.motors[source[0]], positions.motors[source[1]])
    return positions.model_copy(update={"axis0": new[0], "axis1": new[1], "motors": motors})


def position_change(orientation: Orientation, right: Orientation) -> Orientation:
    """The map of positions that mends data taken in `orientation` where `right` would have been right."""
    # The relative orientation h^-1 g must be that of `right` with positions as they are.
    return name_of(matrix(orientation) @ matrix(right).T)


def _turned(image: NDArray[Any], orientation: Orientation) -> NDArray[Any]:
    """Turn an image about its DC pixel, which lies beside the middle where a side is even."""
    moved = oriented(image, orientation)
    reversed_axes = [axis for axis in (0, 1) if matrix(orientation)[axis].sum() < 0 and moved.shape[axis] % 2 == 0]
    return np.ascontiguousarray(np.roll(moved, 1, reversed_axes) if reversed_axes else moved)


def _neighbours(scan: RecordedScan, most: int) -> NDArray[np.int64]:
    """Frames with light around the middle one of the scan, in the order of acquisition."""
    trusted = scan.counts if scan.mask is None else np.where(scan.mask, scan.counts, 0)
    photons = trusted.sum((1, 2), dtype=np.float64)
    lit = np.flatnonzero(photons > DARK * np.median(photons[photons > 0])) if photons.any() else np.arange(0)
    if not len(lit):
        raise ScanFileError(f"{scan.name}: no frame holds any light")
    positions = scan.positions_m[lit] / scan.geometry.pixel_m
    middle = positions[np.abs(positions - np.median(positions, 0)).max(1).argmin()]
    return lit[np.sort(np.abs(positions - middle).max(1).argsort(kind="stable")[:most])]


def _bright_middle(scan: RecordedScan) -> RecordedScan:
    """The middle of the patterns that holds nearly all of their light, DC at [h // 2, w // 2] before and after."""
    mean = scan.counts.mean(0) if scan.mask is None else np.where(scan.mask, scan.counts.mean(0), 0)
    part = []
    for axis, n in enumerate(mean.shape):
        profile = mean.sum(1 - axis)
        sizes = range(min(n, SMALLEST_WINDOW), min(n, LARGEST_WINDOW) + 1, 2)
        middles = [slice(n // 2 - m // 2, n // 2 - m // 2 + m) for m in sizes]
        part.append(next((s for s in middles if profile[s].sum() >= LIGHT * profile.sum()), middles[-1]))
    rows, columns = part
    counts = np.ascontiguousarray(scan.counts[:, rows, columns])
    return replace(
        scan,
        counts=counts,
        mask=None if scan.mask is None else scan.mask[rows, columns],
        geometry=replace(scan.geometry, window=(counts.shape[1], counts.shape[2])),
    )


def _absorption(snapshot: Snapshot) -> float:
    """Correlation of log amplitude and phase where light has fallen, planes taken out of both; 0 where one is flat."""
    where = np.argwhere(snapshot.coverage > ABSORPTION_LIGHT)
    if len(where) < 100:
        return 0.0
    field = snapshot.object[tuple(where.T)]
    plane = np.column_stack([where, np.ones(len(where))])
    # A ramp is a frequency: the mean turn from pixel to pixel takes it out before phases are unwrapped by it.
    turn = [_mean_turn(snapshot.object, snapshot.coverage, axis) for axis in (0, 1)]
    level = field * np.exp(-1j * (where @ turn))
    phase = np.angle(level * np.exp(-1j * np.angle(level.mean())))
    left = []
    for values in (np.log(np.maximum(np.abs(field), 1e-3)), phase):
        fitted = plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
        left.append(values - fitted)
    if min(values.std() for values in left) < 1e-6:
        return 0.0
    return float(np.corrcoef(*left)[0, 1])


def _mean_turn(field: NDArray[np.complexfloating], coverage: NDArray[np.floating], axis: int) -> float:
    """Radians from pixel to pixel along an axis."""
    first, second = (
        tuple(slice(k, n - 1 + k) if a == axis else slice(None) for a, n in enumerate(field.shape)) for k in (0, 1)
    )
    lit = np.minimum(coverage[first], coverage[second]) > ABSORPTION_LIGHT
    return float(np.angle((field[second] * field[first].conj())[lit].sum()))
