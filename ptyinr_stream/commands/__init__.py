"""Commands, one file each, and what they share with those in `cli`: consoles, options, complaints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ptyinr_stream.errors import ConfigError

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


def require_writable(path: Path) -> None:
    """Learn before an hour of training, not after it, that the result cannot be written."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give the HDF5 file to write")


def escaped(text: str) -> str:
    """For a console that reads markup."""
    return text.replace("[", r"\[")
