"""Adam (Kingma & Ba 2015) over groups of parameters, a rate each, by torch's fused kernel.

The same as `torch.optim.Adam`, whose constructor imports torch's compiler: 1.8 of the 3.1 s of a core that the first
step of a process took, search for a probe near focus included (2026-11-26).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

BETAS = (0.9, 0.99)
_EPSILON = 1e-8
MOMENTS = ("mean", "square", "visits")
"""What Adam remembers of a parameter's gradients."""


@dataclass
class _Moments:
    mean: Tensor
    square: Tensor
    visits: Tensor


@dataclass
class Group:
    """Parameters that learn at one rate."""

    parameters: list[nn.Parameter]
    full_rate: float
    rate: float = 0.0
    """Of the last step."""


class Adam:
    """What is remembered of the gradients, and the steps against them."""

    def __init__(
        self, groups: Sequence[tuple[Sequence[nn.Parameter], float]], betas: tuple[float, float] = BETAS
    ) -> None:
        """Each group has its parameters and their full rate; one without parameters is none."""
        self._betas = betas
        self.groups = [Group(list(parameters), rate) for parameters, rate in groups if parameters]
        self._moments: dict[tuple[int, int], _Moments] = {}

    def clear_gradients(self) -> None:
        """Before a backward pass."""
        for group in self.groups:
            for parameter in group.parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> None:
        """Step by `factor` times the full rates; parameters without a gradient keep still, and their time too."""
        for number, group in enumerate(self.groups):
            group.rate = factor * group.full_rate
            learning = [(k, p, p.grad) for k, p in enumerate(group.parameters) if p.grad is not None]
            if not learning:
                continue
            moments = [self._of(number, k, parameter) for k, parameter, _ in learning]
            adam(
                [parameter for _, parameter, _ in learning],
                [gradient for _, _, gradient in learning],
                [each.mean for each in moments],
                [each.square for each in moments],
                [],
                [each.visits for each in moments],
                fused=True,
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=group.rate,
                weight_decay=0.0,
                eps=_EPSILON,
                maximize=False,
            )

    def forget(self) -> None:
        """Start the moments anew."""
        self._moments.clear()

    @property
    def moments(self) -> dict[str, Tensor]:
        """What is remembered, by group, parameter and kind."""
        return {
            f"{number}.{k}.{kind}": getattr(each, kind)
            for (number, k), each in self._moments.items()
            for kind in MOMENTS
        }

    def remember(self, moments: Mapping[str, Tensor]) -> None:
        """Take over the `moments` of another over the same groups; it may not have seen gradients of all parameters.

        Raises:
            KeyError: one of three is missing, or they belong to no parameter.
            ValueError: they are of another shape than the parameter.
        """
        self.forget()
        for number, group in enumerate(self.groups):
            for k, parameter in enumerate(group.parameters):
                if f"{number}.{k}.mean" in moments:
                    ours = self._of(number, k, parameter)
                    for kind in MOMENTS:
                        mine, theirs = getattr(ours, kind), moments[f"{number}.{k}.{kind}"]
                        if mine.shape != theirs.shape:
                            raise ValueError(f"{number}.{k}.{kind} is {tuple(theirs.shape)}, not {tuple(mine.shape)}")
                        mine.copy_(theirs)
        if surplus := set(moments) - set(self.moments):
            raise KeyError(f"of no parameter: {sorted(surplus)}")

    def _of(self, number: int, k: int, parameter: nn.Parameter) -> _Moments:
        if (number, k) not in self._moments:
            visits = torch.zeros((), dtype=torch.float32, device=parameter.device)
            self._moments[number, k] = _Moments(torch.zeros_like(parameter), torch.zeros_like(parameter), visits)
        return self._moments[number, k]
