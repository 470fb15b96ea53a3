"""What a person sees in the terminal: progress while it runs, a summary at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ptyinr.trainer import Trainer
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.data import siemens_star
from ptyinr_stream.demo import DemoReport, SecondProcess, demo_config, finished, report, since
from ptyinr_stream.engine import ScanStatus
from ptyinr_stream.formats.ptyinr_h5 import read_scan

LINE_S = 5.0
"""Between lines where the output is a file and no display can be redrawn."""


@contextmanager
def counting(console: Console, total: int, what: str, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function that advances it."""
    with _bars(console, disable=quiet) as bars:
        task = bars.add_task(what, total=total)
        yield lambda advance: bars.advance(task, advance)


@contextmanager
def watching(console: Console, seconds: float) -> Iterator[Callable[[float, Trainer], None]]:
    """A display of training for a given time; yields the function to call after each step."""
    with _bars(console) as bars:
        task = bars.add_task("finding the probe", total=seconds)

        def show(spent: float, trainer: Trainer) -> None:
            found = "" if trainer.start is None else f", defocus {1e6 * trainer.start.defocus_m:.0f} um"
            bars.update(task, completed=min(spent, seconds), description=f"{trainer.steps} steps{found}")

        yield show


def run_demo(console: Console, *, folder: Path, rate_hz: float, refine_s: float, port: int, serve: bool) -> None:
    """Run the demo from start to end; see `ptyinr_stream.demo`."""
    path = siemens_star()
    scan = read_scan(path)
    config = demo_config(scan, folder, refine_s, port)
    with Daemon(config) as daemon:
        link = daemon.server.web_link(daemon.tiled_path) if daemon.server else ""
        console.print(f"Tiled:    [link={link}]{link}[/link]", highlight=False)
        console.print(f"Pictures: {folder / '<run>' / 'latest.png'}", highlight=False)
        sender = SecondProcess(path, daemon.endpoints, rate_hz)
        signal.signal(signal.SIGTERM, lambda *_: daemon.stop())
        try:
            with _display(console, link) as show:

                def observe(daemon: Daemon) -> None:
                    sender.check()
                    show(daemon)
                    if finished(daemon):
                        daemon.stop()

                daemon.run(observe)
        finally:
            sender.stop()
        if (status := finished(daemon)) is None:
            return  # interrupted
        summarise(console, report(status, folder, scan.geometry.window, scored=True))
        if serve:
            console.print(f"\nServing [link={link}]{link}[/link] until Ctrl-C.", highlight=False)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


def summarise(console: Console, done: DemoReport) -> None:
    """Print the numbers that tell whether all is well."""
    scan, counts = done.scan, done.scan.report
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "frames sent, joined, in the result": f"{scan.expected}, {counts.paired if counts else '?'}, {scan.frames}",
        "steps": str(scan.steps),
        "held-out amplitude error": f"{scan.metrics.get('heldout_error', float('nan')):.3f} photons",
        "first snapshot after the first frame": _interval(scan.first_frame_at, scan.first_snapshot_at),
        "longest time between snapshots": f"{scan.longest_gap_s:.1f} s",
        "from the first frame to the end": f"{done.seconds:.0f} s",
        "result": str(done.result),
    }
    if done.phase_correlation is not None:
        rows["phase correlation with the reference"] = f"{done.phase_correlation:.4f}"
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)


def _interval(start: float | None, end: float | None) -> str:
    return "-" if start is None or end is None else f"{end - start:.1f} s"


@contextmanager
def _display(console: Console, link: str) -> Iterator[Callable[[Daemon], None]]:
    """A display of a daemon with one scan: redrawn in a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        due = time.monotonic()

        def line(daemon: Daemon) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + LINE_S
                console.print(_line(daemon.status.scan), highlight=False)

        yield line
        return
    bars = _bars(console)
    frames = bars.add_task("frames", total=None)

    def render(daemon: Daemon) -> None:
        scan = daemon.status.scan
        if scan is not None:
            bars.update(frames, total=scan.expected, completed=scan.frames)
        link_line = Text.assemble("open ", (f"{link}{'/' + scan.uid + '/live/object' if scan else ''}", "cyan"))
        live.update(Group(bars, Text(_line(scan)), link_line))

    with Live(bars, console=console, refresh_per_second=4) as live:
        yield render


def _line(scan: ScanStatus | None) -> str:
    if scan is None:
        return "waiting for the scan"
    error = scan.metrics.get("heldout_error")
    return (
        f"{scan.phase}: {scan.frames}/{scan.expected} frames, {scan.steps} steps, "
        f"held-out error {'-' if error is None else f'{error:.3f}'}, snapshot {since(scan.last_snapshot_at)}"
    )


def _bars(console: Console, disable: bool = False) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=disable)
