"""The demo: a measured scan replayed by a second process, the whole daemon, and an embedded Tiled to watch."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ptyinr.metrics import phase_correlation
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.data import siemens_star_reference
from ptyinr_stream.engine import ScanStatus
from ptyinr_stream.errors import StreamError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay import HXN_ENCODERS


@dataclass(frozen=True)
class DemoReport:
    """What the demo showed."""

    scan: ScanStatus
    result: Path
    seconds: float
    """From the first frame to the final result."""
    phase_correlation: float | None
    """With the reference of the same scan, where there is one."""


def demo_config(scan: RecordedScan, folder: Path, refine_s: float, port: int) -> Config:
    """The configuration of a daemon to which a replay connects: every endpoint bound on loopback, any free port."""
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    return parse_config(
        {
            "streams": {
                "documents": {**stream, "wire": "bluesky", "prefix": "hxn"},
                "frames": {**stream, "wire": "eiger_v1"},
                "positions": {**stream, "wire": "panda"},
            },
            "geometry": {"detector_pixel_um": 1e6 * scan.geometry.detector_pixel_m},
            "positions": HXN_ENCODERS.model_dump(),
            "training": {"refine_s": refine_s},
            "tiled": {"folder": folder / "tiled", "port": port},
            "output": {"folder": folder},
        },
        "demo",
    )


class SecondProcess:
    """`ptyinr-stream replay SCAN` as the run `uid`, connecting to a daemon."""

    def __init__(self, scan: Path, endpoints: dict[str, str], rate_hz: float, uid: str) -> None:
        roads = [argument for road, endpoint in endpoints.items() for argument in (f"--{road}", endpoint)]
        command = [sys.executable, "-m", "ptyinr_stream", "replay", str(scan), "--rate", str(rate_hz), "--uid", uid]
        # In a session of its own: Ctrl-C is for the daemon, which ends this process when it has ended itself.
        self._process = subprocess.Popen(  # noqa: S603  our own program
            [*command, "--connect", "--quiet", *roads], stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def check(self) -> None:
        """Raise what it complained about, if it failed.

        Raises:
            StreamError: it ended with an error.
        """
        if self._process.poll() not in (None, 0):
            complaint = self._process.stderr.read().strip() if self._process.stderr else ""
            raise StreamError(f"the replay failed: {complaint or f'exit status {self._process.returncode}'}")

    def stop(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(10)
        if self._process.stderr:
            self._process.stderr.close()


def finished(daemon: Daemon, uid: str) -> ScanStatus | None:
    """The demo's own scan once it is over and delivered, else None.

    A daemon also finishes what an earlier demo in the same folder has left.
    """
    over = [status for status in daemon.engine.history if status.uid == uid]
    waiting = any(status.waiting for status in daemon.status.publishers)
    return over[0] if over and not waiting else None


def score(result: Path, window: tuple[int, int]) -> float | None:
    """Phase correlation of a result of the Siemens star with its reference; None if frames are missing."""
    reference = np.load(siemens_star_reference())
    corners = reference["lsqml_1mode_corners_px"]
    with h5py.File(result) as file:
        field, positions = np.asarray(file["object"]), np.asarray(file["positions_px"])
    if len(positions) != len(corners):
        return None
    return phase_correlation(field, positions, reference["lsqml_1mode_object"], corners, window)


def report(status: ScanStatus, folder: Path, window: tuple[int, int], scored: bool) -> DemoReport:
    """Sum up a finished demo.

    Raises:
        StreamError: the scan failed.
    """
    if status.error is not None or status.first_frame_at is None or status.last_snapshot_at is None:
        raise StreamError(f"the scan was not reconstructed: {status.error or 'no snapshot was taken'}")
    result = folder / status.uid / "result.h5"
    seconds = status.last_snapshot_at - status.first_frame_at
    return DemoReport(status, result, seconds, score(result, window) if scored else None)


def since(moment: float | None) -> str:
    """Seconds since a moment of the monotonic clock, in words.

    >>> since(None)
    'not yet'
    """
    return "not yet" if moment is None else f"{time.monotonic() - moment:.0f} s ago"
