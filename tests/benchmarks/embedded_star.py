"""The star as HXN's detector would have sent it: `python tests/benchmarks/embedded_star.py [--steps 300] [--settled]`.

Each pattern of the measured Siemens star is laid off-centre into a raw frame of 1062 x 1028 pixels, mirrored left to
right as the Eiger sends them, with a dim background, 20 hot pixels and the module gap, which hides a tenth of the
window. Positions are counts of zpssx and zpssy with their signs and an arbitrary zero. A tenth as many frames as the
scan has come before it while the stage settles: their slow encoder still reads the middle of the range. All of it goes
through wire decoders, calibration, assembler and trainer by the frames' and positions' sections of the shipped
configuration, but for the window: 128 pixels, since the star's are.

Prints what was found of the detector, and the phase correlation with the reference for this run and for the plain scan
trained equally long. They shall differ by no more than 0.01. The gate keeps the settling frames out; `--settled` drops
what of them is left after the join.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr.metrics import phase_correlation
from ptyinr.settings import TrainerSettings
from ptyinr.trainer import Trainer
from ptyinr.training import train
from ptyinr.types import Batch, ScanRange, Snapshot
from ptyinr_stream.assembler import CalibrationAdded, Joined, Output, ScanClosed, ScanOpened
from ptyinr_stream.channels import Inbox, Message
from ptyinr_stream.config import AxisConfig, Config, PositionsConfig, load_config, parse_config
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.formats import RecordedScan
from ptyinr_stream.formats.ptyinr_h5 import read_scan
from ptyinr_stream.intake import Intake
from ptyinr_stream.motors import resolve
from ptyinr_stream.replay.messages import document_message, encoder_counts, image_parts, json_message, position_messages

HXN = Path(__file__).parents[2] / "deploy" / "config" / "hxn.toml"
SHAPE = (1062, 1028)
GAP = slice(512, 550)
"""Rows between the modules."""
CENTRE = (462, 611)
"""Row and column of the patterns' [h // 2, w // 2], in the laboratory's frame: not mirrored."""
BACKGROUND = 0.02
HOT = 20
ZERO_COUNTS = (73_500, -41_200)
RATE_HZ = 100.0


@dataclass
class EmbeddedScan:
    """A scan and what HXN's three roads would say of it.

    Args:
        scan: whole counts of uint16.
        settling: frames before it, as a part of its own.
    """

    scan: RecordedScan
    settling: float = 0.1

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        self.early = round(self.settling * len(self.scan.counts))
        self.frames = self.early + len(self.scan.counts)
        h, w = self.scan.geometry.window
        self.window = tuple(slice(c - n // 2, c - n // 2 + n) for c, n in zip(CENTRE, (h, w), strict=True))
        self.hot = np.zeros(SHAPE, np.bool_)
        # Most of them where they harm.
        inside = random.choice(h * w, HOT * 3 // 4, replace=False)
        self.hot[self.window].flat[inside] = True  # a slice of slices is a view
        outside = HOT - len(inside)
        self.hot[random.integers(0, GAP.start, outside), random.integers(0, SHAPE[1], outside)] = True
        self.trusted = ~self.hot
        self.trusted[GAP] = False

    def image(self, frame: int) -> NDArray[np.uint16]:
        """In the laboratory's frame, (rows, columns)."""
        random = np.random.default_rng(1000 + frame)
        pixels = SHAPE[0] * SHAPE[1]
        lit = random.integers(0, pixels, random.poisson(BACKGROUND * pixels))
        image = np.bincount(lit, minlength=pixels).astype(np.uint16).reshape(SHAPE)
        image[self.window] = self.scan.counts[frame if frame < self.early else frame - self.early]
        image[self.hot] = random.poisson(3000, int(self.hot.sum()))
        image[GAP] = np.iinfo(np.uint16).max
        return image

    def positions_m(self) -> NDArray[np.float64]:
        """(n, 2) as the encoders tell."""
        positions = self.scan.positions_m
        early = positions[: self.early].copy()
        early[:, 0] = positions[:, 0].mean()  # stale
        return np.concatenate([early, positions])

    def messages(self, config: Config) -> Iterator[Message]:
        """All of them, in the order of the beamline."""
        scan_um = 1e6 * self.scan.positions_m
        y0, y1 = scan_um[[0, -1], 0]
        x0, x1 = scan_um[:, 1].min(), scan_um[:, 1].max()
        plan = [float(x0), float(x1), 1.0, float(y0), float(y1), float(self.frames)]
        start = {"uid": "embedded-star", "scan_id": 1, "shape": [1, self.frames], "motors": ["zpssx", "zpssy"]}
        scan = {"type": "2D_FLY_PANDA", "scan_input": plan, "detector_distance": self.scan.geometry.distance_m}
        yield _document("start", {**start, "scan": scan})
        yield _frames([{"htype": "dheader-1.0", "series": 5, "header_detail": "basic"}, self._header()])
        axes = resolve({**start, "scan": scan}, {}, config.positions).axes
        read = [AxisConfig(channel=axis.channel or "", um_per_count=axis.um_per_count) for axis in axes]
        encoder = PositionsConfig(axis0=read[0], axis1=read[1])
        counts = encoder_counts(self.positions_m(), encoder) + ZERO_COUNTS
        encoders = position_messages(counts, encoder, RATE_HZ, flush_s=0.4)
        due = next(encoders, None)
        for frame in range(self.frames):
            raw = np.ascontiguousarray(self.image(frame)[:, ::-1])
            yield Message("frames", image_parts(raw, 5, frame, RATE_HZ), frame / RATE_HZ)
            while due is not None and due[0] <= frame:
                yield Message("positions", [json_message(due[1])], frame / RATE_HZ)
                due = next(encoders, None)
        yield _frames([{"htype": "dseries_end-1.0", "series": 5}])
        yield _document("stop", {"uid": "stop", "run_start": "embedded-star", "exit_status": "success"})

    def _header(self) -> dict[str, Any]:
        return {"trigger_mode": "exte", "nimages": 1, "ntrigger": self.frames}


