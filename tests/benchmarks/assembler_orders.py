"""The cases of `tests/stream/test_assembler_orders.py` by the ten thousand.

Run as `python tests/benchmarks/assembler_orders.py [--cases 20000] [--seed 0]`. It stops at the first case that fails
and names its seed, by which it can be run alone; else it prints what the cases were made of.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stream"))

from test_assembler_orders import run_case


def main() -> None:
    """Run as the docstring says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; each one more has the next")
    arguments = parser.parse_args()
    tags: Counter[str] = Counter()
    began = time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.cases):
        try:
            tags += run_case(random.Random(seed))
        except AssertionError:
            print(f"seed {seed} fails")
            raise
    print(f"{arguments.cases} cases in {time.monotonic() - began:.0f} s; every pair is right and none is lost")
    for tag, count in sorted(tags.items()):
        print(f"    {count:8d} {tag}")


if __name__ == "__main__":
    main()
