"""The object field: a sine network (SIREN, Sitzmann et al. 2020) from pixel coordinates to amplitude and phase.

Notable choices, each with what it was measured against on the Siemens star (516 frames, 2 CPU cores):

* One network with two outputs, where the paper has one network for each: half the work for the same steps, and better
  at equal steps (phase correlation 0.942 against 0.918 after 100; 2026-11-22). `shared=False` is the paper's way.
* The first frequency is given in radians a pixel, so that a network means the same whatever the field's size; the
  paper's w0 = 30 on [-1, 1] over its 241 px is 0.25 rad/px. After 200 steps 0.5 gave 0.976, 0.8 gave 0.967; after 100
  steps 0.25 gave 0.895, 0.4 gave 0.918 (2026-11-22).
* Since free pixels stand beside the network (`detail`) it may be small and smooth. The star after 40 s of one core:
  0.953 with 0.5 rad/px, 0.959 with 0.3, 0.924 with 0.8; with faster pixels and probe, width 64 0.978, width 32 0.983.
  Window overlaps of 50 and 30 %, no pixels, probe known, object PSNR amplitude / phase of three simulated scans after
  5 s: 0.2 rad/px 21.0 / 21.1, 29.7 / 30.7, 28.9 / 28.6; 0.3 25.2 / 25.5, 35.5 / 36.9, 29.6 / 29.8; 0.5 20.6 / 22.9,
  37.9 / 39.2, 28.0 / 26.6 (2026-11-25).
* Hidden layers may run in bfloat16 (the first never: its arguments reach hundreds of radians). Same error after 100
  steps (held-out 0.552 against 0.549), a step 2.7 times shorter where the processor has bfloat16 arithmetic
  (2026-11-22).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .types import all_positive, require_choices

FREQUENCY, FREQUENCY_WHERE_DARK = 0.3, 0.5
"""Radians a pixel. Ten photons in the brightest pixel, 95 % overlap, probe given, 10 s, two seeds (2026-11-27): pixels
beside it and 0.3 `tungsten` 30.4 / 34.2, 30.6 / 34.3, `maze` 30.1 / 32.0, 29.2 / 30.0; none beside it and 0.3 30.6 /
34.3, 31.0 / 34.8, 31.8 / 32.4, 30.8 / 30.3; 0.46 30.9 / 34.2, 31.1 / 34.7, 32.6 / 33.4, 30.9 / 33.1; 0.6 30.9 / 33.9,
31.1 / 34.6, 32.6 / 34.0, 30.9 / 32.2; 0.83 30.7 / 33.3, 30.8 / 34.4, 32.7 / 34.7, 31.6 / 32.3; 1.9 28.1 / 30.1, 30.1 /
31.7, 35.6 / 34.5, 33.2 / 33.3. Blind, 20 s, pixels and 0.3: 29.9 / 32.6, 30.3 / 33.3, 32.2 / 34.6, 31.0 / 32.1; none
and 0.5: 29.9 / 33.2, 30.4 / 33.2, 32.8 / 35.3, 30.4 / 33.2.
"""


WIDTH, WIDTH_BESIDE_PIXELS = 64, 16
"""Two thirds of a step's time go into a network of 64. 2026-11-26, one slow core, widths 64, 32, 16. The Siemens star
with its probe known, seconds until a phase correlation of 0.95: 10.7, 6.3, 6.2. The paper's simulations, `tungsten`,
PSNR amplitude / phase, no noise, 95 % overlap, 10 s: known 97 / 104, 106 / 113, 100 / 106; blind 55 / 49, 57 / 49,
56 / 49. Gaussian noise, known: 35 / 41, 32 / 38, 30 / 37; ten photons, known: 30 / 33, 30 / 34, 28 / 29. 50 % overlap,
where there are no pixels beside it: 32 / 36, 31 / 35, 26 / 32; `maze` 32 / 33, 30 / 30, 26 / 24.

