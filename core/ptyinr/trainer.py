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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .adam import Adam
from .beginning import Beginning
from .choices import chosen, compute_dtype, with_choices
from .dataset import Dataset, FrameStore
from .detail import grown
from .geometry import Canvas, window_corners_px, window_middles_m
from .hashgrid import TABLE_UNIT
from .judging import Best, Errors, Look, errors_of, judges_of, look_at
from .lattice import NOTHING, Frequencies, raster_frequencies, without
from .light import bounding_box, illumination, within
from .losses import amplitude_distance, amplitude_error, darkness
from .model import PtychoModel
from .noise import Noise
from .probe_start import SURE, ProbeStart
from .propagation import predicted_amplitude
from .roughness import coupling, roughness
from .samplers import PIXELS_ON_A_GPU, Sampler
from .settings import TrainerSettings
from .types import Batch, ScanGeometry, ScanRange, Snapshot

ILLUMINATION_FLOOR = 0.5
JUMP = 1.25
"""Growth of the held-out error over the best one at which training returns to the best state."""
JUMP_WHILE_GROWING = 2.0
"""The same while frames arrive, from one snapshot to the next: what is learned elsewhere disturbs a little."""
RECOVERY = 1.1
"""Growth of halved rates, up to the full ones, each time that a new best state is seen."""
STATE_VERSION = 4
"""Of what `Trainer.state` holds; another one is refused."""


