"""The probe's hash grids: the features of tiny-cuda-nn, written out one point at a time."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from ptyinr.hashgrid import (
    PRIME,
    TABLE_UNIT,
    GridNetwork,
    GridSettings,
    TinyCudaHashGrid,
    TorchHashGrid,
    hash_grid,
    tinycudann_agrees,
)

HAS_TINYCUDANN = torch.cuda.is_available() and importlib.util.find_spec("tinycudann") is not None


def some_points(n=40, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 1, (n, 2)).astype(np.float32))


def level_scale(level, settings):
    """In single precision, as tiny-cuda-nn reckons: `exp2f(level * log2(growth)) * base - 1`."""
    f = np.float32
    return f(np.exp2(f(level) * np.log2(f(settings.growth))) * f(settings.base_resolution) - f(1))


def level_entries(resolution, settings):
    return min(math.ceil(resolution**2 / 8) * 8, 2**settings.log2_entries)


def plain_features(point, table, settings, levels):
    """`grid_index`, `pos_fract` and the interpolation of tiny-cuda-nn's `grid.h`."""
    features, start = [], 0
    for level in range(levels):
        scale = level_scale(level, settings)
        resolution = math.ceil(scale) + 1
        entries = level_entries(resolution, settings)
        position = [float(x) * float(scale) + 0.5 for x in point]
        lower = [math.floor(p) for p in position]
        total = np.zeros(settings.features)
        for dx in (0, 1):
            for dy in (0, 1):
                x, y = lower[0] + dx, lower[1] + dy
                weight = 1.0
                for p, low, step in zip(position, lower, (dx, dy), strict=True):
                    weight *= p - low if step else 1 - (p - low)
                index = x + y * resolution if resolution**2 <= entries else x ^ (y * PRIME % 2**32)
                total += weight * table[start + index % entries]
        features.append(total)
        start += entries
    assert start == len(table)
    return np.concatenate(features)


@pytest.mark.parametrize(
    ("settings", "levels"),
    [
        (GridSettings(), 7),
        (GridSettings(log2_entries=8, growth=1.7), 5),  # hashed from the second level on
        (GridSettings(features=4, base_resolution=5, growth=2.0), 3),
        (GridSettings(growth=1.0, base_resolution=10), 2),
    ],
)
def test_features_are_those_of_the_formula(settings, levels):
    points = some_points()
    grid = TorchHashGrid(points, settings, levels)
    got = grid().detach().numpy()
    table = grid.table.detach().double().numpy()
    expected = np.array([plain_features(point, table, settings, levels) for point in points.tolist()])
    assert got.shape == (len(points), levels * settings.features)
    assert np.abs(got - expected).max() < 1e-3 * TABLE_UNIT  # the scales' rounding


def test_tables_have_as_many_entries_as_those_of_tiny_cuda_nn():
    """1.5^3 * 16 is 54, but in double precision a little more: then one level would have 55 x 55 entries."""
    settings = GridSettings()
    expected = [level_entries(math.ceil(level_scale(level, settings)) + 1, settings) for level in range(7)]
    assert expected[3] == math.ceil(54**2 / 8) * 8
    assert len(TorchHashGrid(some_points(3), settings, 7).table) == sum(expected)


def test_points_on_the_border_stay_inside_the_tables():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert torch.isfinite(TorchHashGrid(corners, GridSettings(), 7)()).all()


def test_the_table_starts_within_its_unit():
    table = TorchHashGrid(some_points(3), GridSettings(), 5).table.detach().abs()
    assert 0.9 * TABLE_UNIT < table.max() <= TABLE_UNIT


def test_gradients_are_those_of_finite_differences():
    grid = TorchHashGrid(some_points(6), GridSettings(base_resolution=3, log2_entries=4), 2).double()

    def features(table):
        return torch.func.functional_call(grid, {"table": table}, ())

    assert torch.autograd.gradcheck(features, (grid.table,))


def test_levels_stop_at_the_first_that_is_as_fine_as_the_pixels():
    settings = GridSettings(base_resolution=16, growth=1.5)
    for pixels in (8, 16, 17, 32, 100, 128, 256):
        levels = settings.resolved_levels(pixels)
        assert 16 * 1.5 ** (levels - 1) >= pixels
        assert levels == 1 or 16 * 1.5 ** (levels - 2) < pixels
    assert GridSettings(levels=3).resolved_levels(1000) == 3


@pytest.mark.parametrize(
    "bad",
    [
        {"levels": 0},
        {"levels": -1},
        {"features": 0},
        {"log2_entries": 0},
        {"base_resolution": 0},
        {"growth": 0.9},
        {"width": 0},
        {"depth": 0},
    ],
)
def test_settings_that_make_no_grid_are_refused(bad):
    with pytest.raises(ValueError, match="positive sizes"):
        GridSettings(**bad)


def test_tinycudann_without_a_gpu_says_how_it_is_had():
    with pytest.raises(ValueError, match=r"pip install --no-build-isolation git.*tiny-cuda-nn"):
        hash_grid(some_points(), GridSettings(backend="tinycudann"), 3)