Since the first steps are small (`samplers`) the network takes half of their time. The star, probe known: 0.95 after 49
steps with 32 and with 16, steps of 78 and of 55 ms, so that 16 it is beside pixels (2026-11-26).
"""


@dataclass(frozen=True)
class ObjectSettings:
    """The object's network.

    Raises:
        ValueError: a size or a frequency is not positive, or the kind is none.
    """

    kind: Literal["siren", "hash_grid"] = "siren"
    """`hash_grid` is there to be compared with: a grid network over the canvas, as fine as its pixels."""
    width: int | None = None
    """Of its hidden layers; None takes `WIDTH`, or `WIDTH_BESIDE_PIXELS` where the counts allow for fast pixels."""
    depth: int = 2
    """Hidden layers after the first sine layer."""
    first_frequency: float | None = None
    """Of the first layer, in radians a pixel of the object; None takes `FREQUENCY`, w0 = 36 on the paper's
    241 px, or `FREQUENCY_WHERE_DARK` where photons are few and windows overlap enough."""
    w0: float | None = None
    """The same as the paper gives it: on coordinates from -1 to 1 across the scanned field. Overrules the former."""
    hidden_frequency: float = 30.0
    shared: bool = True
    """One network for amplitude and phase; False makes two, as in the paper."""
    detail: bool | None = None
    """Free pixels beside the network; None has them where windows overlap enough to tell pixels apart, and photons are
    many."""
    start: float = 1.0
    """Amplitude before training; 0 leaves it to the random weights, as the published program does."""

    def __post_init__(self) -> None:
        given = [1.0 if value is None else value for value in (self.first_frequency, self.w0, self.width)]
        require_choices(self)
        if not all_positive(self.depth, self.hidden_frequency, *given) or not 0 <= self.start < math.inf:
            raise ValueError(f"widths, depths and frequencies of a SIREN must be positive: {self}")

    def frequency(self, field_px: float) -> float:
        """Radians a pixel of the first layer, for a scanned field of so many pixels.

        >>> round(ObjectSettings(w0=30.0).frequency(240.0), 3), ObjectSettings().frequency(240.0)
        (0.25, 0.3)
        """
        if self.w0 is not None:
            return 2 * self.w0 / field_px
        return FREQUENCY if self.first_frequency is None else self.first_frequency


class Sine(nn.Module):
    """`sin(w (W x + b))` with the initial spread that keeps activations alike through the layers."""

    def __init__(self, inputs: int, outputs: int, frequency: float, first: bool = False) -> None:
        super().__init__()
        spread = 1 / inputs if first else math.sqrt(6 / inputs) / frequency
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-spread, spread))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-1, 1) / math.sqrt(inputs))
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs), in the dtype of `x`; the frequency multiplies the small operands, not `x`."""
        weight, bias = self.frequency * self.weight, self.frequency * self.bias
        return torch.sin(nn.functional.linear(x, weight.to(x.dtype), bias.to(x.dtype)))


class Siren(nn.Module):
    """Sine layers and a linear output whose bias starts at `start`."""

    def __init__(
        self, settings: ObjectSettings, first_frequency: float, extent_px: float, start: tuple[float, ...]
    ) -> None:
        super().__init__()
        width, hidden = settings.width or WIDTH, settings.hidden_frequency
        self.first = Sine(2, width, first_frequency * extent_px, first=True)
        self.hidden = nn.Sequential(*(Sine(width, width, hidden) for _ in range(settings.depth)))
        self.output = nn.Linear(width, len(start))
        spread = math.sqrt(6 / width) / hidden
        nn.init.uniform_(self.output.weight, -spread, spread)
        with torch.no_grad():
            if any(start):
                self.output.bias.copy_(torch.tensor(start))

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(n, 2) float32 to (n, len(start)) float32; the hidden layers compute in `dtype`."""
        features = self.hidden(self.first(x).to(dtype))
        return nn.functional.linear(features, self.output.weight.to(dtype), self.output.bias.to(dtype)).float()


class ObjectField(nn.Module):
    """The complex transmission at any pixel: `O = |a| exp(i p)`, 1 where nothing was learned.

    Coordinates are pixels from an anchor that never moves (the centre of the commanded range) divided by an extent that
    never changes, so that trained weights stay valid while the field grows; beyond the extent the sines simply go on.
    """

    def __init__(self, settings: ObjectSettings, extent_px: float, first_frequency: float = FREQUENCY) -> None:
        super().__init__()
        starts = ((settings.start, 0.0),) if settings.shared else ((settings.start,), (0.0,))
        self.networks = nn.ModuleList(Siren(settings, first_frequency, extent_px, start) for start in starts)
        self.extent_px = extent_px

    def forward(self, corner: tuple[int, int], shape: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The part of the object whose first pixel is `corner` (pixels from the anchor): `shape` complex64."""
        device = next(self.parameters()).device
        rows = (torch.arange(shape[0], device=device) + corner[0]) / self.extent_px
        columns = (torch.arange(shape[1], device=device) + corner[1]) / self.extent_px
        x = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2)
        amplitude, phase = torch.cat([network(x, dtype) for network in self.networks], dim=-1).unbind(-1)
        return torch.polar(amplitude.abs(), phase).reshape(shape)
