"""The README's picture from a demo's own output: `python tests/benchmarks/readme_picture.py ptyinr-demo/<run> OUT.png`.

Phase panels of four snapshots, side by side, and the probe that was found.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

PANEL, GAP, TOP = 480, 16, 30
SHOWN = 4


def main(run: Path, output: Path) -> None:
    """Cut the panels and join them."""
    snapshots = sorted((run / "snapshots").glob("*.png"))
    live = snapshots[: len(snapshots) // 3 + 1]  # a third of the demo is the scan itself
    chosen = [*(live[round(i * (len(live) - 1) / (SHOWN - 2))] for i in range(SHOWN - 1)), snapshots[-1]]
    sheets = [Image.open(path).convert("RGB") for path in chosen]
    panels = [sheet.crop((GAP, TOP, GAP + PANEL, TOP + PANEL)) for sheet in sheets]
    left = GAP + 2 * (PANEL + GAP)
    panels.append(sheets[-1].crop((left, TOP, left + PANEL, TOP + PANEL)))
    strip = Image.new("RGB", (len(panels) * (PANEL + GAP) - GAP, PANEL), (255, 255, 255))
    for place, panel in enumerate(panels):
        strip.paste(panel, (place * (PANEL + GAP), 0))
    strip.resize((strip.width // 2, strip.height // 2), Image.Resampling.LANCZOS).save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
