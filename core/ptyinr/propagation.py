"""Far-field propagation and the two ways a frame looks at the object: integer windows and subpixel shifts of the probe.

A pattern's amplitude is `|F{P(r - d) O(r + c)}|`, F the unitary discrete Fourier transform, c the window's integer
corner and 0 <= d < 1 the rest of the position. Patterns have DC at the corner here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .noise import TINY_INTENSITY


def shift_probe(probe: Tensor, offsets: Tensor) -> Tensor:
    """Shift a probe by fractions of a pixel with a Fourier ramp, exact for band-limited fields.

    Args:
        probe: (modes, h, w) complex.
        offsets: (n, 2) pixels along rows and columns.

    Returns:
        (n, modes, h, w) complex; `result[j, m, r, c] = probe[m, r - offsets[j, 0], c - offsets[j, 1]]`.
    """
    return torch.fft.ifft2(torch.fft.fft2(probe) * shift_ramps(offsets, *probe.shape[-2:])[:, None])


def shift_ramps(offsets: Tensor, h: int, w: int) -> Tensor:
    """What a shift multiplies a spectrum with: (n, 2) pixels to (n, h, w) complex, `exp(-2 pi i nu d)`."""
    like = {"dtype": offsets.dtype, "device": offsets.device}
    rows = _ramp(offsets[:, 0, None] * torch.fft.fftfreq(h, **like))  # (n, h)
    columns = _ramp(offsets[:, 1, None] * torch.fft.fftfreq(w, **like))  # (n, w)
    return rows[:, :, None] * columns[:, None, :]


def _ramp(turns: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)


def far_field_amplitude(exit_waves: Tensor, least: float = TINY_INTENSITY) -> Tensor:
    """Amplitudes in the far field, incoherent modes added in intensity: (n, modes, h, w) complex to (n, h, w) real.

    `least` is added to every intensity.
    """
    waves = torch.fft.fft2(exit_waves, norm="ortho")
    return (waves.real.square() + waves.imag.square()).sum(1).add(least).sqrt()


class _Windows(torch.autograd.Function):
    """Copies of windows; their gradients add up where they overlap.

    Slices in a loop on the CPU, where index arithmetic costs more than the copies; one gather on a GPU, where the
    loop's launches would.
    """

    @staticmethod
    def forward(ctx: Any, field: Tensor, corners: Tensor, window: tuple[int, int]) -> Tensor:
        ctx.corners, ctx.window, ctx.shape = corners, window, field.shape
        h, w = window
        if field.is_cuda:
            ctx.flat = _flat_indices(corners.to(field.device), window, field.shape[1])
            return field.reshape(-1)[ctx.flat]
        return torch.stack([field[r : r + h, c : c + w] for r, c in corners.tolist()])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        h, w = ctx.window
        total = torch.zeros(ctx.shape, dtype=gradient.dtype, device=gradient.device)
        if gradient.is_cuda:
            total.view(-1).index_add_(0, ctx.flat.reshape(-1), gradient.reshape(-1))
        else:
            for (r, c), part in zip(ctx.corners.tolist(), gradient, strict=True):
                total[r : r + h, c : c + w] += part
        return total, None, None


def _flat_indices(corners: Tensor, window: tuple[int, int], columns: int) -> Tensor:
    rows = corners[:, 0, None] + torch.arange(window[0], device=corners.device)
    cols = corners[:, 1, None] + torch.arange(window[1], device=corners.device)
    return rows[:, :, None] * columns + cols[:, None, :]


def cut_windows(field: Tensor, corners: Tensor, window: tuple[int, int]) -> Tensor:
    """The windows of a field: (H, W) and (n, 2) integer corners to (n, h, w), differentiable in the field.

    Raises:
        ValueError: a window leaves the field.
    """
    last = torch.tensor([field.shape[0] - window[0], field.shape[1] - window[1]])
    if len(corners) and ((corners.cpu() < 0) | (corners.cpu() > last)).any():
        raise ValueError(f"a {window} window leaves the field of {tuple(field.shape)} pixels")
    return _Windows.apply(field, corners, window)  # type: ignore[return-value]


def predicted_amplitude(field: Tensor, probe: Tensor, positions_px: Tensor, least: float = TINY_INTENSITY) -> Tensor:
    """The forward model.

    Args:
        field: (H, W) complex object.
        probe: (modes, h, w) complex.
        positions_px: (n, 2) float64 on the CPU, window corners in `field`, fractional.
        least: added to every intensity.

    Returns:
        (n, h, w) real amplitudes, DC at the corner.
    """
    corners = positions_px.floor()
    offsets = (positions_px - corners).to(probe.device, probe.real.dtype)
    windows = cut_windows(field, corners.long(), (probe.shape[-2], probe.shape[-1]))
    return far_field_amplitude(shift_probe(probe, offsets) * windows[:, None], least)


def free_space_phases(
    shape: tuple[int, int], pixel_m: tuple[float, float], wavelength_m: float
) -> tuple[Tensor, Tensor]:
    """Phase that a metre of defocus along each axis gives to a field's frequencies: `pi wavelength nu^2`.

    Returns:
        (h, 1) and (1, w) float64, radians a metre, DC at the corner; their sum is the phase of a plain defocus.
    """
    nu = [torch.fft.fftfreq(n, d=p, dtype=torch.float64) for n, p in zip(shape, pixel_m, strict=True)]
    rows, columns = (torch.pi * wavelength_m * axis.square() for axis in nu)
    return rows[:, None], columns[None, :]
