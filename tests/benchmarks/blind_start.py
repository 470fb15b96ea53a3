"""The blind start on the measured Siemens star: `python tests/benchmarks/blind_start.py [--subsets 20]`.

A row a try: `near` are the sixty frames that lie nearest to a random one, `far` sixty random frames of the whole scan,
`turned` the middle sixty frames with patterns and positions rotated, by 90 degrees more each. Seconds with two threads,
the defocus along rows and columns, the start's own confidence, and the overlap of its probe with the measured one, as
pty-chi's LSQML refined it from all frames (turned likewise), if `reference.npz` of PTYINR_EXTRA_DATA or of the package
holds `lsqml_1mode_probe`, or with that of a finished reconstruction (`--result FILE`). Right is an overlap above 0.7.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import h5py
import numpy as np
import torch
from scans import extra, head, row

from ptyinr.probe_start import blind_start, overlaps
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.formats.ptyinr_h5 import read_scan

FRAMES = 60
RIGHT = 0.7
THREADS = 2


def reference_probe(result: Path | None) -> np.ndarray | None:
    """(h, w), or None where there is none."""
    if result is not None:
        with h5py.File(result) as file:
            return np.asarray(file["probe"])[0]
    for path in (siemens_star_reference(), extra("siemens_star/reference.npz")):
        if path is not None:
            with np.load(path) as arrays:
                if "lsqml_1mode_probe" in arrays:
                    return np.squeeze(arrays["lsqml_1mode_probe"])
    return None


def turned(images: np.ndarray, corners: np.ndarray, turns: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (..., n, n) turned about [n // 2, n // 2] and positions turned with them: (r, c) goes to (-c, r)."""
    for _ in range(turns):
        images = np.roll(np.rot90(images, axes=(-2, -1)), 1 if images.shape[-1] % 2 == 0 else 0, axis=-2)
        corners = np.stack([-corners[:, 1], corners[:, 0]], axis=1)
    return images, corners


def subsets(corners: np.ndarray, number: int) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, rows and quarter turns of each try."""
    random = np.random.default_rng(0)
    for middle in random.choice(len(corners), number, replace=False):
        yield "near", np.sort(np.abs(corners - corners[middle]).max(1).argsort(kind="stable")[:FRAMES]), 0
    for _ in range(number):
        yield "far", np.sort(random.choice(len(corners), FRAMES, replace=False)), 0
    middle = np.abs(corners - np.median(corners, 0)).max(1).argsort(kind="stable")[:FRAMES]
    for turns in range(4):
        yield "turned", np.sort(middle), turns


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--subsets", type=int, default=20, help="of each kind")
    arguments.add_argument("--result", type=Path)
    chosen = arguments.parse_args()
    torch.set_num_threads(THREADS)
    scan = read_scan(siemens_star())
    corners = scan.positions_m / np.array(scan.geometry.pixel_m)
    reference = reference_probe(chosen.result)
    head(["frames", "seconds", "defocus (um)", "confidence", "overlap"])
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, rows, turns in subsets(corners, chosen.subsets):
        patterns, places = turned(scan.counts[rows], corners[rows], turns)
        amplitudes = torch.from_numpy(np.sqrt(np.fft.ifftshift(patterns, axes=(1, 2)).astype(np.float32)))
        began = time.perf_counter()
        start = blind_start(amplitudes, torch.from_numpy(places), scan.geometry, np.random.default_rng(0))
        seconds = time.perf_counter() - began
        near = float("nan")
        if reference is not None:
            wanted = np.ascontiguousarray(turned(reference, places, turns)[0][None])
            near = float(overlaps(start.probe, torch.from_numpy(wanted))[0, 0])
        found.setdefault(kind, []).append((seconds, near))
        name = f"{kind} {rows[0]}..{rows[-1]}" + (f", {90 * turns} degrees" if kind == "turned" else "")
        defocus = " / ".join(f"{1e6 * z:.0f}" for z in start.defocus_m)
        row([name, f"{seconds:.1f}", defocus, f"{start.confidence:.2f}", f"{near:.3f}"])
    for kind, tries in found.items():
        right = sum(near > RIGHT for _, near in tries)
        judged = "" if reference is None else f"{right} of {len(tries)} right, "
        spent, nearest = (median(column) for column in zip(*tries, strict=True))
        print(f"\n{kind}: {judged}median {spent:.1f} s, overlap {nearest:.3f}", flush=True)


if __name__ == "__main__":
    main()