def test_the_cpu_takes_torch():
    assert isinstance(hash_grid(some_points(), GridSettings(), 3), TorchHashGrid)


def test_a_network_starts_at_nothing_and_can_learn_a_pattern():
    torch.manual_seed(0)
    network = GridNetwork((12, 16), GridSettings(), 2, torch.device("cpu"))
    assert network().shape == (12, 16, 2)
    assert not network().any()
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    wanted = torch.stack([torch.sin(rows / 2), torch.cos(columns / 3)], dim=-1)
    tables = [network.grid.table]
    optimiser = torch.optim.Adam(
        [{"params": network.network.parameters()}, {"params": tables, "lr": 3e-2 * TABLE_UNIT}]
    )
    errors = []
    for _ in range(150):
        error = (network() - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_TINYCUDANN, reason="needs a CUDA device and tinycudann")
@pytest.mark.parametrize("settings", [GridSettings(), GridSettings(log2_entries=10)])
def test_tiny_cuda_nn_gives_the_same_features_and_gradients(settings):
    points = some_points(256).cuda()
    theirs = hash_grid(points, replace(settings, backend="tinycudann"), 7)
    ours = TorchHashGrid(points, settings, 7).cuda()
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(), ours(), rtol=1e-4, atol=1e-4 * TABLE_UNIT)
    weights = torch.rand_like(ours())
    for grid in (theirs, ours):
        (grid() * weights).sum().backward()
    torch.testing.assert_close(theirs.table.grad, ours.table.grad, rtol=1e-4, atol=1e-4)


FAKE = """
import torch
class Encoding(torch.nn.Module):
    def __init__(self, inputs, config, dtype):
        super().__init__()
        {first}
        from ptyinr.hashgrid import GridSettings, TorchHashGrid
        self.settings, self.levels = GridSettings(log2_entries=10), config["n_levels"]
        points = torch.rand((4096, 2), generator=torch.Generator().manual_seed(0))
        self.grid = TorchHashGrid(points, self.settings, self.levels)
        self.params = torch.nn.Parameter(self.grid.table.detach().reshape(-1).clone())
        del self.grid.table
    def forward(self, points):
        self.grid.table = ({table}).reshape(-1, 2)
        return self.grid()
"""
"""A tiny-cuda-nn for a processor, which does as the real one would, or dies, or is wrong."""


@pytest.mark.parametrize(
    ("first", "table", "works", "said"),
    [
        ("pass", "self.params", True, ""),
        ("pass", "1.1 * self.params", False, "exit status 1"),
        ("pass", "1.1 * self.params - 0.1 * self.params.detach()", False, "exit status 1"),  # its gradients alone
        ("import os; os.abort()", "self.params", False, "exit status -6"),
        (
            "raise OSError('built for lower compute capability')",
            "self.params",
            False,
            "built for lower compute capability",
        ),
    ],
)
def test_tiny_cuda_nn_is_taken_only_if_it_computes_the_same_in_a_process_of_its_own(
    tmp_path, monkeypatch, caplog, first, table, works, said
):
    (tmp_path / "tinycudann.py").write_text(FAKE.format(first=first, table=table))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    tinycudann_agrees.cache_clear()
    try:
        assert tinycudann_agrees("cpu") is works
    finally:
        tinycudann_agrees.cache_clear()
    assert said in caplog.text
    assert ("torch computes the hash grids" in caplog.text) is not works


@pytest.fixture
def fake(monkeypatch):
    module = ModuleType("tinycudann")
    exec(FAKE.format(first="pass", table="self.params"), vars(module))
    monkeypatch.setitem(sys.modules, "tinycudann", module)


@pytest.mark.usefixtures("fake")
def test_a_state_of_one_backend_serves_the_other():
    points = torch.rand((4096, 2), generator=torch.Generator().manual_seed(0))
    settings = GridSettings(log2_entries=10)
    theirs, ours = TinyCudaHashGrid(points, settings, 7), TorchHashGrid(points, settings, 7)
    assert [name for name, _ in theirs.named_parameters()] == [name for name, _ in ours.named_parameters()]
    assert not torch.equal(theirs(), ours())
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(), ours())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.usefixtures("fake")
def test_two_grids_of_tiny_cuda_nn_begin_differently():
    """It draws all from one seed: the modes of a probe, or its amplitude and its phase, would begin equal."""
    first, second = (TinyCudaHashGrid(some_points(), GridSettings(log2_entries=10), 3) for _ in range(2))
    assert not torch.equal(first.table, second.table)
    assert 0.9 * TABLE_UNIT < first.table.abs().max() <= TABLE_UNIT


def test_without_tiny_cuda_nn_no_process_is_started(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("nothing to try"))
    tinycudann_agrees.cache_clear()
    assert tinycudann_agrees("cpu") is False
    tinycudann_agrees.cache_clear()