def configuration(window: tuple[int, int], energy_kev: float) -> Config:
    """The shipped one for HXN with another window and a known energy."""
    values = load_config(HXN).model_dump(mode="json")
    values["frames"] |= {"window": window, "centre": "auto", "hot_pixels": True}
    values["geometry"]["energy_kev"] = energy_kev
    values["output"]["folder"] = None
    return parse_config(values)


def received(scan: EmbeddedScan, config: Config) -> list[Output]:
    """What comes out of the intake."""
    inbox, outputs = Inbox(2**28), []
    intake = Intake(config, inbox, outputs.append, clock=lambda: 0.0)
    for message in scan.messages(config):
        inbox.put(message, message.size)
    intake.stop(None)
    intake.check()
    return outputs


def trained(batch: Batch, scan: RecordedScan, steps: int) -> Snapshot:
    """Blind, with the trainer's own settings."""
    trainer = Trainer(scan.geometry, ScanRange.of(batch.positions_m), TrainerSettings())
    trainer.append(batch)
    return train(trainer, lambda: trainer.steps / steps)


def joined(outputs: list[Output], first: int = 0) -> Batch:
    """All frames from number `first` on as one batch, in their order."""
    batches = [output.batch for output in outputs if isinstance(output, Joined)]
    indices = np.concatenate([batch.indices for batch in batches])
    order = np.argsort(indices)[np.searchsorted(np.sort(indices), first) :]
    masks = [np.ones(b.counts.shape, bool) if b.mask is None else b.mask for b in batches]
    counts, positions, mask = (
        np.concatenate(arrays)[order]
        for arrays in ([b.counts for b in batches], [b.positions_m for b in batches], masks)
    )
    return Batch(indices[order], counts, positions, mask)


def _document(name: str, document: dict[str, Any]) -> Message:
    return Message("documents", [document_message("hxn", name, document)], 0.0)


def _frames(parts: list[dict[str, Any]]) -> Message:
    return Message("frames", [json_message(part) for part in parts], 0.0)


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--settled", action="store_true")
    chosen = arguments.parse_args()
    star = read_scan(siemens_star())
    scan = EmbeddedScan(star)
    outputs = received(scan, configuration(star.geometry.window, star.geometry.energy_kev))
    for output in outputs:
        if isinstance(output, CalibrationAdded | ScanClosed):
            print(output)
        if isinstance(output, ScanOpened):
            print(f"opened: {output.expected} frames")
    reference = np.load(siemens_star_reference())
    whole = Batch(np.arange(len(star.counts)), star.counts, star.positions_m)
    scores = {}
    for name, batch in (("embedded", joined(outputs, scan.early if chosen.settled else 0)), ("plain", whole)):
        snapshot = trained(batch, star, chosen.steps)
        numbers = snapshot.indices - (scan.early if name == "embedded" else 0)
        known = numbers >= 0
        scores[name] = phase_correlation(
            snapshot.object,
            snapshot.positions_px[known],
            reference["lsqml_1mode_object"],
            reference["lsqml_1mode_corners_px"][numbers[known]],
            star.geometry.window,
        )
        error = snapshot.metrics["heldout_error"]
        print(f"{name}: {len(batch.indices)} frames, phase correlation {scores[name]:.4f}, held-out error {error:.3f}")
    difference = scores["embedded"] - scores["plain"]
    print(f"difference {difference:+.4f}: {'within' if abs(difference) <= 0.01 else 'NOT within'} 0.01")


if __name__ == "__main__":
    main()
