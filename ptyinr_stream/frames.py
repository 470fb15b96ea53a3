"""How a detector image becomes a diffraction pattern: one explicit convention a source, stored with every output.

A wrong flip gives a plausible picture with a wrong phase, so nothing here is guessed from data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import FramesConfig
from ptyinr_stream.errors import GeometryError

Image = NDArray[Any]

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


class FrameConvention:
    """Turns, crops and masks detector images, so that DC lies at `[h // 2, w // 2]`.

    The order is: orientation of the whole image, DC from the corner to the centre, crop, mask. The crop puts `centre`
    at `[h // 2, w // 2]`; the data type stays as it came.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config = config
        self._orient = _ORIENTATIONS[config.orientation]
        self._places: dict[tuple[int, ...], tuple[slice, slice]] = {}

    def rows_needed(self, shape: tuple[int, int]) -> slice | None:
        """Tell which rows of an image of `shape`, as sent, `apply` looks at; None where it looks at all.

        Raises:
            GeometryError: the window does not lie inside the image.
        """
        return None if self._config.dc == "corner" or self._config.window is None else self._place(shape)[0]

    def apply(self, image: Image, sent: tuple[int, int] | None = None) -> tuple[Image, NDArray[np.bool_] | None]:
        """Give (h, w) counts and their mask: True where trusted, None where every pixel is.

        Args:
            image: (rows, columns) as sent, or only `rows_needed` of it. Pixels at the largest value of its type, from
                `saturated` on, and negative or not finite ones are not trusted, and become 0.
            sent: the shape of the whole image where `image` holds only `rows_needed`.

        Raises:
            GeometryError: the window does not lie inside the image.
        """
        if self._config.dc == "corner":
            oriented = np.fft.fftshift(self._orient(image))
            kept = oriented[self._crop(oriented.shape)]
        else:
            rows, columns = self._place(sent or image.shape)
            kept = self._orient(image[rows if sent is None else slice(None), columns])
        # A copy: the counts may outlive the image, which is a hundred times larger.
        counts = np.array(kept, order="C")
        mask = self._trusted(counts)
        if mask.all():
            return counts, None
        np.copyto(counts, 0, where=~mask)
        return counts, mask

    def describe(self) -> dict[str, Any]:
        """The convention as a flat dictionary of JSON values, for the metadata of outputs."""
        return {f"frame_{key}": value for key, value in self._config.model_dump(mode="json").items()}

    def _place(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        """Rows and columns, of an image of `shape` as sent, that the crop keeps."""
        if shape not in self._places:
            numbers = np.arange(shape[0])[:, None], np.arange(shape[1])
            oriented = [self._orient(np.broadcast_to(axis, shape)) for axis in numbers]
            kept = [axis[self._crop(axis.shape)] for axis in oriented]
            (top, bottom), (left, right) = (sorted((int(axis[0, 0]), int(axis[-1, -1]))) for axis in kept)
            self._places = {shape: (slice(top, bottom + 1), slice(left, right + 1))}  # hardly ever another shape
        return self._places[shape]

    def _crop(self, shape: tuple[int, ...]) -> tuple[slice, slice]:
        window = self._config.window or (shape[0], shape[1])
        centre = self._config.centre or (shape[0] // 2, shape[1] // 2)
        first = [middle - size // 2 for middle, size in zip(centre, window, strict=True)]
        for axis, name in enumerate(("rows", "columns")):
            last = first[axis] + window[axis]
            if window[axis] < 1 or first[axis] < 0 or last > shape[axis]:
                raise GeometryError(
                    f"frames.window {list(window)} around centre {list(centre)} takes {name} "
                    f"{first[axis]}..{last - 1} of an image of {shape[0]} x {shape[1]}"
                )
        return slice(first[0], first[0] + window[0]), slice(first[1], first[1] + window[1])

    def _trusted(self, counts: Image) -> NDArray[np.bool_]:
        if np.issubdtype(counts.dtype, np.floating):
            mask = np.isfinite(counts) & (counts >= 0)
            return mask if self._config.saturated is None else mask & (counts < self._config.saturated)
        limit = int(np.iinfo(counts.dtype).max)
        if self._config.saturated is not None:
            limit = min(limit, self._config.saturated)
        mask = counts < limit
        return mask & (counts >= 0) if np.issubdtype(counts.dtype, np.signedinteger) else mask
