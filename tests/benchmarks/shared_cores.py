"""Training beside other programs: `python tests/benchmarks/shared_cores.py [--others 0,1,2] [--seconds 20]`.

The measured star, blind, trained by the clock on the wall while so many other processes want a core each, with all
threads, with one, and with what `ptyinr_stream.threads` chooses. Prints steps a second once the probe is found, and how
many threads were taken in the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from contextlib import nullcontext

import numpy as np
import torch
from scans import head, row

from ptyinr.trainer import Trainer
from ptyinr.types import Batch, ScanRange
from ptyinr_stream.data import siemens_star
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.threads import Threads


def busy() -> None:
    """Want a core for ever."""
    while True:
        sum(range(10_000))


def trained(seconds: float, way: str) -> tuple[float, int]:
    """Steps a second, and threads in the end."""
    scan = read_scan(siemens_star())
    trainer = Trainer(scan.geometry, ScanRange.of(scan.positions_m))
    trainer.append(Batch(np.arange(len(scan.counts)), scan.counts, scan.positions_m, scan.mask))
    most = torch.get_num_threads()
    threads = Threads()
    torch.set_num_threads(1 if way == "one" else most)
    trainer.step()
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        with threads.step(time.monotonic) if way == "chosen" else nullcontext():
            trainer.step()
    rate, number = (trainer.steps - 1) / (time.monotonic() - began), threads.number
    torch.set_num_threads(most)
    return rate, number


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--others", default="0,1,2")
    arguments.add_argument("--seconds", type=float, default=20.0)
    chosen = arguments.parse_args()
    head(["others", "all threads: steps/s", "one", "chosen", "of threads"])
    for others in map(int, chosen.others.split(",")):
        processes = [multiprocessing.get_context("spawn").Process(target=busy, daemon=True) for _ in range(others)]
        for process in processes:
            process.start()
        rates = {way: trained(chosen.seconds, way) for way in ("all", "one", "chosen")}
        for process in processes:
            process.terminate()
        row([others, *(f"{rates[way][0]:.2f}" for way in ("all", "one", "chosen")), rates["chosen"][1]])


if __name__ == "__main__":
    main()
