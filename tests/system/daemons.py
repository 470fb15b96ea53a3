"""Configurations of daemons that tests talk to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.replay import HXN_ENCODERS


def configuration(folder: Path, *, training: dict[str, Any] | None = None, **sections: Any) -> Config:
    """Of one that listens on ports of its own, with a Tiled server and results in the folder."""
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    values = {
        "streams": {
            "documents": {**stream, "wire": "bluesky", "prefix": "hxn"},
            "frames": {**stream, "wire": "eiger_v1", "socket": "pull"},
            "positions": {**stream, "wire": "panda"},
        },
        "geometry": {"detector_pixel_um": 75.0},
        "positions": HXN_ENCODERS.model_dump(),
        "training": {"device": "cpu", "refine_s": 0.5, "snapshot_s": 0.2, **(training or {})},
        "tiled": {"folder": folder / "tiled", "port": 0},
        "output": {"folder": folder / "results"},
    }
    return parse_config({**values, **sections})
