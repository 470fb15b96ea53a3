"""pty-chi 2.2.0 (ePIE, LSQML, autodiff) on one of our scan files: the baseline of a comparison.

`python tests/benchmarks/pty_chi.py SCAN.h5 --method lsqml --probe blind --start mean --seconds 20 --output RESULT.h5`

Run it with the Python of an environment that has torch and ptychi (`pip install --no-deps ptychi==2.2.0`, then h5py
numpy pandas pydantic scikit-image scikit-learn scipy tqdm matplotlib); torchvision may be absent. Nothing of ours is
imported. One thread unless told otherwise; seconds are of the processor. The result is the last state.

`python tests/benchmarks/pty_chi.py --jobs JOBS.json` runs many in one process: a list of lists of such arguments. Each
method runs for an epoch first, which is not counted; when a result is there, a line names it.

Settings were chosen on 96 px objects (tungsten, maze), a focused 32 px probe, window overlaps of 95, 50 and 30 %, noise
none or mixed (10 photons in the brightest pixel), 3 to 8 s a run, one seed each, by the object's PSNR against the truth
(2026-11-25). Amplitude / phase PSNR, probe known, equal epochs or seconds of the processor unless said otherwise (the
same cases chose and judged, and what differs by less than about 1 dB may be chance):

* Poisson likelihood, LSQML: 35.3 / 19.4 against 39.1 / 20.8 at 95 %, clean; 23.4 / 19.7 against 23.4 / 20.1 at 95 %,
  mixed; 16.8 / 21.8 against 16.4 / 21.4 at 50 %, clean, maze. Autodiff's is NaN: it takes intensities for their
  logarithms; mended, 23.1 / 23.8 against 23.3 / 26.5 (19 and 21 epochs). So amplitudes are fitted everywhere.
* LSQML: 100 frames a batch are better than 30 (41.5 / 22.2 against 37.4 / 19.9); compact batches 36.6 / 25.5, but with
  noise and a blind probe 22.5 / 21.8 against 24.6 / 26.4. Momentum acts on the probe only in random batches.
* Autodiff: Adam with steps of 0.05 and 0.1 (63.8 / 36.2 and 59.3 / 37.5 at 95 %, clean); 0.02 is slower. L-BFGS at
  50 % and 30 %, clean: 16.5 / 20.4 and 14.4 / 14.4 against 19.8 / 19.8 and 17.5 / 16.6; maze 17.3 / 22.6 against
  15.6 / 20.6.
* ePIE: 30 frames a batch with a step of 1 (28.2 / 20.6); 10 with 0.5, 30 with 0.2 and 60 with 0.1 reach 23 to 25
  (seconds of a busy machine, 2 to 26 epochs: a rough choice).
* Total variation, autodiff, mixed: 13.8 / 15.1 after 10 s against 10.9 / 7.9 after 5 s at 50 %. At 95 %, a weight of
  3e-5 gives 25.6 / 29.3 and, maze, 20.4 / 23.3; 1e-5 24.3 / 30.6 and 21.0 / 24.3; none 21.0 / 24.5 with the maze.
  With a blind probe it wants the probe's power held and small steps of the probe, 17.0 / 14.0 against 10.5 / 9.3 in
  3 s, and still goes on to 11.6 / 11.8 in 10 s: that far from the data's own answer, the length of the run decides.
  Smoothing and early stops end near a flat object (20.8 / 11.9). Dropping dark pixels is worse (13.6 / 14.8).

A probe that is given stays as it is; a blind one moves from the second epoch on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
import time
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

if importlib.util.find_spec("torchvision") is None:
    # pty-chi imports it for a blur of random starts that is never called here.
    transforms = types.ModuleType("torchvision.transforms")
    transforms.GaussianBlur = None
    sys.modules["torchvision"], sys.modules["torchvision.transforms"] = types.ModuleType("torchvision"), transforms

from ptychi import api
from ptychi.api.task import PtychographyTask

MARGIN = 4
"""Pixels of object around the scanned field."""
SPARSE = 0.75
"""Overlap of neighbouring windows below which a scan is sparse."""


@dataclass(frozen=True)
class Scan:
    """What pty-chi is given."""

    counts: np.ndarray
    """(N, h, w), DC at the corner."""
    corners_px: np.ndarray
    """(N, 2) window corners, the lowest at 0."""
    mask: np.ndarray | None
    """(h, w) True where a pixel may be trusted."""
    truth: np.ndarray | None
    """(h, w) the probe, where the file tells it."""
    wavelength_m: float
    pixel_m: float

    @property
    def sparse(self) -> bool:
        """Whether neighbouring windows overlap little."""
        apart = np.abs(self.corners_px[:, None] - self.corners_px[None]).max(2)
        np.fill_diagonal(apart, np.inf)
        return bool(np.median(apart.min(1)) > (1 - SPARSE) * min(self.counts.shape[1:]))


def read_scan(path: Path) -> Scan:
    """Read a scan file and its truth, if there is one."""
    with h5py.File(path) as file:
        counts = file["diffamp"][()].astype(np.float32) ** 2
        wavelength_nm, distance_m, detector_um = (float(file[k][()]) for k in ("lambda_nm", "z_m", "ccd_pixel_um"))
        pixel_m = 1e-3 * wavelength_nm * distance_m / detector_um / np.array(counts.shape[1:])
        corners = 1e-6 * file["points"][()].T / pixel_m
        mask = file["mask"][()].astype(bool) if "mask" in file else None
        truth = file["truth/probe"][()].reshape(-1, *counts.shape[1:])[0] if "truth/probe" in file else None
    # Without the rounding errors of the division: pty-chi shifts probes only where a position has a fraction.
    corners = np.round(corners - corners.min(0), 4)
    return Scan(counts, corners, mask, truth, 1e-9 * wavelength_nm, float(pixel_m[1]))


@dataclass(frozen=True)
class Settings:
    """How a method is run."""

    batch: int
    object_step: float
    probe_step: float
    """Of autodiff: in units of the probe's root mean square."""
    smooth: float = 0.0
    """Weight of the total variation. Of autodiff: in units of the mean count, since its loss grows with that."""


