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

from ptyinr_stream.commands import ConfigOption, ScanArgument, VerboseOption, err, escaped, out
from ptyinr_stream.commands.evaluate import evaluate
from ptyinr_stream.commands.reconstruct import reconstruct
from ptyinr_stream.commands.simulate import simulate
from ptyinr_stream.errors import StreamError

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
    """Run the command line; known errors become one line and exit status 2."""
    try:
        app()
    except StreamError as error:
        _complain(error)
        raise SystemExit(2) from None
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
    from ptyinr_stream.terminal import say, stop_on_signals
    from ptyinr_stream.tiled_process import ServerProcess

    daemon = Daemon(load_config(config), embedded=ServerProcess)
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


@app.command()
def replay(
    scan: ScanArgument,
    rate: Annotated[float, typer.Option(min=0.01, max=1e6, help="Frames a second.")] = 10.0,
    documents: Annotated[str, typer.Option(help="Endpoint of the Bluesky documents.")] = "tcp://127.0.0.1:5568",
    frames: Annotated[str, typer.Option(help="Endpoint of the detector frames.")] = "tcp://127.0.0.1:5559",
    positions: Annotated[str, typer.Option(help="Endpoint of the encoder positions.")] = "tcp://127.0.0.1:6666",
    prefix: Annotated[str, typer.Option(help="Of the documents, as the daemon is configured to expect it.")] = "hxn",
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to a daemon that binds, instead of binding.")
    ] = False,
    publish_frames: Annotated[
        bool,
        typer.Option(
            "--publish-frames", help="Frames on a PUB socket, as HXN's proxy; default is PUSH, as a detector."
        ),
    ] = False,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="Send every part of a frame as a message of its own, as HXN's proxy does.")
    ] = False,
    repeat: Annotated[int, typer.Option(min=1, help="Send the scan this many times, each a new run.")] = 1,
    wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds to wait for a daemon.")] = 60.0,
    whole: Annotated[
        bool, typer.Option("--round", help="Round counts that are not whole, as after a division by the flux.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress display.")] = False,
) -> None:
    """Send a recorded scan over ZeroMQ, in the words and the order of HXN's beamline.

    Documents (Bluesky's 0MQ wire, msgpack), frames (Eiger stream v1, bitshuffle-LZ4) and positions (HXN's PandA JSON,
    ten raw encoder counts a frame). Nothing is sent before a daemon listens on all three.
    """
    from ptyinr_stream.formats import read_scan
    from ptyinr_stream.replay import Endpoints, Replay
    from ptyinr_stream.terminal import counting, say

    recorded = read_scan(scan).rounded() if whole else read_scan(scan)
    with (
        counting(out, len(recorded.counts) * repeat, "frames sent", quiet=quiet) as count,
        Replay(
            recorded,
            Endpoints(documents, frames, positions),
            rate_hz=rate,
            bind=not connect,
            frames_socket="pub" if publish_frames else "push",
            multipart=not proxy,
            prefix=prefix,
            wait_s=wait,
            progress=lambda _: count(1),
        ) as sender,
    ):
        for _ in range(repeat):
            report = sender.run()
            if not quiet:
                say(out, f"run {report.uid}: {report.frames} frames sent")


for offline in (reconstruct, simulate, evaluate):
    app.command()(offline)


@app.command()
def check(
    config: ConfigOption,
    timeout: Annotated[float, typer.Option(min=0.1, max=1e6, help="Seconds to wait for each endpoint.")] = 3.0,
) -> None:
    """Say, one line each, whether the configuration holds: endpoints reachable, keys valid, Tiled writable.

    Exit status 0 if everything is in order, 1 if something is not.
    """
    logging.disable(logging.CRITICAL)
    from ptyinr_stream.checks import checks
    from ptyinr_stream.config import load_config

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
