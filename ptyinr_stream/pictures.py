"""A snapshot as one picture for people: object phase and amplitude, probe, caption. numpy and Pillow only, no files."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ptyinr.types import Snapshot

Colour = tuple[int, int, int]

PANEL = 480
"""Pixels along either side of a panel."""
MARGIN = 16
HEAD = 30
FOOT = 44
BACKGROUND = (18, 20, 24)
UNSEEN = (38, 41, 47)
"""Where no frame has looked: a grey of its own that reads neither as a low nor as a high value."""
INK = (232, 234, 238)
FAINT = (150, 155, 165)
SEEN = (0.01, 0.06)
"""Coverage below the first counts as unseen, above the second as seen; the picture fades in between."""

# Anchors of viridis (CC0), dark blue to yellow: equal steps look equal, and it survives greyscale printing.
VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 73, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37),
    ]
)  # fmt: skip
GREY = np.array([(8, 8, 10), (250, 250, 250)])


def picture(snapshot: Snapshot) -> Image.Image:
    """Draw the object's phase, its amplitude and the probe side by side over a line of numbers.

    The object loses its arbitrary global phase and linear ramp; contrast spans 1-99 % of what was seen, and the rest
    is a neutral grey. The probe's brightness is its amplitude, its hue its phase.
    """
    seen = _fade(snapshot.coverage)
    flat = flattened(snapshot.object, snapshot.coverage)
    object_m = _extent(flat.shape, snapshot.pixel_m)
    probe_m = _extent(snapshot.probe.shape[1:], snapshot.pixel_m)
    sheet = Image.new("RGB", (3 * PANEL + 4 * MARGIN, HEAD + PANEL + FOOT), BACKGROUND)
    left = MARGIN
    for title, values, unit, colours in (
        ("object phase", np.angle(flat), " rad", VIRIDIS),
        ("object amplitude", np.abs(flat), "", GREY),
    ):
        low, high = _range(values, seen)
        shades = _shaded((values - low) / (high - low), colours)
        blend = np.rint(seen[..., None] * shades + (1 - seen[..., None]) * np.array(UNSEEN)).astype(np.uint8)
        _panel(sheet, left, title, blend, object_m, ground=UNSEEN)
        _legend(sheet, left + PANEL, f"{low:.2f}", f"{high:.2f}{unit}", colours)
        left += PANEL + MARGIN
    _panel(sheet, left, _probe_title(snapshot.probe), hue(snapshot.probe[0]), probe_m, ground=(0, 0, 0))
    key = Image.fromarray(wheel(44))
    sheet.paste(
        key, (left + PANEL - 52, HEAD + 8), key.convert("L").point([min(255, 4 * level) for level in range(256)])
    )
    ImageDraw.Draw(sheet).text((MARGIN, sheet.height - 16), caption(snapshot), INK, _font(16), anchor="ls")
    return sheet


def caption(snapshot: Snapshot) -> str:
    """The numbers under the picture.

    >>> field = np.ones((8, 8), np.complex64)
    >>> snapshot = Snapshot(
    ...     "5ad1e2c3-77", 120, 40, field, field[None], np.ones((8, 8), np.float32), np.arange(40), np.zeros((40, 2)),
    ...     (1e-8, 1e-8), {"heldout_error": 0.0417}, final=True)
    >>> caption(snapshot)
    '5ad1e2c3    40 frames    step 120    held-out error 0.0417    final'
    """
    parts = [snapshot.uid[:8], f"{snapshot.frames} frames", f"step {snapshot.step}"]
    if "heldout_error" in snapshot.metrics:
        parts.append(f"held-out error {snapshot.metrics['heldout_error']:.3g}")
    if snapshot.final:
        parts.append("final")
    return "    ".join(parts)


def flattened(field: NDArray[np.complexfloating], coverage: NDArray[np.floating]) -> NDArray[np.complexfloating]:
    """Remove the global phase and the linear ramp of a complex (H, W) field, judged where `coverage` is.

    A plane is fitted to the wrapped phase by re-weighted least squares, so that it follows the larger flat part of a
    sample and not the average over its edges.
    """
    axes = np.meshgrid(*(np.linspace(-0.5, 0.5, n) for n in field.shape), indexing="ij")
    basis = np.stack([np.ones(field.shape), *axes], axis=-1)  # (H, W, 3)
    thin = (slice(None, None, max(1, max(field.shape) // 256)),) * 2  # a plane needs no more pixels than that
    near, weight = basis[thin], np.where(coverage > SEEN[1], coverage, 0.0)[thin]
    plane = np.array([0.0, *_mean_slopes(field, coverage)])
    for _ in range(8 if weight.any() else 0):
        rest = field[thin] * np.exp(-1j * (near @ plane))
        offset = np.angle((rest * weight).sum())
        error = np.angle(rest * np.exp(-1j * offset))
        trust = weight / (1 + (error / max(float(np.median(np.abs(error[weight > 0]))), 1e-3)) ** 2)
        normal = np.einsum("hwi,hw,hwj->ij", near, trust, near)
        plane += np.linalg.lstsq(normal, np.einsum("hwi,hw->i", near, trust * error), rcond=None)[0]
        plane[0] += offset
    return field * np.exp(-1j * (basis @ plane))


def _mean_slopes(field: NDArray[np.complexfloating], coverage: NDArray[np.floating]) -> list[float]:
    """Phase across the whole field along each axis, from the mean step: it brings the ramp within reach of a fit."""
    slopes = []
    for axis in (0, 1):
        low, high = (np.moveaxis(field, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        step = np.vdot(low, high * np.moveaxis(coverage, axis, 0)[1:])
        slopes.append(float(np.angle(step)) * (field.shape[axis] - 1))
    return slopes


def _fade(coverage: NDArray[np.floating]) -> NDArray[np.floating]:
    """(H, W) 0 where nothing was seen, 1 where the object is known."""
    reach = np.clip((coverage - SEEN[0]) / (SEEN[1] - SEEN[0]), 0, 1)
    return reach * reach * (3 - 2 * reach)


def _range(values: NDArray[np.floating], seen: NDArray[np.floating]) -> tuple[float, float]:
    """The 1 % and the 99 % quantile of what was seen, apart even for a constant."""
    known = values[seen > 0.5]
    low, high = (float(q) for q in np.percentile(known if known.size else values, (1, 99)))
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)


def _shaded(levels: NDArray[np.floating], colours: NDArray[np.integer]) -> NDArray[np.floating]:
    """Levels in 0..1, any shape, as colours (..., 3)."""
    place = np.clip(levels, 0, 1) * (len(colours) - 1)
    return np.stack([np.interp(place, range(len(colours)), channel) for channel in colours.T], axis=-1)


def hue(field: NDArray[np.complexfloating]) -> NDArray[np.uint8]:
    """A complex (h, w) field as (h, w, 3): brightness is amplitude, hue is phase."""
    amplitude = np.abs(field)
    bright = np.clip(amplitude / max(float(np.percentile(amplitude, 99.9)), 1e-30), 0, 1)
    hsv = np.stack([np.angle(field) / (2 * np.pi) % 1, np.full(field.shape, 0.75), bright], axis=-1)
    return np.asarray(Image.fromarray(np.rint(255 * hsv).astype(np.uint8), "HSV").convert("RGB"))


def wheel(size: int) -> NDArray[np.uint8]:
    """The key to `hue`: a disc (size, size, 3) whose hue is the angle, 0 to the right, and which fades at its rim."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return hue(np.clip(size / 2 - np.hypot(x, y), 0, 1) * np.exp(-1j * np.arctan2(y, x)))


