"""What a frame costs in the assembler: `python tests/benchmarks/assembler_cost.py [--frames 64000] [--side 128]`.

A scan of 320 frames a line, 10 samples a frame with times, 40 frames between two PandA messages; frames come before
their samples (they wait) or after them. Printed are microseconds of processor time a frame and frames a second, for
each order and for each kind of event, and with --profile the functions that take most of the time.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections import defaultdict

import numpy as np

from ptyinr_stream.assembler import Assembler, Frame, Joined
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import CaptureStarted, FrameTimed, PositionsArrived, RunStarted, SeriesStarted

LINE, PER_FRAME, PORTION = 320, 10, 40
POSITIONS = PositionsConfig.model_validate(
    {"axis0": {"channel": "/Y", "um_per_count": 1e-4}, "axis1": {"channel": "/X", "um_per_count": 1e-4}}
    | {"samples_per_frame": PER_FRAME, "motors": (1, 0)}
)


def portions(frames: int, side: int) -> list[tuple[PositionsArrived, list[Frame | FrameTimed]]]:
    """Samples and the frames they belong to."""
    rows = frames // LINE
    pixels = np.zeros((side, side), np.uint16)
    found = []
    for first in range(0, frames, PORTION):
        sample = np.arange(first * PER_FRAME, (first + PORTION) * PER_FRAME)
        frame, phase = sample // PER_FRAME, sample % PER_FRAME
        x = -1e4 + 2e4 * (frame % LINE + phase / PER_FRAME) / LINE
        y = -1e4 + 2e4 * (frame // LINE) / rows
        seconds = frame * 1e-3 + phase * 0.9e-4 + (frame // LINE) * 0.2
        arrived = PositionsArrived(int(sample[0]), {"/X": x, "/Y": y, "/PCAP.TS_TRIG.Value": seconds})
        images: list[Frame | FrameTimed] = []
        for number in range(first, first + PORTION):
            start_ns = int(1e9 * seconds[(number - first) * PER_FRAME])
            images += [Frame(1, number, pixels), FrameTimed(1, number, start_ns, start_ns + 900_000)]
        found.append((arrived, images))
    return found


def measure(order: str, frames: int, side: int) -> tuple[dict[str, float], int]:
    """Seconds by kind of event, and how many frames were joined."""
    assembler = Assembler(POSITIONS, AssemblyConfig())
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, LINE, -1.0, 1.0, frames // LINE]}
    for event in (RunStarted("a", {"uid": "a", "scan": scan}), CaptureStarted(), SeriesStarted(1, frames)):
        assembler.feed(event, 0.0)
    seconds: dict[str, float] = defaultdict(float)
    joined = 0
    for number, (arrived, images) in enumerate(portions(frames, side)):
        events = [arrived, *images] if order == "samples first" else [*images, arrived]
        for event in events:
            began = time.process_time_ns()
            outputs = assembler.feed(event, number * 0.04)
            seconds[type(event).__name__] += 1e-9 * (time.process_time_ns() - began)
            joined += sum(len(output.batch.indices) for output in outputs if isinstance(output, Joined))
    outputs = assembler.finish()
    return seconds, joined + sum(len(output.batch.indices) for output in outputs if isinstance(output, Joined))


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=64_000)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    for order in ("samples first", "frames first"):
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        seconds, joined = measure(order, arguments.frames, arguments.side)
        profile.disable()
        each = ", ".join(f"{kind} {1e6 * value / arguments.frames:.1f}" for kind, value in seconds.items())
        total = sum(seconds.values())
        print(
            f"{order}: {joined} of {arguments.frames} joined, {1e6 * total / arguments.frames:.1f} us a frame ({each})"
        )
        print(f"    {arguments.frames / total:,.0f} frames/s")
        if arguments.profile:
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
