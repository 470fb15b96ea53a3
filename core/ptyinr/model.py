"""The model: an object field, and a probe field that a reference holds or random weights begin.

`modulation`: P = P_ref (1 + a) exp(i f) + d, with (a, f) the outputs of a grid network that start at 0. The phase wraps
of a defocused probe then cost the network nothing, and a better reference is a better start. Free pixels d, from 0 on,
take up what the network does not reach; see `settings` for what they gain.

`network`: P = |a| exp(i f) from two grid networks of random weights, as the paper has it.

`pixels`: free complex pixels that start at the reference, to be compared with.

The data cannot tell a brighter probe from a more transparent object, so the probe's brightness is fixed: its energy to
the reference's, or, as in the paper, its largest amplitude (P <- P / max|P|).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .detail import Detail
from .geometry import Canvas
from .hashgrid import GridNetwork, GridSettings
from .siren import FREQUENCY, ObjectField, ObjectSettings
from .types import require_choices


@dataclass(frozen=True)
class ProbeSettings:
    """How the probe is represented.

    Raises:
        ValueError: the kind or the normalisation is none.
    """

    kind: Literal["modulation", "network", "pixels"] = "modulation"
    grid: GridSettings = field(default_factory=GridSettings)
    normalisation: Literal["energy", "maximum", "none"] = "energy"
    centred: bool = False
    """Roll the probe so that its brightest pixel lies in the middle, in every step, as the paper does."""
    detail: bool = True
    """Free pixels beside a modulation."""
    fixed: bool = False
    """The reference is the probe: it is known, in root counts."""

    def __post_init__(self) -> None:
        require_choices(self)


class ProbeField(nn.Module):
    """`forward() -> (modes, h, w)` complex64."""

    def __init__(self, reference: Tensor, settings: ProbeSettings) -> None:
        """`reference` (modes, h, w) complex, in root photons; of a `network` it tells the brightness alone."""
        super().__init__()
        modes, h, w = reference.shape
        self.settings = settings
        self.pixels: nn.Parameter | None = None
        """(modes, h, w, 2) in units of the reference's largest amplitude."""
        self.register_buffer("reference", reference.to(torch.complex64), persistent=True)
        self.grids: list[GridNetwork] = []
        if settings.kind == "pixels":
            self.pixels = nn.Parameter(torch.view_as_real(reference.to(torch.complex64) / reference.abs().max()))
        elif settings.kind == "modulation":
            self.grids = [GridNetwork((h, w), settings.grid, 2, reference.device) for _ in range(modes)]
            if settings.detail:
                self.pixels = nn.Parameter(torch.zeros((modes, h, w, 2), device=reference.device))
        else:
            self.grids = [
                GridNetwork((h, w), settings.grid, 1, reference.device, random=True) for _ in range(2 * modes)
            ]
        self._registered = nn.ModuleList(self.grids)

    def forward(self) -> Tensor:
        """The probe of this moment."""
        reference: Tensor = self.get_buffer("reference")
        if self.settings.fixed:
            return reference
        if self.settings.kind == "pixels":
            probe = torch.zeros_like(reference)
        elif self.settings.kind == "modulation":
            modulation = torch.stack([grid() for grid in self.grids])  # (modes, h, w, 2)
            probe = reference * torch.polar(1 + modulation[..., 0], modulation[..., 1])
        else:
            fields = torch.stack([grid()[..., 0] for grid in self.grids])  # (2 * modes, h, w)
            probe = torch.polar(fields[::2].abs(), fields[1::2]) * reference.abs().max()
        if self.pixels is not None:
            probe = probe + torch.view_as_complex(self.pixels) * reference.abs().max()
        if self.settings.centred:
            probe = _brightest_in_the_middle(probe)
        if self.settings.normalisation == "energy":
            return probe * (energy(reference) / energy(probe)).sqrt()
        if self.settings.normalisation == "maximum":
            return probe * (reference.abs().max() / probe.abs().max())
        return probe


def energy(probe: Tensor) -> Tensor:
    """Total intensity of a probe: the photons a frame receives through an object of 1."""
    return probe.real.square().sum() + probe.imag.square().sum()


def _brightest_in_the_middle(probe: Tensor) -> Tensor:
    h, w = probe.shape[-2:]
    row, column = divmod(int(probe[0].detach().abs().argmax()), w)
    return torch.roll(probe, (h // 2 - row, w // 2 - column), (-2, -1))


class GridField(nn.Module):
    """An object of hash grids, to be compared with: it covers a square around the anchor and cannot grow."""

    def __init__(self, settings: ObjectSettings, extent_px: float, grid: GridSettings, device: torch.device) -> None:
        super().__init__()
        self.reach = int(extent_px) + 1
        self.start = settings.start
        outputs = (2,) if settings.shared else (1, 1)
        square = (2 * self.reach, 2 * self.reach)
        self.networks = nn.ModuleList(GridNetwork(square, grid, n, device, random=not settings.start) for n in outputs)

    def forward(self, corner: tuple[int, int], shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        """As `ObjectField.forward`; `dtype` has no effect.

        Raises:
            ValueError: the part leaves the square.
        """
        first = [c + self.reach for c in corner]
        if min(first) < 0 or max(f + n for f, n in zip(first, shape, strict=True)) > 2 * self.reach:
            raise ValueError(f"an object of hash grids covers {2 * self.reach} x {2 * self.reach} px and cannot grow")
        outputs = torch.cat([network() for network in self.networks], dim=-1)
        part = outputs[first[0] : first[0] + shape[0], first[1] : first[1] + shape[1]]
        return torch.polar((self.start + part[..., 0]).abs(), part[..., 1])


class PtychoModel(nn.Module):
    """Object and probe."""

    def __init__(
        self,
        reference: Tensor,
        canvas: Canvas,
        objects: ObjectSettings,
        probes: ProbeSettings,
        first_frequency: float = FREQUENCY,
        *,
        learning: bool = True,
    ) -> None:
        """`reference` (modes, h, w) complex, in root photons; `canvas` gives the extent of the coordinates.

        `learning` is False of a copy that follows another model's weights.
        """
        super().__init__()
        extent_px, device = max(canvas.shape) / 2, reference.device
        if objects.kind == "siren":
            self.field = ObjectField(objects, extent_px, first_frequency).to(device)
        else:
            self.field = GridField(objects, extent_px, probes.grid, device)
        self.detail = Detail(canvas, device, learning=learning) if objects.detail else None
        self.probe = ProbeField(reference, probes)

    def object(self, first: tuple[int, int], shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The object from pixel `first` (anchored) on: `shape` complex64, with a gradient for the network alone."""
        field = self.field(first, shape, dtype)
        return field if self.detail is None else field + self.detail.part(first, shape)
