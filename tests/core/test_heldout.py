"""What judges does not train: frames of a dense scan, pixels of a sparse one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ptyinr.dataset import Dataset
from ptyinr.losses import LossSettings
from ptyinr.model import ProbeSettings
from ptyinr.siren import ObjectSettings

FIXED = ProbeSettings(fixed=True)
SPARSE = {"grid": (5, 5), "step_m": 5e-7}
"""Steps of 16 of the window's 32 pixels."""


def losses(trainer, steps=5):
    return [trainer.step().loss for _ in range(steps)]


def lattice(scan, holdout):
    """(n, h, w) True at the pixels that are held out, DC in the centre."""
    dataset = Dataset(scan.geometry.window, holdout, torch.device("cpu"))
    dataset.append(scan.batch(), np.zeros((len(scan.counts), 2)))
    dataset.hold_out_pixels()
    return np.fft.fftshift(dataset.shown(np.arange(len(scan.counts))).numpy() < 0, axes=(1, 2))


def changed(scan, where):
    """Other numbers at some pixels, not so many that a dark frame would be lit."""
    counts = np.where(where, np.random.default_rng(9).permuted(scan.counts, axis=0), scan.counts)
    assert (counts != scan.counts).any()
    return dataclasses.replace(scan.batch(), counts=counts)


def held_frames(scan, holdout):
    return (np.arange(len(scan.counts)) % holdout == holdout // 2)[:, None, None]


@pytest.mark.parametrize("of", ["auto", "pixels", "frames"])
@pytest.mark.parametrize("sparse", [True, False])
def test_sparse_scans_hold_out_pixels_and_dense_ones_frames(simulate, trainer_of, sparse, of):
    scan = simulate(**SPARSE) if sparse else simulate()
    trainer = trainer_of(scan, steps=1, holdout_of=of)
    by_pixel = of == "pixels" or (of == "auto" and sparse)
    whole, held = len(scan.counts), held_frames(scan, 10).sum()
    assert len(trainer.dataset.training) == (whole if by_pixel else whole - held)
    metrics = trainer.snapshot().metrics
    assert metrics["heldout_error"] > 0
    assert metrics.get("heldout_pixels") == (0.1 if by_pixel else None)


@pytest.mark.parametrize("holdout", [4, 10])
def test_training_is_blind_to_pixels_held_out(simulate, trainer_of, holdout):
    scan = simulate(**SPARSE)
    held = lattice(scan, holdout)
    assert held.mean() == pytest.approx(1 / holdout, rel=0.1)
    one = trainer_of(scan, holdout=holdout, probe=FIXED)
    other = trainer_of(scan, changed(scan, held), holdout=holdout, probe=FIXED)
    assert losses(one) == losses(other)
    assert np.array_equal(one.snapshot().object, other.snapshot().object)
    assert one.snapshot().metrics["heldout_error"] != other.snapshot().metrics["heldout_error"]


def test_training_is_blind_to_frames_held_out(scan, trainer_of):
    one, other = (trainer_of(scan, frames) for frames in (scan.batch(), changed(scan, held_frames(scan, 10))))
    assert losses(one) == losses(other)
    assert np.array_equal(one.snapshot().object, other.snapshot().object)
    assert one.snapshot().metrics["heldout_error"] != other.snapshot().metrics["heldout_error"]


@pytest.mark.parametrize("sparse", [True, False])
def test_the_blind_start_is_blind_to_what_is_held_out(simulate, trainer_of, sparse):
    scan = simulate(**SPARSE) if sparse else simulate()
    where = lattice(scan, 10) if sparse else held_frames(scan, 10)
    probes = [
        trainer_of(scan, frames, given=False, start_frames=20, steps=1).start.probe
        for frames in (scan.batch(), changed(scan, where))
    ]
    assert torch.equal(*probes)


@pytest.mark.parametrize("sparse", [True, False])
def test_judges_look_at_nothing_that_trains(simulate, trainer_of, sparse):
    """Weights that are the same are judged the same, whatever the numbers that trained them were."""
    scan = simulate(**SPARSE) if sparse else simulate()
    trained = ~(lattice(scan, 10) if sparse else held_frames(scan, 10))
    one, other = (trainer_of(scan, frames, probe=FIXED) for frames in (scan.batch(), changed(scan, trained)))
    errors = []
    for trainer in (one, other):
        trainer.step(anneal=0.0)  # weights as they were
        errors.append(trainer.snapshot().metrics["heldout_error"])
    assert errors[0] == errors[1]


def test_an_error_on_pixels_falls_as_training_goes_on(simulate, trainer_of):
    scan = simulate(**SPARSE)
    # Where changes of the amplitude count more, as they do there by default, the error falls later.
    trainer = trainer_of(scan, steps=1, object=ObjectSettings(width=32), loss=LossSettings(absorption=1.0))
    before = trainer.snapshot().metrics["heldout_error"]
    losses(trainer, 40)
    assert trainer.snapshot().metrics["heldout_error"] < 0.7 * before
