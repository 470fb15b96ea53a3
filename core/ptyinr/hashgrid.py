"""The probe field: multi-resolution hash grids (Mueller et al. 2022) with a small ReLU network behind each.

A probe is asked for on the same pixels in every step, so the torch backend interpolates once and for all: the grid's
features are a constant sparse matrix times the table. On 2 CPU cores and 128 x 128 pixels that takes 1.3 ms forward and
backward, where gathering takes 67 ms and `embedding_bag` 337 ms (2026-11-22).

tiny-cuda-nn computes the same features on NVIDIA GPUs. It is not on the package index:
`pip install --no-build-isolation git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch` builds it,
against the torch that is there, with nvcc and a setuptools below 81. This is the one place that imports it. It draws
all its tables from one seed; ours are drawn anew.

A library that was built otherwise than its surroundings may crash, and nothing catches that, so it must first compute
the torch backend's features and gradients in a process of its own. NVIDIA H200, CUDA 13.0, torch 2.11, 2026-11-27
(`tests/benchmarks/hash_grids.py`): they differ by 4.6e-5; forward and backward together take 0.65 ms and torch's 0.5,
a training step 6.8 to 7.9 ms and 7.5 to 8.3. There it had ended in a segmentation fault as long as the compiler linked
its C++ library statically; with `CC=/usr/bin/gcc CXX=/usr/bin/g++`, whose library is torch's, it runs.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .types import require_choices

_log = logging.getLogger(__name__)

PRIME = 2654435761
"""Of the spatial hash: (row XOR column * PRIME) mod size, in unsigned 32-bit arithmetic."""

AGREEMENT = 1e-3
PATIENCE_S = 120.0

TABLE_UNIT = 1e-4
"""Tables start at +-1e-4, as in tiny-cuda-nn; the network sees them in this unit, and they learn in it."""


@dataclass(frozen=True)
class GridSettings:
    """A hash grid in the terms of the paper.

    Raises:
        ValueError: a size is not positive, the growth is below 1, or the backend is none.
    """

    levels: int | None = None
    """None stops at the first level that is as fine as the pixels: finer ones cannot be told apart. The paper has
    16."""
    features: int = 2
    log2_entries: int = 15
    base_resolution: int = 16
    growth: float = 1.5
    width: int = 64
    """Of the ReLU network behind the grid."""
    depth: int = 2
    backend: Literal["auto", "torch", "tinycudann"] = "auto"

    def __post_init__(self) -> None:
        levels = 1 if self.levels is None else self.levels
        sizes = (levels, self.features, self.log2_entries, self.base_resolution, self.width, self.depth)
        require_choices(self)
        if min(sizes) < 1 or not 1 <= self.growth < math.inf:
            raise ValueError(f"a hash grid needs positive sizes and a growth of at least 1: {self}")

    def resolved_levels(self, pixels: int) -> int:
        """The number of levels for a probe of `pixels` on its longer side.

        >>> GridSettings().resolved_levels(128)
        7
        """
        if self.levels is not None:
            return self.levels
        return max(1, 1 + math.ceil(math.log(max(pixels / self.base_resolution, 1)) / math.log(max(self.growth, 1.01))))


class _Interpolation(torch.autograd.Function):
    """`matrix @ table` for a constant sparse matrix whose transpose is kept beside it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ table

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ gradients[0], None, None


class TorchHashGrid(nn.Module):
    """The features of fixed points: `forward() -> (n, levels * features)` float32."""

    def __init__(self, points: Tensor, settings: GridSettings, levels: int) -> None:
        """`points` (n, 2) in [0, 1], first coordinate fastest in the dense levels, as in tiny-cuda-nn."""
        super().__init__()
        indices, weights, entries = [], [], 0
        for level in range(levels):
            index, weight, size = _corners(points.double().cpu(), level, settings)
            indices.append(index + entries)
            weights.append(weight)
            entries += size
        index = torch.stack(indices, dim=1).reshape(-1, 4)  # (n * levels, 4)
        weight = torch.stack(weights, dim=1).reshape(-1, 4).float()
        matrix, transposed = _sparse_pair(index, weight, entries)
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("transposed", transposed, persistent=False)
        self.table = nn.Parameter(torch.empty(entries, settings.features).uniform_(-TABLE_UNIT, TABLE_UNIT))
        self.shape = (len(points), levels * settings.features)

    def forward(self) -> Tensor:
        """Interpolate."""
        features: Any = _Interpolation.apply(self.table, self.matrix, self.transposed)
        return features.reshape(self.shape)


class TinyCudaHashGrid(nn.Module):
    """The same features from tiny-cuda-nn. The table has the same name and shape: a state of one serves both."""

    def __init__(self, points: Tensor, settings: GridSettings, levels: int) -> None:
        super().__init__()
        import tinycudann  # type: ignore[import-not-found]  # noqa: PLC0415  only where a GPU machine has it

        encoding: Any = tinycudann.Encoding(
            2,
            {
                "otype": "HashGrid",
                "n_levels": levels,
                "n_features_per_level": settings.features,
                "log2_hashmap_size": settings.log2_entries,
                "base_resolution": settings.base_resolution,
                "per_level_scale": settings.growth,
            },
            dtype=torch.float32,
        )
        self.table = nn.Parameter(torch.empty_like(encoding.params).reshape(-1, settings.features))
        nn.init.uniform_(self.table, -TABLE_UNIT, TABLE_UNIT)
        del encoding.params
        self.encoding = encoding
        self.register_buffer("points", points.float(), persistent=False)

    def forward(self) -> Tensor:
        """Interpolate."""
        self.encoding.params = self.table.reshape(-1)
        features = self.encoding(self.points).float()
        self.encoding.params = None  # it would keep what the gradient needs
        return features


