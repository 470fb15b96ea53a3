"""Frames and positions from files and documents: real HDF5, as detectors lay it out, and what is missing from it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import msgpack_numpy
import numpy as np
import pytest

from ptyinr_stream.assembler import Joined, Output, ScanClosed
from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.errors import StreamError
from ptyinr_stream.events import (
    DataRange,
    DataResource,
    Event,
    FrameArrived,
    FrameFound,
    FramesMissing,
    Reading,
    RunStarted,
    RunStopped,
)
from ptyinr_stream.intake import Intake
from ptyinr_stream.sources.files import FileSource
from ptyinr_stream.sources.hdf5 import GrowingDataset, local_path
from ptyinr_stream.wire.codecs import decode

pytestmark = pytest.mark.system

DOCUMENTS = Path(__file__).parents[1] / "data" / "documents"
RUN = "3b13cd65-5a49-40c9-88c3-3baaf5697876"
N, SHAPE = 12, (16, 10)  # of a scan of 4 x 3
RNG = np.random.default_rng(3)
IMAGES = RNG.poisson(5, (N, *SHAPE)).astype(np.uint16)
FRAMES_STREAM = {"endpoint": "tcp://127.0.0.1:*", "bind": True, "wire": "eiger_v1"}
START = {
    "uid": RUN,
    "time": 1.0,
    "shape": [4, 3],
    "scan": {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 4.0, -1.0, 1.0, 3.0]},
}


def configuration(
    channels: tuple[str, str] = ("x", "y"), samples: int = 1, frames: dict[str, Any] | None = None, **files: Any
) -> Config:
    axes = {f"axis{n}": {"channel": channel, "um_per_count": 1.0} for n, channel in enumerate(channels)}
    documents = {"endpoint": "tcp://127.0.0.1:*", "bind": True, "wire": "bluesky"}
    return parse_config(
        {
            "streams": {"documents": documents, **({"frames": frames} if frames else {})},
            "geometry": {"detector_pixel_um": 75.0},
            "positions": {**axes, "samples_per_frame": samples},
            "files": {"frames_key": "eiger", **files},
        }
    )


class Reader:
    """A file source and the inbox that it fills."""

    def __init__(self, config: Config) -> None:
        self.inbox = Inbox(10_000_000)
        self.source = FileSource(config, self.inbox)

    def tell(self, *events: Event | FramesMissing) -> list[bool]:
        return [self.source.take(event) for event in events]

    def until(self, kind: type[Event], number: int = 1) -> list[Event]:
        """What it has read, up to the `number`-th event of this kind."""
        found: list[Event] = []
        while sum(isinstance(event, kind) for event in found) < number:
            message = self.inbox.get(timeout=20)
            assert message is not None, f"only {found}"
            found += message.events
        return found


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Iterator[Reader]:
    reader = Reader(configuration(**getattr(request, "param", {})))
    yield reader
    reader.source.stop()
    reader.source.check()


def named(path: Path, key: str = "eiger", dataset: str = "/data") -> DataResource:
    return DataResource(f"r-{key}", key, path.as_uri(), "application/x-hdf5", {"dataset": dataset})


def frames_in(events: list[Event]) -> dict[int, np.ndarray]:
    return {event.frame: decode(event.image) for event in events if isinstance(event, FrameArrived)}


LAYOUTS: dict[str, dict[str, Any]] = {
    "as they are": {"data": IMAGES},
    "one chunk each": {"data": IMAGES, "chunks": (1, *SHAPE)},
    "bitshuffled": {"data": IMAGES, "chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")},
    "bitshuffled zstd": {"data": IMAGES, "chunks": (1, *SHAPE), **hdf5plugin.Bitshuffle(cname="zstd")},
    "LZ4": {"data": IMAGES, "chunks": (1, *SHAPE), **hdf5plugin.LZ4()},
    "gzip": {"data": IMAGES, "chunks": (1, *SHAPE), "compression": "gzip"},
    "several in a chunk": {"data": IMAGES, "chunks": (5, 8, 10), **hdf5plugin.Bitshuffle(cname="lz4")},
    "of one event": {"data": IMAGES[None], "chunks": (1, 1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4")},
    "two an event": {"data": IMAGES.reshape(6, 2, *SHAPE)},
    "big-endian": {"data": IMAGES.astype(">u2"), "chunks": (1, *SHAPE)},
    "big-endian, bitshuffled": {
        **{"data": IMAGES.astype(">u4"), "chunks": (1, *SHAPE)},
        **hdf5plugin.Bitshuffle(cname="lz4"),
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_read_bit_by_bit_however_they_are_stored(layout: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", **LAYOUTS[layout])
    data = GrowingDataset(tmp_path / "scan.h5", "data")
    images = data.images(range(N))
    data.close()
    assert len(images) == N
    np.testing.assert_array_equal([decode(image) for image in images], IMAGES)
    verbatim = {"bitshuffled": "bs16-lz4<", "LZ4": "lz4<", "of one event": "bs16-lz4<"}
    assert {image.encoding for image in images} == {verbatim.get(layout, ">" if "big" in layout else "<")} or (
        layout == "big-endian, bitshuffled" and images[0].encoding == "bs32-lz4>"
    )


@pytest.mark.parametrize("shape", [(N,), (1, N), (4, 3), (N, 1)])
def test_values_are_numbered_through_whatever_the_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = RNG.normal(size=N)
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["x"] = values.reshape(shape)
    data = GrowingDataset(tmp_path / "scan.h5", "x")
    for first, stop in ((0, N), (5, 8), (0, 1), (10, 99), (N, N + 5)):
        np.testing.assert_array_equal(data.values(first, stop), values[first:stop])
    data.close()


def test_what_is_no_image_and_no_number_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["text"], file["flat"], file["group/x"] = [b"a", b"b"], np.zeros((3, 4)), 3.0
    with pytest.raises(StreamError, match="holds no sequence of numbers"):
        GrowingDataset(tmp_path / "scan.h5", "text").values(0, 2)
    with pytest.raises(StreamError, match="holds no images"):
        GrowingDataset(tmp_path / "scan.h5", "flat").images([0])
    with pytest.raises(StreamError, match="is no dataset"):
        GrowingDataset(tmp_path / "scan.h5", "group").images([0])


@pytest.mark.parametrize("uri", ["http://localhost/scan.h5", "scan.h5", "file:scan.h5", ""])
def test_only_files_are_read(uri: str) -> None:
    with pytest.raises(StreamError, match="only files can be read"):
        local_path(uri, {})


def test_the_longest_folder_that_fits_is_mapped() -> None:
    paths = {"/data": "/a", "/data/2026": "/b"}
    assert local_path("file://xf03id1/data/2026/scan%201.h5", paths) == Path("/b/scan 1.h5")
    assert local_path("file:///database/x.h5", paths) == Path("/database/x.h5")


def test_a_file_that_comes_late_is_waited_for(reader: Reader, tmp_path: Path) -> None:
    reader.tell(RunStarted(RUN, START), named(tmp_path / "scan.h5"))
    reader.tell(DataRange("r-eiger", RUN, "primary", 0, 0, N, SHAPE), RunStopped(RUN))
    assert reader.inbox.get(timeout=0.2) is None
    (tmp_path / "half.h5").write_bytes(b"not yet HDF5")
    os.replace(tmp_path / "half.h5", tmp_path / "scan.h5")
    assert reader.inbox.get(timeout=0.2) is None
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = IMAGES
    os.replace(tmp_path / "other.h5", tmp_path / "scan.h5")
    events = reader.until(RunStopped)
    np.testing.assert_array_equal([frames_in(events)[number] for number in range(N)], IMAGES)
    assert events[-1] == RunStopped(RUN)
    assert reader.source.counts == {"frames": N}


@pytest.mark.parametrize("reader", [{"wait_s": 0.2}], indirect=True)
def test_what_never_comes_is_counted_and_the_run_goes_on(
    reader: Reader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with h5py.File(tmp_path / "scan.h5", "w", libver="latest") as file:
        file.create_dataset("data", (N, *SHAPE), "u2", chunks=(1, *SHAPE))[: N - 2] = IMAGES[: N - 2]
        file["short"] = np.arange(5.0)
    reader.tell(RunStarted(RUN, START), named(tmp_path / "scan.h5"), named(tmp_path / "scan.h5", "x", "/short"))
    reader.tell(
        DataRange("r-eiger", RUN, "primary", 0, 0, N, SHAPE),
        DataRange("r-x", RUN, "primary", 0, 0, N),
        RunStopped(RUN, "abort"),
    )
    events = reader.until(RunStopped)
    assert sorted(frames_in(events)) == list(range(N - 2))  # the chunks of the others are not in the file: no zeros
    assert events[-1] == RunStopped(RUN, "abort")
    assert reader.source.counts == {"frames": N - 2, "frames_lost": 2, "samples": 5, "samples_lost": N - 5}
    assert any("has no data yet for image 10" in record.message for record in caplog.records)


def test_what_cannot_be_read_is_counted_and_says_why(
    reader: Reader, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = DataResource("r-eiger", "eiger", (tmp_path / "scan.tiff").as_uri(), "image/tiff", {})
    reader.tell(RunStarted(RUN, START), odd)
    reader.tell(DataRange("r-eiger", RUN, "primary", 0, 0, N, SHAPE), DataRange("r-none", RUN, "primary", 0, 0, 1))
    reader.tell(RunStopped(RUN))
    assert reader.until(RunStopped) == [RunStopped(RUN)]
    assert reader.source.counts == {"unreadable": 1, "foreign": 1}
    assert "image/tiff is not understood" in caplog.text


def test_ranges_of_other_streams_and_keys_and_runs_are_left_alone(reader: Reader, tmp_path: Path) -> None:
    reader.tell(RunStarted("no-scan", {"uid": "no-scan"}), RunStarted(RUN, START), named(tmp_path / "scan.h5"))
    reader.tell(named(tmp_path / "scan.h5", "xspress3"))
    reader.tell(
        DataRange("r-eiger", "no-scan", "primary", 0, 0, N, SHAPE),
        DataRange("r-eiger", RUN, "darks", 0, 0, N, SHAPE),
        DataRange("r-xspress3", RUN, "primary", 0, 0, N, SHAPE),
        RunStopped("no-scan"),
        RunStopped(RUN),
    )
    assert reader.until(RunStopped, 2) == [RunStopped("no-scan"), RunStopped(RUN)]
    assert reader.source.counts == {"foreign": 1}


@pytest.mark.parametrize("reader", [{"frames": FRAMES_STREAM}], indirect=True)
def test_frames_that_a_stream_lost_are_read_when_they_are_asked_for(reader: Reader, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("data", data=IMAGES, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))
    reader.tell(RunStarted(RUN, START), named(tmp_path / "scan.h5"))
    # Five frames an event, as legacy resources may have them, the last of which was cut short.
    reader.tell(DataRange("r-eiger", RUN, "primary", 0, 0, 2, (5, *SHAPE)))
    reader.tell(DataRange("r-eiger", RUN, "primary", 2, 2, 3, (5, *SHAPE)), RunStopped(RUN))
    reader.tell(FramesMissing(RUN, np.array([0, 3, 4, 11])), FramesMissing("other", np.array([1])))
    frames = [event for event in reader.until(FrameFound, 4) if isinstance(event, FrameFound)]
    assert {frame.uid for frame in frames} == {RUN}
    found = {frame.frame: decode(frame.image) for frame in frames}
    assert sorted(found) == [0, 3, 4, 11]
    for number, image in found.items():
        np.testing.assert_array_equal(image, IMAGES[number])
    reader.source.stop()
    assert reader.source.counts == {"frames_found": 4, "frames_lost": 1}


def fed(config: Config, documents: list[tuple[str, dict[str, Any]]]) -> tuple[list[Output], FileSource]:
    """What the intake makes of documents and of the files they name."""
    inbox, outputs = Inbox(10_000_000), []
    closed = threading.Event()

    def deliver(output: Output) -> None:
        outputs.append(output)
        if isinstance(output, ScanClosed):
            closed.set()

    files = FileSource(config, inbox)
    intake = Intake(config, inbox, deliver, files=files.take)
    for name, document in documents:
        message = Message("documents", [b" " + name.encode() + b" " + msgpack_numpy.packb(document)], 0.0)
        inbox.put(message, message.size)
    assert closed.wait(20), (intake.status(), files.counts)
    files.stop()
    intake.stop()
    for part in (files, intake):
        part.check()
    return outputs, files


def check_joined(outputs: list[Output], positions_um: np.ndarray, images: np.ndarray = IMAGES) -> None:
    batches = [output.batch for output in outputs if isinstance(output, Joined)]
    indices = np.concatenate([batch.indices for batch in batches])
    assert sorted(indices.tolist()) == list(range(N))
    np.testing.assert_array_equal(np.concatenate([batch.counts for batch in batches]), images[indices])
    found_um = 1e6 * np.concatenate([batch.positions_m for batch in batches])
    np.testing.assert_allclose(found_um, positions_um[indices], rtol=1e-12)


def test_a_scan_of_hxn_is_caught_up_with_when_its_files_are_named(tmp_path: Path) -> None:
    documents = json.loads((DOCUMENTS / "hxn_fly2dpd_reconstructed.json").read_text())
    text = json.dumps(documents).replace("10000", str(N)).replace(f"{N}0,", f"{10 * N},")
    documents = [(name, document) for name, document in json.loads(text)]
    documents[0][1].update(START)
    samples = RNG.integers(-9000, 9000, (2, 10 * N))
    folder = tmp_path / "legacy" / "2026" / "04" / "01"
    folder.mkdir(parents=True)
    with h5py.File(folder / "panda_rbdata_20260401_120000_abcdef.h5", "w") as file:
        file["INENC2.VAL.Value"], file["INENC3.VAL.Value"] = samples
    with h5py.File(folder / "abc_000000.h5", "w") as file:
        # As recorded: already mirrored against the stream.
        file.create_dataset("entry/data/data", data=IMAGES[:, :, ::-1], chunks=(1, *SHAPE), compression="gzip")
    config = hxn_configuration(tmp_path / "legacy")
    outputs, files = fed(config, documents)
    check_joined(outputs, samples[::-1].reshape(2, N, 10).mean(axis=2).T)
    closed = outputs[-1]
    assert isinstance(closed, ScanClosed)
    assert (closed.report.paired, closed.report.surplus_samples, closed.report.reason) == (N, 0, "complete")
    assert files.counts == {"frames": N, "samples": 20 * N}


def hxn_configuration(folder: Path) -> Config:
    values = configuration(("/INENC3.VAL.Value", "/INENC2.VAL.Value"), samples=10).model_dump(exclude_none=True)
    values["files"] = {
        "frames_key": "eiger2_image",
        "paths": {"/data": str(folder)},
        "frames": {"orientation": "fliplr"},
    }
    return parse_config(values)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (IMAGES[0], np.uint16),
        (IMAGES[:1], np.uint16),  # one image an event
        (IMAGES[0].astype(">u2"), np.uint16),
        (IMAGES[0].tolist(), np.uint32),
        (IMAGES[0] - 9.5, np.float64),
    ],
)
def test_an_image_in_an_event_is_taken_as_it_is(reader: Reader, value: Any, dtype: type) -> None:
    reader.tell(RunStarted(RUN, START), Reading(RUN, "primary", 3, {"eiger": value}))
    image = frames_in(reader.until(FrameArrived))[3]
    np.testing.assert_array_equal(image, np.asarray(value).reshape(SHAPE))
    assert image.dtype == dtype


@pytest.mark.parametrize("value", ["text", 3, [[1, 2], [3]], [], np.zeros((2, 4, 4)), {"a": 1}, [["a"]]])
def test_what_is_no_image_in_an_event_is_counted(reader: Reader, value: Any) -> None:
    reader.tell(RunStarted(RUN, START), Reading(RUN, "primary", 0, {"eiger": value, "x": {}}), RunStopped(RUN))
    assert reader.until(RunStopped) == [RunStopped(RUN)]
    assert reader.source.counts == {"unreadable": 2}


def test_positions_and_images_may_be_in_the_events_themselves() -> None:
    keys = {"x": {"shape": [], "dtype": "number"}, "y": {"shape": []}, "eiger": {"shape": list(SHAPE)}}
    positions_um = RNG.uniform(-1, 1, (N, 2))
    column = {"x": positions_um[:, 0], "y": positions_um[:, 1], "eiger": IMAGES}
    numbers = list(range(1, N + 1))
    page = {"descriptor": "d", "seq_num": numbers[:8], "data": {key: values[:8] for key, values in column.items()}}
    step = {"uid": RUN, "time": 1.0, "extents": [[-1, 1], [-1, 1]], "shape": [3, 4]}  # a grid scan of Bluesky's
    documents: list[tuple[str, dict[str, Any]]] = [
        ("start", step),
        ("descriptor", {"uid": "d", "run_start": RUN, "name": "primary", "data_keys": keys}),
        ("event_page", page),
    ]
    for row in range(8, N):
        data = {key: values[row] for key, values in column.items()}
        documents.append(("event", {"descriptor": "d", "seq_num": row + 1, "data": data}))
    documents.append(("stop", {"run_start": RUN, "exit_status": "success"}))
    outputs, files = fed(configuration(), documents)
    check_joined(outputs, positions_um)
    assert files.counts == {"frames": N, "samples": 2 * N}
