"""Objects to simulate: test patterns and cells, as thicknesses that a wave passes. Plain numpy and scipy.

O = floor^t exp(i phase t), t the thickness from 0, where nothing is in the way and O is 1, to 1. Edges are averaged
over each pixel, so that the patterns have meaning at the size of a pixel. None of them is made of what a sine network
or a hash grid is made of.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .optics import averaged

SUBPIXELS = 6
"""Along each axis, over which edges are averaged."""
LEAST_PX = 16
"""A smaller object cannot hold a pattern."""
SPOKES = 36

Thickness = NDArray[np.float64]


def phantom(
    kind: str, shape: tuple[int, int], *, seed: int = 0, phase_rad: float = 1.5, floor: float = 0.7
) -> NDArray[np.complex64]:
    """An object to simulate.

    Args:
        kind: `star`, `maze` or `cells`.
        shape: rows and columns.
        seed: of everything random in it.
        phase_rad: phase of the thickest part, either sign.
        floor: amplitude behind the thickest part, above 0 and at most 1.

    Returns:
        (H, W) transmission, its largest amplitude 1.

    Raises:
        ValueError: the kind is unknown, the object too small, or a number out of range.
    """
    if kind not in PHANTOMS:
        raise ValueError(f"object {kind!r} is unknown; there are: {', '.join(PHANTOMS)}")
    if min(shape) < LEAST_PX:
        raise ValueError(f"an object of {shape[0]} x {shape[1]} pixels holds no pattern: give {LEAST_PX} or more")
    if not 0 < floor <= 1:
        raise ValueError(f"floor is {floor}: the amplitude behind the thickest part lies above 0 and is at most 1")
    if not np.isfinite(phase_rad):
        raise ValueError(f"phase_rad is {phase_rad}: a finite number of radians is needed")
    random = np.random.default_rng(seed)
    thickness = PHANTOMS[kind](shape, random)
    while not np.ptp(thickness) > 0:  # a small field may lie within one island of the maze
        thickness = PHANTOMS[kind](shape, random)
    thickness = (thickness - thickness.min()) / np.ptp(thickness)
    return (floor**thickness * np.exp(1j * phase_rad * thickness)).astype(np.complex64)


def siemens_star(shape: tuple[int, int], random: np.random.Generator) -> Thickness:
    """Spokes that narrow to less than a pixel, cut by rings, in a frame of dots that tell its corners apart."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    outer = 0.47 * min(shape)
    rings = outer * np.array([0.12, 0.25, 0.5])
    turn = random.uniform(0, 2 * np.pi / SPOKES)
    dots = 0.45 * np.array([(-1, -1), (-1, 1), (1, 1)]) * shape

    def inside(dy: float, dx: float) -> NDArray[np.bool_]:
        rows, columns = (y + dy)[:, None], (x + dx)[None]
        radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
        spokes = (radius < outer) & (np.sin(SPOKES * (angle + turn)) > 0)
        for ring in rings:
            spokes &= np.abs(radius - ring) > 0.012 * outer
        for row, column in dots:
            spokes |= np.hypot(rows - row, columns - column) < 0.03 * outer
        return spokes

    return averaged(inside, SUBPIXELS)


