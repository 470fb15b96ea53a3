"""Commands, one file each, and what they share with those in `cli`: consoles, options, complaints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ptyinr_stream.errors import ConfigError
from ptyinr_stream.recordings import MASTER

out, err = Console(), Console(stderr=True)

ScanArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SCAN",
        help="A recorded scan: the folder of a recording, or HDF5 with `diffamp` (N, H, W) = sqrt(counts), DC at the "
        "corner; `points` (2, N) in um, points[0] along array axis 0; `lambda_nm`, `z_m`, `ccd_pixel_um`, `angle`.",
        show_default=False,
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", help="A TOML file; see `deploy/config/` for examples.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(help="`auto` takes a GPU where there is one; or cpu, cuda, cuda:1 ...")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log what every part does.")]


def valid_settings(make: Any, **values: Any) -> Any:
    """`make(**values)`; a complaint about the values is one about the command line."""
    try:
        return make(**values)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require_writable(path: Path, *inputs: Path | None) -> None:
    """Learn before an hour of training, not after it, that a result cannot be written, or only over what it is made of.

    Args:
        path: the file to write.
        inputs: that the same command reads: files, folders of recordings, or None where one is not given.

    Raises:
        ConfigError: there is no such folder, `path` is one, or it is one of the inputs by whatever name.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the HDF5 file to write")
    for given in filter(None, inputs):
        sources = (given, given / MASTER, *given.glob("[0-9][0-9][0-9]-*.h5"))  # itself, or a recording's files
        if path.exists() and any(source.exists() and path.samefile(source) for source in sources):
            raise ConfigError(f"{path}: would be written over {given}, which it is made from: give another file")


def escaped(text: str) -> str:
    """For a console that reads markup."""
    return text.replace("[", r"\[")
