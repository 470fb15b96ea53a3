"""`ptyinr-stream reconstruct`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ptyinr_stream.commands import DeviceOption, ScanArgument, out, require_writable, valid_settings
from ptyinr_stream.errors import ConfigError


class Start(StrEnum):
    """Where a probe that is not given comes from."""

    blind = "blind"
    random = "random"


def reconstruct(
    scan: ScanArgument,
    output: Annotated[Path, typer.Option(help="The HDF5 file to write.", show_default=False)],
    seconds: Annotated[
        float, typer.Option(min=0, max=1e6, help="Of training, the search for the probe included.")
    ] = 120.0,
    probe: Annotated[
        Path | None, typer.Option(help="Start from this probe (.npy, or `probe` of an HDF5 file); default: find it.")
    ] = None,
    known_probe: Annotated[bool, typer.Option("--known-probe", help="Leave the given probe as it is.")] = False,
    start: Annotated[
        Start, typer.Option(help="Without --probe: find it in the first frames, or begin with random weights.")
    ] = Start.blind,
    published: Annotated[
        bool, typer.Option("--published", help="The settings of the published program, random start included.")
    ] = False,
    holdout: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Frames with index % n == n // 2 only measure the error; 0 trains on all. Default: 10, with "
            "--published 0.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Reconstruct a recorded scan offline, with the same engine.

    OUTPUT holds `object` (H, W) and `probe` (modes, h, w) complex64, `positions_px` (N, 2) (window corners in the
    object array, in frame order), `coverage` (H, W), and as attributes pixel size, frames, steps, seconds, version
    and configuration. A picture is written beside it.
    """
    from ptyinr.settings import TrainerSettings, random_start, upstream_settings
    from ptyinr_stream.device import choose_device
    from ptyinr_stream.formats import read_scan
    from ptyinr_stream.offline import reconstruct as train
    from ptyinr_stream.pictures import picture
    from ptyinr_stream.probe_file import read_probe
    from ptyinr_stream.terminal import say, watching

    require_writable(output, scan, probe)
    if (beside := output.with_suffix(".png")) == output:
        raise ConfigError(f"{output}: the picture goes to a .png beside the result: give it another suffix, .h5")
    require_writable(beside, scan, probe)
    if known_probe and probe is None:
        raise ConfigError("--known-probe: there is no --probe to leave as it is")
    recorded = read_scan(scan)
    settings = upstream_settings(seed=seed) if published else TrainerSettings(seed=seed)
    if holdout is not None:
        settings = valid_settings(partial(replace, settings), holdout=holdout)
    if start is Start.random:
        settings = random_start(settings)
    if known_probe:
        settings = replace(settings, probe=replace(settings.probe, fixed=True))
    with watching(out, seconds) as progress:
        snapshot = train(
            recorded,
            output,
            seconds=seconds,
            settings=settings,
            probe=None if probe is None else read_probe(probe),
            device=choose_device(device),
            progress=progress,
        )
    picture(snapshot).save(beside)
    error = snapshot.metrics.get("heldout_error")
    unit = "photons" if recorded.whole else "counts"
    judged = "" if error is None else f", held-out amplitude error {error:.3f} {unit}"
    say(out, f"{output}: {snapshot.frames} frames, {snapshot.step} steps{judged}")
