"""An evaluation for people, as one HTML file that needs no network, and for programs, as JSON beside it."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from ptyinr.metrics import MEDIAN_TRUST
from ptyinr_stream import figures
from ptyinr_stream.errors import PublishError
from ptyinr_stream.evaluation import Evaluation

STYLE = """
:root { color-scheme: light dark; --ink: #1d2127; --faint: #6a717c; --ground: #ffffff; --line: #dfe3e8 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --faint: #969ba5; --ground: #121418; --line: #2d3138 } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1.25rem; background: var(--ground); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.2rem 0 .2rem }
p { margin: .2rem 0 .8rem; color: var(--faint); max-width: 62rem }
table { border-collapse: collapse; margin: 1.2rem 0 }
td { padding: .25rem 1.6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
td:first-child { color: var(--faint) } td:last-child { font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto; display: block }
svg text { font-family: system-ui, sans-serif !important }
"""


def write_report(evaluation: Evaluation, path: Path) -> Path:
    """Write the page and, with the suffix `.json`, the numbers.

    Returns:
        Where the numbers are.

    Raises:
        PublishError: a file cannot be written.
    """
    numbers = path.with_suffix(".json")
    texts = {path: page(evaluation), numbers: json.dumps(evaluation.numbers(), indent=1, allow_nan=False) + "\n"}
    for file, text in texts.items():
        try:
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise PublishError(f"{file} cannot be written: {error.strerror}") from error
    return numbers


def rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The numbers in words, for a table of two columns."""
    attributes = evaluation.result.attributes
    made = [f"{len(evaluation.result.indices)} frames"]
    if "steps" in attributes:
        made.append(f"{attributes['steps']} steps")
    if "seconds" in attributes:
        made.append(f"{attributes['seconds']:.0f} s")
    down, right = (1e9 * p for p in evaluation.pixel_m)
    table = [("reconstruction", ", ".join(made)), ("sample pixel", f"{down:.4g} x {right:.4g} nm")]
    if (c := evaluation.compared) is not None:
        for name, found in (("object", c.object), ("probe", c.probe)):
            for part in ("amplitude", "phase"):
                psnr, ssim = getattr(found, f"{part}_psnr_db"), getattr(found, f"{part}_ssim")
                table.append((f"{name} {part} and truth", f"PSNR {psnr:.2f} dB, SSIM {ssim:.4f}"))
        table.append(("probe overlap with truth", f"{c.probe_overlap:.4f}"))
        if c.phase_correlation is not None:
            table.append(("phase correlation with truth", f"{c.phase_correlation:.4f}"))
        shift, ramp = c.placed.shift_px, c.placed.ramp_rad_px
        table.append(
            ("shift and ramp taken out", f"{shift[0]:.2f}, {shift[1]:.2f} px; {ramp[0]:.4f}, {ramp[1]:.4f} rad/px")
        )
    if (r := evaluation.referred) is not None:
        likeness = "no middle to compare" if r.phase_correlation is None else f"{r.phase_correlation:.4f}"
        table.append((f"phase correlation with {r.name}", likeness))
        table.append((f"probe overlap with {r.name}", f"{r.probe_overlap:.4f}"))
    if (e := evaluation.error) is not None and evaluation.heldout is not None:
        held, others = f"{evaluation.heldout.sum()} held-out frames", f"{(~evaluation.heldout).sum()} other frames"
        if evaluation.heldout_pixels is not None:
            held, others = f"held-out pixels, 1 in {evaluation.result.pixel_holdout}", "other pixels"
        if e.heldout is not None:
            table.append((f"amplitude error, {held}", f"{e.heldout:.4f} {evaluation.unit}"))
        table.append((f"amplitude error, {others}", f"{e.trained:.4f} {evaluation.unit}"))
        if (noise := evaluation.noise) is None:
            table.append(("amplitude error of photon noise alone", f"{evaluation.noise_alone:.4f} photons"))
        else:
            told = f"{noise.gain:.4g} a photon" + (f", sigma {noise.variance**0.5:.4g}" if noise.variance else "")
            alone = f"{evaluation.noise_alone:.4f} counts (by estimate {told})"
            table.append(("amplitude error of noise alone", alone))
    if (h := evaluation.halves) is not None:
        table.append(("resolution, half-bit", h.rings.verdict))
    for n, line in enumerate(evaluation.lines, 1):
        edge = line.phase.edge_m
        table.append((f"profile {n}, phase edge", "none" if edge is None else f"{1e9 * edge:.3g} nm (10-90 %)"))
    return table


def page(evaluation: Evaluation) -> str:
    """The HTML."""
    sections = [
        (
            "Reconstruction",
            "Micrometres count from the corner of the scanned field, as those of --profile do. Contrast spans 1 to 99 "
            "% of what was seen; the rest is grey. The probe's brightness is its amplitude, its hue its phase.",
            figures.overview(evaluation),
        ),
        (
            "Truth",
            "A common shift, a phase ramp, a global phase and scale have been taken out, the ramp only where the probe "
            "was unknown. PSNR compares the central three quarters of the truth, the dashed frame: amplitudes for a "
            "maximum of 1 after their medians have been made equal, or by least squares where the two scales differ by "
            f"more than {100 * MEDIAN_TRUST:.0f} %; phases for one of pi.",
            figures.truth(evaluation),
        ),
        (
            "Reference",
            "Another reconstruction of the same scan, moved to this one: an opinion, not the truth.",
            figures.reference(evaluation),
        ),
    ]
    if (halves := evaluation.halves) is not None:
        told = (
            f"The scan was reconstructed twice, from its even and from its odd frames, for {halves.seconds:g} s each, "
            f"from different random numbers and a probe that was {halves.probe}. Resolution is where their correlation "
            f"first falls below half a bit of information a pixel: {halves.rings.verdict}."
        )
        sections.append(("Split halves", told, figures.rings(evaluation, halves)))
    sections += [
        (
            "Profiles",
            "Along the lines in the first picture towards their dots, averaged across five pixels.",
            figures.profiles(evaluation),
        ),
        (
            "Amplitude error",
            "How far the modelled amplitudes are from the measured ones, frame by frame, with one scale that was "
            "fitted on what was trained on. The dashed line is what noise alone would leave: that of photons, or where "
            "counts are not whole the noise that was estimated from them.",
            figures.errors(evaluation),
        ),
    ]
    name = escape(evaluation.result.name)
    cells = "\n".join(f"<tr><td>{escape(a)}</td><td>{escape(b)}</td></tr>" for a, b in rows(evaluation))
    body = "\n".join(f"<h2>{title}</h2>\n<p>{escape(told)}</p>\n{svg}" for title, told, svg in sections if svg)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: evaluation</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n"
        f"<table>\n{cells}\n</table>\n{body}\n</body>\n</html>\n"
    )
