"""`ptyinr-stream evaluate`."""

from __future__ import annotations

import json as jsonlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptyinr_stream.commands import DeviceOption, out, require_writable, valid_settings
from ptyinr_stream.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ptyinr_stream.evaluation import Segment
    from ptyinr_stream.formats import RecordedScan
    from ptyinr_stream.halves import Halves
    from ptyinr_stream.results import Result


def evaluate(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", help="HDF5 with object, probe, positions_px.", show_default=False)
    ],
    scan: Annotated[
        Path | None, typer.Option(help="The scan that it was made from: gives the error on held-out frames.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A simulated scan, or a result to take for the truth; default: SCAN's own.")
    ] = None,
    reference: Annotated[Path | None, typer.Option(help="Another result of the same scan.")] = None,
    split_halves: Annotated[
        bool, typer.Option("--split-halves", help="Reconstruct SCAN from its even and its odd frames: resolution.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, max=1e6, help="Of training, for each half.")] = 120.0,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="ROW,COL:ROW,COL", help="In um from the corner of the scanned field; may be repeated."),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(help="Start both halves from this probe (.npy, or `probe` of an HDF5 file); default: find it."),
    ] = None,
    known_probe: Annotated[
        bool,
        typer.Option(
            "--known-probe",
            help="The probe was given and kept: a phase ramp is an error too, and the halves keep theirs, without "
            "--probe that of RESULT.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="The HTML to write, numbers beside it as JSON; default: as RESULT, .html.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of a table.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves' random numbers.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Say how good a reconstruction is, and write a report with pictures.

    With a truth: PSNR and SSIM of object and probe, after a registration. With SCAN: the amplitude error on the frames
    that were held out of training. With --split-halves: Fourier ring correlation and the half-bit resolution.
    """
    from rich.table import Table

    from ptyinr_stream.evaluation import evaluate as judge
    from ptyinr_stream.formats import read_scan
    from ptyinr_stream.probe_file import read_probe
    from ptyinr_stream.report import rows, write_report
    from ptyinr_stream.results import read_result

    path = result.with_suffix(".html") if output is None else output
    for written in (path, path.with_suffix(".json")):
        require_writable(written, result, scan, truth, reference, probe)
    if path.suffix == ".json":
        raise ConfigError(f"{path}: the numbers go to a .json beside the report: give it another suffix, .html")
    if split_halves and scan is None:
        raise ConfigError("--split-halves needs --scan: the frames to divide")
    if probe is not None and not split_halves:
        raise ConfigError("--probe needs --split-halves: it is for reconstructing them")
    segments = tuple(_segment(text) for text in profile or ())
    found = read_result(result)
    given = read_probe(probe) if probe is not None else found.probe if known_probe else None
    recorded = None if scan is None else read_scan(scan)
    known = {
        "scan": recorded,
        "truth": None if truth is None else _truth(truth),
        "reference": None if reference is None else read_result(reference),
        "segments": segments,
        "ramp": not known_probe,
    }
    evaluation = judge(found, **known)
    if split_halves and recorded is not None:
        start = {"probe": given, "known": known_probe, "holdout": found.holdout, "seed": seed}
        evaluation = replace(evaluation, halves=_halves(recorded, seconds, device, quiet=json, **start))
    numbers = write_report(evaluation, path)
    if json:
        out.print_json(jsonlib.dumps(evaluation.numbers()))
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in rows(evaluation):
        table.add_row(name, value)
    out.print(table, highlight=False, markup=False)
    out.print(f"{path}: the report; {numbers}: its numbers", highlight=False, markup=False, soft_wrap=True)


def _truth(path: Path) -> Result:
    """A result, or the truth in a simulated scan."""
    import h5py

    from ptyinr_stream.comparison import truth_of
    from ptyinr_stream.formats.ptyinr_h5 import read_scan
    from ptyinr_stream.results import read_result

    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            is_scan = "diffamp" in file
        if is_scan:
            if (truth := truth_of(read_scan(path))) is None:
                raise ConfigError(f"{path}: is a scan without a truth: give a simulated one, or a result")
            return truth
    return read_result(path)


def _halves(
    scan: RecordedScan,
    seconds: float,
    device: str,
    *,
    probe: NDArray[Any] | None,
    known: bool,
    holdout: int,
    seed: int,
    quiet: bool,
) -> Halves:
    """Both reconstructions, with the trainer's defaults but for the probe and the hold-out of the result."""
    from contextlib import nullcontext

    from ptyinr.settings import TrainerSettings
    from ptyinr.types import Snapshot
    from ptyinr_stream.device import choose_device
    from ptyinr_stream.halves import split_halves
    from ptyinr_stream.offline import reconstruct
    from ptyinr_stream.terminal import watching

    where = choose_device(device)

    def train(half: RecordedScan, path: Path, number: int) -> Snapshot:
        settings = valid_settings(TrainerSettings, holdout=holdout, seed=2 * seed + number)
        settings = replace(settings, probe=replace(settings.probe, fixed=known))
        with nullcontext() if quiet else watching(out, seconds) as progress:
            return reconstruct(
                half, path, seconds=seconds, settings=settings, probe=probe, device=where, progress=progress
            )

    halves = split_halves(scan, seconds, train)
    return halves if probe is None else replace(halves, probe="given and kept" if known else "given to both at first")


def _segment(text: str) -> Segment:
    """`ROW,COL:ROW,COL` in um to metres."""
    try:
        (r0, c0), (r1, c1) = ([1e-6 * float(x) for x in end.split(",")] for end in text.split(":"))
    except ValueError:
        raise ConfigError(f"--profile {text!r}: four numbers in um are needed, ROW,COL:ROW,COL as 2,1.5:2,4") from None
    return (r0, c0), (r1, c1)
