"""The paper's simulations at the size of a CPU, ours beside pty-chi's engines at equal seconds of one core.

`python tests/benchmarks/paper_simulations.py --results RESULTS.jsonl --ptychi PYTHON` (two hours; what was stopped goes
on), then `--results RESULTS.jsonl --table`. PYTHON is that of an environment with pty-chi, see `pty_chi.py`.
`--full-size` is the paper's own case, 241 px and 3,600 frames, with our or the published settings: it wants a GPU.

Objects of 96 px, windows of 32 px, a raster of whole pixels, window overlaps of 95, 50 and 30 %; a defocused zone plate
lights 19 of the 32 px. Objects: `tungsten`, the paper's (the reconstruction of such a network; PTYINR_EXTRA_DATA), and
`maze`, which no network has made. Noise as in the paper: none, poisson (10 photons in the brightest pixel), gaussian
(100 counts), mixed. The probe is given, or blind. Three seeds, of noise, networks and maze. At 95 % 10 s, or 20 s
blind with noise; else 5 s. The search for the probe is part of our seconds. pty-chi starts blind from the focus of the
mean pattern, and once more from the probe that our search has found, which costs it nothing; the better one, by the
median phase, stands in the table. Its settings for noise serve in `poisson` and `mixed`. PSNR in dB as the paper has
it, after registration; `flat` is an object without anything in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch
from full_size import run_full_size
from paper_tables import print_tables
from scans import (
    GEOMETRY,
    SIDE,
    WINDOW,
    Score,
    corners_of,
    extra,
    flat_score,
    object_of,
    probe_of,
    score,
    score_of,
    timed,
    trainer_of,
)

import ptyinr
from ptyinr.model import ProbeSettings
from ptyinr.simulate import SimulatedNoise, Simulation, simulate
from ptyinr_stream.formats import RecordedScan, Truth
from ptyinr_stream.formats.ptyinr_h5 import write_scan

OBJECTS = ("tungsten", "maze")
OVERLAPS = (0.95, 0.5, 0.3)
NOISES = ("none", "poisson", "gaussian", "mixed")
PROBES = ("known", "blind")
METHODS = ("flat", "ours", "epie", "lsqml", "autodiff")
STARTS = ("mean", "ours")


@dataclass(frozen=True)
class Case:
    """A scan, and whether its probe is given."""

    object: str
    overlap: float
    noise: str
    probe: str
    seed: int

    @property
    def name(self) -> str:
        """Of the case, without the seed."""
        return f"{self.object} {100 * self.overlap:.0f} % {self.noise} {self.probe}"

    @property
    def blind(self) -> bool:
        """Whether the probe is to be found."""
        return self.probe == "blind"

    @property
    def seconds(self) -> float:
        """Of one core."""
        if self.overlap < OVERLAPS[0]:
            return 5.0
        return 20.0 if self.blind and self.noise != "none" else 10.0

    def settings(self) -> ptyinr.TrainerSettings:
        """Ours."""
        return ptyinr.TrainerSettings(probe=ProbeSettings(fixed=not self.blind), seed=self.seed)


@cache
def scan_of(object_name: str, overlap: float, noise: str, seed: int) -> Simulation:
    """Simulate what is measured."""
    field = object_of(object_name, seed)
    if field is None:
        raise SystemExit("the object is missing")
    corners = corners_of(SIDE, WINDOW, overlap)
    return simulate(GEOMETRY, field, probe_of("defocused"), corners, noise=SimulatedNoise(noise), seed=seed)


def scan_for(case: Case) -> Simulation:
    """The same for a known and for a blind probe."""
    return scan_of(case.object, case.overlap, case.noise, case.seed)


class Results:
    """A file of JSON lines: one a run, nothing is run twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.is_file() else []
        self.all: list[dict] = [json.loads(line) for line in lines]
        self._there = {self._key(result) for result in self.all}

    @staticmethod
    def _key(result: dict) -> tuple:
        return result["case"], result["seed"], result["method"], result["start"]

    def has(self, case: Case, method: str, start: str) -> bool:
        """Whether a run is there."""
        return (case.name, case.seed, method, start) in self._there

    def add(self, case: Case, method: str, start: str, found: Score, steps: int) -> None:
        """Write a run down."""
        result = {"case": case.name, "seed": case.seed, "method": method, "start": start, "steps": steps}
        with self._path.open("a") as file:
            file.write(json.dumps(result | found.as_dict()) + "\n")
        self.all.append(result | found.as_dict())
        self._there.add(self._key(result))
        print(f"{case.name}, seed {case.seed}, {method} {start}: {found.amplitude:.1f} / {found.phase:.1f}", flush=True)


def run_ours(cases: list[Case], results: Results, scale: float, methods: list[str]) -> None:
    """Flat objects and our runs."""
    for case in cases:
        scan = scan_for(case)
        if "flat" in methods and not results.has(case, "flat", ""):
            results.add(case, "flat", "", flat_score(scan, ramp=case.blind), 0)
        if "ours" in methods and not results.has(case, "ours", ""):
            probe = None if case.blind else scan.probe
            trainer, snapshot = timed(scan, case.settings(), scale * case.seconds, probe)
            results.add(case, "ours", "", score_of(snapshot, scan, ramp=case.blind), trainer.steps)