SETTINGS = {  # by method, sparse scan, few photons
    ("epie", False, False): Settings(30, 1.0, 0.5),
    ("epie", False, True): Settings(30, 1.0, 0.5),
    ("epie", True, False): Settings(5, 0.5, 0.5),
    ("epie", True, True): Settings(5, 0.5, 0.5, smooth=1e-2),
    ("lsqml", False, False): Settings(100, 1.0, 1.0),
    ("lsqml", False, True): Settings(100, 1.0, 1.0, smooth=1e-3),
    ("lsqml", True, False): Settings(100, 1.0, 1.0, smooth=3e-4),
    ("lsqml", True, True): Settings(100, 1.0, 1.0, smooth=1e-2),
    ("autodiff", False, False): Settings(100, 0.05, 0.05),
    ("autodiff", False, True): Settings(100, 0.1, 0.05, smooth=1e-5),
    ("autodiff", True, False): Settings(25, 0.1, 0.003, smooth=3e-6),
    ("autodiff", True, True): Settings(25, 0.1, 0.003, smooth=3e-5),
}
METHODS = ("epie", "lsqml", "autodiff")
MOMENTUM = 0.5
"""Of LSQML's probe."""


@dataclass(frozen=True)
class Budget:
    """Seconds of the processor or epochs, whichever is given."""

    seconds: float | None
    epochs: int | None

    def spent(self, seconds: float, epochs: int) -> float:
        """The share that is gone, 1 at the end."""
        return seconds / self.seconds if self.seconds is not None else epochs / self.epochs


def start_of(scan: Scan, start: str | None) -> np.ndarray:
    """(h, w) complex64: the truth for None, the mean pattern's focus for `mean`, or a file's probe.

    A pattern is |FFT(probe object)|^2 in pty-chi, without our 1 / (h w). A start is given the power of the brightest
    pattern, as its documentation recommends.
    """
    if start is None:
        if scan.truth is None:
            raise SystemExit("the scan file has no truth/probe: a known probe cannot be given")
        return (scan.truth / np.sqrt(scan.truth.size)).astype(np.complex64)
    if start == "mean":
        probe = np.fft.fftshift(np.fft.ifft2(np.sqrt(scan.counts.mean(0))))
    else:
        probe = np.load(start).reshape(-1, *scan.counts.shape[1:])[0]
    power = scan.counts.sum((1, 2)).max() / (np.abs(np.fft.fft2(probe)) ** 2).sum()
    return (probe * np.sqrt(power)).astype(np.complex64)


