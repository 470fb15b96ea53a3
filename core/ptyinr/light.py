"""Which part of the object the windows cover, and how much light falls there."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_LIGHT = 0.02
"""Of the median lit pixel (the brightest may lie where the stage stood still); where less has fallen a snapshot shows
1. Held-out error of the shown object: 0.380 to 0.381."""


def bounding_box(corners_px: np.ndarray, window: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First pixel and shape of the smallest array that holds all windows."""
    first = np.floor(corners_px.min(0)).astype(int)
    # In the box's own pixels: -1e-17 lies in pixel -1, but 33 pixels further on it is 33, not 32.
    shape = np.floor((corners_px - first).max(0)).astype(int) + window
    return (int(first[0]), int(first[1])), (int(shape[0]), int(shape[1]))


def extremes(corners_px: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest and largest (n, 2) corner along each axis.

    Axis by axis: numpy's reduction of 19,000 rows of two takes ten times as long, 4 ms of a step (2026-11-26).
    """
    rows, columns = corners_px.T
    return np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()])


def within(
    corners_px: NDArray[np.float64], lower: NDArray[np.float64], upper: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which of the (n, 2) corners lie between two, these included."""
    rows, columns = corners_px.T
    return (rows >= lower[0]) & (rows <= upper[0]) & (columns >= lower[1]) & (columns <= upper[1])


SPARSE = 10.0
"""Windows over each pixel, below which a scan has no frame to spare."""


def windows_a_pixel(corners_px: np.ndarray, window: tuple[int, int]) -> float:
    """How many windows would lie over a pixel if frames lay as close along both axes as nearest neighbours do.

    What lies nearer than a pixel is the same place, measured again.
    """
    distances = np.abs(corners_px[:, None] - corners_px[None]).max(2)
    distances[distances < 1] = np.inf
    return math.prod(window) / float(np.median(distances.min(1))) ** 2


def illumination(corners_px: np.ndarray, probe: Tensor, shape: tuple[int, int]) -> Tensor:
    """Light that each pixel of `shape` receives from windows at `corners_px`, 1 at the brightest: (H, W) float32.

    The probe's intensity convolved with the number of windows at each corner.
    """
    h, w = probe.shape[-2:]
    visits = torch.zeros(shape, device=probe.device)
    where = torch.from_numpy(np.floor(corners_px).astype(np.int64)).to(probe.device)
    visits.index_put_((where[:, 0], where[:, 1]), torch.ones(len(where), device=probe.device), accumulate=True)
    intensity = (probe.real.square() + probe.imag.square()).sum(0)
    padded = (shape[0] + h, shape[1] + w)
    light = torch.fft.irfft2(torch.fft.rfft2(visits, padded) * torch.fft.rfft2(intensity, padded), padded)
    light = light[: shape[0], : shape[1]]
    # Rounding leaves some 1e-7 of the brightest where no light falls.
    return torch.where(light > 1e-6 * light.max(), light / light.max(), torch.zeros_like(light))
