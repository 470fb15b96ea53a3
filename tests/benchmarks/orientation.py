"""Every wrong flip of the measured Siemens star: `python tests/benchmarks/orientation.py [--frames 100] [--steps 30]`.

The star's patterns are turned as if the detector had been mounted in each of its eight ways, and the search behind
`check --orientation` is asked which orientation puts them right. Right is the inverse of the mounting, or its twin,
which data cannot tell from it; the sample's absorption then chooses between the two. Prints a row a mounting: the
errors of the four ways that can be told apart, in units of the least, the answer, and the seconds. A minute or two a
row on one core.
"""

from __future__ import annotations

import argparse
import time

from ptyinr_stream.data import siemens_star
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.orientation import CLASSES, FRAMES, NAMES, STEPS, find_orientation, matrix, name_of, turned


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--frames", type=int, default=FRAMES)
    arguments.add_argument("--steps", type=int, default=STEPS)
    chosen = arguments.parse_args()
    star = read_scan(siemens_star())
    print(f"| mounted | {' | '.join('/'.join(names) for names in CLASSES)} | named | inverse | found | s |")
    print("|" + "---|" * (len(CLASSES) + 5))
    found = []
    for mounted in NAMES:
        began = time.monotonic()
        verdict = find_orientation(turned(star, mounted), frames=chosen.frames, steps=chosen.steps)
        inverse = name_of(matrix(mounted).T)
        right = verdict.possible == (verdict.best,) and inverse in CLASSES[verdict.best]
        found.append((right, verdict.likely == inverse, verdict.margin))
        ratios = " | ".join(f"{error / min(verdict.errors):.2f}" for error in verdict.errors)
        said = f"{'yes' if right else 'NO'}{', its sign too' if verdict.likely == inverse else ''}"
        seconds = time.monotonic() - began
        print(f"| {mounted} | {ratios} | {verdict.likely} | {inverse} | {said} | {seconds:.0f} |", flush=True)
    right, sign, margins = zip(*found, strict=True)
    print(f"{sum(right)} of {len(right)} right, {sum(sign)} with the phase's sign; least margin {min(margins):.2f}")


if __name__ == "__main__":
    main()