def _probe_title(probe: NDArray[np.complexfloating]) -> str:
    power = (np.abs(probe) ** 2).sum(axis=(1, 2))
    share = 100 * power[0] / max(float(power.sum()), 1e-30)
    return "probe" if len(probe) == 1 else f"probe, first of {len(probe)} modes: {share:.0f} % of the power"


def _extent(shape: tuple[int, ...], pixel_m: tuple[float, float]) -> tuple[float, float]:
    return shape[0] * pixel_m[0], shape[1] * pixel_m[1]


def _panel(
    sheet: Image.Image,
    left: int,
    title: str,
    pixels: NDArray[np.uint8],
    extent_m: tuple[float, float],
    *,
    ground: Colour,
) -> None:
    """Paste an image, in the sample's proportions, into a square under its title, with a scale bar."""
    pixels_per_m = PANEL / max(extent_m)
    width, height = (max(1, round(pixels_per_m * extent)) for extent in extent_m[::-1])
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    sheet.paste(ground, (left, HEAD, left + PANEL, HEAD + PANEL))
    sheet.paste(image, (left + (PANEL - width) // 2, HEAD + (PANEL - height) // 2))
    draw = ImageDraw.Draw(sheet)
    draw.text((left, HEAD - 9), title, INK, _font(15), anchor="ls")
    length_m = round_length(PANEL / 3 / pixels_per_m)
    # Pillow's own font has no micro sign.
    text = f"{1e6 * length_m:g} um" if length_m >= 1e-6 else f"{1e9 * length_m:g} nm"
    start, bottom = left + 12, HEAD + PANEL - 12
    end = start + round(length_m * pixels_per_m)
    draw.rectangle((start - 1, bottom - 5, end + 1, bottom + 1), fill=(0, 0, 0))
    draw.rectangle((start, bottom - 4, end, bottom), fill=(255, 255, 255))
    draw.text(
        (start, bottom - 10), text, (255, 255, 255), _font(14), anchor="ls", stroke_width=2, stroke_fill=(0, 0, 0)
    )


def _legend(sheet: Image.Image, right: int, low: str, high: str, colours: NDArray[np.integer]) -> None:
    """The two ends of a colour scale round a strip of it, ending at `right` over a panel."""
    draw = ImageDraw.Draw(sheet)
    strip = _shaded(np.broadcast_to(np.linspace(0, 1, 60), (10, 60)), colours).astype(np.uint8)
    draw.text((right, HEAD - 9), high, FAINT, _font(13), anchor="rs")
    start = right - round(draw.textlength(high, _font(13))) - 8 - strip.shape[1]
    sheet.paste(Image.fromarray(strip), (start, HEAD - 19))
    draw.text((start - 8, HEAD - 9), low, FAINT, _font(13), anchor="rs")


def round_length(longest: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that does not exceed `longest`.

    >>> [round_length(x) for x in (1.0, 4.7, 0.03)]
    [1.0, 2.0, 0.02]
    """
    ten = 10.0 ** math.floor(math.log10(longest))
    return ten * max(n for n in (1, 2, 5) if n * ten <= longest * (1 + 1e-9))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
