"""The figures of an evaluation, one function each, as SVG for a page; empty text where there is nothing to draw.

Colours are those of `pictures`: viridis for phases, grey for amplitudes, hue for the probe, a grey of its own where
nothing was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ptyinr.metrics import central
from ptyinr_stream.comparison import other, scanned_field, shown
from ptyinr_stream.evaluation import Evaluation
from ptyinr_stream.halves import Halves
from ptyinr_stream.panels import (
    LIMIT,
    MINE,
    OTHERS,
    arrow,
    field_panel,
    frame_round,
    limits_of,
    probe_panel,
    svg_of,
    turned,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def overview(evaluation: Evaluation) -> str:
    """The object's phase and amplitude over the scanned field, and the probe."""

    def draw(figure: Figure) -> None:
        # The probe has no colour bar: it gets the less room, so that all are of one size.
        phase, amplitude, probe = figure.subplots(1, 3, width_ratios=(1, 1, 0.84))
        field, seen, box = shown(evaluation.result, evaluation.compared)
        field, seen = turned(field[box], seen[box]), seen[box]
        field_panel(phase, np.angle(field), seen, evaluation.pixel_m, "object phase / rad", "viridis")
        field_panel(amplitude, np.abs(field), seen, evaluation.pixel_m, "object amplitude", "gray")
        for n, line in enumerate(evaluation.lines, 1):
            arrow(phase, *line.segment, f"{n}")
        shares = (np.abs(evaluation.result.probe) ** 2).sum((1, 2))
        share = f", {100 * shares.max() / shares.sum():.0f} % of {len(shares)} modes" if len(shares) > 1 else ""
        probe_panel(probe, evaluation.result.main_probe, evaluation.pixel_m, f"probe{share}", key=True)

    return svg_of(draw, 3.5, "overview")


def truth(evaluation: Evaluation) -> str:
    """Phase, amplitude and probe: reconstruction, truth, difference; a frame round what the numbers are about."""
    compared = evaluation.compared
    if compared is None:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(3, 3)
        box = scanned_field(compared.corners_px, evaluation.result.window, compared.truth.shape)
        seen, placed = compared.seen[box], compared.placed
        turn = np.exp(-1j * np.angle(compared.truth[compared.seen].mean()))
        mine, theirs = placed.object[box] * turn, compared.truth[box] * turn
        middle = central(compared.truth.shape)
        frame = [(m.start - b.start, m.stop - b.start) for m, b in zip(middle, box, strict=True)]
        numbers = compared.object
        rows = (
            ("phase", np.angle, "viridis", " / rad", numbers.phase_psnr_db, np.angle(mine * np.conj(theirs))),
            ("amplitude", np.abs, "gray", "", numbers.amplitude_psnr_db, np.abs(mine) - np.abs(theirs)),
        )
        for row, (name, part, colours, unit, psnr, difference) in zip(axes[:2], rows, strict=True):
            limits = limits_of(part(theirs), seen)
            field_panel(
                row[0], part(mine), seen, evaluation.pixel_m, f"{name}{unit}: reconstruction", colours, limits=limits
            )
            field_panel(row[1], part(theirs), seen, evaluation.pixel_m, "truth", colours, limits=limits)
            inside = np.zeros_like(seen)
            inside[max(frame[0][0], 0) : frame[0][1], max(frame[1][0], 0) : frame[1][1]] = True
            reach = max(float(np.percentile(np.abs(difference)[inside & seen], 99)), 1e-6)
            title = f"difference, PSNR {psnr:.1f} dB"
            field_panel(row[2], difference, seen, evaluation.pixel_m, title, "RdBu_r", limits=(-reach, reach))
            frame_round(row[2], frame, evaluation.pixel_m)
        if placed.probe is None:
            return
        mine, theirs = placed.probe[0], compared.truth_probe
        theirs = theirs * np.exp(1j * np.angle(np.vdot(theirs, mine)))
        probe_panel(axes[2, 0], mine, evaluation.pixel_m, "probe: reconstruction", key=True)
        probe_panel(axes[2, 1], theirs, evaluation.pixel_m, "truth")
        scale = float(np.vdot(np.abs(mine), np.abs(theirs)) / np.vdot(np.abs(mine), np.abs(mine)))
        difference = (scale * np.abs(mine) - np.abs(theirs)) / np.abs(theirs).max()
        reach = max(float(np.percentile(np.abs(difference), 99.5)), 1e-6)
        title = f"amplitude difference / maximum, overlap {compared.probe_overlap:.4f}"
        field_panel(axes[2, 2], difference, None, evaluation.pixel_m, title, "RdBu_r", limits=(-reach, reach))

    return svg_of(draw, 10.2, "truth")


def reference(evaluation: Evaluation) -> str:
    """The phase of the reconstruction, of the reference, and their difference."""
    beside = None if evaluation.referred is None else other(None, evaluation.referred, evaluation.result)
    if beside is None:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 3)
        field, seen, box = shown(evaluation.result, None)
        seen = seen[box] & beside[2][box]
        mine, theirs = turned(field[box], seen), beside[1][box]
        theirs = theirs * np.exp(1j * np.angle(np.vdot(theirs[seen], mine[seen])))
        limits = limits_of(np.angle(mine), seen)
        field_panel(
            axes[0], np.angle(mine), seen, evaluation.pixel_m, "phase / rad: reconstruction", "viridis", limits=limits
        )
        field_panel(axes[1], np.angle(theirs), seen, evaluation.pixel_m, "reference", "viridis", limits=limits)
        difference = np.angle(mine * np.conj(theirs))
        reach = max(float(np.percentile(np.abs(difference[seen]), 98)), 1e-6)
        field_panel(axes[2], difference, seen, evaluation.pixel_m, "difference", "RdBu_r", limits=(-reach, reach))

    return svg_of(draw, 3.5, "reference")


