"""What is recorded is what came: bit by bit, in the order of arrival, in the folder of its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest

from ptyinr_stream.assembler import Joined, Output, ScanClosed
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    EncodedImage,
    Event,
    FrameArrived,
    FrameTimed,
    PixelMaskSent,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)
from ptyinr_stream.formats import read_scan
from ptyinr_stream.formats.recording import read_run
from ptyinr_stream.joining import Joining
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.recordings.folder import Recording, unfinished
from ptyinr_stream.wire.codecs import decode, encode

Y, X, TIME = "/INENC3.VAL.Value", "/INENC2.VAL.Value", "/PCAP.TS_TRIG.Value"
SHAPE = (12, 10)
NX, NY = 4, 3
N = NX * NY


def configuration(folder: Path, **recording: Any) -> Config:
    stream = {"endpoint": "tcp://127.0.0.1:*"}
    return parse_config(
        {
            "streams": {
                "documents": {**stream, "wire": "bluesky"},
                "frames": {**stream, "wire": "eiger_v1"},
                "positions": {**stream, "wire": "panda"},
            },
            "geometry": {"detector_pixel_um": 75.0},
            "frames": {"orientation": "fliplr", "window": [10, 8]},
            "positions": {
                "axis0": {"channel": Y, "um_per_count": -1e-4},
                "axis1": {"channel": X, "um_per_count": 1e-4},
                "samples_per_frame": 2,
                "motors": [1, 0],
            },
            "recording": {"folder": str(folder), "free_gb": 0.0, **recording},
        }
    )


def image(frame: int, encoding: str = "bs16-lz4<", seed: int = 0) -> EncodedImage:
    pixels = np.random.default_rng((seed, frame)).poisson(3, SHAPE).astype(np.uint16)
    return EncodedImage(encode(pixels, encoding), SHAPE, np.dtype(np.uint16), encoding)


def start(uid: str = "run-a", nx: int = NX, ny: int = NY) -> RunStarted:
    scan = {
        "type": "2D_FLY_PANDA",
        "scan_input": [-1.0, 1.0, float(nx), -1.0, 1.0, float(ny)],
        "detector_distance": 2.0,
    }
    extras = {"array": np.arange(3), "pair": (1, 2), 5: None, "bytes": b"\x00\n", "one": np.float32(2), "nan": 1j}
    return RunStarted(uid, {"uid": uid, "shape": [nx, ny], "scan": scan, "extras": extras})


def positions(first: int, n: int, shift: float = 0) -> PositionsArrived:
    samples = shift + np.arange(first, first + n, dtype=float)
    return PositionsArrived(first, {Y: 10 * samples, X: -7 * samples, TIME: 1e-3 * samples})


def frames(series: int, numbers: range, encoding: str) -> Iterator[Event]:
    for number in numbers:
        yield FrameArrived(series, number, image(number, encoding, series))
        yield FrameTimed(series, number, 10 * number, 10 * number + 9)


def scan(
    uid: str = "run-a", series: int = 7, encoding: str = "bs16-lz4<", shift: float = 0, ny: int = NY
) -> list[Event]:
    n = NX * ny
    trusted = np.ones(SHAPE, bool)
    trusted[3, 4] = False
    return [
        start(uid, ny=ny),
        BaselineRead(uid, {"dcm_th": 9.5}),
        CaptureStarted(),
        SeriesStarted(series, n, {"ntrigger": n, "nimages": 1}),
        PixelMaskSent(series, trusted),
        positions(0, 7, shift),
        *frames(series, range(n), encoding),
        positions(7, 2 * n - 7, shift),
        SeriesEnded(series),
        CaptureEnded(2),
        RunStopped(uid),
    ]


class Life:
    """A daemon's life, without sockets: an assembler that tells the recorder whose each event is."""

    def __init__(self, config: Config) -> None:
        assert config.recordings is not None
        self.config = config
        attributes = {"configuration": json.dumps(config.model_dump(mode="json")), "version": "1"}
        self.recorder = Recorder(config.recordings, config.recording, config.assembly, attributes)
        self.joining = Joining(config)
        self.outputs: list[Output] = []

    def feed(self, *events: Event, record: bool = True) -> None:
        for event in events:
            now = time.monotonic()
            if record:
                self.recorder.take(event, now)
            for output in self.joining.feed(event, now):
                self.recorder.follow(output, now)
                self.outputs.append(output)

    def go_on(self) -> None:
        """Resume what a life before this one has left unfinished."""
        for found in unfinished(self.config.recordings or Path()):
            with found:
                self.recorder.resume(found.uid, found.folder, time.monotonic())
                self.feed(*(entry.event for entry in found.events()), record=False)

    def end(self) -> None:
        for output in self.joining.finish(time.monotonic()):
            self.recorder.follow(output, time.monotonic())
            self.outputs.append(output)
        self.recorder.close()


