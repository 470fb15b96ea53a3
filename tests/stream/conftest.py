"""What tests share: start documents (tests/data/plans), and an engine on a bench, whose clock moves when it is told."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptyinr.settings import TrainerSettings
from ptyinr.types import Batch, Snapshot
from ptyinr_stream.assembler import BaselineAdded, Joined, ScanClosed, ScanOpened, ScanReport
from ptyinr_stream.config import parse_config
from ptyinr_stream.engine import Engine
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.metadata import ScanRecord
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.replay.messages import run_documents

FOLDER = Path(__file__).parents[1] / "data" / "plans"


@pytest.fixture
def documents() -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Gives the start document of a plan, and the baseline readings that follow it."""

    def read(plan: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = json.loads((FOLDER / f"{plan}.json").read_text())
        return found["start"], found["baseline"]

    return read


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Makes a disk that is full when a file has so many bytes."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@dataclass
class Sink:
    """Writes down what it is given."""

    heard: list[tuple[str, str, Any]] = field(default_factory=list)

    def open(self, scan: ScanRecord) -> None:
        self.heard.append(("open", scan.uid, scan))

    def publish(self, snapshot: Snapshot) -> None:
        self.heard.append(("final" if snapshot.final else "live", snapshot.uid, snapshot))

    def close(self, uid: str, report: dict[str, Any]) -> None:
        self.heard.append(("close", uid, report))

    def of(self, uid: str) -> list[str]:
        """What happened to a scan, in order."""
        return [what for what, whose, _ in self.heard if whose == uid]

    def only(self, what: str, uid: str) -> Any:
        (value,) = [value for kind, whose, value in self.heard if (kind, whose) == (what, uid)]
        return value


@dataclass
class Bench:
    """An engine with a sink, a recorded scan and a clock that moves only when it is told to."""

    recorded: RecordedScan
    engine: Engine
    sink: Sink
    now: float = 1000.0

    def open(self, uid: str) -> None:
        _, document = next(run_documents(self.recorded, HXN_ENCODERS, uid, 404611, 10.0))
        self.engine.take(ScanOpened(uid, document, resolve(document, {}, HXN_ENCODERS)), self.now)

    def baseline(self, uid: str) -> None:
        _, _, (_, event), *_ = run_documents(self.recorded, HXN_ENCODERS, uid, 1, 10.0)
        self.engine.take(BaselineAdded(uid, event["data"]), self.now)

    def join(self, uid: str, frames: range | list[int], shifted_m: float = 0.0) -> None:
        indices = np.array(frames)
        batch = Batch(indices, self.recorded.counts[indices], self.recorded.positions_m[indices] + shifted_m)
        self.engine.take(Joined(uid, batch), self.now)

    def close(self, uid: str, paired: int = 72, **more: Any) -> None:
        lost = 72 - paired
        report = ScanReport(72, paired, paired, 0, 0, 0, 0, lost, 0, 0, 0, "success", "settled" if lost else "complete")
        report = replace(report, **more)
        self.engine.take(ScanClosed(uid, report), self.now)

    def begin(self, uid: str, frames: range | list[int] = range(72)) -> None:
        self.open(uid)
        self.baseline(uid)
        self.join(uid, frames)

    def work(self, times: int = 1, seconds: float = 1.0) -> list[bool]:
        """Let the engine work; each turn takes some time."""

        def clock() -> float:
            return self.now

        done = []
        for _ in range(times):
            self.now += seconds
            done.append(self.engine.work(clock))
        return done

    @property
    def phases(self) -> dict[str, str]:
        return {status.uid: status.phase for status in self.engine.history}


@pytest.fixture
def bench(simulated: RecordedScan) -> Iterator[Callable[..., Bench]]:
    """Makes a bench, by default with a probe, so that steps take milliseconds."""
    streams = {"documents": "bluesky", "frames": "eiger_v1", "positions": "panda"}

    def make(
        blind: bool = False,
        probe: np.ndarray | None = None,
        energy_kev: float | None = None,
        folder: Path | None = None,
        **training: Any,
    ):
        config = parse_config(
            {
                "streams": {road: {"endpoint": "inproc://x", "wire": wire} for road, wire in streams.items()},
                "geometry": {"detector_pixel_um": 75.0, **({"energy_kev": energy_kev} if energy_kev else {})},
                "positions": HXN_ENCODERS.model_dump(),
                "training": {"refine_s": 5.0, "snapshot_s": 3.0, **training},
                "output": {} if folder is None else {"folder": folder},
            }
        )
        if probe is None and not blind:
            rows, columns = np.mgrid[-16:16, -12:12]
            probe = np.exp(-(rows**2 + columns**2) / 30).astype(np.complex64)
        sink = Sink()
        # A given probe is not checked: there are not so many frames.
        settings = TrainerSettings() if blind else TrainerSettings(start_frames=1000)
        return Bench(simulated, Engine(config, [sink], device="cpu", probe=probe, settings=settings), sink)

    return make