def rings(evaluation: Evaluation, halves: Halves) -> str:
    """The phases of the two halves and the correlation of their rings."""

    def draw(figure: Figure) -> None:
        even, odd, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        seen = np.ones(halves.even.shape, bool)
        fields = [turned(half, seen) for half in (halves.even, halves.odd)]
        limits = limits_of(np.angle(fields[0]), seen)
        for axes, field, name, n in zip((even, odd), fields, ("even", "odd"), halves.frames, strict=True):
            title = f"phase / rad: {n} {name} frames"
            field_panel(axes, np.angle(field), None, evaluation.pixel_m, title, "viridis", limits=limits)
        found = halves.rings
        frequency = 1e-6 * found.frequency_per_m
        curve.plot(frequency, found.correlation, color=MINE, label="correlation")
        curve.plot(frequency, found.half_bit, color=LIMIT, linestyle="--", label="half a bit")
        if found.common and found.resolution_m is not None:
            curve.axvline(1e-6 / found.resolution_m, color=OTHERS, linewidth=1, label=found.verdict)
        lowest = min(0.0, float(found.correlation.min()))
        curve.set(xlabel="spatial frequency / (1/µm)", xlim=(0, frequency[-1]), ylim=(lowest, 1.02))
        curve.set_title("Fourier ring correlation", fontsize=10)
        curve.legend(frameon=False, fontsize=8)

    return svg_of(draw, 3.4, "rings")


def profiles(evaluation: Evaluation) -> str:
    """Phase and amplitude along each line."""
    if not evaluation.lines:
        return ""
    beside = other(evaluation.compared, evaluation.referred, evaluation.result)
    name = "" if beside is None else beside[0]

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(evaluation.lines), 2, squeeze=False)
        for n, (row, line) in enumerate(zip(rows, evaluation.lines, strict=True), 1):
            curves = (
                (f"{n}: phase / rad", line.phase, line.other_phase),
                (f"{n}: amplitude", line.amplitude, line.other_amplitude),
            )
            for axes, (title, mine, theirs) in zip(row, curves, strict=True):
                if theirs is not None:
                    aligned = theirs.values
                    if theirs is line.other_phase:  # phases are known up to whole turns
                        aligned = aligned + 2 * np.pi * np.rint(np.nanmedian(mine.values - aligned) / (2 * np.pi))
                    axes.plot(1e6 * theirs.distance_m, aligned, color=OTHERS, label=name)
                edge = mine.edge_m
                label = "reconstruction" + ("" if edge is None else f", edge {1e9 * edge:.3g} nm (10-90 %)")
                axes.plot(1e6 * mine.distance_m, mine.values, color=MINE, label=label)
                axes.set_title(title, fontsize=10)
                axes.set_xlabel("distance / µm")
                axes.margins(x=0, y=0.22)  # room for the legend
                axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)

    return svg_of(draw, 2.8 * len(evaluation.lines), "profiles")


def errors(evaluation: Evaluation) -> str:
    """The amplitude error of every frame, over time and over the sample."""
    error, heldout = evaluation.error, evaluation.heldout
    if error is None or heldout is None:
        return ""

    def draw(figure: Figure) -> None:
        time, place = figure.subplots(1, 2, width_ratios=(1.9, 1))
        indices = evaluation.result.indices
        time.plot(indices[~heldout], error.frames[~heldout], ".", color=LIMIT, markersize=3, label="trained on")
        if (pixels := evaluation.heldout_pixels) is None:
            time.plot(indices[heldout], error.frames[heldout], "o", color=OTHERS, markersize=3.5, label="held out")
        else:
            time.plot(indices, pixels, ".", color=OTHERS, markersize=3, label="pixels held out")
        time.axhline(evaluation.noise_alone, color=MINE, linewidth=1, linestyle="--", label="noise alone")
        time.set(xlabel="frame", ylim=(0, 1.1 * float(np.percentile(error.frames, 99.5))))
        time.set_title(f"mean squared difference of amplitudes / {evaluation.unit}", fontsize=10)
        time.legend(frameon=False, fontsize=8, ncols=3, loc="upper left")
        corners = evaluation.result.positions_px - evaluation.result.positions_px.min(0)
        at = 1e6 * (corners + np.array(evaluation.result.window) / 2) * evaluation.pixel_m
        limits = np.percentile(error.frames, (1, 99))
        dots = place.scatter(
            at[:, 1], at[:, 0], c=error.frames, s=9, cmap="viridis", vmin=limits[0], vmax=limits[1], linewidths=0
        )
        place.set(xlabel="µm", aspect="equal")
        place.invert_yaxis()
        place.set_title("the same, at the middle of each window", fontsize=10)
        figure.colorbar(dots, ax=place, fraction=0.046, pad=0.02)

    return svg_of(draw, 3.4, "errors")