def run_ptychi(
    cases: list[Case], results: Results, scale: float, methods: list[str], python: Path, folder: Path
) -> None:
    """What is missing of pty-chi's runs, in one process of its own."""
    jobs, waiting = [], {}
    for case in cases:
        for method in (method for method in METHODS[2:] if method in methods):
            for start in STARTS if case.blind else ("",):
                if results.has(case, method, start):
                    continue
                output = folder / f"{len(jobs)}.h5"
                waiting[str(output)] = case, method, start
                jobs.append([str(scan_file(case, folder)), "--method", method, "--probe", case.probe])
                jobs[-1] += ["--seconds", str(scale * case.seconds), "--seed", str(case.seed)]
                jobs[-1] += ["--output", str(output)]
                jobs[-1] += ["--noisy"] if case.noise in ("poisson", "mixed") else []
                jobs[-1] += ["--start", str(found_probe(case, folder)) if start == "ours" else "mean"]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(python), str(Path(__file__).parent / "pty_chi.py"), "--jobs", str(folder / "jobs.json")]
    for output in finished(command):
        case, method, start = waiting[output]
        with h5py.File(output) as file:
            field, probe, corners = (file[name][()] for name in ("object", "probe", "positions_px"))
            results.add(
                case,
                method,
                start,
                score(field, corners, probe, scan_for(case), ramp=case.blind),
                int(file.attrs["epochs"]),
            )
        Path(output).unlink()


def finished(command: list[str]) -> Iterator[str]:
    """Files as the process names them."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("done "):
                yield line.removeprefix("done ").strip()
    if process.returncode:
        raise SystemExit(f"pty-chi ended with status {process.returncode}")


def scan_file(case: Case, folder: Path) -> Path:
    """The scan as pty-chi reads it."""
    path = folder / f"{case.object}-{case.overlap}-{case.noise}-{case.seed}.h5"
    if not path.is_file():
        scan = scan_for(case)
        truth = Truth(scan.object, scan.probe.astype(np.complex64), scan.positions_px)
        write_scan(path, RecordedScan(scan.counts, scan.positions_m, scan.geometry, 0.0, case.name, None, truth))
    return path


def found_probe(case: Case, folder: Path) -> Path:
    """What our search for the probe finds, as ours begins with it."""
    path = folder / f"{case.object}-{case.overlap}-{case.noise}-{case.seed}.npy"
    if not path.is_file():
        trainer = trainer_of(scan_for(case), case.settings())
        trainer.step()
        if trainer.start is None:
            raise SystemExit("our settings do not search for a probe")
        np.save(path, trainer.start.probe[0].cpu().numpy())
    return path


def main() -> None:
    """Run, or print what has been run."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path, help="JSON lines; what is in it is not run again")
    arguments.add_argument("--ptychi", type=Path, help="Python of an environment with pty-chi; none: ours alone")
    arguments.add_argument("--only", default="", help="a part of a case's name, as `maze 95 %% none blind`")
    arguments.add_argument("--methods", default=",".join(METHODS))
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--scale", type=float, default=1.0, help="of all seconds, to try it out")
    arguments.add_argument("--table", action="store_true", help="print the results")
    arguments.add_argument("--full-size", choices=("ours", "published"), help="the paper's own case, these settings")
    arguments.add_argument("--seconds", type=float, default=60.0, help="of --full-size, a seed")
    arguments.add_argument("--device", default="auto", help="of --full-size")
    chosen = arguments.parse_args()
    if chosen.full_size:
        for seed in range(chosen.seeds):
            run_full_size(chosen.full_size, chosen.seconds, chosen.device, seed)
        return
    if chosen.results is None:
        arguments.error("--results is needed")
    results = Results(chosen.results)
    if chosen.table:
        print_tables(results.all)
        return
    torch.set_num_threads(1)
    objects = OBJECTS if extra("hxn_simulation/tungsten_object_241.npy") else OBJECTS[1:]
    cases = [
        Case(name, overlap, noise, probe, seed)
        for seed in range(chosen.seeds)
        for name in objects
        for overlap in OVERLAPS
        for noise in NOISES
        for probe in PROBES
    ]
    cases = [case for case in cases if chosen.only in case.name]
    methods = chosen.methods.split(",")
    trainer_of(scan_for(cases[0]), ptyinr.TrainerSettings()).step()  # so that the first run is not the slowest
    for seed in range(chosen.seeds):
        those = [case for case in cases if case.seed == seed]
        run_ours(those, results, chosen.scale, methods)
        if chosen.ptychi is not None:
            with tempfile.TemporaryDirectory() as folder:
                run_ptychi(those, results, chosen.scale, methods, chosen.ptychi, Path(folder))


if __name__ == "__main__":
    main()
