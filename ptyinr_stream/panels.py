"""Panels of figures as SVG, to stand inside a page: transparent, and with ink of the colour of the page's text.

matplotlib is imported when the first figure is drawn, and none of its global state is changed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.pictures import UNSEEN, hue, round_length, wheel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Complex = NDArray[np.complexfloating]
Mask = NDArray[np.bool_]

WIDTH = 11.0
"""Inches of a figure; the page scales it."""
MOST_PIXELS = 900
"""Along an axis of a picture: more would only make the page heavy."""
_UNSEEN = (UNSEEN[0] / 255, UNSEEN[1] / 255, UNSEEN[2] / 255)
_INK = "#010203"  # replaced by the text's colour
MINE, OTHERS, LIMIT = "#2a7fbf", "#d9822b", "#8a8f98"
"""Of curves: the reconstruction, what it is compared with, thresholds. They read on white and on black."""


def field_panel(
    axes: Axes,
    values: NDArray[np.floating],
    seen: Mask | None,
    pixel_m: tuple[float, float],
    title: str,
    colours: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """Values in the sample's proportions with ticks in µm, a scale bar and a colour bar; grey where unseen."""
    import matplotlib as mpl  # noqa: PLC0415

    known = np.ones(values.shape, bool) if seen is None else seen
    low, high = limits_of(values, known) if limits is None else limits
    thin = (slice(None, None, max(1, -(-max(values.shape) // MOST_PIXELS))),) * 2
    image = axes.imshow(
        np.ma.masked_where(~known[thin], values[thin]),
        cmap=mpl.colormaps[colours].with_extremes(bad=_UNSEEN),
        vmin=low,
        vmax=high,
        interpolation="none",
        extent=_extent(values.shape, pixel_m),
    )
    _decorate(axes, title, values.shape, pixel_m)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.ax.tick_params(labelsize=7)


def probe_panel(axes: Axes, probe: Complex, pixel_m: tuple[float, float], title: str, *, key: bool = False) -> None:
    """Brightness is amplitude, hue is phase."""
    axes.imshow(hue(probe), interpolation="none", extent=_extent(probe.shape, pixel_m))
    _decorate(axes, title, probe.shape, pixel_m)
    if key:
        corner = axes.inset_axes((0.8, 0.8, 0.18, 0.18))
        disc = wheel(64)
        alpha = np.clip(4 * disc.max(axis=-1, keepdims=True).astype(int), 0, 255).astype(np.uint8)
        corner.imshow(np.concatenate([disc, alpha], axis=-1), interpolation="none")
        corner.axis("off")


def _decorate(axes: Axes, title: str, shape: tuple[int, ...], pixel_m: tuple[float, float]) -> None:
    """Title, ticks in µm and a scale bar on a ground of its own, since the picture may be of any colour."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("µm", fontsize=7, labelpad=1)
    height, width = (1e6 * n * p for n, p in zip(shape, pixel_m, strict=True))
    length = round_length(width / 3)
    text = f"{length:g} µm" if length >= 1 else f"{1e3 * length:g} nm"
    left, bottom = 0.05 * width, 0.94 * height
    ground = (left - 0.025 * width, bottom + 0.025 * height), length + 0.05 * width, -0.125 * height
    axes.add_patch(Rectangle(*ground, facecolor=_UNSEEN, alpha=0.75, linewidth=0))
    axes.plot((left, left + length), (bottom, bottom), color="white", linewidth=2, solid_capstyle="butt")
    place = (left + length / 2, bottom - 0.02 * height)
    axes.text(*place, text, color="white", fontsize=8, ha="center", va="bottom")
    axes.set(xlim=_extent(shape, pixel_m)[:2], ylim=_extent(shape, pixel_m)[2:])


def arrow(axes: Axes, start_m: tuple[float, float], end_m: tuple[float, float], name: str) -> None:
    """From (row, column) to the dot at (row, column), with its name at the start."""
    (r0, c0), (r1, c1) = ((1e6 * row, 1e6 * column) for row, column in (start_m, end_m))
    halo = _halo(2.5)
    axes.plot((c0, c1), (r0, r1), color="white", linewidth=1, path_effects=halo)
    axes.plot(c1, r1, "o", color="white", markersize=2.5, path_effects=halo)
    place = {"xytext": (-3, 2), "textcoords": "offset points", "ha": "right", "path_effects": halo}
    axes.annotate(name, (c0, r0), color="white", fontsize=8, **place)


def frame_round(axes: Axes, frame: list[tuple[int, int]], pixel_m: tuple[float, float]) -> None:
    """A dashed line round the rows and columns that were compared."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    (r0, r1), (c0, c1) = ((1e6 * (a - 0.5) * p, 1e6 * (b - 0.5) * p) for (a, b), p in zip(frame, pixel_m, strict=True))
    axes.add_patch(Rectangle((c0, r0), c1 - c0, r1 - r0, fill=False, linestyle="--", linewidth=0.8, edgecolor="black"))


def _extent(shape: tuple[int, ...], pixel_m: tuple[float, float]) -> tuple[float, float, float, float]:
    """Left, right, bottom, top in µm from the middle of the first pixel."""
    height, width = (1e6 * p for p in pixel_m)
    return -width / 2, (shape[1] - 0.5) * width, (shape[0] - 0.5) * height, -height / 2


def limits_of(values: NDArray[np.floating], seen: Mask) -> tuple[float, float]:
    """The 1 % and the 99 % quantile of what was seen, apart even for a constant."""
    known = values[seen] if seen.any() else values.ravel()
    low, high = (float(q) for q in np.percentile(known, (1, 99)))
    return (low, high) if high - low > 1e-6 else (low - 0.5, high + 0.5)


def turned(field: Complex, seen: Mask) -> Complex:
    """With the mean phase at 0, far from where phases jump."""
    return field * np.exp(-1j * np.angle(field[seen].mean())) if seen.any() else field


def _halo(width: float) -> list[Any]:
    """A dark rim, so that white reads on any picture."""
    from matplotlib import patheffects  # noqa: PLC0415

    return [patheffects.withStroke(linewidth=width, foreground="#101214")]


def svg_of(draw: Callable[[Figure], None], height: float, salt: str) -> str:
    """What is drawn as an `<svg>`; `salt` keeps the names in it apart from those in the page's other figures."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    style: dict[Any, Any] = {**ink, "svg.hashsalt": salt, "svg.fonttype": "none", "font.size": 9}
    style |= {"axes.facecolor": "none", "axes.spines.top": True, "axes.linewidth": 0.6, "legend.labelcolor": _INK}
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
