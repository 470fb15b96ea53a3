"""Live reconstruction from files alone: no detector stream, no encoder stream, only Bluesky documents that name HDF5.

    python tests/benchmarks/files_live.py --rate 15 --refine 90

A RunEngine in a second process flies ophyd-async devices that write the measured Siemens star, frames bitshuffled and
positions beside them, for single-writer-multiple-reader access; the whole daemon reads them as they grow. Printed are
how many frames had been read and handed to the join when the RunEngine's process ended, what was lost, when the first
snapshot came, and the phase correlation with the reference.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.data import siemens_star
from ptyinr_stream.demo import finished, report
from ptyinr_stream.formats.ptyinr_h5 import read_scan

BEAMLINE = Path(__file__).parents[1] / "system" / "ophyd_async_beamline.py"


def configuration(folder: Path, detector_pixel_m: float, energy_kev: float, refine_s: float) -> Config:
    axes = {f"axis{n}": {"channel": channel, "um_per_count": 1.0} for n, channel in enumerate(("panda-x", "panda-y"))}
    documents = {"endpoint": "tcp://127.0.0.1:*", "bind": True, "wire": "bluesky", "prefix": "hxn"}
    return parse_config(
        {
            "streams": {"documents": documents},
            "geometry": {"detector_pixel_um": 1e6 * detector_pixel_m, "energy_kev": energy_kev},
            "positions": {**axes, "samples_per_frame": 1},
            "files": {"frames_key": "eiger"},
            "training": {"refine_s": refine_s},
            "tiled": {"folder": folder / "tiled", "port": 0},
            "output": {"folder": folder},
        },
        "benchmark",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=15.0, help="frames a second")
    parser.add_argument("--flush", type=float, default=0.2, help="seconds between documents about written data")
    parser.add_argument("--refine", type=float, default=90.0, help="seconds of training after the last frame")
    given = parser.parse_args()
    scan = read_scan(siemens_star())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(folder, scan.geometry.detector_pixel_m, scan.geometry.energy_kev, given.refine)
        with Daemon(config) as daemon:
            command = [sys.executable, str(BEAMLINE), str(siemens_star()), daemon.endpoints["documents"], name]
            options = ["--rate", str(given.rate), "--flush", str(given.flush)]
            beamline = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, text=True)
            read: list[int] = []
            watcher = threading.Thread(
                target=lambda: (beamline.wait(), read.append(daemon.status.counts.get("files.frames", 0)))
            )
            watcher.start()

            def observe(daemon: Daemon) -> None:
                if beamline.stdin and not beamline.stdin.closed and daemon.status.counts.get("documents.unknown_name"):
                    beamline.stdin.close()  # the greetings are heard: it may begin
                if finished(daemon):
                    daemon.stop()

            daemon.run(observe)
            watcher.join()
            status = finished(daemon)
            counts = daemon.status.counts
        result = report(status, folder, scan.geometry.window, scored=True)
    print(f"{read[0]} of {len(scan.counts)} frames had been read when the beamline's process ended")
    print(f"{status.report}")
    print({name: number for name, number in counts.items() if name.startswith(("files.", "documents."))})
    took = f"{status.first_snapshot_at - status.first_frame_at:.1f} s after the first frame"
    print(f"first snapshot {took}; final {result.seconds:.0f} s after it; {status.steps} steps")
    print(f"phase correlation with the reference {result.phase_correlation:.4f}")


if __name__ == "__main__":
    main()
