"""What recording costs: `python tests/benchmarks/recorder.py [--folder DISK] [--frames 4000] [--memory 64000]`.

Three tables. The cost of a frame in the recorder's thread, flushed every 100. The latency of pairing beside it: frames
come at a rate and are decoded, cropped and joined, in the same process, without and with a recorder; how long after its
time each was joined, with the recorder's slowest flush. The memory of the process over many small frames, as fast as
they can be made. Frames are Poisson counts of 0.3 a pixel, bitshuffled LZ4; ten different ones, taken in turn.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from scans import head, row

from ptyinr_stream.assembler import Assembler, Frame
from ptyinr_stream.config import AssemblyConfig, AxisConfig, FramesConfig, PositionsConfig, RecordingConfig
from ptyinr_stream.events import CaptureStarted, EncodedImage, FrameArrived, PositionsArrived, RunStarted, SeriesStarted
from ptyinr_stream.frames import FrameConvention
from ptyinr_stream.recorder import Recorder
from ptyinr_stream.recordings.segment import SegmentWriter
from ptyinr_stream.wire.codecs import decode, encode

POSITIONS = PositionsConfig(
    axis0=AxisConfig(channel="y", um_per_count=1e-4), axis1=AxisConfig(channel="x", um_per_count=1e-4)
)
SHAPES = {"256 x 256 uint16": ((256, 256), np.uint16), "1062 x 1028 uint16": ((1062, 1028), np.uint16)}


def images(shape: tuple[int, int], kind: type[np.unsignedinteger]) -> list[EncodedImage]:
    """Ten frames as they come."""
    encoding = f"bs{8 * np.dtype(kind).itemsize}-lz4<"
    random = np.random.default_rng(0)
    pixels = [random.poisson(0.3, shape).astype(kind) for _ in range(10)]
    return [EncodedImage(encode(frame, encoding), shape, np.dtype(kind), encoding) for frame in pixels]


def write(folder: Path, sent: list[EncodedImage], frames: int) -> tuple[float, float, float]:
    """Milliseconds a frame, of the median and of the slowest flush of 100."""
    segment = SegmentWriter(folder / "segment.h5", {}, FrameArrived(1, 0, sent[0]))
    flushes, began = [], time.perf_counter()
    for number in range(frames):
        segment.append(number, 1.0, FrameArrived(1, number, sent[number % 10]))
        if number % 100 == 99:
            start = time.perf_counter()
            segment.flush()
            flushes.append(1e3 * (time.perf_counter() - start))
    spent = 1e3 * (time.perf_counter() - began) / frames
    segment.close()
    return spent, float(np.median(flushes)), max(flushes)


def pair(sent: list[EncodedImage], frames: int, rate_hz: float, recorder: Recorder | None) -> np.ndarray:
    """Milliseconds from the time at which each frame came to its joining."""
    assembler, convention = Assembler(POSITIONS, AssemblyConfig()), FrameConvention(FramesConfig(window=(128, 128)))
    grid = [0.0, 1.0, float(frames), 0.0, 1.0, 1.0]
    samples = np.arange(10.0 * frames)
    first = [
        RunStarted("run", {"uid": "run", "scan": {"type": "2D_FLY_PANDA", "scan_input": grid}}),
        SeriesStarted(1, frames),
        CaptureStarted(),
        PositionsArrived(0, {"y": samples, "x": samples}),
    ]
    latencies, began = [], time.monotonic() + 0.5
    for number in range(-len(first), frames):
        due = began + max(number, 0) / rate_hz
        time.sleep(max(0.0, due - time.monotonic()))
        event = first[number] if number < 0 else FrameArrived(1, number, sent[number % 10])
        if recorder is not None:
            recorder.take(event, due)
        ready = event
        if isinstance(event, FrameArrived):
            ready = Frame(1, event.frame, *convention.apply(decode(event.image)))
        for output in assembler.feed(ready, due):
            if recorder is not None:
                recorder.follow(output, due)
        if number >= 0:
            latencies.append(1e3 * (time.monotonic() - due))
    return np.array(latencies)


def make(folder: Path) -> Recorder:
    """A recorder of a bare configuration."""
    return Recorder(folder, RecordingConfig(free_gb=0), AssemblyConfig(), {"configuration": "{}"})


def resident_mb() -> float:
    """Memory of the process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=None, help="On the disk to measure.")
    arguments.add_argument("--frames", type=int, default=4000)
    arguments.add_argument("--memory", type=int, default=64_000)
    chosen = arguments.parse_args()
    folder = Path(tempfile.mkdtemp(dir=chosen.folder))
    try:
        head(["frame", "kB", "ms a frame", "flush of 100, ms median", "worst"])
        for name, (shape, kind) in SHAPES.items():
            sent = images(shape, kind)
            spent, median, worst = write(folder, sent, chosen.frames)
            row([name, len(sent[0].data) // 1000, f"{spent:.3f}", f"{median:.1f}", f"{worst:.1f}"])
            (folder / "segment.h5").unlink()
        head(["frame", "frames/s", "recorder", "pairing p50, ms", "p99", "worst", "slowest flush, ms"])
        for name, rate_hz in (("256 x 256 uint16", 1000.0), ("1062 x 1028 uint16", 100.0)):
            sent = images(*SHAPES[name])
            for recorded in (False, True):
                recorder = make(folder / "pair") if recorded else None
                times = pair(sent, int(chosen.frames * rate_hz / 1000), rate_hz, recorder)
                flush = ""
                if recorder is not None:
                    recorder.close()
                    flush = f"{1e3 * recorder.status.slowest_flush_s:.1f}"
                    shutil.rmtree(folder / "pair")
                p50, p99 = np.percentile(times, [50, 99])
                row(
                    [
                        name,
                        rate_hz,
                        "yes" if recorded else "no",
                        f"{p50:.2f}",
                        f"{p99:.2f}",
                        f"{times.max():.1f}",
                        flush,
                    ]
                )
        sent, recorder = images((64, 64), np.uint16), make(folder / "memory")
        recorder.opened("run", time.monotonic())
        recorder.take(SeriesStarted(1, chosen.memory), time.monotonic())
        recorder.bound("run", time.monotonic(), 1)
        head(["frames", "memory, MB", "queued, MB", "lag, s"])
        for number in range(chosen.memory):
            recorder.take(FrameArrived(1, number, sent[number % 10]), time.monotonic())
            if (number + 1) % (chosen.memory // 4) == 0:
                status = recorder.status
                row([number + 1, f"{resident_mb():.0f}", f"{status.queued_bytes / 1e6:.1f}", f"{status.lag_s:.2f}"])
        recorder.close()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
