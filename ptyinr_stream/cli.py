"""The command line. With `terminal` the only module that prints and installs signal handlers, alone in logging.

What a user did wrong is one line on standard error and exit status 2; a defect is a traceback.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from ptyinr_stream.commands import ConfigOption, VerboseOption, err, escaped, out
from ptyinr_stream.commands.evaluate import evaluate
from ptyinr_stream.commands.reconstruct import reconstruct
from ptyinr_stream.commands.replay import replay
from ptyinr_stream.commands.simulate import simulate
from ptyinr_stream.errors import ConfigError, HandoverError, StreamError

app = typer.Typer(
    name="ptyinr-stream",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Live ptychography: trains PtyINR while the scan runs and publishes the reconstruction to Tiled.

    Begin with `ptyinr-stream demo`: a measured scan, replayed live, appears in your browser.
    At a beamline: write a configuration, `check` it, then `run` it. `replay` rehearses with a recorded scan.
    """,
)


def main() -> None:
    """Run the command line; known errors become one line and exit status 2, or 1 where another try may do better."""
    try:
        app()
    except StreamError as error:
        _complain(error)
        raise SystemExit(1 if isinstance(error, HandoverError) else 2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@app.command()
def demo(
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="Stop at the end instead of serving the result until Ctrl-C.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=1e6, help="Frames a second.")] = 10.0,
    output: Annotated[Path, typer.Option(help="Folder for pictures, result.h5 and Tiled's data.")] = Path(
        "ptyinr-demo"
    ),
    refine: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds of training after the last frame.")] = 90.0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the Tiled server; 0 takes any free one.")] = 0,
    verbose: VerboseOption = False,
) -> None:
    """Watch a measured Siemens star appear while its scan is replayed.

    Starts an embedded Tiled server and the daemon, and replays the scan from a second process over real ZeroMQ
    sockets in the wire formats of NSLS-II's Hard X-ray Nanoprobe: Bluesky documents, Eiger frames, PandA encoder
    counts. No probe is given: it is found in the first frames. Open the address it prints; reload to see the picture
    grow.
    """
    _log_to_terminal(verbose)
    out.print("starting the daemon and a Tiled server: some ten seconds")
    from ptyinr_stream.terminal import run_demo

    run_demo(out, folder=output, rate_hz=rate, refine_s=refine, port=port, serve=not exit_when_done)


@app.command()
def run(config: ConfigOption, verbose: VerboseOption = False) -> None:
    """Run the daemon: many scans in one life, one after the other, until Ctrl-C or SIGTERM.

    Each scan gets a container of its own in Tiled: `live/object` and `live/probe` while it is measured, `final/...`
    when it has been refined. The next scan never waits for the refinement of the last.
    """
    _log_to_terminal(verbose, lines=True)
    from ptyinr_stream.config import load_config
    from ptyinr_stream.daemon import Daemon
    from ptyinr_stream.reception_process import ReceptionProcess
    from ptyinr_stream.terminal import say, stop_on_signals
    from ptyinr_stream.tiled_process import ServerProcess

    daemon = Daemon(load_config(config), embedded=ServerProcess, reception=ReceptionProcess)
    stop_on_signals(daemon)
    with daemon:
        for road, endpoint in daemon.endpoints.items():
            say(out, f"{road:9} from {endpoint}")
        where = daemon.server.web_link(daemon.tiled_path) if daemon.server else "the configured Tiled server"
        say(out, f"publishing to {where}; waiting for scans")
        try:
            daemon.run()
        except StreamError as error:
            _complain(error)
            raise typer.Exit(1) from None  # it worked once: worth a restart, unlike what ends with 2
        say(out, "stopping: delivering what there is")


for command in (replay, reconstruct, simulate, evaluate):
    app.command()(command)


@app.command()
def check(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A TOML file; see `deploy/config/` for examples.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=1e6, help="Seconds to wait for each endpoint.")] = 3.0,
    orientation: Annotated[
        Path | None,
        typer.Option(
            metavar="SCAN",
            help="Instead, ask a recorded scan, its patterns as the detector sends them, which way round they lie.",
        ),
    ] = None,
) -> None:
    """Say, one line each, whether the configuration holds: endpoints reachable, keys valid, Tiled writable.

    With --orientation: reconstruct some frames of SCAN in every way that data can tell apart, and name the right ones
    among the 8 orientations of the detector and the 8 maps of positions. Without --config they are as in SCAN.

    Exit status 0 if everything is in order, 1 if something is not.
    """
    logging.disable(logging.CRITICAL)
    from ptyinr_stream.config import load_config

    if orientation is not None:
        from ptyinr_stream.commands.check_orientation import check_orientation

        right = check_orientation(orientation, None if config is None else load_config(config))
        raise typer.Exit(0 if right else 1)
    if config is None:
        raise ConfigError("check needs --config: the TOML file to check; or --orientation with a recorded scan")
    from ptyinr_stream.checks import checks

    good = True
    for name, verdict, passed in checks(load_config(config), timeout):
        good &= passed
        mark = "[green]ok  [/]" if passed else "[red]FAIL[/]"
        out.print(f"{mark} {name:10} {escaped(verdict)}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if good else 1)


def _log_to_terminal(verbose: bool, lines: bool = False) -> None:
    """Warnings always; with `lines` what each part reports too; httpx only when asked."""
    level = logging.DEBUG if verbose else logging.INFO if lines else logging.WARNING
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler = RichHandler(console=err, show_path=False) if err.is_terminal else plain
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s")
    logging.getLogger("ptyinr_stream").setLevel(level)


def _complain(error: StreamError) -> None:
    err.print(f"[bold red]error:[/] {escaped(str(error))}", soft_wrap=True, highlight=False)
