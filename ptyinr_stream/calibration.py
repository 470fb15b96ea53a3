"""What a scan's first frames tell of all of them: where the beam is, and which pixels are faulty.

The first frames of a series wait, still compressed, until so many have come; then both are decided, once for the
series, and all frames go on in their order. A decision never changes within a scan: what moves between two frames is
the sample. Pure and deterministic: no threads, no clock, no sockets.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.centring import find_beam
from ptyinr_stream.config import FramesConfig
from ptyinr_stream.errors import WireError
from ptyinr_stream.events import (
    Event,
    FrameArrived,
    FramesCalibrated,
    PixelMaskSent,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.faulty_pixels import faulty_pixels
from ptyinr_stream.frames import FrameConvention, oriented, trusted_counts
from ptyinr_stream.mask_file import read_mask
from ptyinr_stream.wire.codecs import decode

_log = logging.getLogger(__name__)

LEAST_FRAMES = 32
"""In which a faulty pixel is looked for: fewer still have speckles in common. Sixteen frames of the Siemens star, of
which nine were alike, made a hundred speckles hot."""
DARK = 0.1
"""Of the brightest frame's light: with less a frame came before the shutter opened, and tells nothing."""
PATIENCE = 4
"""Times `first_frames`, that are waited for while there is no beam."""
SAME_PX = 2
"""A beam so near to the last scan's has not moved: scans of one sample share their pixels."""
QUIET_S = 10.0
"""Without a frame, after which a series decides with those it has."""
QUIET_AFTER_STOP_S = 0.5
"""The same once a run has stopped: its last frames would come too late to be joined."""
MOST_HELD_BYTES = 2**29
"""Of compressed frames; 64 of an Eiger 1M of four bytes a pixel that were not compressed are 280 MB."""
MOST_SERIES = 16
"""That are remembered."""

SAME_AS_BEFORE = "as in the scan before"

_Levels = tuple[NDArray[Any], NDArray[np.bool_]]

_LOGARITHMS = np.log1p(np.arange(2**16, dtype=np.float32))


@dataclass(eq=False)
class _FirstFrames:
    """Sums over decoded frames: typical counts of each pixel, in which a single flash does not show."""

    frames: int = 0
    brightest: float = 0.0
    logarithms: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    trusted: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), np.int32))

    def add(self, image: NDArray[Any], mask: NDArray[np.bool_]) -> None:
        """Take an image (rows, columns) as sent, unless it is dark or of another shape than the first."""
        if self.frames and self.logarithms.shape != image.shape:
            return
        values = np.where(mask, image, 0)
        if values.dtype.kind == "f":
            logarithms = np.log1p(values, dtype=np.float32)
        else:
            logarithms = _LOGARITHMS[np.minimum(values, len(_LOGARITHMS) - 1)]
        light = float(logarithms.sum(dtype=np.float64))  # not of counts: one flash may hold more than all frames
        if light <= DARK * self.brightest:
            return
        if not self.frames or DARK * light > self.brightest:  # all before this one were dark
            self.frames, self.logarithms = 0, np.zeros(image.shape, np.float32)
            self.trusted = np.zeros(image.shape, np.int32)
        self.brightest = max(self.brightest, light)
        self.logarithms += logarithms
        self.trusted += mask
        self.frames += 1

    def result(self) -> _Levels | None:
        """Typical counts (rows, columns), and where at least half of the frames were trusted."""
        if not self.frames:
            return None
        return np.expm1(self.logarithms / np.maximum(self.trusted, 1)), 2 * self.trusted > self.frames


@dataclass(eq=False)
class _Series:
    """One series of the detector; it holds its frames until it has a convention."""

    last: float
    """When its last frame came."""
    quiet_s: float = QUIET_S
    convention: FrameConvention | None = None
    detector_mask: NDArray[np.bool_] | None = None
    held: deque[FrameArrived] = field(default_factory=deque)
    held_bytes: int = 0
    first: _FirstFrames = field(default_factory=_FirstFrames)
    shape: tuple[int, int] = (0, 0)
    """Of its first frame, as sent."""
    centre: tuple[int, int] | None = None
    faulty: NDArray[np.bool_] | None = None