def options_of(method: str, chosen: Settings, scan: Scan, probe: np.ndarray, blind: bool, seed: int) -> Any:
    """What pty-chi is told, but for arrays."""
    if method == "epie":
        options = api.EPIEOptions()
        options.object_options.alpha = options.probe_options.alpha = 1.0
    elif method == "lsqml":
        options = api.LSQMLOptions()
        options.reconstructor_options.rescale_probe_intensity_in_first_epoch = blind
        options.reconstructor_options.momentum_acceleration_gain = MOMENTUM
    else:
        options = api.AutodiffPtychographyOptions()
    fitted, light, general = options.object_options, options.probe_options, options.reconstructor_options
    general.batch_size = min(chosen.batch, len(scan.counts))
    general.default_device = api.Devices.CPU
    general.random_seed = seed
    options.data_options.fft_shift = False
    options.data_options.wavelength_m = scan.wavelength_m
    fitted.pixel_size_m = scan.pixel_m
    # Ours are window corners, pty-chi's window centres, (n - 1) / 2 further.
    fitted.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    fitted.position_origin_coords = [MARGIN + (n - 1) / 2 for n in probe.shape]
    fitted.step_size, light.step_size = chosen.object_step, chosen.probe_step
    fitted.total_variation.enabled, fitted.total_variation.weight = chosen.smooth > 0, chosen.smooth
    light.optimizable = blind
    light.optimization_plan.start = 1
    if method == "autodiff":
        fitted.optimizer = light.optimizer = api.Optimizers.ADAM
        light.step_size *= float(np.sqrt(np.mean(np.abs(probe) ** 2)))
        fitted.total_variation.weight *= float(scan.counts.mean())
        # Or else the variation sinks by moving the object's scale into the probe.
        light.power_constraint.enabled = blind and chosen.smooth > 0
        light.power_constraint.probe_power = float((np.abs(probe) ** 2).sum())
    return options


def reconstruct(
    scan: Scan, method: str, chosen: Settings, probe: np.ndarray, blind: bool, budget: Budget, seed: int
) -> tuple[PtychographyTask, float]:
    """Run until the budget is spent, with steps that vanish over its second half: the task, and seconds."""
    options = options_of(method, chosen, scan, probe, blind, seed)
    began = time.process_time()

    def share(epoch: int) -> float:
        return max(min(1.0, 2 - 2 * budget.spent(time.process_time() - began, epoch)), 1e-3)

    for part in (options.object_options, options.probe_options):
        part.optimization_plan.step_size_scheduler_class = "LambdaLR"
        part.optimization_plan.step_size_scheduler_options = {"lr_lambda": share}
    shape = (1, *(np.ceil(scan.corners_px.max(0)).astype(int) + probe.shape + 2 * MARGIN))
    torch.manual_seed(seed)
    task = PtychographyTask(
        options,
        diffraction_data=scan.counts,
        object_data=torch.ones(shape, dtype=torch.complex64) + 1e-2 * torch.rand(shape, dtype=torch.complex64),
        probe_data=probe[None, None],
        probe_position_y_px=scan.corners_px[:, 0].astype(np.float32),
        probe_position_x_px=scan.corners_px[:, 1].astype(np.float32),
        valid_pixel_mask=scan.mask,
    )
    while budget.spent(time.process_time() - began, task.reconstructor.current_epoch) < 1:
        task.run(1)
    return task, time.process_time() - began


def arguments() -> argparse.ArgumentParser:
    """Of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--probe", choices=("known", "blind"), required=True)
    parser.add_argument("--start", default="mean", help="of a blind probe: mean, or a .npy file (h, w)")
    parser.add_argument("--noisy", action="store_true", help="settings for a few photons in the brightest pixel")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--seconds", type=float)
    length.add_argument("--epochs", type=int)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def run(given: argparse.Namespace, warm: bool) -> None:
    """Reconstruct and write; `warm` to run for an epoch first."""
    torch.set_num_threads(given.threads)
    scan, blind = read_scan(given.scan), given.probe == "blind"
    chosen = SETTINGS[given.method, scan.sparse, given.noisy]
    probe = start_of(scan, given.start if blind else None)
    if warm:
        reconstruct(scan, given.method, chosen, probe, blind, Budget(None, 1), given.seed)
    budget = Budget(given.seconds, given.epochs)
    task, seconds = reconstruct(scan, given.method, chosen, probe, blind, budget, given.seed)
    found = task.get_data_to_cpu("probe", as_numpy=True)[0]
    with h5py.File(given.output, "w") as file:
        file["object"] = task.get_data_to_cpu("object", as_numpy=True)[0].astype(np.complex64)
        file["probe"] = (found * np.sqrt(found[0].size)).astype(np.complex64)
        file["positions_px"] = scan.corners_px + MARGIN
        file.attrs.update(seconds=seconds, epochs=task.reconstructor.current_epoch, method=given.method)


def main() -> None:
    """Run and write."""
    many = sys.argv[1:2] == ["--jobs"]
    jobs = json.loads(Path(sys.argv[2]).read_text()) if many else [sys.argv[1:]]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")  # of pty-chi's own making
    met: set[str] = set()
    for job in jobs:
        given = arguments().parse_args(job)
        run(given, warm=many and given.method not in met)
        met.add(given.method)
        if many:
            print(f"done {given.output}", flush=True)


if __name__ == "__main__":
    main()
