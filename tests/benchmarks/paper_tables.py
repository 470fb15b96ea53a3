"""The tables of `paper_simulations.py`: medians over seeds, the best in bold, and how often ours is the best."""

from __future__ import annotations

from math import isnan
from statistics import median

from scans import head, row

COLUMNS = {"flat": "flat", "ours": "ours", "epie": "ePIE", "lsqml": "LSQML", "autodiff": "autodiff"}
NEAR_DB = 0.5

Pair = tuple[float, float]


def print_tables(results: list[dict]) -> None:
    """The object's PSNR for each case, the probe's for the blind ones, and the count of our wins.

    A probe's twice: where pty-chi may begin with the one that ours has found, too, and where it is left to itself.
    """
    cases = list(dict.fromkeys(result["case"] for result in results))
    probe = ("probe_amplitude", "probe_phase")
    for title, keys, only, those in (
        ("Object", ("amplitude", "phase"), "", results),
        ("Probe", probe, "blind", results),
        ("Probe, nobody begins with another's", probe, "blind", [each for each in results if each["start"] != "ours"]),
    ):
        print(f"\n{title}: PSNR amplitude / phase in dB, median over seeds\n")
        methods = [method for method in COLUMNS if title == "Object" or method != "flat"]
        head(["case", "seeds", *(COLUMNS[method] for method in methods)])
        wins, shared, compared = [0, 0], [0, 0], 0
        for case in (case for case in cases if only in case):
            of_case = [result for result in those if result["case"] == case]
            pairs = {method: _best_start([r for r in of_case if r["method"] == method], keys) for method in methods}
            seeds = len({result["seed"] for result in of_case})
            row([case, seeds, *_bold(list(pairs.values()))])
            others = [pair for method, pair in pairs.items() if method not in ("flat", "ours") and pair is not None]
            ours = pairs.get("ours")
            if ours is None or not others:
                continue
            compared += 1
            for part in (0, 1):
                best = max(pair[part] for pair in others)
                wins[part] += ours[part] >= best
                shared[part] += ours[part] >= best - NEAR_DB
        print(
            f"\nOf {compared} cases ours is the best in {wins[0]} by amplitude and {wins[1]} by phase; the best or "
            f"within {NEAR_DB} dB of it in {shared[0]} and {shared[1]}.",
            flush=True,
        )


def _best_start(runs: list[dict], keys: tuple[str, str]) -> Pair | None:
    """Medians over seeds, of the start whose median phase PSNR of the object is the highest."""
    starts = {run["start"] for run in runs}
    of_start = {start: [run for run in runs if run["start"] == start] for start in starts}
    if not of_start:
        return None
    best = max(of_start.values(), key=lambda those: median(_known(run["phase"]) for run in those))
    first, second = (median(_known(run[key]) for run in best) for key in keys)
    return first, second


def _known(value: float) -> float:
    """What is not a number sorts below everything."""
    return float("-inf") if isnan(value) else value


def _bold(pairs: list[Pair | None]) -> list[str]:
    best = [max((pair[part] for pair in pairs if pair is not None), default=0.0) for part in (0, 1)]
    return [
        "-" if pair is None else " / ".join(_number(value, top) for value, top in zip(pair, best, strict=True))
        for pair in pairs
    ]


def _number(value: float, best: float) -> str:
    if value == float("-inf"):
        return "NaN"
    return f"**{value:.1f}**" if value == best else f"{value:.1f}"
