"""What a probe's hash grid costs with each backend: `python tests/benchmarks/hash_grids.py [--device cuda]`.

The features of every pixel of a window, forward and backward, milliseconds, medians; backends in turn. tiny-cuda-nn
runs on GPUs alone; where it is installed, the largest difference of features and gradients to torch's comes first, to
the largest of each.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from scans import head, row

from ptyinr.hashgrid import GridNetwork, GridSettings, disagreement, tinycudann_agrees


def backward(network: GridNetwork, device: str) -> float:
    """Milliseconds of one pass to and fro."""
    began = time.perf_counter()
    network.grid().sum().backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--windows", default="64,128,256")
    arguments.add_argument("--rounds", type=int, default=50)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="cpu")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    backends = ("torch", "tinycudann") if device.type == "cuda" and tinycudann_agrees() else ("torch",)
    if len(backends) > 1:
        print(f"tiny-cuda-nn differs from torch by {disagreement(chosen.device):.1e}", flush=True)
    head(["window (px)", *(f"{backend}, ms" for backend in backends)])
    for side in map(int, chosen.windows.split(",")):
        networks = [GridNetwork((side, side), GridSettings(backend=each), 2, device) for each in backends]
        spent: list[list[float]] = [[] for _ in networks]
        for turn in range(chosen.rounds + 5):
            for network, times in zip(networks, spent, strict=True):
                ms = backward(network, device.type)
                if turn >= 5:
                    times.append(ms)
        row([side, *(f"{median(times):.2f}" for times in spent)])


if __name__ == "__main__":
    main()
