"""A recorded scan sent again over ZeroMQ, in the words and in the order of HXN: the dry run, the demo and the tests.

| road | wire | socket |
|---|---|---|
| documents | Bluesky's, msgpack | PUB |
| frames | one of `wires` | PUB or PUSH, as the original |
| positions | HXN's PandA JSON, encoder counts | PUB |

Nothing is sent before every road has a receiver, and nothing is dropped but on purpose: what a subscriber has not taken
waits in memory. `script` says what is sent, `wires` how frames are spelled, `faults` what goes wrong on the way; here
is the clock.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import PositionsConfig
from ptyinr_stream.errors import ConfigError, ScanFileError
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.plugins import load_plugin, plugin_names

from .faults import ROADS, Faults, Ledger, Road, disturbed
from .messages import HXN_ENCODERS, encoder_counts, samples_of
from .script import Run, Script
from .sockets import Roads
from .wires import FrameEncoder

__all__ = ["HXN_ENCODERS", "WIRES", "Endpoints", "Faults", "Replay", "ReplayReport"]

WIRES = plugin_names(f"{__name__}.wires")
"""The forms in which frames can be sent."""


@dataclass(frozen=True)
class Endpoints:
    """Where the three roads begin; port `*` takes any free one."""

    documents: str = "tcp://127.0.0.1:5567"
    frames: str = "tcp://127.0.0.1:5559"
    positions: str = "tcp://127.0.0.1:6666"


@dataclass(frozen=True, eq=False)
class ReplayReport:
    """What was sent, and so what a receiver that loses nothing must have."""

    uid: str
    scan_id: int
    series: int
    frames: int
    """Of the scan."""
    whole: NDArray[np.bool_]
    """(n,) whether a frame went out whole: where parts travel alone, in order and with nothing between."""
    samples: NDArray[np.int64]
    """(n,) how many encoder samples of each frame went out."""
    samples_per_frame: int
    positions_m: NDArray[np.float64]
    """(n, 2) metres, as the mean of those of a frame's encoder counts that went out gives them; NaN where none did."""
    messages: dict[Road, dict[str, int]]
    """What became of the messages of each road: `sent`, `dropped`, `duplicated`, `reordered`, `late`."""
    started: float
    """When the first exposure began, seconds of the Unix epoch."""
    ended: float
    """When the last message was sent."""

    @property
    def pairable(self) -> NDArray[np.int64]:
        """Numbers of the frames that went out whole with all their encoder samples."""
        return np.flatnonzero(self.whole & (self.samples == self.samples_per_frame))

    @property
    def partial(self) -> NDArray[np.int64]:
        """Numbers of the frames that went out whole with some of their encoder samples."""
        return np.flatnonzero(self.whole & (self.samples > 0) & (self.samples < self.samples_per_frame))