@dataclass(frozen=True)
class StepReport:
    """What one step did."""

    step: int
    loss: float
    frames: int
    """In the step's tile."""


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
        check_probe: bool = False,
        previous: Mapping[str, Any] | None = None,
        store: FrameStore | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Begin without frames.

        Args:
            geometry: the optics.
            scan_range: the commanded extent, which anchors the coordinates.
            settings: None chooses all of them.
            uid: of the reconstruction, for its snapshots.
            probe: (modes, h, w) or (h, w) complex to start from; None finds one in the first frames.
            check_probe: find one all the same if the first frames contradict it, as soon as there are enough.
            previous: the `state` of another scan of the same region, whose object is the start; not if the first
                frames are explained better without it.
            store: where frames are kept; None keeps them in the device's memory.
            device: torch's name.

        Raises:
            ValueError: the probe has another size than the window, or is not finite; `previous` is of another
                geometry, range or settings.
        """
        self.geometry, self.scan_range, self.uid = geometry, scan_range, uid
        self.settings = settings or TrainerSettings()
        self.device = torch.device(device)
        self.dataset = Dataset(geometry.window, self.settings.holdout, self.device, store)
        self.canvas = Canvas.of(geometry, scan_range)
        self.steps = 0
        self.rollbacks = 0
        self._previous = previous
        self.continued = False
        """Whether the object began as that of `previous`."""
        self._model: PtychoModel | None = None
        self._random = np.random.default_rng(self.settings.seed)
        self._loss = math.nan
        self._beginning = Beginning(geometry, self.settings, self._random, probe, check_probe=check_probe)
        self._open: tuple[int, tuple[Frequencies, Frequencies]] = (0, (NOTHING, NOTHING))
        """So many frames; what they leave open."""
        at_once = PIXELS_ON_A_GPU if self.device.type == "cuda" else 0
        self._sampler = Sampler(self.settings, geometry.window, self._random, at_once)
        self._decided = self.settings
        """With what was left to the data."""
        if previous is not None:
            self._require_form(previous)
            self.canvas = _canvas_of(previous)

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
            return len(self.dataset.training) > 0
        return self._beginning.enough(self.dataset, complete)

    def step(self, anneal: float = 1.0) -> StepReport:
        """Take one step on the frames of a random tile; the first one finds the probe.

        Args:
            anneal: factor on the learning rates, from 1 while frames arrive towards 0 at the end.

        Raises:
            ValueError: there are no two frames to train on, or at the first step no light in the frames.
        """
        model = self._model or self._begin()
        if (probe := self._beginning.reconsider(self.dataset, lambda: self._averaged.probe().detach())) is not None:
            model = self._make(probe)
        rows = self._sampler.draw(self.dataset, small=self.steps < (self._decided.small_steps or 0))
        corners = self.dataset.corners_px[rows]
        first, shape = bounding_box(corners, self.geometry.window)

        tile = model.object(first, shape, self._dtype)
        with torch.set_grad_enabled(not self._beginning.holds(self.steps)):
            probe = model.probe()
        if self.settings.preconditioned:
            light = illumination(corners - first, probe.detach(), shape)
            tile.register_hook(lambda gradient: gradient / (light + ILLUMINATION_FLOOR))
        predicted = predicted_amplitude(tile, probe, torch.from_numpy(corners - first), self.noise.least)
        loss = amplitude_distance(predicted, self.dataset.shown(rows), self._decided.loss, self.noise)
        if self._decided.loss.prior:
            if self._decided.loss.coupled and self.sure:
                self._coupling = coupling(tile.detach(), self._decided.loss, self._coupling)
            loss = loss + roughness(tile, self._decided.loss, self._measured_in(first, shape), self._coupling)
        if self._decided.loss.aperture and probe.requires_grad:
            every = self.dataset.training
            pixels = int(self.dataset.trusted(every).sum())
            loss = loss + darkness(probe, self._decided.loss, self.noise, len(every), pixels)
        if self.steps < self.settings.loss.regularised_steps and self.settings.loss.regularisation:
            loss = loss + self.settings.loss.regularisation * probe.abs().mean() / probe.detach().abs().max()
        self._optimiser.clear_gradients()
        tile.retain_grad()
        loss.backward()
        self._loss = loss.item()
        if math.isfinite(self._loss):
            self._optimiser.step(self._caution * anneal)
            if model.detail is not None and tile.grad is not None:
                rate = (self._decided.detail_rate or 0.0) * self._caution * anneal**2
                model.detail.learn(
                    first, tile.grad, rate, partial(without, field=tile.detach(), frequencies=self._raster())
                )
            self._average()
            if self._sampler.curious:
                self._sampler.note(rows, amplitude_error(predicted.detach(), self.dataset.shown(rows)).cpu().numpy())
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
        return self._judge()[1].loss

    def _judge(self) -> tuple[Look, Errors]:
        """What `judge` says, with the look that it took."""
        judges, best, look = judges_of(self.dataset), self._best, look_at(self._averaged, self.dataset)
        errors, before = self._errors(look, judges), self.dataset.rows_of(best.judges)
        same = np.array_equal(judges, before)
        compared = errors.loss if same or not len(before) else self._errors(look, before).loss
        if math.isfinite(best.error) and not compared <= (JUMP if same else JUMP_WHILE_GROWING) * best.error:
            self._roll_back()
            look = look_at(self._averaged, self.dataset)
            return look, self._errors(look, judges)
        if math.isfinite(errors.loss) and (not same or errors.loss < best.error):
            state = {name: value.clone() for name, value in self._averaged.state_dict().items()}
            self._best = Best(errors.loss, self.dataset.indices[judges], state)
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
        dataset, judges = self.dataset, judges_of(self.dataset)
        look, errors = self._judge()
        if final and np.array_equal(judges, dataset.rows_of(self._best.judges)) and errors.loss > self._best.error:
            self._averaged.load_state_dict(self._best.state)
            look = look_at(self._averaged, dataset)
            errors = self._errors(look, judges)
        metrics = {"loss": self._loss, "rollbacks": float(self.rollbacks)}
        if len(dataset.heldout):
            metrics["heldout_error"] = float(errors.squares.mean())
        if dataset.by_pixel:
            metrics["heldout_pixels"] = 1 / self.settings.holdout  # of every frame: no frame is unseen
        if self.start is not None:
            metrics["start_confidence"] = self.start.confidence
        if self._beginning.disagreement is not None:
            metrics["probe_disagreement"] = self._beginning.disagreement
        field, coverage = look.on(self.canvas, dataset.corners_px)
        order = np.argsort(dataset.indices, kind="stable")
        return Snapshot(
            uid=self.uid,
            step=self.steps,
            frames=len(dataset),
            object=field,
            probe=look.probe.cpu().numpy(),
            coverage=coverage,
            indices=dataset.indices[order].copy(),
            positions_px=self.canvas.array_px(dataset.corners_px)[order],
            pixel_m=self.geometry.pixel_m,
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            final=final,
            positions_m=window_middles_m(dataset.corners_px, self.geometry, self.scan_range)[order],
            judges=dataset.indices[judges].copy(),
            judged=errors.squares,
        )

    def _errors(self, look: Look, rows: np.ndarray) -> Errors:
        return errors_of(look, self.dataset, rows, self._decided.loss, self.noise)

    def state(self) -> dict[str, Any]:
        """All but the frames, to go on from later or elsewhere: tensors, numbers and text, which pickle nothing.

        Raises:
            ValueError: no step has been taken yet.
        """
        model, start = self._trained, self.start
        return {
            "form": self._form,
            "version": STATE_VERSION,
            "canvas": [*self.canvas.shape, *self.canvas.corner],
            "model": model.state_dict(),
            "moments": {} if model.detail is None else model.detail.moments,
            "averaged": self._averaged.state_dict(),
            "optimiser": self._optimiser.moments,
            "best": {"error": self._best.error, "judges": torch.from_numpy(self._best.judges), **self._best.state},
            "random": self._random.bit_generator.state,
            "noise": asdict(self.noise),
            "decided": chosen(self._decided),
            "start": None if start is None else {**vars(start), "defocus_m": list(start.defocus_m)},
            "by_pixel": self.dataset.by_pixel,
            "raster": [self._open[0], *(list(each) for each in self._open[1])],
            "seen": torch.from_numpy(self._sampler.seen),
            "numbers": [self.steps, self.rollbacks, self._caution, self._loss, self._coupling],
            "to_check": self._beginning.to_check,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, before the first frame is appended; frames that it had seen may come in any portions.

        Raises:
            ValueError: frames are there already, or the state is of another geometry, range or settings, or torn.
        """
        if len(self.dataset):
            raise ValueError(f"{len(self.dataset)} frames are there already: restore before the first is appended")
        if state.get("version") != STATE_VERSION:
            raise ValueError("the state is of another version of this program: training has to begin anew")
        self._require_form(state)
        try:
            self.canvas = _canvas_of(state)
            self._beginning.noise = Noise(**state["noise"])
            self._decided = with_choices(self.settings, state["decided"])
            if state["by_pixel"]:
                self.dataset.hold_out_pixels()
            start = state["start"]
            self._beginning.start = (
                None if start is None else ProbeStart(**{**start, "defocus_m": tuple(start["defocus_m"])})
            )
            model = self._make(state["model"]["probe.reference"].to(self.device))
            model.load_state_dict(state["model"])
            if model.detail is not None:
                model.detail.remember(state["moments"])
            self._averaged.load_state_dict(state["averaged"])
            self._optimiser.remember(state["optimiser"])
            best = dict(state["best"])
            self._best = Best(best.pop("error"), best.pop("judges").numpy(), best)
            self._random.bit_generator.state = state["random"]
            frames, rows, columns = state["raster"]
            self._open = (frames, (tuple(rows), tuple(columns)))
            self._sampler.seen = state["seen"].numpy()
            self.steps, self.rollbacks, self._caution, self._loss, self._coupling = state["numbers"]
            self._beginning.to_check = bool(state["to_check"])
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"the state is torn: {error}") from error

    def _require_form(self, state: Mapping[str, Any]) -> None:
        if state.get("form") != self._form:
            raise ValueError(f"the state is of {state.get('form')}, this reconstruction of {self._form}")

    @property
    def _form(self) -> dict[str, Any]:
        """What has to be equal where a state is taken over."""
        geometry, reach = asdict(self.geometry), asdict(self.scan_range)
        settings = {name: repr(getattr(self.settings, name)) for name in ("object", "probe", "loss", "holdout")}
        flat = {key: list(value) if isinstance(value, tuple) else value for key, value in (geometry | reach).items()}
        return flat | settings

    def _grow(self, canvas: Canvas) -> None:
        """Let the pixels beside the networks, which know no bounds, cover a larger canvas."""
        for model in (self._trained, self._averaged):
            if model.detail is not None:
                model.detail.cover(canvas)
        if "detail.values" in self._best.state:
            pixels = grown(self._best.state["detail.values"], self.canvas, canvas)
            self._best = replace(self._best, state=self._best.state | {"detail.values": pixels})

    def _raster(self) -> tuple[Frequencies, Frequencies]:
        """What the positions leave open, looked for again when a quarter more frames are there."""
        if self.settings.probe.fixed or self._beginning.holds(self.steps):
            return NOTHING, NOTHING
        frames, found = self._open
        if len(self.dataset) > 1.25 * frames:
            found = raster_frequencies(self.dataset.corners_px)
            self._open = len(self.dataset), found
        return found

    def _measured_in(self, first: tuple[int, int], shape: tuple[int, int]) -> int:
        """Trusted pixels of all training frames that lie in a part of the object."""
        rows = self.dataset.training
        last = np.array(first) + shape - self.geometry.window + 1 - 1e-9
        inside = within(self.dataset.corners_px[rows], np.array(first), last)
        return int(self.dataset.trusted(rows[inside]).sum())

    @property
    def start(self) -> ProbeStart | None:
        """How the probe was found, if it was."""
        return self._beginning.start

    @property
    def sure(self) -> bool:
        """Whether the probe has been found with confidence, or given and not contradicted."""
        return self.start is None or self.start.confidence >= SURE

    @property
    def noise(self) -> Noise:
        """Of the detector, as the first frames show it."""
        return self._beginning.noise

    def _begin(self) -> PtychoModel:
        """Look at the first frames, and make the networks."""
        self._decided, reference = self._beginning.look(self.dataset, self.device)
        previous, self._previous = self._previous, None
        if previous is None:
            return self._make(reference)
        own, theirs = self._decided, previous["decided"]["object"]
        same = {name: theirs[name] for name in ("width", "first_frequency")}
        self._decided = replace(own, object=replace(own.object, **same))
        model = self._make(reference)
        rows = judges_of(self.dataset)
        before = self._errors(look_at(self._averaged, self.dataset), rows).loss
        known = {name: value for name, value in previous["averaged"].items() if not name.startswith("probe.")}
        if "detail.values" in known:
            known["detail.values"] = grown(known["detail.values"], _canvas_of(previous), self.canvas)
        for each in (model, self._averaged):
            each.load_state_dict(known, strict=False)
        if self._errors(look_at(self._averaged, self.dataset), rows).loss < before:
            self.continued = True
            return model
        self._decided = own
        return self._make(reference)

    def _make(self, reference: Tensor) -> PtychoModel:
        """Networks around a probe, and their optimiser."""
        torch.manual_seed(self.settings.seed)
        self._coupling = 0.0
        self._dtype = compute_dtype(self.settings.precision, self.device, self._decided.object.detail)
        upper, lower = np.array(self.scan_range.upper_m), np.array(self.scan_range.lower_m)
        field_px = float(((upper - lower) / self.geometry.pixel_m + self.geometry.window).max())
        frequency = self._decided.object.frequency(field_px)
        model, self._averaged = (
            PtychoModel(reference, self.canvas, self._decided.object, self.settings.probe, frequency, learning=learning)
            for learning in (True, False)
        )
        self._averaged.load_state_dict(model.state_dict())
        grids, pixels = model.probe.grids, model.probe.pixels
        self._optimiser = Adam(
            (
                ([*model.field.parameters()], self.settings.object_rate),
                ([p for grid in grids for p in grid.network.parameters()], self.settings.probe_rate),
                ([p for grid in grids for p in grid.grid.parameters()], self.settings.table_rate * TABLE_UNIT),
                ([] if pixels is None else [pixels], self._decided.probe_detail_rate or 0.0),
            ),
            self.settings.betas,
        )
        self._caution = 1.0
        state = {name: value.clone() for name, value in model.state_dict().items()}
        self._best = Best(math.inf, np.empty(0, np.int64), state)
        self._model = model
        return model

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
        self._optimiser.forget()
        if self._trained.detail is not None:
            self._trained.detail.forget()
        self._caution /= 2

    @property
    def _trained(self) -> PtychoModel:
        if self._model is None:
            raise ValueError("training has not begun")
        return self._model


def _canvas_of(state: Mapping[str, Any]) -> Canvas:
    rows, columns, top, left = state["canvas"]
    return Canvas((rows, columns), (top, left))
