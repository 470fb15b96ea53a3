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
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .geometry import Canvas, window_corners_px
from .hashgrid import TABLE_UNIT, GridSettings
from .losses import amplitude_error, smooth_l1
from .model import PtychoModel, energy
from .probe_start import ProbeStart, blind_start
from .propagation import predicted_amplitude
from .samplers import draw_tile
from .siren import ObjectSettings
from .types import Batch, ScanGeometry, ScanRange, Snapshot

ILLUMINATION_FLOOR = 0.5
LEAST_LIGHT = 0.02
"""Of the median lit pixel (the brightest may lie where the stage stood still); where less has fallen a snapshot shows
1. Held-out error of the shown object: 0.380 to 0.381."""
LEAST_ANNEAL = 0.1
"""Factor on the learning rates at the end of a reconstruction whose length is known; they fall linearly from 1."""
JUMP = 1.25
"""Growth of the held-out error over the best one at which training returns to the best state."""
JUMP_WHILE_GROWING = 2.0
"""The same while frames arrive, from one snapshot to the next: what is learned elsewhere disturbs a little."""
MOST_JUDGES = 256
"""Frames on which a snapshot's error is measured."""
EVALUATION_PIXELS = 2**18
"""Of the object at a time, when a snapshot is taken."""


@dataclass(frozen=True)
class TrainerSettings:
    """What training is free to choose; every default holds for any scan.

    Raises:
        ValueError: a number is out of range.
    """

    object: ObjectSettings = field(default_factory=ObjectSettings)
    probe: GridSettings = field(default_factory=GridSettings)
    object_rate: float = 1e-3
    probe_rate: float = 1e-3
    """Of the networks behind the probe's hash grids."""
    table_rate: float = 3e-2
    """Of the hash grids' tables, in units of their initial spread."""
    beta: float = 1.0
    """Of the SmoothL1 loss, in root photons."""
    frames_per_step: int = 64
    start_frames: int = 60
    """Frames that the blind start waits for."""
    averaging: float = 0.95
    """Memory of the averaged weights."""
    holdout: int = 10
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the object's hidden layers; auto takes bfloat16 where the processor computes with it."""
    seed: int = 0

    def __post_init__(self) -> None:
        positive = (
            self.object_rate,
            self.probe_rate,
            self.table_rate,
            self.beta,
            self.frames_per_step,
            self.start_frames,
        )
        if min(positive) <= 0 or not 0 <= self.averaging < 1:
            raise ValueError(f"rates, beta and frame numbers must be positive and averaging in [0, 1): {self}")


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    step: int
    loss: float
    frames: int
    """In the step's tile."""


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
        self._given_probe = None if probe is None else _checked_probe(probe, geometry.window)
        self._model: PtychoModel | None = None
        self._random = np.random.default_rng(self.settings.seed)
        self._dtype = _compute_dtype(self.settings.precision, self.device)
        self._loss = math.nan
        self._best: tuple[float, np.ndarray, dict[str, Tensor]] | None = None
        """Least error, the frames that judged it, and the averaged weights of that moment."""

    def append(self, batch: Batch) -> None:
        """Add frames; the next step may already see them. The canvas grows if they leave it.

        Raises:
            ValueError: the frames have another shape than the geometry's window, or lie where no canvas reaches; none
                of the batch is added then.
        """
        corners = window_corners_px(batch.positions_m, self.geometry, self.scan_range)
        canvas = self.canvas.including(corners, self.geometry.window)
        self.dataset.append(batch, corners)
        self.canvas = canvas

    def ready(self, complete: bool = False) -> bool:
        """Whether a step can be taken: enough frames for the blind start, or as many as there will be (`complete`).

        A given probe needs one lit frame only, to be scaled to it.
        """
        if self._model is not None:
            return True
        lit = len(self.dataset.lit_training)
        needed = self.settings.start_frames if self._given_probe is None else 1
        return lit >= needed or (complete and len(self.dataset.training) > 0)

    def step(self, anneal: float = 1.0) -> StepReport:
        """Take one step on the frames of a random tile; the first one finds the probe.

        Args:
            anneal: factor on the learning rates, from 1 while frames arrive towards 0 at the end.

        Raises:
            ValueError: there is no frame to train on, or at the first step no light in the frames.
        """
        if not len(self.dataset.training):
            raise ValueError("there is no frame to train on: append a batch first")
        model = self._model or self._begin()
        rows = self.dataset.training
        rows = rows[
            draw_tile(self.dataset.corners_px[rows], self.geometry.window, self.settings.frames_per_step, self._random)
        ]
        corners = self.dataset.corners_px[rows]
        first, shape = _bounding_box(corners, self.geometry.window)

        tile = model.object(first, shape, self._dtype)
        probe = model.probe()
        illumination = _illumination(corners - first, probe.detach(), shape)
        tile.register_hook(lambda gradient: gradient / (illumination + ILLUMINATION_FLOOR))
        predicted = predicted_amplitude(tile, probe, torch.from_numpy(corners - first))
        loss = smooth_l1(predicted, self.dataset.amplitudes(rows), self.settings.beta)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in self._optimiser.param_groups:
            group["lr"] = group["full_rate"] * anneal
        self._loss = loss.item()
        if math.isfinite(self._loss):
            self._optimiser.step()
            self._average()
        else:
            self._roll_back(self._averaged.state_dict())
        self.steps += 1
        return StepReport(self.steps, self._loss, len(rows))

    def snapshot(self, final: bool = False) -> Snapshot:
        """The reconstruction of this moment, from the averaged weights, evaluated in float32.

        Here training is also judged, on the held-out frames, or on some of the others where none are held out. If the
        error has jumped since it was at its best, training returns to its best state with half the rates; a final
        snapshot shows the best state in any case. Once frames have been appended, a state is compared with the best
        one on the frames that judged that one; if it has not jumped it is the new best, as seen by the new frames.

        Raises:
            ValueError: no step has been taken yet.
        """
        if self._model is None:
            raise ValueError("there is nothing to show before the first step")
        corners = self.dataset.corners_px
        first, shape = _bounding_box(corners, self.geometry.window)
        seen, probe = self._look(first, shape)
        judges, best = self._judges(), self._best
        error = self._error(seen, probe, first, judges)
        same = best is not None and np.array_equal(judges, best[1])
        compared = error if best is None or same else self._error(seen, probe, first, best[1])
        jumped = best is not None and not compared <= (JUMP if same else JUMP_WHILE_GROWING) * best[0]
        if best is not None and (jumped or (final and same and error > best[0])):
            if jumped:
                self._roll_back(best[2])
            self._averaged.load_state_dict(best[2])
            seen, probe = self._look(first, shape)
            error = self._error(seen, probe, first, judges)
        elif math.isfinite(error) and (best is None or not same or error < best[0]):
            state = {name: value.clone() for name, value in self._averaged.state_dict().items()}
            self._best = (error, judges, state)
        light = _illumination(corners - first, probe, shape)
        light[light < LEAST_LIGHT * light[light > 0].median()] = 0  # what the network says there is invention
        metrics = {"loss": self._loss, "rollbacks": float(self.rollbacks)}
        if len(self.dataset.heldout):
            metrics["heldout_error"] = error
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

    def _begin(self) -> PtychoModel:
        """Find or take the probe, and make the networks."""
        torch.manual_seed(self.settings.seed)
        if self._given_probe is not None:
            reference = self._given_probe.to(self.device)
            photons = float(self.dataset.photons(self._first_rows()).mean())
            if photons <= 0:
                raise ValueError("the first frames hold no photons: the probe cannot be scaled to them")
            reference = reference * (photons / energy(reference)).sqrt()
        else:
            rows = self._first_rows()
            corners = torch.from_numpy(self.dataset.corners_px[rows])
            self.start = blind_start(self.dataset.amplitudes(rows), corners, self.geometry, self._random)
            reference = self.start.probe
        extent = max(self.canvas.shape) / 2
        model = PtychoModel(reference, extent, self.settings.object, self.settings.probe)
        self._averaged = PtychoModel(reference, extent, self.settings.object, self.settings.probe)
        self._averaged.load_state_dict(model.state_dict())
        grids = [grid.grid for grid in model.probe.grids]
        networks = [grid.network for grid in model.probe.grids]
        groups = [
            {"params": [p for part in parts for p in part.parameters()], "lr": rate, "full_rate": rate}
            for parts, rate in (
                ([model.object], self.settings.object_rate),
                (networks, self.settings.probe_rate),
                (grids, self.settings.table_rate * TABLE_UNIT),
            )
        ]
        self._optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self._model = model
        return model

    def _first_rows(self) -> np.ndarray:
        """The frames that a probe is found in, or scaled to: dark ones, before a shutter opened, tell nothing."""
        lit = self.dataset.lit_training
        return (lit if len(lit) else self.dataset.training)[: self.settings.start_frames]

    def _average(self) -> None:
        """Follow the weights; the memory lengthens over the first steps."""
        memory = min(self.settings.averaging, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for averaged, current in zip(self._averaged.parameters(), self._trained.parameters(), strict=True):
                averaged.lerp_(current, 1 - memory)

    def _roll_back(self, state: dict[str, Tensor]) -> None:
        """Return to an earlier state, with half the rates and no momentum."""
        self.rollbacks += 1
        self._trained.load_state_dict(state)
        self._optimiser.state.clear()
        for group in self._optimiser.param_groups:
            group["full_rate"] /= 2

    @property
    def _trained(self) -> PtychoModel:
        if self._model is None:
            raise ValueError("training has not begun")
        return self._model

    @torch.no_grad()
    def _look(self, first: tuple[int, int], shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The averaged object in a box, and the probe."""
        return _evaluate(self._averaged.object, first, shape), self._averaged.probe()

    def _judges(self) -> np.ndarray:
        """Rows of the frames on which a snapshot's error is measured."""
        judges = self.dataset.heldout if len(self.dataset.heldout) else self.dataset.training
        return judges[:: -(-len(judges) // MOST_JUDGES)]

    @torch.no_grad()
    def _error(self, seen: Tensor, probe: Tensor, first: tuple[int, int], judges: np.ndarray) -> float:
        """Mean squared amplitude error of an object whose first pixel is `first`."""
        errors = []
        for rows in np.array_split(judges, -(-len(judges) // self.settings.frames_per_step)):
            predicted = predicted_amplitude(seen, probe, torch.from_numpy(self.dataset.corners_px[rows] - first))
            errors.append(amplitude_error(predicted, self.dataset.amplitudes(rows)))
        return torch.cat(errors).mean().item()


def _bounding_box(corners_px: np.ndarray, window: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First pixel and shape of the smallest array that holds all windows."""
    first = np.floor(corners_px.min(0)).astype(int)
    # In the box's own pixels: -1e-17 lies in pixel -1, but 33 pixels further on it is 33, not 32.
    shape = np.floor((corners_px - first).max(0)).astype(int) + window
    return (int(first[0]), int(first[1])), (int(shape[0]), int(shape[1]))


def _illumination(corners_px: np.ndarray, probe: Tensor, shape: tuple[int, int]) -> Tensor:
    """Light that each pixel of `shape` receives from windows at `corners_px`, 1 at the brightest: (H, W) float32.

    The probe's intensity convolved with the number of windows at each corner.
    """
    h, w = probe.shape[-2:]
    visits = torch.zeros(shape, device=probe.device)
    where = torch.from_numpy(np.floor(corners_px).astype(np.int64)).to(probe.device)
    visits.index_put_((where[:, 0], where[:, 1]), torch.ones(len(where), device=probe.device), accumulate=True)
    intensity = (probe.real.square() + probe.imag.square()).sum(0)
    padded = (shape[0] + h, shape[1] + w)
    light = torch.fft.irfft2(torch.fft.rfft2(visits, padded) * torch.fft.rfft2(intensity, padded), padded)
    light = light[: shape[0], : shape[1]]
    # Rounding leaves some 1e-7 of the brightest where no light falls.
    return torch.where(light > 1e-6 * light.max(), light / light.max(), torch.zeros_like(light))


def _evaluate(field: Callable[..., Tensor], first: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """The object over a large area, some rows at a time."""
    rows = max(1, EVALUATION_PIXELS // shape[1])
    strips = [
        field((first[0] + start, first[1]), (min(rows, shape[0] - start), shape[1]))
        for start in range(0, shape[0], rows)
    ]
    return torch.cat(strips)


def _checked_probe(probe: np.ndarray, window: tuple[int, int]) -> Tensor:
    modes = np.asarray(probe)
    modes = modes[None] if modes.ndim == 2 else modes
    if modes.ndim != 3 or modes.shape[1:] != window:
        raise ValueError(f"the probe has shape {np.shape(probe)}: the frames need (modes, {window[0]}, {window[1]})")
    if not np.isfinite(modes).all() or not np.abs(modes).any():
        raise ValueError("the probe must be finite and not zero everywhere")
    return torch.from_numpy(modes.astype(np.complex64))


def _compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    # Without the instructions bfloat16 is emulated, slower than float32. Older torch cannot tell.
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if fast else torch.float32