def recorded(folder: Path) -> list[Event]:
    with Recording(folder) as recording:
        events = [found.event for found in recording.events()]
        assert recording.problems == []
    return events


def assert_same(found: list[Event], sent: list[Event]) -> None:
    assert [type(event) for event in found] == [type(event) for event in sent]
    for one, other in zip(found, sent, strict=True):
        match other:
            case PositionsArrived():
                assert isinstance(one, PositionsArrived)
                assert one.first_sample == other.first_sample
                assert one.channels.keys() == other.channels.keys()
                for name, values in other.channels.items():
                    np.testing.assert_array_equal(one.channels[name], values)
            case PixelMaskSent():
                assert isinstance(one, PixelMaskSent)
                np.testing.assert_array_equal(one.trusted, other.trusted)
            case RunStarted():
                assert repr(one) == repr(other)
            case _:
                assert one == other


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "bs16-lz4>", "lz4<", "<", ">", "", "raw"])
def test_a_recording_gives_back_what_came_in_the_order_it_came(tmp_path: Path, encoding: str) -> None:
    life = Life(configuration(tmp_path))
    events = scan(encoding=encoding)
    life.feed(*events)
    life.end()
    assert_same(recorded(tmp_path / "run-a"), events)
    with Recording(tmp_path / "run-a") as recording:
        assert recording.standing.state == "complete"
        assert recording.standing.report["paired"] == N
        assert not recording.unfinished
    assert unfinished(tmp_path) == []


