"""The stream around `ptyinr`: from HXN's sockets to frames with positions, and from snapshots to Tiled."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ptyinr-stream")
except PackageNotFoundError:
    __version__ = "run from its tree"  # as on a GPU machine that brings its own torch
