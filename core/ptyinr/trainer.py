"""Training while the dataset grows: append frames, take steps, look at snapshots, in any order and as often as wanted.

    trainer = Trainer(geometry, scan_range)
    trainer.append(batch)                 # whenever frames have been joined
    while trainer.ready() and more_time:
        trainer.step()
    picture = trainer.snapshot()

Notable choices, measured on the Siemens star, 200 steps unless said otherwise (2026-11-22):

* The object's gradient is divided, pixel by pixel, by the light that has reached it (`ILLUMINATION_FLOOR` of the
  brightest added): with a structured probe the dim pixels otherwise wait for ever. Floor 0.01, 0.05, 0.2, 1: phase
  correlation 0.896 and 0.905 after 100 steps; 0.980 and 0.981 after 200.
* Adam. SOAP was 0.004 better at equal steps and Muon 0.003 worse; neither is worth its code.
* Snapshots show averaged weights: the noise of single steps, normal with sine networks, stays out of the picture.
* Rates that fall towards the end: 700 steps reach 0.988 (held-out error 0.380) with them, 0.978 (0.407) without.
* The hash grids' tables learn in units of their initial spread. With the networks' rate they moved ten times that
  spread in a step: as good for 200 steps, then the held-out error went from 0.41 to 2.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .choices import checked_probe, compute_dtype, decided, random_reference
from .dataset import Dataset
from .detail import grown
from .geometry import Canvas, window_corners_px
from .hashgrid import TABLE_UNIT
from .light import LEAST_LIGHT, SPARSE, bounding_box, illumination, windows_a_pixel
from .losses import amplitude_distance, amplitude_error, roughness
from .model import PtychoModel, energy
from .noise import Noise, estimate_noise
from .probe_start import SAME, SURE, ProbeStart, blind_start, overlaps
from .propagation import predicted_amplitude
from .samplers import draw_tile, reach_px
from .settings import TrainerSettings
from .types import Batch, ScanGeometry, ScanRange, Snapshot

ILLUMINATION_FLOOR = 0.5
LEAST_ANNEAL = 0.1
"""Factor on the learning rates at the end of a reconstruction whose length is known; they fall linearly from 1."""
JUMP = 1.25
"""Growth of the held-out error over the best one at which training returns to the best state."""
JUMP_WHILE_GROWING = 2.0
"""The same while frames arrive, from one snapshot to the next: what is learned elsewhere disturbs a little."""
RECOVERY = 1.1
"""Growth of halved rates, up to the full ones, each time that a new best state is seen."""
MOST_JUDGES = 256
"""Frames on which a snapshot's error is measured."""
FRAMES_PER_TILE = 16
"""Pixels of the frames in a step, in units of the pixels of their tile."""
EVALUATION_PIXELS = 2**18
"""Of the object at a time, when a snapshot is taken."""
MOST_TRIES = 3
"""Of the blind start, each with twice the frames of the one before, while it is not sure."""


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    step: int
    loss: float
    frames: int
    """In the step's tile."""


@dataclass(frozen=True)
class _Best:
    """The best state so far, and the frames that judged it."""

    error: float
    judges: np.ndarray
    state: dict[str, Tensor]


@dataclass(frozen=True)
class _Look:
    """The averaged weights seen over all windows, in float32."""

    first: tuple[int, int]
    object: Tensor
    """(H, W) from pixel `first` (anchored) on."""
    probe: Tensor
    """(modes, h, w)."""


def annealed(progress: float) -> float:
    """Factor on the learning rates when `progress` of the given time, 0 to 1 and no more, is over.

    >>> [round(annealed(progress), 9) for progress in (0.0, 0.5, 1.0, 7.0)]
    [1.0, 0.55, 0.1, 0.1]
    """
    return 1.0 - (1.0 - LEAST_ANNEAL) * min(progress, 1.0)


