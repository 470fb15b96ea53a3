"""The whole daemon where nothing but documents comes over the network: a recorded file, named and read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq
from event_model import compose_run

from ptyinr_stream.checks import checks
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import document_message, run_documents

pytestmark = pytest.mark.system

LONG_S = 60.0


def configuration(folder: Path, **files: Any) -> Config:
    axes = {f"axis{n}": {"channel": channel, "um_per_count": 1e6} for n, channel in enumerate(("y", "x"))}
    documents = {"endpoint": "tcp://127.0.0.1:*", "bind": True, "wire": "bluesky", "prefix": "hxn"}
    return parse_config(
        {
            "streams": {"documents": documents},
            "geometry": {"detector_pixel_um": 75.0, "energy_kev": 12.4},
            "positions": {**axes, "samples_per_frame": 1},
            "files": {"frames_key": "eiger", "paths": {"/data": str(folder / "data")}, **files},
            "training": {"device": "cpu", "refine_s": 0.2, "snapshot_s": 0.1},
            "tiled": {"folder": folder / "tiled", "port": 0},
            "output": {"folder": folder / "results"},
        }
    )


def documents(scan: RecordedScan) -> list[tuple[str, Any]]:
    _, start = next(run_documents(scan, HXN_ENCODERS, "by-files", 7, 100.0))
    run = compose_run(uid="by-files", metadata={key: start[key] for key in ("shape", "scan", "motors")})
    shapes = {"eiger": [1, *scan.counts.shape[1:]], "x": [1], "y": [1]}
    keys = {key: {"source": "", "dtype": "array", "shape": shapes[key], "external": "STREAM:"} for key in shapes}
    descriptor = run.compose_descriptor("primary", keys)
    made = [("start", run.start_doc), ("descriptor", descriptor.descriptor_doc)]
    for key in keys:
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri="file://localhost/data/scan.h5",
            data_key=key,
            parameters={"dataset": f"/{key}"},
        )
        made.append(("stream_resource", resource.stream_resource_doc))
        for first in range(0, len(scan.counts), 10):
            span = {"start": first, "stop": min(first + 10, len(scan.counts))}
            seq_nums = {name: number + 1 for name, number in span.items()}
            datum = resource.compose_stream_datum(span, seq_nums, descriptor.descriptor_doc)
            made.append(("stream_datum", datum))
    return [*made, ("stop", run.compose_stop())]


def test_a_scan_that_is_only_named_is_reconstructed(tmp_path: Path, simulated: RecordedScan) -> None:
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "scan.h5", "w") as file:
        whole = {"chunks": (1, *simulated.counts.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4")}
        file.create_dataset("eiger", data=simulated.counts, **whole)
        file["y"], file["x"] = simulated.positions_m.T
    ends = time.monotonic() + LONG_S
    with Daemon(configuration(tmp_path)) as daemon, zmq.Context() as context, context.socket(zmq.XPUB) as beamline:
        assert set(daemon.endpoints) == {"documents"}
        beamline.connect(daemon.endpoints["documents"])
        assert beamline.poll(10_000)
        beamline.recv()
        for name, document in documents(simulated):
            beamline.send(document_message("hxn", name, document))

        def observe(daemon: Daemon) -> None:
            if daemon.engine.history:
                daemon.stop()
            assert time.monotonic() < ends, daemon.status

        daemon.run(observe)
        (status,) = daemon.engine.history
        counts = daemon.status.counts
    assert (status.uid, status.phase, status.error) == ("by-files", "done", None)
    assert (status.report.paired, status.report.lost) == (72, 0)
    assert {name: counts[name] for name in ("files.frames", "files.samples")} == {
        "files.frames": 72,
        "files.samples": 144,
    }
    with h5py.File(tmp_path / "results" / "by-files" / "result.h5") as file:
        assert file["indices"][()].tolist() == list(range(72))
        assert np.isfinite(file["object"][()]).all()


def test_check_says_which_folder_is_not_here(tmp_path: Path) -> None:
    verdicts = {name: (said, good) for name, said, good in checks(configuration(tmp_path), 0.1) if name != "tiled"}
    said, good = verdicts["files"]
    assert not good
    assert f"{tmp_path / 'data'} cannot be read" in said
    assert "frames" not in verdicts
