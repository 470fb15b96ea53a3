"""How a detector image becomes a diffraction pattern: one explicit convention a source, stored with every output.

A wrong flip gives a plausible picture with a wrong phase, so the orientation is never guessed from data;
`ptyinr-stream check --orientation` asks a recorded scan which ones it contradicts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import FramesConfig
from ptyinr_stream.errors import GeometryError

Image = NDArray[Any]

Place = Callable[[tuple[int, ...], np.dtype[Any]], tuple[Image, NDArray[np.bool_]]]
"""Gives an array of a shape and type for counts, and one for their mask, with anything in them."""

_NONE = np.zeros(0, np.intp)

_ORIENTATIONS: dict[str, Callable[[Image], Image]] = {
    "as_sent": lambda image: image,
    "fliplr": np.fliplr,
    "flipud": np.flipud,
    "rot90": np.rot90,
    "rot180": lambda image: image[::-1, ::-1],
    "rot270": lambda image: np.rot90(image, 3),
    "transpose": np.transpose,
    "antitranspose": lambda image: image[::-1, ::-1].T,
}


def oriented(image: Image, orientation: str) -> Image:
    """A view of an image (rows, columns) turned by one of `sections.Orientation`."""
    return _ORIENTATIONS[orientation](image)


class _Mask(NamedTuple):
    """A mask that frames share."""

    trusted: NDArray[np.bool_]
    """(rows, columns) as the counts are stored, read-only."""
    shown: NDArray[np.bool_]
    """(h, w) view of it, as it is handed out."""
    untrusted: NDArray[np.intp]
    """Flat indices of pixels: that no frame may trust, or that some frames showed not to be trusted."""


class FrameConvention:
    """Turns, crops and masks detector images, so that DC lies at `[h // 2, w // 2]`.

    The order is: orientation of the whole image, DC from the corner to the centre, crop, mask. The crop puts `centre`
    at `[h // 2, w // 2]`; the data type stays as it came, and nothing is computed of what is cropped away. Counts lie
    in memory as they were sent, and are handed out as a view that is turned: of a copy of 256 x 256 uint16 pixels the
    turning costs 0.03 ms (`fliplr`) to 0.08 ms (`transpose`), and training converts them once more anyway (2026-11-26).

    Args:
        config: as the source has it.
        centre: row and column of the beam in the oriented image; None takes the configured one, or the middle.
        trusted: (rows, columns) of the image as sent, pixels that may be trusted in every frame; None trusts them all.
    """

    def __init__(
        self,
        config: FramesConfig,
        *,
        centre: tuple[int, int] | None = None,
        trusted: NDArray[np.bool_] | None = None,
    ) -> None:
        self._config = config
        given = None if config.centre == "auto" else config.centre
        self._centre = given if centre is None else centre
        self._trusted_as_sent = trusted
        self._always: tuple[tuple[int, ...], _Mask | None] | None = None
        self._usual: _Mask | None = None  # of two frames in a row, and of most after them
        self._latest = _NONE  # what the newest frame lacked in the mask it was thought to have
        self._places: dict[tuple[int, ...], tuple[slice, slice]] = {}

    def rows_needed(self, shape: tuple[int, int]) -> slice | None:
        """Tell which rows of an image of `shape`, as sent, `apply` looks at; None where it looks at all.

        Raises:
            GeometryError: the window does not lie inside the image.
        """
        return None if self._config.dc == "corner" or self._config.window is None else self._place(shape)[0]

    def apply(
        self, image: Image, sent: tuple[int, int] | None = None, place: Place | None = None
    ) -> tuple[Image, NDArray[np.bool_] | None]:
        """Give (h, w) counts and their mask: True where trusted, None where every pixel is.

        Both are views that are turned. The mask may be shared between frames, and is read-only then.

        Args:
            image: (rows, columns) as sent, or only `rows_needed` of it. Pixels at the largest value of its type, from
                `saturated` on, and negative or not finite ones are not trusted, and become 0, as those that are never
                trusted do.
            sent: the shape of the whole image where `image` holds only `rows_needed`.
            place: gives the arrays that counts and mask are written to, as they were sent; None makes new ones.

        Raises:
            GeometryError: the window does not lie inside the image, or the mask is of another shape.
        """
        shape = sent or image.shape
        kept, always = self._kept(image, shape, whole=sent is None), self._always_trusted(shape)
        # A copy: the counts may outlive the image, which is a hundred times larger.
        counts, mask = (place or _fresh)(kept.shape, kept.dtype)
        np.copyto(counts, kept)
        found = self._masked(counts, mask, always)
        return self._turned(counts), found

    def describe(self) -> dict[str, Any]:
        """The convention as a flat dictionary of JSON values, for the metadata of outputs."""
        described = {f"frame_{key}": value for key, value in self._config.model_dump(mode="json").items()}
        return described if self._centre is None else described | {"frame_centre": list(self._centre)}

    def _kept(self, image: Image, shape: tuple[int, ...], whole: bool) -> Image:
        """What the crop keeps of an image of `shape`, as sent; `image` may hold only the rows needed."""
        if self._config.dc == "corner":
            laid = np.fft.fftshift(oriented(image, self._config.orientation))
            return laid[self._crop(laid.shape)]
        rows, columns = self._place(shape)
        return image[rows if whole else slice(None), columns]

    def _turned(self, kept: NDArray[Any]) -> NDArray[Any]:
        """A view of what `_kept` gave, oriented."""
        # Where DC lay in the corner the copy that moved it is oriented already.
        return kept if self._config.dc == "corner" else oriented(kept, self._config.orientation)

    def _always_trusted(self, shape: tuple[int, ...]) -> _Mask | None:
        """The window of the mask that holds in every frame; None where it trusts all of it."""
        if self._always is None or self._always[0] != shape:
            self._always = shape, self._window_of_trusted(shape)
            self._usual, self._latest = None, _NONE
        return self._always[1]

    def _window_of_trusted(self, shape: tuple[int, ...]) -> _Mask | None:
        if self._trusted_as_sent is None:
            return None
        if shape != self._trusted_as_sent.shape:
            raise GeometryError(
                f"the mask is of {_by(self._trusted_as_sent.shape)} pixels, the image of {_by(shape)}: both are needed "
                "as the detector sends them"
            )
        trusted = np.array(self._kept(self._trusted_as_sent, shape, whole=True), order="C")
        return None if trusted.all() else self._shared(trusted, np.flatnonzero(~trusted))

    def _shared(self, trusted: NDArray[np.bool_], untrusted: NDArray[np.intp]) -> _Mask:
        trusted.setflags(write=False)
        return _Mask(trusted, self._turned(trusted), untrusted)

    def _masked(self, counts: Image, mask: NDArray[np.bool_], always: _Mask | None) -> NDArray[np.bool_] | None:
        """Set pixels that are not trusted to 0; give the mask, turned, which is `mask`, or shared, or None.

        Faulty pixels are mostly those of the frames before. A frame for which that holds is looked through only for the
        largest of its counts, and shares their mask.
        """
        saturated, known, found, usual = self._config.saturated, always, _NONE, self._usual
        if always is not None:
            counts.put(always.untrusted, 0)
        if usual is not None and not trusted_counts(counts.take(usual.untrusted), saturated).any():
            counts.put(usual.untrusted, 0)
            known, found = usual, usual.untrusted
        if _all_trusted(counts, saturated):
            return known and known.shown
        untrusted = np.flatnonzero(~trusted_counts(counts, saturated, out=mask))
        counts.put(untrusted, 0)
        if known is not None:
            mask &= known.trusted
        if np.array_equal(untrusted, self._latest):
            self._usual = self._shared(mask.copy(), np.concatenate([found, untrusted]))
        self._latest = untrusted
        return self._turned(mask)

    def _place(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns, of an image of `shape` as sent, that the crop keeps."""
        if shape not in self._places:
            numbers = np.arange(shape[0])[:, None], np.arange(shape[1])
            laid = [oriented(np.broadcast_to(axis, shape), self._config.orientation) for axis in numbers]
            kept = [axis[self._crop(axis.shape)] for axis in laid]
            (top, bottom), (left, right) = (sorted((int(axis[0, 0]), int(axis[-1, -1]))) for axis in kept)
            self._places = {shape: (slice(top, bottom + 1), slice(left, right + 1))}  # hardly ever another shape
        return self._places[shape]

    def _crop(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        window = self._config.window or (shape[0], shape[1])
        centre = self._centre or (shape[0] // 2, shape[1] // 2)
        first = [middle - size // 2 for middle, size in zip(centre, window, strict=True)]
        for axis, name in enumerate(("rows", "columns")):
            last = first[axis] + window[axis]
            if window[axis] < 1 or first[axis] < 0 or last > shape[axis]:
                raise GeometryError(
                    f"frames.window {list(window)} around centre {list(centre)} takes {name} "
                    f"{first[axis]}..{last - 1} of an image of {_by(shape)}"
                )
        return slice(first[0], first[0] + window[0]), slice(first[1], first[1] + window[1])


def trusted_counts(counts: Image, saturated: int | None, out: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Where the values of an image are photon counts, and below `saturated`; also written to `out`."""
    mask = np.less(counts, _limit(counts.dtype, saturated), out=out)
    if counts.dtype.kind != "u":
        mask &= counts >= 0
    return mask


def _all_trusted(counts: Image, saturated: int | None) -> bool:
    """Whether `trusted_counts` are all the values of an image, for half the time."""
    # Where one of them is no number, neither of these is.
    return bool(counts.max() < _limit(counts.dtype, saturated) and (counts.dtype.kind == "u" or counts.min() >= 0))


@lru_cache
def _limit(dtype: np.dtype[Any], saturated: int | None) -> float:
    """The least value that is no photon count, or too high a one."""
    most = np.inf if dtype.kind == "f" else int(np.iinfo(dtype).max)
    return most if saturated is None else min(most, saturated)


def _fresh(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Image, NDArray[np.bool_]]:
    return np.empty(shape, dtype), np.empty(shape, np.bool_)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
