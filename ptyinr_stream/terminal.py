"""What a person sees in the terminal: progress while it runs, a summary at the end."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from ptyinr.trainer import Trainer
from ptyinr_stream.daemon import Daemon, DaemonStatus
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
            found = "" if trainer.start is None else f", {trainer.start.describe()}"
            bars.update(task, completed=min(spent, seconds), description=f"{trainer.steps} steps{found}")

        yield show


def say(console: Console, text: str) -> None:
    """Print a line as it is: no colours, no markup, and an address or a path is never broken in two."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def stop_on_signals(daemon: Daemon) -> None:
    """Let SIGINT and SIGTERM end the daemon's `run`; a second Ctrl-C does not wait for the step in progress."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        daemon.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def run_demo(console: Console, *, folder: Path, rate_hz: float, refine_s: float, port: int, serve: bool) -> None:
    """Run the demo from start to end; see `ptyinr_stream.demo`."""
    path = siemens_star()
    scan = read_scan(path)
    daemon = Daemon(demo_config(scan, folder, refine_s, port))
    stop_on_signals(daemon)
    with daemon:
        link = daemon.server.web_link(daemon.tiled_path) if daemon.server else ""
        say(console, f"Tiled:   {link}\nFiles:   {folder}")
        uid = str(uuid.uuid4())
        sender = SecondProcess(path, daemon.endpoints, rate_hz, uid)
        try:
            with _display(console, link, folder, uid) as show:

                def observe(daemon: Daemon) -> None:
                    sender.check()
                    show(daemon)
                    if finished(daemon, uid):
                        daemon.stop()

                daemon.run(observe)
        finally:
            sender.stop()
        if (status := finished(daemon, uid)) is None:
            say(console, "stopped before the end: delivering what there is")
            return
        summarise(console, report(status, folder, scan.geometry.window, scored=True))
        if serve:
            say(console, f"\nServing {link} until Ctrl-C.")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


def summarise(console: Console, done: DemoReport) -> None:
    """Print the numbers that tell whether all is well."""
    scan, counts = done.scan, done.scan.report
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
        say(console, f"{name:{max(map(len, rows))}}  {value}")


def _interval(start: float | None, end: float | None) -> str:
    return "-" if start is None or end is None else f"{end - start:.1f} s"


@contextmanager
def _display(console: Console, link: str, folder: Path, uid: str) -> Iterator[Callable[[Daemon], None]]:
    """A display of a daemon with the scan `uid`: redrawn in a terminal, a line now and then elsewhere."""
    announced = False

    def announce(status: DaemonStatus) -> None:
        """Tell once, above what is redrawn, where the first snapshot can be seen."""
        nonlocal announced
        own = status.scan is not None and status.scan.uid == uid and status.scan.last_snapshot_at is not None
        if not announced and own and all(there.published and not there.waiting for there in status.publishers):
            announced = True
            say(console, f"Object:  {link}/{uid}/live/object (reload to see it grow)")
            say(console, f"Picture: {folder / uid / 'latest.png'}")

    def stands(scan: ScanStatus | None, counted: bool = True) -> str:
        return ("" if scan is None or scan.uid == uid else "an earlier scan, resumed: ") + _line(scan, counted)

    if not console.is_terminal:
        due, phase = time.monotonic(), None

        def line(daemon: Daemon) -> None:
            nonlocal due, phase
            status = daemon.status
            now = None if status.scan is None else status.scan.phase
            if time.monotonic() >= due or now != phase:
                due, phase = time.monotonic() + LINE_S, now
                say(console, stands(status.scan))
            announce(status)

        yield line
        return
    bars = _bars(console)
    frames = bars.add_task("frames", total=None)

    def render(daemon: Daemon) -> None:
        status = daemon.status
        if status.scan is not None:
            bars.update(frames, total=status.scan.expected, completed=status.scan.frames)
        live.update(Group(bars, Text(stands(status.scan, counted=False))))
        announce(status)

    with Live(bars, console=console, refresh_per_second=4) as live:
        yield render


def _line(scan: ScanStatus | None, counted: bool = True) -> str:
    """How a scan stands, in less than 80 columns where its frames are not `counted`."""
    if scan is None:
        return "waiting for the scan"
    left = ""
    if scan.phase == "refining" and scan.ends_at is not None:
        left = f", {max(0.0, scan.ends_at - time.monotonic()):.0f} s left"
    parts = [f"{scan.frames}/{scan.expected} frames"] if counted else []
    parts.append(f"{scan.steps} steps")
    if (error := scan.metrics.get("heldout_error")) is not None:
        parts.append(f"held-out error {error:.3f}")
    if scan.last_snapshot_at is not None:
        parts.append(f"snapshot {since(scan.last_snapshot_at)}")
    return f"{scan.phase}{left}: {', '.join(parts)}"


def _bars(console: Console, disable: bool = False) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=disable)