class Replay:
    """Sockets that replay one scan, as often as `run` is called.

    For example::

        with Replay(read_scan(path), Endpoints(), rate_hz=50) as replay:
            report = replay.run()
    """

    endpoints: Endpoints
    """With the ports that were taken."""

    def __init__(
        self,
        scan: RecordedScan,
        endpoints: Endpoints,
        positions: PositionsConfig = HXN_ENCODERS,
        *,
        wire: str = "hxn",
        rate_hz: float = 100.0,
        bind: bool = True,
        prefix: str = "",
        faults: Faults | None = None,
        warm_up: bool = False,
        frames_key: bytes | None = None,
        folder: Path = Path(),
        series: int | None = None,
        scan_id: int | None = None,
        wait_s: float = 60.0,
        flush_s: float = 0.4,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Open the sockets.

        Args:
            scan: what to send, in whole counts; masked pixels go out as the largest value, as a detector marks them.
            endpoints: where.
            positions: the encoders, as the receiver is configured to read them.
            wire: how frames are sent, one of `WIRES`.
            rate_hz: frames a second.
            bind: wait for receivers at the endpoints; False connects to receivers that bind.
            prefix: of the documents.
            faults: what happens to messages on their way; None lets them all through.
            warm_up: send a series of one frame before each run, as an Eiger does when its exposure time changes.
            frames_key: the CURVE secret key in Z85 with which frames are encrypted; None leaves them plain.
            folder: for the wire that writes files, and leaves them there.
            series: of the first run, counted up; None begins at the clock's seconds, to grow from process to process.
            scan_id: likewise.
            wait_s: how long to wait for receivers, and for one that has stopped reading.
            flush_s: how much of the scan's time a message of positions covers.
            progress: called with the number of frames exposed.

        Raises:
            ConfigError: there is no such wire, or it has not what is asked of it.
            EndpointError: an endpoint is in use or malformed.
            ScanFileError: the scan's counts are not whole.
        """
        if not scan.whole:
            raise ScanFileError(
                f"{scan.name}: its counts are not whole numbers, which is all that a detector sends: replay a scan "
                f"with photon noise, or round them (--round)"
            )
        encoder: FrameEncoder = load_plugin(f"{__name__}.wires", wire).Encoder(scan, rate_hz, folder)
        faults = faults or Faults()
        if encoder.socket is None and (warm_up or frames_key or faults.touch("frames")):
            raise ConfigError(
                f"wire {wire!r} sends no frames: there is nothing to encrypt, to warm up or to lose; faults may act on "
                "positions and documents"
            )
        self._script = Script(scan, encoder, positions, rate_hz=rate_hz, flush_s=flush_s, prefix=prefix)
        self._positions, self._frames, self._progress = positions, len(scan.counts), progress
        self._counts = encoder_counts(scan.positions_m, positions)  # (n, samples, 2)
        self._faults, self._warm_up = faults, warm_up
        self._series = int(time.time()) if series is None else series
        self._scan_id = int(time.time()) if scan_id is None else scan_id
        self._runs = 0
        at: dict[Road, str] = {road: getattr(endpoints, road) for road in ROADS if encoder.socket or road != "frames"}
        self._roads = Roads(at, encoder.socket or "pub", bind=bind, wait_s=wait_s, frames_key=frames_key)
        self.endpoints = replace(endpoints, **self._roads.endpoints)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; waits at most 10 s for what has not left yet."""
        self._roads.close()

    def run(self, uid: str | None = None) -> ReplayReport:
        """Send the scan once, as a new run with the next series and scan id; returns when all is sent.

        Raises:
            EndpointError: a road has no receiver, or one that does not read.
            GeometryError: the wavelength is beyond a Si(111) monochromator, whose angle the documents tell.
        """
        self._roads.await_receivers()
        run = self._next_run(uid or str(uuid.uuid4()))
        ledger = Ledger(self._frames, samples_of(self._positions))
        became: dict[Road, Counter[str]] = {road: Counter() for road in ROADS}
        script = self._script.messages(run, self._counts)
        started, clock, told = time.time(), time.monotonic(), 0
        for at_s, message in disturbed(script, self._faults, became, self._runs):
            # Deadlines since the start: what single sleeps miss does not add up.
            time.sleep(max(0.0, clock + at_s - time.monotonic()))
            self._roads.send(message.road, message.parts)
            ledger.note(message)
            for frame in range(told, message.exposed):
                told = frame + 1
                if self._progress is not None:
                    self._progress(told)
        um_per_count = [axis.um_per_count for axis in self._positions.axes]
        return ReplayReport(
            uid=run.uid,
            scan_id=run.scan_id,
            series=run.series,
            frames=self._frames,
            whole=ledger.whole,
            samples=ledger.samples.sum(axis=1),
            samples_per_frame=samples_of(self._positions),
            positions_m=ledger.positions_m(self._counts, um_per_count),
            messages={road: dict(counts) for road, counts in became.items()},
            started=started,
            ended=time.time(),
        )

    def _next_run(self, uid: str) -> Run:
        self._runs += 1
        warm_up = self._series if self._warm_up else None
        run = Run(uid, self._scan_id, self._series + self._warm_up, warm_up)
        self._scan_id, self._series = run.scan_id + 1, run.series + 1
        return run
