"""A beamline without a detector stream, as a process: ophyd-async devices under a RunEngine write HDF5 and name it.

    python tests/system/ophyd_async_beamline.py SCAN ENDPOINT FOLDER --rate 100

A detector writes the frames of SCAN, verbatim and bitshuffled, one chunk a frame, and an encoder box the positions in
micrometres, `--samples` a frame; both for single-writer-multiple-reader access. The documents go to ENDPOINT by the
file that a beamline adds to its profile. Greetings, which are no documents, are sent until a line comes in: so the
listener can say that it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import select
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import hdf5plugin
import numpy as np
from bluesky import RunEngine
from numpy.typing import NDArray
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    TriggerInfo,
    init_devices,
    soft_signal_r_and_setter,
)

from ptyinr_stream.config import AxisConfig, PositionsConfig
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.replay.messages import run_documents
from ptyinr_stream.wire.codecs import encode

PUBLISHING = Path(__file__).parents[2] / "deploy" / "bluesky" / "publish_documents.py"
POSITIONS = PositionsConfig(
    axis0=AxisConfig(channel="panda-x", um_per_count=1.0), axis1=AxisConfig(channel="panda-y", um_per_count=1.0)
)


class Recorder:
    """What a device writes: given arrays, row after row; their keys are suffixes of its name."""

    def __init__(self, path: Path, arrays: dict[str, NDArray[Any]], period_s: float) -> None:
        self.path, self.arrays, self.period_s = path, arrays, period_s
        self.rows = 0
        self.written, self._note = soft_signal_r_and_setter(int)
        self.file: h5py.File | None = None
        self.task: asyncio.Task[None] | None = None

    def open(self, name: str) -> list[StreamResourceInfo]:
        """Make the file, and describe it."""
        self.file = h5py.File(self.path, "w", libver="latest")
        infos = []
        for suffix, array in self.arrays.items():
            shape, image = array.shape[1:], array.ndim > 1
            options = dict(hdf5plugin.Bitshuffle(cname="lz4")) if image else {}
            options |= {"chunks": (1, *shape) if image else (1024,), "maxshape": (None, *shape)}
            dataset = self.file.create_dataset(f"entry/data{suffix}", (0, *shape), array.dtype, **options)
            where = {"chunk_shape": dataset.chunks, "parameters": {"dataset": dataset.name}}
            infos.append(StreamResourceInfo(data_key=name + suffix, shape=shape, dtype_numpy=array.dtype.str, **where))
        self.file.swmr_mode = True
        return infos

    async def write(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for row in range(self.rows):
            await asyncio.sleep(max(0.0, began + (row + 1) * self.period_s - loop.time()))
            for suffix, array in self.arrays.items():
                dataset = self.file[f"entry/data{suffix}"]
                dataset.resize(row + 1, axis=0)
                if array.ndim > 1:
                    data = encode(array[row], f"bs{8 * array.itemsize}-lz4<")
                    dataset.id.write_direct_chunk((row,) + (0,) * (array.ndim - 1), data)
                else:
                    dataset[row] = array[row]
                dataset.flush()
            self._note(row + 1)


@dataclass
class Trigger(DetectorTriggerLogic):
    recorder: Recorder

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.recorder.rows = num


@dataclass
class Acquire(DetectorAcquireLogic):
    recorder: Recorder

    async def start_acquiring(self) -> None:
        self.recorder.task = asyncio.create_task(self.recorder.write())

    async def wait_for_idle(self) -> None:
        await self.recorder.task

    async def ensure_stopped(self) -> None:
        if self.recorder.task is not None:
            self.recorder.task.cancel()


@dataclass
class Data(DetectorDataLogic):
    recorder: Recorder

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        infos, uri = self.recorder.open(datakey_name), f"file://localhost{self.recorder.path}"
        return StreamResourceDataProvider(uri, infos, "application/x-hdf5", self.recorder.written)

    async def stop(self) -> None:
        if self.recorder.file is not None:
            self.recorder.file.close()


def device(name: str, recorder: Recorder) -> StandardDetector:
    made = StandardDetector(name=name)
    made.add_detector_logics(Trigger(recorder), Acquire(recorder), Data(recorder))
    return made


def samples(scan: RecordedScan, each: int) -> dict[str, NDArray[np.float64]]:
    """Encoder samples of which `each` have a frame's position as their mean."""
    spread = 1e-3 * (np.arange(each) - (each - 1) / 2)
    um = 1e6 * scan.positions_m[:, None] + spread[:, None]
    return {suffix: um[..., axis].reshape(-1) for axis, suffix in enumerate(("-x", "-y"))}


def fly(devices: dict[StandardDetector, TriggerInfo], metadata: dict[str, Any], flush_s: float) -> Any:
    yield from bps.stage_all(*devices)
    yield from bps.open_run(metadata)
    for detector, info in devices.items():
        yield from bps.prepare(detector, info, wait=True)
    yield from bps.declare_stream(*devices, name="primary")
    yield from bps.kickoff_all(*devices, wait=True)
    yield from bps.collect_while_completing(list(devices), list(devices), flush_period=flush_s, stream_name="primary")
    yield from bps.close_run()
    yield from bps.unstage_all(*devices)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("endpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--flush", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=1)
    given = parser.parse_args()
    spec = importlib.util.spec_from_file_location("publish_documents", PUBLISHING)
    publishing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publishing)

    scan = read_scan(given.scan)
    engine = RunEngine({})
    publisher = publishing.DocumentPublisher(given.endpoint)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        publisher("greeting", {})
    sys.stdin.readline()
    engine.subscribe(publisher)
    for number in range(given.runs):
        _, start = next(iter(run_documents(scan, POSITIONS, None, 7 + number, given.rate)))
        metadata = {key: value for key, value in start.items() if key not in ("uid", "time", "scan_id")}
        frames = Recorder(given.folder / f"frames{number}.h5", {"": scan.counts}, 1 / given.rate)
        encoders = Recorder(
            given.folder / f"panda{number}.h5", samples(scan, given.samples), 1 / given.rate / given.samples
        )
        with init_devices(mock=False):
            eiger, panda = device("eiger", frames), device("panda", encoders)
        events = {"number_of_events": len(scan.counts)}
        infos = {eiger: TriggerInfo(**events), panda: TriggerInfo(**events, collections_per_event=given.samples)}
        engine(fly(infos, metadata, given.flush))
    publisher.close()


if __name__ == "__main__":
    main()
