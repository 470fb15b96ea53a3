"""The model: an object field, and a probe that a hash grid modulates around a reference.

P = P_ref (1 + a) exp(i f), normalised to the reference's energy, with (a, f) the outputs of a grid network that start
at 0. The phase wraps of a defocused probe then cost the network nothing, and a better reference is a better start. The
energy is fixed because the data cannot tell a brighter probe from a more transparent object.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .hashgrid import GridNetwork, GridSettings
from .siren import ObjectField, ObjectSettings


class ProbeField(nn.Module):
    """`forward() -> (modes, h, w)` complex64."""

    def __init__(self, reference: Tensor, settings: GridSettings) -> None:
        """`reference` (modes, h, w) complex, in root photons."""
        super().__init__()
        modes, h, w = reference.shape
        self.register_buffer("reference", reference.to(torch.complex64), persistent=True)
        self.grids = [GridNetwork((h, w), settings, 2, reference.device) for _ in range(modes)]
        self._registered = nn.ModuleList(self.grids)

    def forward(self) -> Tensor:
        """The probe of this moment."""
        modulation = torch.stack([grid() for grid in self.grids])  # (modes, h, w, 2)
        reference: Tensor = self.get_buffer("reference")
        probe = reference * torch.polar(1 + modulation[..., 0], modulation[..., 1])
        return probe * (energy(reference) / energy(probe)).sqrt()


def energy(probe: Tensor) -> Tensor:
    """Total intensity of a probe: the photons a frame receives through an object of 1."""
    return probe.real.square().sum() + probe.imag.square().sum()


class PtychoModel(nn.Module):
    """Object and probe."""

    def __init__(self, reference: Tensor, extent_px: float, objects: ObjectSettings, probes: GridSettings) -> None:
        super().__init__()
        self.object = ObjectField(objects, extent_px).to(reference.device)
        self.probe = ProbeField(reference, probes)
