"""Bluesky as it is: a RunEngine's own Publisher in a process, through bluesky-0MQ-proxy in another, to the intake."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ptyinr_stream.assembler import BaselineAdded, Output, ScanClosed, ScanOpened
from ptyinr_stream.channels import Inbox
from ptyinr_stream.config import Config, parse_config
from ptyinr_stream.intake import Intake
from ptyinr_stream.sources.zeromq import Receiver

pytestmark = pytest.mark.system

LONG_S = 60.0
PROXY = "from bluesky.commandline.zmq_proxy import main; main()"
RUN_ENGINE = """
import json, pickle, select, sys
import msgpack, msgpack_numpy
from bluesky import RunEngine
from bluesky.callbacks.zmq import Publisher
from bluesky.plans import grid_scan
from bluesky.preprocessors import baseline_wrapper
from ophyd.sim import det, motor, motor1, motor2

serializer = {
    "pickle": pickle.dumps,
    "msgpack": lambda document: msgpack.packb(document, default=msgpack_numpy.encode),
    "json": lambda document: json.dumps(document).encode(),
}[sys.argv[2]]
options = {} if sys.argv[2] == "pickle" else {"serializer": serializer}
publisher = Publisher(sys.argv[1], prefix=b"hxn", **options)
while not select.select([sys.stdin], [], [], 0.05)[0]:
    publisher("greeting", {})
engine = RunEngine({"scan_name": "star"})
engine.subscribe(publisher)
engine(baseline_wrapper(grid_scan([det], motor1, -1, 1, 3, motor2, -2, 2, 4, False), [motor]))
publisher.close()
"""


def configuration(endpoint: str, **documents: Any) -> Config:
    stream = {"endpoint": "tcp://127.0.0.1:*", "bind": True}
    axes = {f"axis{n}": {"channel": channel, "um_per_count": 1.0} for n, channel in enumerate("xy")}
    return parse_config(
        {
            "streams": {
                "documents": {"endpoint": endpoint, "wire": "bluesky", "prefix": "hxn", **documents},
                "frames": {**stream, "wire": "eiger_v1"},
                "positions": {**stream, "wire": "panda"},
            },
            "geometry": {"detector_pixel_um": 75.0},
            "positions": {**axes, "samples_per_frame": 1},
            "assembly": {"settle_s": 0.1},
        }
    )


@contextlib.contextmanager
def process(*command: str) -> Iterator[subprocess.Popen[str]]:
    made = subprocess.Popen([sys.executable, "-c", *command], stdin=subprocess.PIPE, text=True)
    try:
        yield made
    finally:
        made.kill()
        made.communicate()


@contextlib.contextmanager
def a_run(folder: Path, serializer: str, **documents: Any) -> Iterator[tuple[Intake, queue.Queue[Output]]]:
    """The intake after a RunEngine has sent a run through the proxy and has ended."""
    senders, readers = f"ipc://{folder}/in", f"ipc://{folder}/out"
    config = configuration(readers, **documents)
    inbox, outputs = Inbox(10_000_000), queue.Queue[Output]()
    intake = Intake(config, inbox, outputs.put)
    receiver = Receiver("documents", config.streams.documents, inbox)
    try:
        with (
            process(PROXY, "--in-address", senders, "--out-address", readers),
            process(RUN_ENGINE, senders, serializer) as sender,
        ):
            ends = time.monotonic() + LONG_S
            while not intake.counts.get("documents.unknown_name"):
                assert sender.poll() is None
                assert time.monotonic() < ends, "the RunEngine is not heard"
                receiver._thread.join(0.02)
            sender.stdin.write("\n")
            sender.stdin.flush()
            assert sender.wait(LONG_S) == 0
            yield intake, outputs
    finally:
        receiver.stop()
        intake.stop()
        receiver.check()
        intake.check()


def check_run(outputs: queue.Queue[Output]) -> None:
    opened, before, after, closed = (outputs.get(timeout=LONG_S) for _ in range(4))
    assert isinstance(opened, ScanOpened)
    assert (opened.expected, opened.document["scan_name"]) == (12, "star")
    for reading in (before, after):
        assert isinstance(reading, BaselineAdded)
        assert (reading.uid, reading.values["motor"]) == (opened.uid, 0)
    assert isinstance(closed, ScanClosed)
    assert (closed.uid, closed.report.exit_status) == (opened.uid, "success")


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
def test_the_documents_of_a_run_arrive(tmp_path: Path, serializer: str) -> None:
    with a_run(tmp_path, serializer) as (intake, outputs):
        check_run(outputs)
        # start, two descriptors, two readings of the baseline, twelve events, stop
        assert intake.counts["documents.documents"] == 18
        assert set(intake.counts) == {"documents.documents", "documents.unknown_name"}


def test_the_default_of_the_publisher_is_refused_with_what_to_configure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_run(tmp_path, "pickle") as (intake, outputs):
        ends = time.monotonic() + LONG_S
        while intake.counts.get("documents.pickle_refused", 0) < 18:
            assert time.monotonic() < ends, intake.counts
            intake._thread.join(0.02)
        assert outputs.empty()
    (said,) = (record.message for record in caplog.records if "pickle" in record.message)
    assert "serializer" in said
    assert "unpickle_from_anybody = true" in said


def test_the_default_of_the_publisher_is_read_where_it_is_accepted_from_anybody(tmp_path: Path) -> None:
    with a_run(tmp_path, "pickle", unpickle_from_anybody=True) as (intake, outputs):
        check_run(outputs)
        assert intake.counts["documents.documents"] == 18
