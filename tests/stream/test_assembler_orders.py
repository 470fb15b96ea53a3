"""Whatever the three roads do, pairs equal the direct join: none is lost, none is wrong, and all is accounted for."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.assembler import Assembler, Frame, Joined, ScanClosed, ScanOpened
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import (
    BaselineRead,
    CaptureEnded,
    CaptureStarted,
    PositionsArrived,
    RunStarted,
    RunStopped,
    SeriesEnded,
    SeriesStarted,
)

Y, X = "/INENC3.VAL.Value", "/INENC2.VAL.Value"


def start(uid, nx, ny):
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, nx, -2.0, 2.0, ny]}
    return RunStarted(uid, {"uid": uid, "scan": scan})


def frame(series, number, value):
    return Frame(series, number, np.full((2, 2), value, np.uint16))


class Desk:
    """An assembler with a clock, and what it has given."""

    def __init__(self, per_frame):
        axes = [{"channel": Y, "um_per_count": 1e-3}, {"channel": X, "um_per_count": -2e-3}]
        positions = {"axis0": axes[0], "axis1": axes[1], "samples_per_frame": per_frame}
        self.assembler = Assembler(PositionsConfig.model_validate(positions), AssemblyConfig())
        self.now = 0.0
        self.outputs = []

    def feed(self, *events):
        for event in events:
            self.now += 0.001
            self.outputs += self.assembler.feed(event, self.now)

    def wait(self, seconds):
        self.now += seconds
        self.outputs += self.assembler.tick(self.now)

    def finish(self):
        self.outputs += self.assembler.finish()

    def pairs(self, uid):
        """{frame: (value of its pixels, y counts, x counts)} of all batches of a run."""
        found = {}
        for output in self.outputs:
            if isinstance(output, Joined) and output.uid == uid:
                batch = output.batch
                for index, counts, at in zip(batch.indices.tolist(), batch.counts, batch.positions_m, strict=True):
                    assert index not in found
                    found[index] = (int(counts[0, 0]), round(at[0] / 1e-9, 6), round(at[1] / -2e-9, 6))
        return found

    def report(self, uid):
        [closed] = [o for o in self.outputs if isinstance(o, ScanClosed) and o.uid == uid]
        assert not [o for o in self.outputs[self.outputs.index(closed) :] if isinstance(o, Joined) and o.uid == uid]
        report = closed.report
        fates = (report.paired, report.duplicates, report.surplus, report.misfits, report.without_position)
        assert report.frames == sum(fates)
        assert report.paired == len(self.pairs(uid))
        return report


@dataclass
class Truth:
    """One simulated scan: what was sent, and what the direct join of what was not dropped is."""

    uid: str
    shape: tuple[int, int]
    frames: list = field(default_factory=list)
    positions: list = field(default_factory=list)
    documents: list = field(default_factory=list)
    pairs: dict = field(default_factory=dict)


def simulate(draw: random.Random, number: int, per_frame: int, series: int, alone: bool) -> Truth:
    nx, ny = draw.randint(2, 4), draw.randint(1, 3)
    n = nx * ny
    truth = Truth("ab"[number], (nx, ny))
    encoders = {
        channel: [1000.0 * number + draw.randint(-400, 400) for _ in range(n * per_frame)] for channel in (Y, X)
    }

    def road(items, at_least):
        kept = draw.sample(items, draw.randint(at_least, len(items))) if draw.random() < 0.5 else list(items)
        sent = kept + [draw.choice(kept) for _ in range(draw.randint(0, 2)) if kept]
        if draw.random() < 0.5:
            draw.shuffle(sent)
        return kept, sent

    kept_frames, body = road(list(range(n)), at_least=0 if alone else 1)
    warm_up = [SeriesStarted(900, 1), frame(900, 0, 0), SeriesEnded(900)] if draw.random() < 0.5 else []
    value = 100 * (number + 1)
    truth.frames = [
        *warm_up,
        SeriesStarted(series, n),
        *(frame(series, k, value + k) for k in body),
        SeriesEnded(series),
    ]

    edges = sorted({0, n * per_frame, *(draw.randint(0, n * per_frame) for _ in range(4))})
    pieces = [(a, b, channels) for a, b in pairwise(edges) for channels in draw.choice([[(Y, X)], [(Y,), (X,)]])]
    kept_pieces, sent = road(pieces, at_least=0)
    messages = [PositionsArrived(a, {c: np.array(encoders[c][a:b]) for c in channels}) for a, b, channels in sent]
    truth.positions = [CaptureStarted(), *messages, CaptureEnded(len(pieces))]

    known = {channel: {} for channel in (Y, X)}
    for a, b, channels in kept_pieces:
        for channel in channels:
            known[channel].update({k: encoders[channel][k] for k in range(a, b)})
    for k in kept_frames:
        means = []
        for channel in (Y, X):
            found = [known[channel][s] for s in range(k * per_frame, (k + 1) * per_frame) if s in known[channel]]
            means.append(round(sum(found) / len(found), 6) if found else None)
        if None not in means:
            truth.pairs[k] = (value + k, *means)

    baseline = [BaselineRead(truth.uid, {})] if draw.random() < 0.7 else []
    stop = [RunStopped(truth.uid)] if draw.random() < 0.8 else []
    truth.documents = [start(truth.uid, nx, ny), *baseline, *stop]
    return truth


@settings(max_examples=300, deadline=None)
@given(draw=st.randoms(use_true_random=False), per_frame=st.integers(1, 3), scans=st.integers(1, 2))
def test_whatever_the_roads_do_pairs_equal_the_direct_join(draw, per_frame, scans):
    truths = [simulate(draw, k, per_frame, draw.choice([5, 5 + k]), alone=scans == 1) for k in range(scans)]
    roads = [[event for t in truths for event in getattr(t, road)] for road in ("documents", "frames", "positions")]
    desk = Desk(per_frame)
    if scans == 2 and isinstance(roads[0][-1], RunStopped) and draw.random() < 0.5:
        # The first run's stop document comes after the second run's start.
        stops = [document for document in roads[0] if isinstance(document, RunStopped)]
        roads[0] = [document for document in roads[0] if not isinstance(document, RunStopped)] + stops
    if scans == 1 and draw.random() < 0.3:  # somebody joins late, and has the documents only
        desk.feed(*roads[0])
        [truth] = truths
        for road in (1, 2):
            roads[road] = roads[road][draw.randint(0, len(roads[road])) :]
        roads[0] = []
        rebuild_after_a_late_join(truth, roads, per_frame)
    fed = sum(isinstance(event, Frame) for event in roads[1])
    slow = draw.choice([None, *roads])
    while any(roads):
        ready = [road for road in roads if road]
        quick = [road for road in ready if road is not slow or draw.random() < 0.1]
        desk.feed(draw.choice(quick or ready).pop(0))
        if draw.random() < 0.2:
            desk.wait(0.001)
    desk.wait(draw.choice([0, 4, 40]))
    desk.finish()

    for truth in truths:
        assert desk.pairs(truth.uid) == truth.pairs
    assert sorted(o.uid for o in desk.outputs if isinstance(o, ScanOpened)) == sorted(t.uid for t in truths)
    reports = [desk.report(truth.uid) for truth in truths]
    assert sum(report.frames for report in reports) + desk.assembler.counts["frames_foreign"] == fed
    assert desk.assembler.waiting_frames == 0


def rebuild_after_a_late_join(truth, roads, per_frame):
    """Restrict the direct join to what is left of the roads."""
    frames = [event for event in roads[1] if isinstance(event, Frame) and event.series != 900]
    headed = any(isinstance(event, SeriesStarted) and event.series != 900 for event in roads[1])
    values = {event.frame: int(event.counts[0, 0]) for event in frames}
    if not headed and not any(k >= 1 for k in values):
        values = {}
    known = {Y: {}, X: {}}
    for event in roads[2]:
        if isinstance(event, PositionsArrived):
            for channel, counts in event.channels.items():
                known[channel].update({event.first_sample + k: c for k, c in enumerate(counts)})
    truth.pairs = {}
    for k, value in values.items():
        numbers = range(k * per_frame, (k + 1) * per_frame)
        found = [[known[channel][s] for s in numbers if s in known[channel]] for channel in (Y, X)]
        if all(found):
            truth.pairs[k] = (value, *(round(sum(counts) / len(counts), 6) for counts in found))