def test_a_recording_is_the_scan_that_it_was_live(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    life.feed(*scan())
    life.end()
    live = {
        int(index): (counts, position)
        for output in life.outputs
        if isinstance(output, Joined)
        for index, counts, position in zip(
            output.batch.indices, output.batch.counts, output.batch.positions_m, strict=True
        )
    }
    run = read_run(tmp_path / "run-a")
    assert run.indices.tolist() == sorted(live) == list(range(N))
    assert run.scan.counts.shape == (N, 10, 8)
    for number in range(N):
        np.testing.assert_array_equal(run.scan.counts[number], live[number][0])
        np.testing.assert_array_equal(run.scan.positions_m[number], live[number][1])
    (closed,) = [output for output in life.outputs if isinstance(output, ScanClosed)]
    assert run.report == closed.report
    everything = np.stack([live[number][0] for number in range(N)])
    np.testing.assert_array_equal(np.asarray(run.scan.counts), everything)
    np.testing.assert_array_equal(run.scan.counts[2:9:3, 1:], everything[2:9:3, 1:])
    np.testing.assert_array_equal(run.scan.counts[np.array([5, 1])], everything[[5, 1]])
    np.testing.assert_array_equal(read_scan(tmp_path / "run-a").rounded().counts[3], everything[3])


def test_what_memory_had_no_room_for_is_in_the_recording_and_joined_later(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    small = config.model_copy(update={"assembly": config.assembly.model_copy(update={"waiting_mb": 1e-6})})
    life = Life(small)
    events = scan()
    life.feed(*sorted(events, key=lambda event: isinstance(event, PositionsArrived | RunStopped)))
    life.end()
    (closed,) = [output for output in life.outputs if isinstance(output, ScanClosed)]
    assert (closed.report.paired, closed.report.dropped_for_memory) == (0, N)
    assert read_run(tmp_path / "run-a", config).indices.tolist() == list(range(N))


def test_any_hdf5_program_finds_all_frames_and_positions_in_the_master(tmp_path: Path) -> None:
    assert hdf5plugin  # its filter is registered
    life = Life(configuration(tmp_path))
    life.feed(*scan())
    life.end()
    with h5py.File(tmp_path / "run-a" / "recording.h5") as file:
        master: Any = file
        assert master.attrs["uid"] == b"run-a"
        assert master.attrs["state"] == b"complete"
        np.testing.assert_array_equal(master["frames/id"][()], [[7, frame] for frame in range(N)])
        np.testing.assert_array_equal(master["frames/data"][4], decode(image(4, seed=7)))
        names = [json.loads(document)["$type"] for document in master["documents"][()]]
        assert names == ["RunStarted", "BaselineRead", "RunStopped"]
        assert master["positions/first_sample"][()].tolist() == [0, 7]
        np.testing.assert_array_equal(master["positions"][Y.strip("/")][()], 10.0 * np.arange(2 * N))


def test_another_reader_sees_a_growing_recording(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    events = scan()
    life.feed(*events[:12])
    assert life.recorder.sync()
    assert_same(recorded(tmp_path / "run-a"), events[:12])
    (growing,) = unfinished(tmp_path)
    with growing, h5py.File(tmp_path / "run-a" / "recording.h5", swmr=True) as file:
        master: Any = file
        assert growing.uid == "run-a"
        assert master["frames/data"].shape[0] == 3
        life.feed(*events[12:16])
        assert life.recorder.sync()
    assert_same(recorded(tmp_path / "run-a"), events[:16])
    with h5py.File(tmp_path / "run-a" / "recording.h5", swmr=True) as file:
        master = file
        assert master["frames/data"].shape[0] == 5
        np.testing.assert_array_equal(master["frames/data"][4], decode(image(4, seed=7)))
    life.feed(*events[16:])
    life.end()
    assert_same(recorded(tmp_path / "run-a"), events)


def test_what_came_before_its_start_document_is_recorded_in_the_order_of_arrival(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    document, baseline, *rest = scan()
    events = [*rest[:-1], document, baseline, rest[-1]]
    life.feed(*events)
    life.end()
    assert_same(recorded(tmp_path / "run-a"), events)
    assert read_run(tmp_path / "run-a").report.paired == N


def test_two_scans_one_after_the_other_keep_to_their_folders(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    first, second = scan("run-a", 7), scan("run-b", 8)
    life.feed(*first, SeriesStarted(100, 1), FrameArrived(100, 0, image(0)), SeriesEnded(100), *second)
    life.end()
    assert_same(recorded(tmp_path / "run-a"), first)
    assert_same(recorded(tmp_path / "run-b"), second)
    assert life.recorder.status.counts["unbound_frames"] == 1  # the detector's warm-up
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run-a", "run-b"]


def test_a_series_number_that_comes_again_is_another_series(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    first, second = scan("run-a", 7), scan("run-b", 7)
    life.feed(*first, *second)
    life.end()
    assert_same(recorded(tmp_path / "run-a"), first)
    assert_same(recorded(tmp_path / "run-b"), second)


def test_a_capture_whose_start_was_lost_is_recorded_with_its_run(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    begun, baseline, _, armed, mask, samples, *rest = scan("run-b", 8, shift=5)
    events = [samples, begun, baseline, armed, mask, *rest]
    life.feed(*scan("run-a", 7), *events)
    life.end()
    assert [output.report.paired for output in life.outputs if isinstance(output, ScanClosed)] == [N, N]
    assert_same(recorded(tmp_path / "run-b"), events)
    assert read_run(tmp_path / "run-b").report.paired == N


def test_the_same_uid_again_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        life = Life(configuration(tmp_path))
        life.feed(*scan())
        life.end()
    assert_same(recorded(tmp_path / "run-a"), scan())
    assert_same(recorded(tmp_path / "run-a-2"), scan())
    with Recording(tmp_path / "run-a-2") as again:
        assert again.uid == "run-a"


def test_frames_of_another_form_are_kept_as_they_came(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    events = scan()
    wide = np.ones(SHAPE, np.uint32)
    odd = [
        FrameArrived(7, 3, EncodedImage(encode(wide, "bs32-lz4<"), SHAPE, np.dtype(np.uint32), "bs32-lz4<")),
        FrameArrived(7, 3, replace(image(3), encoding="lz4<", data=encode(np.ones(SHAPE, np.uint16), "lz4<"))),
    ]
    life.feed(*events[:10], *odd, *events[10:])
    life.end()
    assert_same(recorded(tmp_path / "run-a"), [*events[:10], *odd, *events[10:]])
    assert read_run(tmp_path / "run-a").report.misfits + read_run(tmp_path / "run-a").report.duplicates == 2


def test_bytes_that_are_no_image_are_recorded_too(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    events = scan()
    life.feed(*events[:8])
    broken = FrameArrived(7, 1, replace(image(1), data=b"\xff" * 40))
    life.recorder.take(broken, time.monotonic())
    life.feed(*events[8:])
    life.end()
    assert_same(recorded(tmp_path / "run-a"), [*events[:8], broken, *events[8:]])
    assert read_run(tmp_path / "run-a").report.paired == N


def test_a_second_life_goes_on_in_segments_of_its_own(tmp_path: Path) -> None:
    events = scan()
    first = Life(configuration(tmp_path))
    first.feed(*events[:13])
    first.end()
    with Recording(tmp_path / "run-a") as recording:
        assert recording.standing.state == "interrupted"

    second = Life(configuration(tmp_path))
    second.go_on()
    second.feed(*events[13:])
    second.end()

    assert_same(recorded(tmp_path / "run-a"), events)
    assert [path.name for path in tmp_path.iterdir()] == ["run-a"]
    names = sorted(path.name for path in (tmp_path / "run-a").glob("*.h5"))
    assert names == [f"{life:03d}-{part}.h5" for life in (0, 1) for part in ("journal", "series-7")] + ["recording.h5"]
    run = read_run(tmp_path / "run-a")
    assert run.report.paired == N
    with h5py.File(tmp_path / "run-a" / "recording.h5") as file:
        master: Any = file
        assert master["frames/id"][:, 1].tolist() == list(range(N))
        np.testing.assert_array_equal(master["frames/data"][N - 1], decode(image(N - 1, seed=7)))
        assert len(master["documents"]) == 3
        assert master.attrs["state"] == b"complete"


def test_a_torn_segment_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    events = scan()
    for part in (slice(None, 13), slice(13, None)):
        life = Life(configuration(tmp_path))
        life.go_on()
        life.feed(*events[part])
        life.end()
    torn = tmp_path / "run-a" / "001-series-7.h5"
    torn.write_bytes(torn.read_bytes()[:300])
    with Recording(tmp_path / "run-a") as recording:
        (problem,) = recording.problems
        assert "001-series-7.h5" in problem
        there = [entry.event for entry in recording.events()]
    late = [event for event in events[13:] if isinstance(event, FrameArrived)]
    assert_same(there, [event for event in events if event not in late])
    assert read_run(tmp_path / "run-a").report.paired == N - len(late)


def test_a_segment_cut_anywhere_never_gives_a_wrong_event(tmp_path: Path) -> None:
    events = scan()
    life = Life(configuration(tmp_path))
    life.feed(*events)
    life.end()
    segment = tmp_path / "run-a" / "000-series-7.h5"
    whole = segment.read_bytes()
    frames_sent = [event for event in events if isinstance(event, FrameArrived)]
    for length in range(0, len(whole), 997):
        segment.write_bytes(whole[:length])
        with Recording(tmp_path / "run-a") as recording:
            found = [entry.event for entry in recording.events()]
            assert recording.problems
        assert [event for event in found if isinstance(event, FrameArrived)] == [
            event for event in frames_sent if event in found
        ]


def test_a_folder_without_a_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match="holds no recording"):
        read_scan(tmp_path)


def test_a_run_that_is_no_scan_is_not_recorded_and_counted(tmp_path: Path) -> None:
    life = Life(configuration(tmp_path))
    life.feed(RunStarted("count", {"uid": "count"}), RunStopped("count"), *scan())
    life.end()
    assert [path.name for path in tmp_path.iterdir()] == ["run-a"]
    assert life.recorder.status.counts["unbound_events"] == 2


CHILD = """
import signal
import sys
from pathlib import Path
from test_recorder import Life, configuration, scan

folder, first = Path(sys.argv[1]), int(sys.argv[2])
life = Life(configuration(folder))
life.go_on()
for number in range(first, first + 180, 3):
    life.feed(*scan(ny=60)[number : number + 3])
    assert life.recorder.sync()
    print(number + 3, flush=True)
signal.pause()
"""


def record_until_killed(folder: Path, first: int, lines: int) -> int:
    """Record in a child from event `first` on, kill it after some confirmations, and return the last."""
    command = [sys.executable, "-c", CHILD, str(folder), str(first)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    confirmed = first
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": paths}) as child:
        assert child.stdout is not None
        for _ in range(lines):
            confirmed = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        confirmed = max([confirmed, *(int(line) for line in child.stdout.read().split(b"\n")[:-1])])
    assert child.returncode == -signal.SIGKILL
    return confirmed


@pytest.mark.system
@pytest.mark.parametrize("seed", range(4))
def test_what_was_flushed_before_a_kill_is_read_bit_by_bit_and_another_life_goes_on(tmp_path: Path, seed: int) -> None:
    sent, random, confirmed = scan(ny=60), np.random.default_rng(seed), 0
    for _ in range(2):
        confirmed = record_until_killed(tmp_path, confirmed, int(random.integers(1, 50)))
        (found,) = unfinished(tmp_path)
        with found:
            there = [entry.event for entry in found.events()]
            assert found.problems == []
        assert len(there) >= confirmed
        assert_same(there, sent[: len(there)])
        confirmed = len(there)
    life = Life(configuration(tmp_path))
    life.go_on()
    life.feed(*sent[confirmed:])
    life.end()
    assert_same(recorded(tmp_path / "run-a"), sent)
    assert read_run(tmp_path / "run-a").report.paired == 240
    with h5py.File(tmp_path / "run-a" / "recording.h5", swmr=True) as file:
        master: Any = file
        assert master["frames/id"][:, 1].tolist() == list(range(240))
        assert master["frames/data"][239].tolist() == decode(image(239, seed=7)).tolist()
