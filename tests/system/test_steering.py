"""What the daemon tells plans, and plans that listen, on a real RunEngine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine

from ptyinr.types import Snapshot
from ptyinr_stream.errors import EndpointError
from ptyinr_stream.metadata import ScanRecord
from ptyinr_stream.publishers.steering import SteeringPublisher

FILE = Path(__file__).parents[2] / "deploy" / "bluesky" / "steer.py"


@pytest.fixture(scope="module")
def steer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("steer", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["steer"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def publisher() -> Iterator[SteeringPublisher]:
    steering = SteeringPublisher("tcp://127.0.0.1:*")
    yield steering
    steering.stop()


@pytest.fixture
def watcher(steer, publisher):
    """That is known to hear."""
    listening = steer.Watcher(publisher.endpoint)
    while listening.newest("hello") is None:
        publisher.open(ScanRecord("hello", 1, 0.0, {}))
        listening._socket.poll(10)
    yield listening
    listening.close()


def snapshot(uid: str, errors: np.ndarray, final: bool = False) -> Snapshot:
    """A scan of 8 x 8 windows, each frame a judge."""
    rows, columns = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    corners = 10.0 * np.stack([rows.ravel(), columns.ravel()], axis=1)
    return Snapshot(
        uid=uid,
        step=10,
        frames=64,
        object=np.ones((100, 100), np.complex64),
        probe=np.ones((1, 20, 20), np.complex64),
        coverage=np.ones((100, 100), np.float32),
        indices=np.arange(64),
        positions_px=corners,
        pixel_m=(1e-8, 1e-8),
        metrics={"heldout_error": float(errors.mean())},
        final=final,
        positions_m=(corners + 10) * 1e-8,
        judges=np.arange(64),
        judged=errors.ravel().astype(float),
    )


def hear(watcher, uid, good, times=500):
    for _ in range(times):
        if (message := watcher.newest(uid)) is not None and good(message):
            return message
        watcher._socket.poll(20)
    raise TimeoutError(f"nothing good was heard: {message}")


def test_a_scan_is_told_from_its_beginning_to_its_end(publisher, watcher):
    publisher.open(ScanRecord("a", 404611, 0.0, {"x_num": 8, "y_num": 8}))
    publisher.publish(snapshot("a", np.full((8, 8), 0.5)))
    live = hear(watcher, "a", lambda m: m["state"] == "live")
    assert (live["scan_id"], live["frames"], live["expected"], live["heldout_error"]) == (404611, 64, 64, 0.5)
    assert {round(region["error"], 6) for region in live["regions"]} == {2.0}
    assert live["converged"] == 0.0
    for _ in range(4):
        publisher.publish(snapshot("a", np.full((8, 8), 0.5)))
    assert hear(watcher, "a", lambda m: m["converged"] > 0)["converged"] == 1.0
    publisher.publish(replace(snapshot("a", np.full((8, 8), 0.5)), final=True))
    publisher.close("a", {"frames_lost": 0})
    end = hear(watcher, "a", lambda m: m["state"] == "closed")
    assert end["report"] == {"frames_lost": 0}
    assert end["regions"]


def test_an_address_in_use_is_said(publisher):
    with pytest.raises(EndpointError, match="cannot be bound"):
        SteeringPublisher(publisher.endpoint)


class Beamline:
    """Plans whose runs are answered by a reconstruction at once."""

    def __init__(self, publisher: SteeringPublisher, errors: list[np.ndarray]) -> None:
        self.publisher, self.errors, self.scanned = publisher, errors, []

    def fly(self, lower_um=None, upper_um=None):
        @bpp.run_decorator()
        def inner():
            yield from bps.null()

        uid = yield from inner()
        self.scanned.append((lower_um, upper_um))
        errors = self.errors[min(len(self.scanned), len(self.errors)) - 1]
        self.publisher.open(ScanRecord(uid, len(self.scanned), 0.0, {"x_num": 8, "y_num": 8}))
        for _ in range(4):
            self.publisher.publish(snapshot(uid, errors))
        self.publisher.publish(snapshot(uid, errors, final=True))
        return uid


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    made = RunEngine({}, call_returns_result=True)
    yield made
    made.loop.call_soon_threadsafe(made.loop.stop)
    made._th.join(timeout=5)
    made.loop.close()


def test_the_worst_region_is_scanned_again_on_a_real_run_engine(steer, engine, publisher, watcher):
    errors = np.full((8, 8), 0.3)
    errors[:3, 3:5] = 3.0
    beamline = Beamline(publisher, [errors])
    result = engine(steer.rescan_worst(beamline.fly, watcher, regions=1, patience_s=20.0))
    (whole, (lower, upper)) = beamline.scanned
    assert whole == (None, None)
    assert lower == pytest.approx((0.1, 0.3333), abs=1e-3)
    assert upper == pytest.approx((0.3333, 0.5667), abs=1e-3)
    assert len(result.plan_result) == 2


def test_nothing_is_scanned_again_where_all_regions_are_alike(steer, engine, publisher, watcher):
    beamline = Beamline(publisher, [np.full((8, 8), 0.3)])
    assert len(engine(steer.rescan_worst(beamline.fly, watcher, patience_s=20.0)).plan_result) == 1


def test_passes_end_when_the_reconstruction_has_converged(steer, engine, publisher, watcher):
    beamline = Beamline(publisher, [np.full((8, 8), 0.3)])
    passes = (beamline.fly() for _ in range(5))
    assert len(engine(steer.until_converged(passes, watcher, patience_s=20.0)).plan_result) == 1


def test_a_reconstruction_that_is_away_holds_no_plan_up(steer, engine):
    deaf = steer.Watcher("tcp://127.0.0.1:9")

    @bpp.run_decorator()
    def silent():
        yield from bps.null()

    result = engine(steer.until_converged([silent(), silent()], deaf, patience_s=0.3))
    assert len(result.plan_result) == 2
    deaf.close()
