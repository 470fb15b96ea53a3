"""What the averaged weights look like, how well they explain frames, and which frames say so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .dataset import Dataset
from .geometry import Canvas
from .light import LEAST_LIGHT, bounding_box, illumination
from .losses import LossSettings, amplitude_distance, amplitude_error
from .model import PtychoModel
from .noise import Noise
from .propagation import predicted_amplitude

MOST_JUDGES = 256
"""Frames on which a snapshot's error is measured."""
EVALUATION_PIXELS = 2**18
"""Of the object at a time, when a snapshot is taken."""


@dataclass(frozen=True)
class Look:
    """Averaged weights seen over all windows, in float32."""

    first: tuple[int, int]
    object: Tensor
    """(H, W) from pixel `first` (anchored) on."""
    probe: Tensor
    """(modes, h, w)."""

    def on(self, canvas: Canvas, corners_px: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
        """Object (H, W) complex64 and coverage (H, W) float32 on a canvas, for windows at `corners_px`.

        Where hardly any light has fallen the object is 1: what the network says there is invention.
        """
        shape = (self.object.shape[0], self.object.shape[1])
        light = illumination(corners_px - self.first, self.probe, shape)
        light[light < LEAST_LIGHT * light[light > 0].median()] = 0
        part = tuple(slice(f - c, f - c + n) for f, c, n in zip(self.first, canvas.corner, shape, strict=True))
        field = np.ones(canvas.shape, np.complex64)
        coverage = np.zeros(canvas.shape, np.float32)
        coverage[part] = light.cpu().numpy()
        field[part] = np.where(coverage[part] > 0, self.object.cpu().numpy(), 1)
        return field, coverage


@dataclass(frozen=True)
class Errors:
    """Of frames, on what is held out of them, or on all of their pixels if nothing is."""

    loss: float
    """The mean."""
    squares: NDArray[np.float64]
    """(n,) mean squared amplitude difference of each frame, in counts."""


@dataclass(frozen=True)
class Best:
    """The best state so far, and the frames (by number, not by row) that judged it."""

    error: float
    judges: NDArray[np.int64]
    state: dict[str, Tensor]


def judges_of(dataset: Dataset) -> NDArray[np.int64]:
    """Rows of the frames on which a snapshot's error is measured."""
    judges = dataset.heldout if len(dataset.heldout) else dataset.training
    return judges[:: max(1, -(-len(judges) // MOST_JUDGES))]


@torch.no_grad()
def look_at(model: PtychoModel, dataset: Dataset) -> Look:
    """Evaluate a model over all windows."""
    first, shape = bounding_box(dataset.corners_px, dataset.window)
    return Look(first, _evaluate(model.object, first, shape), model.probe())


@torch.no_grad()
def errors_of(look: Look, dataset: Dataset, rows: NDArray[np.int64], loss: LossSettings, noise: Noise) -> Errors:
    """How a look explains some frames."""
    losses, squares = 0.0, []
    most = max(1, EVALUATION_PIXELS // math.prod(dataset.window))
    for part in np.array_split(rows, -(-len(rows) // most)):
        positions = torch.from_numpy(dataset.corners_px[part] - look.first)
        predicted = predicted_amplitude(look.object, look.probe, positions, noise.least)
        measured = dataset.judged(part)
        losses += amplitude_distance(predicted, measured, loss, noise).item() * len(part)
        squares.append(amplitude_error(predicted, measured).double().cpu().numpy())
    return Errors(losses / len(rows), np.concatenate(squares))


def _evaluate(field: Callable[..., Tensor], first: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The object over a large area, some rows at a time."""
    rows = max(1, EVALUATION_PIXELS // shape[1])
    strips = [
        field((first[0] + start, first[1]), (min(rows, shape[0] - start), shape[1]))
        for start in range(0, shape[0], rows)
    ]
    return torch.cat(strips)
