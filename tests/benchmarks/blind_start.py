"""The blind start on sixty frames of the measured Siemens star: `python tests/benchmarks/blind_start.py [--subsets 8]`.

A row a subset of neighbouring frames: seconds, the defocus that was found, how far it stands out (median error of the
candidates over the least), and the overlap of the probe with the one that `probe` of a finished reconstruction holds,
if `--result FILE` names one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch

from ptyinr.probe_start import blind_start
from ptyinr_stream.data import siemens_star
from ptyinr_stream.formats.ptyinr_h5 import read_scan

FRAMES = 60


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Largest normalised cross-correlation of two fields over all shifts."""
    product = np.fft.ifft2(np.fft.fft2(a) * np.conj(np.fft.fft2(b)))
    return float(np.abs(product).max() / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--subsets", type=int, default=8)
    arguments.add_argument("--result", type=Path)
    chosen = arguments.parse_args()
    scan = read_scan(siemens_star())
    amplitudes = torch.from_numpy(np.sqrt(np.fft.ifftshift(scan.counts, axes=(1, 2)).astype(np.float32)))
    corners = torch.from_numpy(scan.positions_m / np.array(scan.geometry.pixel_m))
    truth = None
    if chosen.result:
        with h5py.File(chosen.result) as file:
            truth = np.asarray(file["probe"])[0]
    print("| first frame | seconds | defocus (um) | stands out | overlap |\n|---|---|---|---|---|")
    spent = []
    for first in np.linspace(0, len(amplitudes) - FRAMES, chosen.subsets).astype(int):
        rows = slice(first, first + FRAMES)
        began = time.perf_counter()
        found = blind_start(amplitudes[rows], corners[rows], scan.geometry, np.random.default_rng(0))
        spent.append(time.perf_counter() - began)
        near = "-" if truth is None else f"{overlap(found.probe[0].numpy(), truth):.3f}"
        print(
            f"| {first} | {spent[-1]:.1f} | {1e6 * found.defocus_m:.0f} | {found.contrast:.1f} | {near} |", flush=True
        )
    print(f"| median | {median(spent):.1f} | | | |")


if __name__ == "__main__":
    main()