def maze(shape: tuple[int, int], random: np.random.Generator) -> Thickness:
    """Islands of many sizes and the trenches etched between them, uneven in depth and at their edges."""
    island, trench = (8.0, 26.0), (3.0, 7.0)
    turn = random.uniform(0.02, 0.1)  # edges along pixels would be too kind
    edges = []
    for axis in (0, 1):
        reach = shape[axis] + 0.1 * shape[1 - axis] + 4 * island[1]
        n = int(reach / (np.mean(island) + np.mean(trench))) + 2
        widths = np.empty(2 * n + 1)
        widths[0::2], widths[1::2] = random.uniform(*trench, n + 1), random.uniform(*island, n)
        edges.append(np.cumsum(widths) - widths.sum() / 2)
    standing = _labyrinth(len(edges[0]) // 2, len(edges[1]) // 2, random)
    middles = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    rows, columns = (axis + 0.7 * _smooth(shape, 3, random) for axis in middles)

    def inside(dy: float, dx: float) -> NDArray[np.bool_]:
        u, v = rows + dy, columns + dx
        i = np.searchsorted(edges[0], u * np.cos(turn) - v * np.sin(turn))
        j = np.searchsorted(edges[1], u * np.sin(turn) + v * np.cos(turn))
        return standing[np.minimum(i, len(edges[0]) - 1), np.minimum(j, len(edges[1]) - 1)]

    left = np.clip(0.12 + 0.08 * _smooth(shape, 12, random), 0, 0.3)
    return left + (1 - left) * averaged(inside, SUBPIXELS)


def cells(shape: tuple[int, int], random: np.random.Generator) -> Thickness:
    """Rounded cells on a faint medium: a body, a nucleus with nucleoli, vesicles, and a fine grain within."""
    size = 0.16 * min(shape)
    total = 0.006 * (2 + np.clip(_smooth(shape, 2, random), -2, 2))
    middles: list[NDArray[np.float64]] = []
    for _ in range(max(4, round(0.3 * np.prod(shape) / size**2))):
        tries = random.uniform(0.06, 0.94, (10, 2)) * shape  # the loneliest is taken: few overlap
        away = [min((np.hypot(*(one - other)) for other in middles), default=0.0) for one in tries]
        middles.append(tries[int(np.argmax(away))])
        cell = _cell(size * random.uniform(0.7, 1.25), random)
        corner = np.rint(middles[-1]).astype(int) - len(cell) // 2
        first, last = np.maximum(corner, 0), np.minimum(corner + len(cell), shape)
        here = slice(first[0], last[0]), slice(first[1], last[1])
        (top, left), (bottom, right) = first - corner, last - corner
        total[here] = np.maximum(total[here], cell[top:bottom, left:right])
    return gaussian_filter(total, 0.5)


PHANTOMS: dict[str, Callable[[tuple[int, int], np.random.Generator], Thickness]] = {
    "star": siemens_star,
    "maze": maze,
    "cells": cells,
}


def _labyrinth(rows: int, columns: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """(2 rows + 1, 2 columns + 1): True in islands and where two of them meet; there is one way between any two."""
    standing = np.zeros((2 * rows + 1, 2 * columns + 1), np.bool_)
    standing[1::2, 1::2] = True
    path = [(int(random.integers(rows)), int(random.integers(columns)))]
    seen = np.zeros((rows, columns), np.bool_)
    seen[path[0]] = True
    while path:  # on to a new island, else back
        i, j = path[-1]
        near = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
        new = [(k, m) for k, m in near if 0 <= k < rows and 0 <= m < columns and not seen[k, m]]
        if not new:
            path.pop()
            continue
        k, m = new[random.integers(len(new))]
        standing[i + k + 1, j + m + 1] = seen[k, m] = True
        path.append((k, m))
    return standing


def _cell(radius: float, random: np.random.Generator) -> Thickness:
    """One cell in the middle of a square array that is a little wider than the cell."""
    side = 2 * int(1.6 * radius) + 1
    body = _bulge(side, np.zeros(2), radius, 0.35, random)
    cell = 0.45 * np.sqrt(body) + 0.03 * np.minimum(4 * body, 1) * sum(
        _smooth((side, side), scale, random) for scale in (1.0, 2.5)
    )
    nucleus = random.uniform(-0.25, 0.25, 2) * radius
    cell += 0.25 * np.minimum(1.5 * _bulge(side, nucleus, 0.42 * radius, 0.2, random), 1)
    for _ in range(random.integers(2, 5)):
        spot = nucleus + random.uniform(-0.2, 0.2, 2) * radius
        cell += 0.2 * _bulge(side, spot, radius * random.uniform(0.06, 0.12), 0.1, random)
    for _ in range(random.integers(8, 16)):
        away, angle = random.uniform(0.45, 0.8) * radius, random.uniform(0, 2 * np.pi)
        spot = away * np.array([np.sin(angle), np.cos(angle)])
        cell += random.uniform(-0.15, 0.3) * _bulge(side, spot, radius * random.uniform(0.03, 0.09), 0.1, random)
    return cell * (body > 0)


def _bulge(
    side: int, middle: NDArray[np.float64], radius: float, uneven: float, random: np.random.Generator
) -> Thickness:
    """1 at `middle`, counted from the array's, and falling to 0 on an uneven outline."""
    axis = np.arange(side) - side // 2
    rows, columns = (axis - middle[0])[:, None], axis - middle[1]
    angle = np.arctan2(rows, columns)
    outline = np.ones((side, side))
    for order in range(1, 6):
        swing, start = uneven * random.uniform(0.1, 0.5) / order, random.uniform(0, 2 * np.pi)
        outline += swing * np.cos(order * angle + start)
    return np.maximum(1 - (np.hypot(rows, columns) / (radius * outline)) ** 2, 0)


def _smooth(shape: tuple[int, int], scale: float, random: np.random.Generator) -> Thickness:
    """Noise of unit variance without detail below `scale` pixels."""
    noise = gaussian_filter(random.standard_normal(shape), scale)
    return noise / noise.std()
