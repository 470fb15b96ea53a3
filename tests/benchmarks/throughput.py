"""What the way from the sockets to joined batches carries: `python tests/benchmarks/throughput.py [--frames 64000]
[--rate 2000] [--shape 256,256] [--window 256] [--dtype uint16] [--socket push|pub] [--alone] [--train] [--runs 3]`.

A second process sends one scan over TCP, its images encoded beforehand (bitshuffled LZ4, some dead pixels in each), its
positions as HXN's PandA sends them, ten samples a frame, `--flush` seconds a message. A third one receives, decodes,
crops and joins, as `ptyinr-stream run` does, and this one drops the batches; with `--threads-only` threads of this one
do all that. With `--train` a thread of it takes steps of a real trainer all the while. `--rate 0` sends as fast as a
PUSH socket lets it; `--alone` sends each part as a message of its own, as HXN's proxy does; `--lag` sends frames so
many seconds after their positions, so that frames are the last to come.

Prints a row a run, then the medians: frames joined a second, frames lost, the latency of a joined pair in milliseconds
from the arrival of its last half at the receiver (p50, p99, worst, and p99 once a tenth of the scan is over, when all
memory has been touched) and from its being sent (p99), memory of both processes at each quarter of the scan, the most
the inbox held, steps a second of the trainer, milliseconds of processor time a frame (of both, training included) and
its ratio to the bare decoding of a whole image, and the load average of the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zmq
from scans import head, row
from step_cost import trainer_of

from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.courtesy import give_way
from ptyinr_stream.events import EncodedImage
from ptyinr_stream.outputs import Joined, Output, ScanClosed
from ptyinr_stream.reception import Reception
from ptyinr_stream.reception_process import ReceptionProcess
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import document_message, encoder_counts, json_message, position_messages
from ptyinr_stream.wire.codecs import decode, encode

SERIES = 7
DISTINCT = 64
"""Images that differ; they are sent in turn."""
DEAD = 5
"""Pixels of each image that hold the largest value of its type, as detectors mark them."""
GIVE_UP_S = 30.0
"""Without a new pair after the last message of the sender."""


def images(shape: tuple[int, int], dtype: str) -> Iterator[np.ndarray]:
    """Photons around a bright centre, a long tail and dead pixels."""
    random = np.random.default_rng(0)
    rows, columns = (np.arange(n) - n // 2 for n in shape)
    mean = 200 / (1 + (rows[:, None] ** 2 + columns**2) / 15**2) ** 1.5
    dead = tuple(n // 2 + random.integers(-50, 50, DEAD) for n in shape)
    for _ in range(DISTINCT):
        counts = random.poisson(mean).astype(dtype)
        counts[dead] = np.iinfo(counts.dtype).max
        yield counts


def send(chosen: argparse.Namespace, endpoints: dict[str, str], answer: Connection) -> None:
    """Send a scan, in a process of its own; answers with the times at which frames and positions left."""
    n, rate = chosen.frames, chosen.rate
    kind = f"bs{8 * np.dtype(chosen.dtype).itemsize}-lz4<"
    encoded = [encode(image, kind) for image in images(chosen.shape, chosen.dtype)]
    specs = [
        json_message(
            {
                "htype": "dimage_d-1.0",
                "shape": chosen.shape[::-1],
                "type": chosen.dtype,
                "encoding": kind,
                "size": len(data),
            }
        )
        for data in encoded
    ]
    hashes = [hashlib.md5(data, usedforsecurity=False).hexdigest().encode() for data in encoded]
    track = np.stack([np.linspace(-1e-6, 1e-6, n), np.linspace(-1e-6, 1e-6, n)], axis=1)
    positions = [
        (complete, json_message(message))
        for complete, message in position_messages(
            encoder_counts(track, HXN_ENCODERS), HXN_ENCODERS, rate or 2000.0, chosen.flush
        )
    ]
    context = zmq.Context()
    sockets = {}
    kinds = {"documents": zmq.XPUB, "frames": zmq.PUSH if chosen.socket == "push" else zmq.XPUB, "positions": zmq.XPUB}
    for road, socket_type in kinds.items():
        sockets[road] = context.socket(socket_type)
        if socket_type == zmq.XPUB:
            sockets[road].sndhwm = 0
        sockets[road].connect(endpoints[road])
        if socket_type == zmq.XPUB:
            sockets[road].recv()
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, float(n), -1.0, 1.0, 1.0]}
    sockets["documents"].send(document_message("", "start", {"uid": "scan", "shape": [n, 1], "scan": scan}))
    sockets["positions"].send(json_message({"msg_type": "start"}))
    armed = {"htype": "dheader-1.0", "series": SERIES, "header_detail": "basic"}
    sockets["frames"].send_multipart(
        [json_message(armed), json_message({"trigger_mode": "exte", "nimages": 1, "ntrigger": n})]
    )
    frame_sent, positions_sent = np.zeros(n), np.zeros(n)
    began, covered = time.monotonic(), 0
    waiting = iter(positions)
    following = next(waiting, None)
    for frame in range(n):
        if rate and (ahead := began + frame / rate - time.monotonic()) > 0:
            time.sleep(ahead)
        which = frame % DISTINCT
        parts = [
            b'{"htype":"dimage-1.0","series":%d,"frame":%d,"hash":"%s"}' % (SERIES, frame, hashes[which]),
            specs[which],
            encoded[which],
            b'{"htype":"dconfig-1.0","start_time":%d,"stop_time":%d,"real_time":1}' % (2 * frame, 2 * frame + 1),
        ]
        frame_sent[frame] = time.monotonic()
        for message in [[part] for part in parts] if chosen.alone else [parts]:
            sockets["frames"].send_multipart(message)
        while following is not None and following[0] <= frame + chosen.lag * (rate or 2000.0):
            # The message ends within a frame, whose last samples come with the next one.
            stop = n if following is positions[-1] else following[0]
            positions_sent[covered:stop], covered = time.monotonic(), stop
            sockets["positions"].send(following[1])
            following = next(waiting, None)
    sockets["frames"].send(json_message({"htype": "dseries_end-1.0", "series": SERIES}))
    sockets["positions"].send(json_message({"msg_type": "stop", "emitted_frames": len(positions)}))
    answer.send((frame_sent, positions_sent))
    context.destroy(linger=600_000)


class Consumer:
    """Notes when frames are delivered and what memory the processes hold, and drops them."""

    def __init__(self, frames: int) -> None:
        self.received, self.delivered = np.full(frames, np.nan), np.full(frames, np.nan)
        self.processes = [os.getpid()]
        self.closed = threading.Event()
        self.report: Any = None
        self.last = 0.0
        self.memory_mb: list[float] = []
        self._joined = 0

    def __call__(self, output: Output) -> None:
        if isinstance(output, Joined):
            indices = output.batch.indices
            self.last = time.monotonic()
            self.received[indices], self.delivered[indices] = output.at, self.last
            self._joined += len(indices)
            if self._joined >= len(self.delivered) * (len(self.memory_mb) + 1) / 4:
                self.memory_mb.append(sum(map(memory_mb, self.processes)))
        elif isinstance(output, ScanClosed):
            self.report = output.report
            self.closed.set()


class Training(threading.Thread):
    """Takes steps of a real trainer, from `begun` until `stop`."""

    def __init__(self, chosen: argparse.Namespace, late_s: np.ndarray) -> None:
        super().__init__(daemon=True)
        self._late_s = late_s
        self.begun, self._over = threading.Event(), threading.Event()
        self._trainer = trainer_of(256, "cpu") if chosen.train else None
        self.rate = np.nan
        for _ in range(3 if self._trainer else 0):
            self._trainer.step()  # as in the middle of a scan: the first ones are dearer
        self.start()

    def run(self) -> None:
        self.begun.wait()
        began, steps, worked = time.monotonic(), 0, 0.0
        while self._trainer is not None and not self._over.is_set():
            give_way(lambda: float(self._late_s[0]), worked)
            worked = -time.monotonic()
            self._trainer.step()
            worked += time.monotonic()
            steps += 1
            self.rate = steps / (time.monotonic() - began)

    def stop(self) -> None:
        """Wait for the last step."""
        self._over.set()
        self.begun.set()
        self.join()


def configuration(chosen: argparse.Namespace) -> Config:
    def stream(**given: Any) -> dict[str, Any]:
        return {"endpoint": "tcp://127.0.0.1:*", "bind": True, **given}

    return parse_config(
        {
            "streams": {
                "documents": stream(wire="bluesky"),
                "frames": stream(wire="eiger_v1", socket="pull" if chosen.socket == "push" else "sub"),
                "positions": stream(wire="panda"),
            },
            "geometry": {"detector_pixel_um": 75.0},
            "frames": {"orientation": chosen.orientation, "window": [chosen.window, chosen.window]},
            "positions": HXN_ENCODERS.model_dump(),
            "recording": {"enabled": False},
        }
    )


def memory_mb(pid: int) -> float:
    """Of a process, without what it shares with others, and with the shared memory that it made."""
    return sum(
        int(line.split()[1]) / 1e3
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith(("RssAnon:", "RssShmem:") if pid != os.getpid() else "RssAnon:")
    )


def seconds_of(pid: int) -> float:
    """Of the processor, that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_decoding_ms(chosen: argparse.Namespace) -> float:
    """Of a whole image, median."""
    kind = f"bs{8 * np.dtype(chosen.dtype).itemsize}-lz4<"
    spent = []
    for image in images(chosen.shape, chosen.dtype):
        encoded = EncodedImage(encode(image, kind), chosen.shape, np.dtype(chosen.dtype), kind)
        began = time.perf_counter()
        decode(encoded)
        spent.append(time.perf_counter() - began)
    return 1e3 * median(spent)