class Trainer:
    """One reconstruction. Not thread-safe; touches no clock, file or network."""

    def __init__(
        self,
        geometry: ScanGeometry,
        scan_range: ScanRange,
        settings: TrainerSettings | None = None,
        *,
        uid: str = "",
        probe: np.ndarray | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """`probe` (modes, h, w) or (h, w) complex starts training from it; None finds one in the first frames.

        Raises:
            ValueError: the probe has another size than the window, or is not finite.
        """
        self.geometry, self.scan_range, self.uid = geometry, scan_range, uid
        self.settings = settings or TrainerSettings()
        self.device = torch.device(device)
        self.dataset = Dataset(geometry.window, self.settings.holdout, self.device)
        self.canvas = Canvas.of(geometry, scan_range)
        self.steps = 0
        self.rollbacks = 0
        self.start: ProbeStart | None = None
        self.noise = Noise()
        self._given_probe = None if probe is None else checked_probe(probe, geometry.window)
        if self._given_probe is None and self.settings.probe.fixed:
            raise ValueError("the probe is to stay fixed: give it")
        self._model: PtychoModel | None = None
        self._random = np.random.default_rng(self.settings.seed)
        self._dtype = compute_dtype(self.settings.precision, self.device)
        self._loss = math.nan
        self._decided = self.settings
        """With what was left to the data."""

    def append(self, batch: Batch) -> None:
        """Add frames; the next step may already see them. The canvas grows if they leave it.

        Raises:
            ValueError: the frames have another shape than the geometry's window, or lie where no canvas reaches; none
                of the batch is added then.
        """
        corners = window_corners_px(batch.positions_m, self.geometry, self.scan_range)
        canvas = self.canvas.including(corners, self.geometry.window)
        self.dataset.append(batch, corners)
        if canvas != self.canvas and self._model is not None:
            self._grow(canvas)
        self.canvas = canvas

    def ready(self, complete: bool = False) -> bool:
        """Whether a step can be taken: enough frames for the blind start, or as many as there will be (`complete`).

        A given probe needs two lit frames only, to be scaled to them.
        """
        if self._model is not None:
            return True
        lit = len(self.dataset.lit_training)
        needed = self.settings.start_frames if self._given_probe is None else 2
        return lit >= needed or (complete and len(self.dataset.training) > 0)

    def step(self, anneal: float = 1.0) -> StepReport:
        """Take one step on the frames of a random tile; the first one finds the probe.

        Args:
            anneal: factor on the learning rates, from 1 while frames arrive towards 0 at the end.

        Raises:
            ValueError: there are no two frames to train on, or at the first step no light in the frames.
        """
        model = self._model or self._begin()
        if self.start is not None and self._should_try_again(self.start):
            model = self._try_again(self.start)
        rows = self._draw()
        corners = self.dataset.corners_px[rows]
        first, shape = bounding_box(corners, self.geometry.window)

        tile = model.object(first, shape, self._dtype)
        probe = model.probe()
        if self.settings.preconditioned:
            light = illumination(corners - first, probe.detach(), shape)
            tile.register_hook(lambda gradient: gradient / (light + ILLUMINATION_FLOOR))
        predicted = predicted_amplitude(tile, probe, torch.from_numpy(corners - first))
        loss = amplitude_distance(predicted, self.dataset.shown(rows), self._decided.loss, self.noise)
        if self._decided.loss.prior:
            loss = loss + roughness(tile, self._decided.loss, self._measured_in(first, shape))
        if self.steps < self.settings.loss.regularised_steps and self.settings.loss.regularisation:
            loss = loss + self.settings.loss.regularisation * probe.abs().mean() / probe.detach().abs().max()
        self._optimiser.zero_grad(set_to_none=True)
        tile.retain_grad()
        loss.backward()
        for group in self._optimiser.param_groups:
            group["lr"] = group["full_rate"] * self._caution * anneal
        self._loss = loss.item()
        if math.isfinite(self._loss):
            self._optimiser.step()
            if model.detail is not None and tile.grad is not None:
                model.detail.learn(first, tile.grad, self.settings.detail_rate * self._caution * anneal**2)
            self._average()
        else:
            self._roll_back()
        self.steps += 1
        return StepReport(self.steps, self._loss, len(rows))

    def judge(self) -> float:
        """The loss of the averaged weights on what is held out, or on training frames if nothing is.

        If it has jumped since it was at its best, training returns to its best state with half the rates. Once frames
        have been appended, a state is compared with the best one on the frames that judged that one; if it has not
        jumped it is the new best, as seen by the new frames.

        Raises:
            ValueError: no step has been taken yet.
        """
        if self._model is None:
            raise ValueError("there is nothing to judge before the first step")
        return self._judge()[1][0]

    def _judge(self) -> tuple[_Look, tuple[float, float]]:
        """What `judge` says, with the look that it took and the squared error beside the loss."""
        judges, best, look = self._judges(), self._best, self._look()
        errors = self._errors(look, judges)
        same = np.array_equal(judges, best.judges)
        compared = errors[0] if same or not len(best.judges) else self._errors(look, best.judges)[0]
        if math.isfinite(best.error) and not compared <= (JUMP if same else JUMP_WHILE_GROWING) * best.error:
            self._roll_back()
            look = self._look()
            return look, self._errors(look, judges)
        if math.isfinite(errors[0]) and (not same or errors[0] < best.error):
            state = {name: value.clone() for name, value in self._averaged.state_dict().items()}
            self._best = _Best(errors[0], judges, state)
            self._caution = min(1.0, RECOVERY * self._caution)
        return look, errors

    def snapshot(self, final: bool = False) -> Snapshot:
        """The reconstruction of this moment, from the averaged weights, evaluated in float32.

        Here training is also judged; a final snapshot shows the best state that was judged.

        Raises:
            ValueError: no step has been taken yet.
        """
        if self._model is None:
            raise ValueError("there is nothing to show before the first step")
        look, (error, squared_error) = self._judge()
        if final and np.array_equal(self._judges(), self._best.judges) and error > self._best.error:
            self._averaged.load_state_dict(self._best.state)
            look = self._look()
            squared_error = self._errors(look, self._judges())[1]
        corners, (first, seen, probe) = self.dataset.corners_px, (look.first, look.object, look.probe)
        shape = (seen.shape[0], seen.shape[1])
        light = illumination(corners - first, probe, shape)
        light[light < LEAST_LIGHT * light[light > 0].median()] = 0  # what the network says there is invention
        metrics = {"loss": self._loss, "rollbacks": float(self.rollbacks)}
        if len(self.dataset.heldout):
            metrics["heldout_error"] = squared_error
        if self.dataset.by_pixel:
            metrics["heldout_pixels"] = 1 / self.settings.holdout  # of every frame: no frame is unseen
        if self.start is not None:
            metrics["start_confidence"] = self.start.confidence
        part = tuple(slice(f - c, f - c + n) for f, c, n in zip(first, self.canvas.corner, shape, strict=True))
        canvas = np.ones(self.canvas.shape, np.complex64)
        coverage = np.zeros(self.canvas.shape, np.float32)
        coverage[part] = light.cpu().numpy()
        canvas[part] = np.where(coverage[part] > 0, seen.cpu().numpy(), 1)
        order = np.argsort(self.dataset.indices, kind="stable")
        return Snapshot(
            uid=self.uid,
            step=self.steps,
            frames=len(self.dataset),
            object=canvas,
            probe=probe.cpu().numpy(),
            coverage=coverage,
            indices=self.dataset.indices[order].copy(),
            positions_px=self.canvas.array_px(corners)[order],
            pixel_m=self.geometry.pixel_m,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            final=final,
        )

    def _grow(self, canvas: Canvas) -> None:
        """Let the pixels beside the networks, which know no bounds, cover a larger canvas."""
        for model in (self._trained, self._averaged):
            if model.detail is not None:
                model.detail.cover(canvas)
        if "detail.values" in self._best.state:
            pixels = grown(self._best.state["detail.values"], self.canvas, canvas)
            self._best = replace(self._best, state=self._best.state | {"detail.values": pixels})

    def _measured_in(self, first: tuple[int, int], shape: tuple[int, int]) -> int:
        """Trusted pixels of all training frames that lie in a part of the object."""
        rows = self.dataset.training
        corners = self.dataset.corners_px[rows] - first
        room = np.array(shape) - self.geometry.window
        inside = ((corners >= 0) & (corners < room + 1)).all(1)
        return max(1, int(self.dataset.trusted(rows[inside]).sum()))

    def _draw(self) -> np.ndarray:
        """The frames of a step."""
        settings, rows = self.settings, self.dataset.training
        most = settings.frames_per_step or self._frames_per_step()
        if settings.batch == "tile":
            return rows[draw_tile(self.dataset.corners_px[rows], self.geometry.window, most, self._random)]
        if settings.batch == "random" and len(rows) > most:
            return np.sort(self._random.choice(rows, most, replace=False))
        return rows

    def _frames_per_step(self) -> int:
        corners, window = self.dataset.corners_px, np.array(self.geometry.window)
        tile = np.minimum(np.ptp(corners, axis=0), reach_px(self.geometry.window)) + window
        return max(16, int(FRAMES_PER_TILE * tile.prod() / window.prod()))

    def _begin(self) -> PtychoModel:
        """Look at the noise, find or take the probe, and make the networks."""
        rows = self._first_rows()
        if len(self.dataset.training) < 2:
            raise ValueError(
                f"frames to train on: {len(self.dataset.training)}; ptychography compares frames that overlap: append "
                f"at least two"
            )
        amplitudes = self.dataset.amplitudes(rows)
        if not (amplitudes >= 0).any():
            raise ValueError("every pixel of the first frames is masked: a mask is True where a pixel may be trusted")
        if not self.dataset.whole:
            trusted = (amplitudes >= 0).cpu().numpy()
            counts = amplitudes.clamp(min=0).square().double().cpu().numpy()
            self.noise = estimate_noise(counts, trusted)
        sparse = windows_a_pixel(self.dataset.corners_px[rows], self.geometry.window) < SPARSE
        self._decided = decided(self.settings, amplitudes, self.noise, sparse)
        if self._decided.holdout_of == "pixels":
            self.dataset.hold_out_pixels()
        if self._given_probe is not None:
            reference = self._given_probe.to(self.device)
            photons = float(self.dataset.photons(rows).mean())
            if photons <= 0:
                raise ValueError("the first frames hold no photons: the probe cannot be scaled to them")
            if not self.settings.probe.fixed:
                reference = reference * (photons / energy(reference)).sqrt()
        elif self.settings.start == "random":
            reference = random_reference(amplitudes, self.settings.probe, self._random)
        else:
            self.start = self._blind_start(rows)
            reference = self.start.probe
        return self._make(reference)

    def _make(self, reference: Tensor) -> PtychoModel:
        """Networks around a probe, and their optimiser."""
        torch.manual_seed(self.settings.seed)
        upper, lower = np.array(self.scan_range.upper_m), np.array(self.scan_range.lower_m)
        field_px = float(((upper - lower) / self.geometry.pixel_m + self.geometry.window).max())
        frequency = self.settings.object.frequency(field_px)
        model, self._averaged = (
            PtychoModel(reference, self.canvas, self._decided.object, self.settings.probe, frequency, learning=learning)
            for learning in (True, False)
        )
        self._averaged.load_state_dict(model.state_dict())
        grids = [grid.grid for grid in model.probe.grids]
        networks = [grid.network for grid in model.probe.grids] if grids else [model.probe]
        groups = [
            {"params": [p for part in parts for p in part.parameters()], "full_rate": rate}
            for parts, rate in (
                ([model.field], self.settings.object_rate),
                (networks, self.settings.probe_rate),
                (grids, self.settings.table_rate * TABLE_UNIT),
            )
        ]
        self._optimiser = torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.99))
        self._caution = 1.0
        state = {name: value.clone() for name, value in model.state_dict().items()}
        self._best = _Best(math.inf, np.empty(0, np.int64), state)
        self._model = model
        return model

    def _blind_start(self, rows: np.ndarray) -> ProbeStart:
        """A start in counts, found in photons."""
        corners, counts = torch.from_numpy(self.dataset.corners_px[rows]), self.dataset.shown(rows)
        unit = self.noise.gain**0.5
        start = blind_start(torch.where(counts < 0, -1, counts / unit), corners, self.geometry, self._random)
        return replace(start, probe=start.probe * unit)

    def _should_try_again(self, start: ProbeStart) -> bool:
        tries = start.frames / self.settings.start_frames
        return (
            start.confidence < SURE
            and tries < 2 ** (MOST_TRIES - 1)
            and (len(self.dataset.lit_training) >= 2 * start.frames)
        )

    def _try_again(self, before: ProbeStart) -> PtychoModel:
        """Look for the probe in twice the frames; training begins anew if another one explains them better."""
        found = self._blind_start(self._first_rows(2 * before.frames))
        trained = self._averaged.probe().detach()
        same = float(overlaps(found.probe, trained[:1])[0, 0]) >= SAME
        better = found.confidence > before.confidence
        self.start = found if same or better else replace(before, frames=found.frames)
        return self._make(found.probe) if better and not same else self._trained

    def _first_rows(self, most: int | None = None) -> np.ndarray:
        """Frames that a probe is found in, or scaled to: neighbours around the middle one of those that came.

        Dark ones, before a shutter opened, tell nothing.
        """
        lit = self.dataset.lit_training
        rows = lit if len(lit) else self.dataset.training
        if not len(rows):
            return rows
        corners = self.dataset.corners_px[rows]
        middle = corners[np.abs(corners - np.median(corners, 0)).max(1).argmin()]
        near = np.abs(corners - middle).max(1).argsort(kind="stable")
        return rows[np.sort(near[: most or self.settings.start_frames])]

    def _average(self) -> None:
        """Follow the weights; the memory lengthens over the first steps."""
        memory = min(self.settings.averaging, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for averaged, current in zip(self._averaged.parameters(), self._trained.parameters(), strict=True):
                averaged.lerp_(current, 1 - memory)
            if self._averaged.detail is not None and self._trained.detail is not None:
                pixels = self._trained.detail.get_buffer("values")
                self._averaged.detail.get_buffer("values").lerp_(pixels, 1 - memory)

    def _roll_back(self) -> None:
        """Return to the best state, with half the rates and no momentum."""
        self.rollbacks += 1
        self._trained.load_state_dict(self._best.state)
        self._averaged.load_state_dict(self._best.state)
        self._optimiser.state.clear()
        if self._trained.detail is not None:
            self._trained.detail.forget()
        self._caution /= 2

    @property
    def _trained(self) -> PtychoModel:
        if self._model is None:
            raise ValueError("training has not begun")
        return self._model

    def _judges(self) -> np.ndarray:
        """Rows of the frames on which a snapshot's error is measured."""
        judges = self.dataset.heldout if len(self.dataset.heldout) else self.dataset.training
        return judges[:: -(-len(judges) // MOST_JUDGES)]

    @torch.no_grad()
    def _look(self) -> _Look:
        """Evaluate the averaged weights."""
        first, shape = bounding_box(self.dataset.corners_px, self.geometry.window)
        return _Look(first, _evaluate(self._averaged.object, first, shape), self._averaged.probe())

    @torch.no_grad()
    def _errors(self, look: _Look, judges: np.ndarray) -> tuple[float, float]:
        """Mean loss, and mean squared amplitude error in counts, on what is held out of some frames."""
        losses, squares = 0.0, 0.0
        for rows in self._parts(judges):
            positions = torch.from_numpy(self.dataset.corners_px[rows] - look.first)
            predicted, measured = predicted_amplitude(look.object, look.probe, positions), self.dataset.judged(rows)
            losses += amplitude_distance(predicted, measured, self._decided.loss, self.noise).item() * len(rows)
            squares += amplitude_error(predicted, measured).sum().item()
        return losses / len(judges), squares / len(judges)

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        most = max(1, EVALUATION_PIXELS // math.prod(self.geometry.window))
        return np.array_split(rows, -(-len(rows) // most))


def _evaluate(field: Callable[..., Tensor], first: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The object over a large area, some rows at a time."""
    rows = max(1, EVALUATION_PIXELS // shape[1])
    strips = [
        field((first[0] + start, first[1]), (min(rows, shape[0] - start), shape[1]))
        for start in range(0, shape[0], rows)
    ]
    return torch.cat(strips)