def disagreement(device: str) -> float:
    """The largest difference of the two backends' features and gradients, to the largest of each.

    Raises:
        ImportError: there is no tiny-cuda-nn. It may also end the process.
    """
    settings, points = GridSettings(log2_entries=10), torch.rand((4096, 2), generator=torch.Generator().manual_seed(0))
    levels = settings.resolved_levels(128)
    theirs = TinyCudaHashGrid(points.to(device), settings, levels)
    ours = TorchHashGrid(points, settings, levels).to(device)
    theirs.load_state_dict(ours.state_dict())
    pairs = [(theirs().detach(), ours().detach())]
    weights = torch.rand_like(pairs[0][1])
    pairs += [tuple(torch.autograd.grad((grid() * weights).sum(), grid.table)[0] for grid in (theirs, ours))]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@lru_cache(maxsize=1)
def tinycudann_agrees(device: str = "cuda") -> bool:
    """Whether tiny-cuda-nn is there, runs, and computes what the torch backend does; asked once, in another process."""
    if importlib.util.find_spec("tinycudann") is None:
        return False
    code = f"from {__name__} import disagreement; raise SystemExit(not disagreement({device!r}) < {AGREEMENT})"
    try:
        done = subprocess.run(  # noqa: S603  this interpreter, and nothing from outside
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired:
        _log.warning("tiny-cuda-nn has not answered within %d s: torch computes the hash grids", PATIENCE_S)
        return False
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        _log.warning(
            "tiny-cuda-nn is installed, but does not work here (exit status %d: %s): torch computes the hash grids",
            done.returncode,
            said[0],
        )
    return done.returncode == 0


def hash_grid(points: Tensor, settings: GridSettings, levels: int) -> TorchHashGrid | TinyCudaHashGrid:
    """The grid on the points' device, by the backend that `settings` names.

    Raises:
        ValueError: tiny-cuda-nn is asked for and cannot be had; the message says how to install it.
    """
    available = points.is_cuda and settings.backend != "torch" and tinycudann_agrees()
    if settings.backend == "tinycudann" and not available:
        raise ValueError(
            "backend 'tinycudann' needs a CUDA device and a tiny-cuda-nn that works there: "
            "`pip install --no-build-isolation "
            "git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch`; "
            "backend 'torch' gives the same features everywhere"
        )
    if available:
        return TinyCudaHashGrid(points, settings, levels)
    return TorchHashGrid(points, settings, levels).to(points.device)


class GridNetwork(nn.Module):
    """Hash grid and ReLU network on the pixels of a window: `forward() -> (h, w, outputs)`, 0 before training.

    `random` starts from random weights instead, without biases, as tiny-cuda-nn's networks have none.
    """

    def __init__(
        self,
        window: tuple[int, int],
        settings: GridSettings,
        outputs: int,
        device: torch.device,
        *,
        random: bool = False,
    ) -> None:
        super().__init__()
        axes = [(torch.arange(n, device=device) + 0.5) / n for n in window]
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        points = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
        levels = settings.resolved_levels(max(window))
        self.grid = hash_grid(points, settings, levels)
        layers: list[nn.Module] = []
        inputs = levels * settings.features
        for _ in range(settings.depth):
            layers += [nn.Linear(inputs, settings.width, bias=not random), nn.ReLU()]
            inputs = settings.width
        last = nn.Linear(inputs, outputs, bias=not random)
        if not random:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.network = nn.Sequential(*layers, last).to(device)
        self.window = window

    def forward(self) -> Tensor:
        """The outputs for every pixel of the window."""
        return self.network(self.grid() / TABLE_UNIT).reshape(*self.window, -1)


def _corners(points: Tensor, level: int, settings: GridSettings) -> tuple[Tensor, Tensor, int]:
    """Entries and bilinear weights of the four grid points around each point: (n, 4), (n, 4), entries of the level."""
    # In single precision, as in tiny-cuda-nn: where the scale is a whole number, a rounding decides on the resolution.
    octaves = float(np.float32(level) * np.float32(math.log2(settings.growth)))
    scale = float(np.float32(2.0**octaves) * np.float32(settings.base_resolution) - np.float32(1))
    resolution = math.ceil(scale) + 1
    size = min(-(-(resolution**2) // 8) * 8, 2**settings.log2_entries)
    position = points * scale + 0.5
    lower = position.floor()
    fraction = position - lower
    index, weight = [], []
    for corner in range(4):
        steps = (corner & 1, corner >> 1)
        x, y = (lower[:, axis].long() + steps[axis] for axis in (0, 1))
        dense = x + y * resolution
        hashed = x ^ ((y * PRIME) & 0xFFFFFFFF)
        index.append((dense if resolution**2 <= size else hashed) % size)
        parts = [fraction[:, a] if steps[a] else 1 - fraction[:, a] for a in (0, 1)]
        weight.append(parts[0] * parts[1])
    return torch.stack(index, dim=1), torch.stack(weight, dim=1), size


def _sparse_pair(index: Tensor, weight: Tensor, entries: int) -> tuple[Tensor, Tensor]:
    """The (rows, entries) matrix with `weight` at `index`, and its transpose, in compressed rows."""
    rows = torch.arange(len(index)).repeat_interleave(4)
    where = torch.stack([rows, index.reshape(-1)])
    with warnings.catch_warnings():
        # torch announces the compressed layout as beta; the product used here is the vendor library's.
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*", category=UserWarning)
        matrix, transposed = (
            torch.sparse_coo_tensor(places, weight.reshape(-1), shape, check_invariants=True).coalesce().to_sparse_csr()
            for places, shape in ((where, (len(index), entries)), (where.flip(0), (entries, len(index))))
        )
    return matrix, transposed