def measure(chosen: argparse.Namespace) -> list[float]:
    """One scan; the numbers of its row."""
    bare_ms = bare_decoding_ms(chosen)
    config = configuration(chosen)
    consumer = Consumer(chosen.frames)
    reception = (Reception if chosen.threads_only else ReceptionProcess)(config, {}, (), consumer, lambda _: None)
    if isinstance(reception, ReceptionProcess):
        consumer.processes.append(reception.pid)
    spawn = multiprocessing.get_context("spawn")
    answer, theirs = spawn.Pipe()
    sender = spawn.Process(target=send, args=(chosen, reception.endpoints, theirs))
    training = Training(chosen, reception.late_s)
    sender.start()
    spent, times = 0.0, None
    while not consumer.closed.is_set() and (times is None or time.monotonic() < consumer.last + GIVE_UP_S):
        if not training.begun.is_set():
            spent = sum(map(seconds_of, consumer.processes))
            if consumer.last > 0 or reception.status.streams[1]["messages"] > 0:
                training.begun.set()
        consumer.closed.wait(0.1)
        if times is None and answer.poll():
            times = answer.recv()
            consumer.last = max(consumer.last, time.monotonic())
        if sender.exitcode:
            raise SystemExit("the sender has failed")
    spent = sum(map(seconds_of, consumer.processes)) - spent
    training.stop()
    frame_sent, positions_sent = answer.recv() if times is None else times
    sender.join()
    reception.check()
    reception.stop()
    status = reception.status
    joined = np.isfinite(consumer.delivered)
    latency = 1e3 * (consumer.delivered - consumer.received)[joined]
    later = latency[np.flatnonzero(joined) >= chosen.frames // 10]
    from_sent = 1e3 * (consumer.delivered - np.maximum(frame_sent, positions_sent))[joined]
    took = np.nanmax(consumer.delivered) - frame_sent[0]
    p50, p99 = np.percentile(latency, [50, 99])
    if joined.sum() < chosen.frames:
        print(consumer.report, json.dumps(status.counts))
    return [
        joined.sum() / took,
        chosen.frames - joined.sum(),
        *(p50, p99, latency.max(), np.percentile(later, 99), np.percentile(from_sent, 99)),
        *(consumer.memory_mb + 4 * [np.nan])[:4],
        status.intake["inbox_high_water_bytes"] / 1e6,
        training.rate,
        1e3 * spent / chosen.frames,
        1e3 * spent / chosen.frames / bare_ms,
        os.getloadavg()[0],
    ]


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--frames", type=int, default=16_000)
    arguments.add_argument("--rate", type=float, default=2000.0)
    arguments.add_argument("--shape", default="256,256")
    arguments.add_argument("--window", type=int, default=256)
    arguments.add_argument("--dtype", choices=["uint8", "uint16", "uint32"], default="uint16")
    arguments.add_argument("--orientation", default="fliplr")
    arguments.add_argument("--socket", choices=["push", "pub"], default="push")
    arguments.add_argument("--alone", action="store_true")
    arguments.add_argument("--flush", type=float, default=0.4)
    arguments.add_argument("--lag", type=float, default=0.0)
    arguments.add_argument("--train", action="store_true")
    arguments.add_argument("--threads-only", action="store_true")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--runs", type=int, default=3)
    chosen = arguments.parse_args()
    if chosen.socket == "pub" and not chosen.rate:
        arguments.error("a PUB socket needs a --rate: without one the sender's memory would fill")
    chosen.shape = tuple(map(int, chosen.shape.split(",")))
    torch.set_num_threads(chosen.threads)
    head(
        [
            *(
                "frames/s",
                "lost",
                "p50 (ms)",
                "p99",
                "worst",
                "p99 later",
                "p99 from sent",
                "MB at 25 %",
                "50 %",
                "75 %",
                "100 %",
            ),
            *("inbox (MB)", "steps/s", "CPU ms a frame", "to decoding", "load"),
        ]
    )
    runs = [measure(chosen) for _ in range(chosen.runs)]
    for values in [*runs, np.median(runs, axis=0)] if chosen.runs > 1 else runs:
        row(f"{value:.4g}" for value in values)


if __name__ == "__main__":
    main()