class Calibration:
    """Stands between the frames' decoder and the assembler.

    Args:
        config: of the frames.

    Raises:
        ConfigError: the mask file cannot be read.
    """

    def __init__(self, config: FramesConfig) -> None:
        self._config = config
        self._static = None if config.mask_file is None else read_mask(config.mask_file)
        self._series: dict[int, _Series] = {}
        self._last_centre: dict[tuple[int, int], tuple[int, int]] = {}  # by the image's shape

    def convention(self, series: int) -> FrameConvention:
        """How frames of a series that were let through are to be treated."""
        known = self._series.get(series)
        return self._made(_Series(0.0)) if known is None else known.convention or self._made(known)

    @property
    def held_frames(self) -> int:
        """How many frames wait."""
        return sum(len(series.held) for series in self._series.values())

    def feed(self, event: Event, now: float) -> list[Event]:
        """Take an event of any road; give those that may go on, in their order: frames that wait come later.

        A series that has been decided from its first frames is announced by a `FramesCalibrated` before them.
        """
        match event:
            case SeriesStarted(number):
                known = self._series.get(number)
                before = [] if known is None else self._decide(number, known)
                if before or known is None or known.convention is not None:
                    self._begin(number, now)
                others = [e for n, s in self._series.items() if n != number for e in self._decide(n, s)]
                return [*before, *others, event]
            case PixelMaskSent(number, trusted):
                series = self._series.get(number) or self._begin(number, now)
                series.detector_mask = trusted
                if series.convention is not None:
                    series.convention = self._made(series)
            case FrameArrived():
                return self._frame(event, now)
            case RunStopped():
                for series in self._series.values():
                    series.quiet_s = QUIET_AFTER_STOP_S
            case SeriesEnded(number):
                known = self._series.get(number)
                return [event] if known is None else [*self._decide(number, known), event]
        return [event]

    def tick(self, now: float) -> list[Event]:
        """Let time pass: series that have fallen silent decide with the frames they have."""
        quiet = [(n, s) for n, s in self._series.items() if s.held and now - s.last >= s.quiet_s]
        return [event for number, series in quiet for event in self._decide(number, series)]

    def finish(self) -> list[Event]:
        """Let everything through: nothing more will come."""
        return [event for number, series in self._series.items() for event in self._decide(number, series)]

    def _begin(self, number: int, now: float) -> _Series:
        self._series.pop(number, None)
        series = self._series[number] = _Series(now)
        for old in [n for n, s in self._series.items() if not s.held][: max(0, len(self._series) - MOST_SERIES)]:
            if old != number:
                del self._series[old]
        return series

    def _frame(self, event: FrameArrived, now: float) -> list[Event]:
        series = self._series.get(event.series) or self._begin(event.series, now)
        series.last = now
        if series.convention is None and not self._config.calibrated:
            series.convention = self._made(series)
        if series.convention is not None:
            return [event]
        if not series.held:
            series.shape = event.image.shape
        series.held.append(event)
        series.held_bytes += len(event.image.data)
        self._measure(event, series)
        wanted, full = self._config.first_frames, series.held_bytes >= MOST_HELD_BYTES
        if series.first.frames < wanted and not full and len(series.held) < PATIENCE * wanted:
            return []
        return self._decide(event.series, series, patient=not full and len(series.held) < PATIENCE * wanted)

    def _measure(self, event: FrameArrived, series: _Series) -> None:
        try:
            image = decode(event.image)
        except WireError:
            return  # whoever takes it counts it
        mask = trusted_counts(image, self._config.saturated)
        for static in (self._static, series.detector_mask):
            if static is not None and static.shape == mask.shape:
                mask &= static
        series.first.add(image, mask)

    def _decide(self, number: int, series: _Series, *, patient: bool = False) -> list[Event]:
        """Decide what the first frames tell and let them go; `patient` waits for more if there is no beam in them."""
        if not series.held:
            return []
        measured = series.first.result()
        told: dict[str, Any] = {}
        if measured is not None and self._config.hot_pixels and series.first.frames >= LEAST_FRAMES:
            hot, dead = faulty_pixels(*measured, series.first.frames)
            series.faulty = hot | dead
            measured = measured[0], measured[1] & ~series.faulty
            told = {"frame_hot_pixels_found": int(hot.sum()), "frame_dead_pixels_found": int(dead.sum())}
        if self._config.centre == "auto":
            found = self._found(number, series, measured)
            if found is None and patient:
                series.first = _FirstFrames()
                return []
            series.centre, told["frame_centring"] = found or self._assumed(number, series)
            told["frame_centre"] = list(series.centre)
        series.convention = self._made(series)
        _log.info("series %d: %s, from %d frames", number, told, series.first.frames)
        frames, series.held, series.held_bytes = list(series.held), deque(), 0
        series.first = _FirstFrames()
        return [FramesCalibrated(number, told), *frames]

    def _found(self, number: int, series: _Series, measured: _Levels | None) -> tuple[tuple[int, int], str] | None:
        """Row and column of the beam in the oriented image, and how they were found; None where there is no beam."""
        enough = series.first.frames >= LEAST_FRAMES
        last = self._last_centre.get(series.shape)
        if measured is None or not (enough or last is None):
            return None
        beam = find_beam(*(oriented(array, self._config.orientation) for array in measured))
        if beam is None:
            return None
        centre = self._inside(number, series, beam.centre)
        if last is not None and max(abs(a - b) for a, b in zip(centre, last, strict=True)) <= SAME_PX:
            return last, SAME_AS_BEFORE
        if enough:
            self._last_centre[series.shape] = centre
        fits = centre == tuple(round(c) for c in beam.centre)
        return centre, "found" if fits else "found, and moved so that the window fits"

    def _assumed(self, number: int, series: _Series) -> tuple[tuple[int, int], str]:
        """The same where there is no beam."""
        last = self._last_centre.get(series.shape)
        centre, how = (last, SAME_AS_BEFORE) if last else (None, "not found: the middle")
        _log.warning("series %d: no beam is found in its first %d frames: %s", number, len(series.held), how)
        if centre is None:
            rows, columns = self._oriented_shape(series)
            centre = self._inside(number, series, (rows // 2, columns // 2))
        return centre, how

    def _oriented_shape(self, series: _Series) -> tuple[int, int]:
        rows, columns = oriented(np.empty(series.shape, np.bool_), self._config.orientation).shape
        return rows, columns

    def _inside(self, number: int, series: _Series, centre: tuple[float, float]) -> tuple[int, int]:
        """The nearest pixel around which the window lies inside the image."""
        shape = self._oriented_shape(series)
        window = self._config.window or shape
        nearest = [round(c) for c in centre]
        clamped = [
            min(max(c, n // 2), size - n + n // 2) if n <= size else c
            for c, n, size in zip(nearest, window, shape, strict=True)
        ]
        if clamped != nearest:
            _log.warning(
                "series %d: the beam at %s is so near to the rim of the image of %s that frames.window %s around it "
                "would leave it: the window is moved to %s",
                *(number, nearest, list(shape), list(window), clamped),
            )
        return clamped[0], clamped[1]

    def _made(self, series: _Series) -> FrameConvention:
        faulty = None if series.faulty is None else ~series.faulty
        masks = [mask for mask in (self._static, series.detector_mask, faulty) if mask is not None]
        fitting = [mask for mask in masks if mask.shape == masks[0].shape]
        if len(fitting) < len(masks):
            _log.warning("masks of %s pixels do not fit together", [mask.shape for mask in masks])
        trusted = np.logical_and.reduce(fitting) if fitting else None
        return FrameConvention(self._config, centre=series.centre, trusted=trusted)
