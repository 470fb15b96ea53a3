"""`ptyinr-stream replay`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ptyinr_stream.commands import out, valid_settings
from ptyinr_stream.errors import ConfigError

if TYPE_CHECKING:
    from ptyinr_stream.formats import RecordedScan
    from ptyinr_stream.replay import ReplayReport
    from ptyinr_stream.replay.faults import Faults

WIRES_HELP = (
    "How frames are sent. `hxn`: as the beamline does, which is `proxy`; `proxy`: every part of a SIMPLON 1 frame a "
    "message of its own, PUB; `multipart`: as the detector itself, one message a frame, PUSH; `holoptycho`: three "
    "parts without types or series, PUB; `cbor`: SIMPLON 2, PUSH; `native`: this project's own form, "
    "PUSH; `files`: not at all, but written to an HDF5 file that grows, which documents name."
)


def _fault(text: str, **limits: Any) -> Any:
    return typer.Option(help=text, rich_help_panel="Faults", **limits)


def replay(
    scan: Annotated[
        str,
        typer.Argument(
            metavar="SCAN",
            help="A scan file, a folder that `run` has recorded, or `tiled:URI` (or http...) of a Bluesky run or of a "
            "container with the arrays of a scan file.",
            show_default=False,
        ),
    ],
    wire: Annotated[str, typer.Option(help=WIRES_HELP)] = "hxn",
    rate: Annotated[float, typer.Option(min=0.01, max=1e6, help="Frames a second.")] = 10.0,
    documents: Annotated[str, typer.Option(help="Endpoint of the Bluesky documents.")] = "tcp://127.0.0.1:5568",
    frames: Annotated[str, typer.Option(help="Endpoint of the detector frames.")] = "tcp://127.0.0.1:5559",
    positions: Annotated[str, typer.Option(help="Endpoint of the encoder positions.")] = "tcp://127.0.0.1:6666",
    prefix: Annotated[str, typer.Option(help="Of the documents, as the daemon is configured to expect it.")] = "hxn",
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to a daemon that binds, instead of binding.")
    ] = False,
    secret_key_env: Annotated[
        str | None,
        typer.Option(
            help="Encrypt the frames: the environment variable with the CURVE secret key.", show_default=False
        ),
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up", help="Before each run, a series of one frame, as an Eiger warms up.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="For `--wire files`: where the HDF5 files are written, and stay.")
    ] = Path("replay-files"),
    repeat: Annotated[int, typer.Option(min=1, help="Send the scan this many times, each a new run.")] = 1,
    uid: Annotated[
        str | None, typer.Option(help="Of the run, to be used once; a new one if it is not given.", show_default=False)
    ] = None,
    wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds to wait for a daemon.")] = 60.0,
    whole: Annotated[
        bool, typer.Option("--round", help="Round counts that are not whole, as after a division by the flux.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress display.")] = False,
    drop: Annotated[float, _fault("Probability with which a message is lost.", min=0, max=1)] = 0.0,
    duplicate: Annotated[float, _fault("Probability with which a message comes twice.", min=0, max=1)] = 0.0,
    reorder: Annotated[int, _fault("The most later messages that may overtake one.", min=0)] = 0,
    delay: Annotated[
        list[str] | None,
        _fault(
            "ROAD=SECONDS by which a whole road comes late, or SECONDS alone for the positions; may be repeated.",
            show_default=False,
        ),
    ] = None,
    late_join: Annotated[
        int,
        _fault("Send nothing on these roads until so many frames have been exposed, as to one who comes late.", min=0),
    ] = 0,
    seed: Annotated[int, _fault("Of the faults: the same seed, the same faults.", min=0)] = 0,
    faults_on: Annotated[
        str, _fault("Roads that lose, double, disorder and miss messages, of documents, frames, positions.")
    ] = "frames,positions",
) -> None:
    """Send a recorded scan over ZeroMQ, in the words and the order of HXN's beamline, if you like with faults.

    Documents (Bluesky's 0MQ wire, msgpack), frames (in one of several wires) and positions (HXN's PandA JSON, ten raw
    encoder counts a frame). Nothing is sent before a daemon listens on all three. Faults act on messages; where parts
    travel alone, on single parts.
    """
    from ptyinr_stream.documents import UID
    from ptyinr_stream.replay import Endpoints, Replay
    from ptyinr_stream.replay.faults import Faults
    from ptyinr_stream.terminal import counting, say

    faults = valid_settings(
        Faults,
        drop=drop,
        duplicate=duplicate,
        reorder=reorder,
        delay_s=_delays(delay or []),
        late_join=late_join,
        seed=seed,
        on=frozenset(road.strip() for road in faults_on.split(",")),
    )
    if uid is not None and repeat > 1:
        raise ConfigError(f"--uid is {uid!r} with --repeat {repeat}: one run has one uid")
    if uid is not None and not UID.fullmatch(uid):
        raise ConfigError(
            f"--uid is {uid!r}: give up to 128 letters, digits, '_', '.' and '-', the first no '.' or '-'"
        )
    key = None if secret_key_env is None else _secret_key(secret_key_env)
    recorded = _read(scan)
    recorded = recorded.rounded() if whole else recorded
    with (
        counting(out, len(recorded.counts) * repeat, "frames sent", quiet=quiet) as count,
        Replay(
            recorded,
            Endpoints(documents, frames, positions),
            wire=wire,
            rate_hz=rate,
            bind=not connect,
            prefix=prefix,
            faults=faults,
            warm_up=warm_up,
            frames_key=key,
            folder=folder,
            wait_s=wait,
            progress=lambda _: count(1),
        ) as sender,
    ):
        for _ in range(repeat):
            report = sender.run(uid)
            if not quiet:
                for line in _summary(report, faults):
                    say(out, line)


def _delays(texts: list[str]) -> dict[str, float]:
    """From `ROAD=SECONDS`, or `SECONDS` for the positions."""
    delays = {}
    for text in texts:
        road, _, seconds = text.rpartition("=")
        try:
            delays[road.strip() or "positions"] = float(seconds)
        except ValueError:
            raise ConfigError(f"--delay is {text!r}: give seconds, or ROAD=SECONDS such as frames=0.5") from None
    return delays


def _secret_key(variable: str) -> bytes:
    from ptyinr_stream.config import secret
    from ptyinr_stream.sources.curve import curve_key

    text = (secret(variable) or "").strip()
    if not text:
        raise ConfigError(f"--secret-key-env names {variable}, but this environment variable is not set")
    return curve_key(text, "secret", variable)


def _read(scan: str) -> RecordedScan:
    """A scan from a file, a folder or a Tiled server."""
    from ptyinr_stream.formats import read_scan

    if scan.startswith(("tiled:", "http://", "https://")):
        from ptyinr_stream.replay.catalog import read_catalog

        return read_catalog(scan.removeprefix("tiled:"))
    return read_scan(Path(scan))


def _summary(report: ReplayReport, faults: Faults) -> Iterator[str]:
    """What has been sent; where there were faults, what became of each road."""
    yield f"run {report.uid}: {report.whole.sum()} frames sent"
    for road, counts in report.messages.items():
        found = [f"{number} {kind}" for kind, number in counts.items() if number and kind != "sent"]
        if found:
            yield f"  {road}: {counts.get('sent', 0)} messages sent; {', '.join(found)}"
    if len(report.pairable) < report.frames:
        partial = len(report.partial)
        some = f", {partial} more with some of their encoder samples" if partial else ""
        yield f"  {len(report.pairable)} of {report.frames} frames can be paired{some} (seed {faults.seed})"
