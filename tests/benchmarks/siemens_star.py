"""Blind reconstructions of the measured Siemens star: `python tests/benchmarks/siemens_star.py [--seconds 120] [--seeds
3]`.

Each seed is one run of `ptyinr-stream reconstruct`, a process of its own, one after the other: network weights, tiles
and the order of the blind start all depend on the seed; no probe is given. Prints a row a seed and the medians. The
phase correlation is with the reference that is shipped beside the scan (LSQML of pty-chi with the measured probe).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from math import nan
from pathlib import Path
from statistics import median

import h5py

from ptyinr_stream.data import siemens_star
from ptyinr_stream.demo import score


def measure(seed: int, seconds: float, folder: Path) -> tuple[float, float, float]:
    """Phase correlation, held-out amplitude error and steps of one blind run."""
    result = folder / f"{seed}.h5"
    command = [sys.executable, "-m", "ptyinr_stream", "reconstruct", str(siemens_star())]
    command += ["--output", str(result), "--seconds", str(seconds), "--seed", str(seed)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    correlation = score(result, (128, 128)) or nan
    with h5py.File(result) as file:
        return correlation, float(file.attrs["heldout_error"]), float(file.attrs["steps"])


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=120.0)
    arguments.add_argument("--seeds", type=int, default=3)
    chosen = arguments.parse_args()
    rows = []
    print("| seed | phase correlation | held-out amplitude error | steps |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(chosen.seeds):
            rows.append(measure(seed, chosen.seconds, Path(folder)))
            print(f"| {seed} | {rows[-1][0]:.4f} | {rows[-1][1]:.3f} | {rows[-1][2]:.0f} |", flush=True)
    print("| median | {:.4f} | {:.3f} | {:.0f} |".format(*(median(column) for column in zip(*rows, strict=True))))


if __name__ == "__main__":
    main()
