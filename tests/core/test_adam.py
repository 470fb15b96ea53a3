"""Adam over groups of parameters: torch's own steps, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ptyinr.adam import BETAS, Adam

FIRST_STEP = """
import sys
import numpy as np
import ptyinr
from ptyinr.simulate import simulate
from ptyinr.scans import raster
geometry = ptyinr.ScanGeometry(1e-10, 0.5, 75e-6, (16, 16))
rows, columns = np.mgrid[-8:8, -8:8]
probe = 30 * np.exp(-(1 + 0.5j) * (rows**2 + columns**2) / 20)
scan = simulate(geometry, np.ones((40, 40), complex), probe, raster((24, 24), (6, 6)), seed=0)
trainer = ptyinr.Trainer(geometry, ptyinr.ScanRange.of(scan.positions_m))
trainer.append(scan.batch())
trainer.step()
trainer.snapshot()
print([name for name in sys.modules if name.partition(".")[0] == "sympy" or name.startswith("torch._dynamo")])
"""


def parameters(seed: int = 0) -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*shape, generator=random)) for shape in ((3, 4), (5,), (2, 2, 2))]


def graded(these: list[nn.Parameter], seed: int) -> None:
    """Gradients over some orders of magnitude, the same for the same seed."""
    random = torch.Generator().manual_seed(1000 + seed)
    for parameter in these:
        parameter.grad = 10.0 ** (seed % 5) * torch.randn(*parameter.shape, generator=random)


def test_steps_are_torchs_own_with_a_rate_for_each_group_and_a_factor_on_all() -> None:
    ours, theirs = parameters(), parameters()
    adam = Adam([(ours[:2], 1e-2), ([], 1.0), (ours[2:], 3e-1)])
    reference = torch.optim.Adam(
        [{"params": theirs[:2], "full": 1e-2}, {"params": theirs[2:], "full": 3e-1}], betas=BETAS, fused=True
    )
    for step in range(30):
        graded(ours, step)
        graded(theirs, step)
        adam.step(1 / (1 + step))
        for group in reference.param_groups:
            group["lr"] = group["full"] / (1 + step)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_parameter_without_a_gradient_keeps_still_and_its_time_too() -> None:
    held, free = parameters(), parameters()
    adams = [Adam([(these, 1e-2)]) for these in (held, free)]
    before = held[0].clone()
    for step in range(5):
        graded(held, step)
        held[0].grad = None
        adams[0].step()
    assert torch.equal(held[0], before)
    for these, adam in zip((held, free), adams, strict=True):
        adam.clear_gradients()
        assert all(parameter.grad is None for parameter in these)
        graded(these, 7)
        adam.step()
    assert torch.equal(held[0], free[0])
    assert not torch.equal(held[1], free[1])


def test_what_is_remembered_goes_on_as_if_nothing_had_been_between() -> None:
    ours, later = parameters(), parameters(1)
    adam = Adam([(ours, 1e-2)])
    for step in range(3):
        graded(ours, step)
        ours[1].grad = None
        adam.step()
    resumed = Adam([(later, 1e-2)])
    resumed.remember(adam.moments)
    with torch.no_grad():
        for mine, other in zip(later, ours, strict=True):
            mine.copy_(other)
    for these, each in ((ours, adam), (later, resumed)):
        graded(these, 9)
        each.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, later, strict=True))


def test_after_forgetting_the_first_step_is_as_long_as_its_rate() -> None:
    ours = parameters()
    adam = Adam([(ours, 1e-2)])
    for step in range(3):
        graded(ours, step)
        adam.step()
    adam.forget()
    assert adam.moments == {}
    before = ours[1].detach().clone()
    graded(ours, 4)
    adam.step()
    torch.testing.assert_close((ours[1] - before).abs(), torch.full((5,), 1e-2))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda m: m | {"7.0.mean": m["0.0.mean"]}, KeyError),
        (lambda m: {"0.0.mean": m["0.0.mean"]}, KeyError),
        (lambda m: m | {"0.1.mean": torch.zeros(1)}, ValueError),
    ],
)
def test_moments_that_do_not_fit_are_refused(change, error) -> None:
    ours = parameters()
    adam = Adam([(ours, 1e-2)])
    graded(ours, 0)
    adam.step()
    with pytest.raises(error):
        Adam([(ours, 1e-2)]).remember(change(adam.moments))


def test_a_first_step_does_not_wait_for_torchs_compiler() -> None:
    """It took longer to import than a probe to be found."""
    done = subprocess.run([sys.executable, "-c", FIRST_STEP], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
