"""Training on simulated scans: it learns, on whatever comes, in whatever order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ptyinr.dataset import Dataset
from ptyinr.losses import LossSettings
from ptyinr.metrics import overlap, phase_correlation
from ptyinr.model import ProbeSettings
from ptyinr.settings import TrainerSettings
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import Trainer


def trained(trainer, steps):
    for _ in range(steps):
        report = trainer.step()
    return report


def correlation(trainer, scan):
    snapshot = trainer.snapshot()
    truth = scan.truth(trainer.canvas.shape, trainer.canvas.corner)
    return phase_correlation(snapshot.object, snapshot.positions_px, truth, snapshot.positions_px, scan.geometry.window)


def weights(trainer):
    return {name: value.clone() for name, value in trainer._trained.state_dict().items()}


def test_a_blind_reconstruction_finds_object_and_probe(scan):
    trainer = Trainer(scan.geometry, scan.scan_range, TrainerSettings(precision="float32"))
    trainer.append(scan.batch())
    trainer.step()
    assert trainer.start is not None
    before, correlated_before = trainer.snapshot().metrics["heldout_error"], correlation(trainer, scan)
    trained(trainer, 69)
    after = trainer.snapshot()
    assert after.metrics["heldout_error"] < 0.25 * before  # 0.12 of it when this was written
    assert correlated_before < 0.6
    assert correlation(trainer, scan) > 0.97  # 0.997 when this was written
    assert overlap(after.probe[0], scan.probe) > 0.97
    assert trainer.rollbacks == 0
    assert 0 < after.metrics["start_confidence"] <= 1


def test_frames_that_come_later_are_learned_too(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 60), steps=20)
    assert trainer.snapshot().frames == 60
    for start in range(60, 100, 8):
        trainer.append(scan.batch(slice(start, min(start + 8, 100))))
        trained(trainer, 4)
    trained(trainer, 60)
    assert trainer.snapshot().frames == 100
    assert correlation(trainer, scan) > 0.9


def test_frames_in_any_order_are_learned(scan, trainer_of):
    trainer = trainer_of(scan, None)
    for rows in np.array_split(np.random.default_rng(0).permutation(100), 5):
        trainer.append(scan.batch(rows))
    trained(trainer, 80)
    assert correlation(trainer, scan) > 0.9


def test_a_rectangular_window_is_learned_with_its_two_pixel_sizes(simulate, trainer_of):
    scan = simulate(window=(24, 32))
    assert scan.geometry.pixel_m[0] > 1.3 * scan.geometry.pixel_m[1]
    assert correlation(trainer_of(scan, steps=80), scan) > 0.9


def test_positions_with_a_wrong_sign_do_not_fit(scan, trainer_of):
    """What the tests above rest on: the data tell a mirrored scan from a true one."""
    errors = []
    for sign in ((1, 1), (-1, 1), (1, -1)):
        batch = scan.batch()
        middle = (np.array(scan.scan_range.lower_m) + scan.scan_range.upper_m) / 2
        mirrored = dataclasses.replace(batch, positions_m=middle + (batch.positions_m - middle) * sign)
        trainer = trainer_of(scan, mirrored, steps=30)
        errors.append(trainer.snapshot().metrics["heldout_error"])
    assert min(errors[1:]) > 2 * errors[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": "random"},
        {"batch": "full"},
        {"preconditioned": False},
        {"probe": ProbeSettings(kind="pixels")},
        {"probe": ProbeSettings(normalisation="maximum")},
        {"probe": ProbeSettings(fixed=True)},
        {"object": ObjectSettings(width=32, detail=False)},
        {"object": ObjectSettings(width=32, shared=False)},
    ],
)
def test_every_choice_learns(scan, trainer_of, changes):
    trainer = trainer_of(scan, steps=1, **changes)
    before = trainer.snapshot().metrics["heldout_error"]
    trained(trainer, 25)
    assert trainer.snapshot().metrics["heldout_error"] < 0.75 * before


def test_a_probe_of_several_modes_is_taken_as_it_is_and_scaled_to_the_photons(scan, trainer_of):
    modes = np.stack([scan.probe, 0.1j * scan.probe[::-1]]) * 1e-3
    trainer = trainer_of(scan, given=modes, steps=1)
    probe = trainer.snapshot().probe
    assert probe.shape == (2, 32, 32)
    assert (np.abs(probe) ** 2).sum() == pytest.approx(scan.counts.sum((1, 2)).mean(), rel=0.05)


def test_a_probe_that_is_known_stays_as_it_is(scan, trainer_of):
    trainer = trainer_of(scan, steps=5, probe=ProbeSettings(fixed=True))
    assert np.array_equal(trainer.snapshot().probe[0], scan.probe.astype(np.complex64))


def test_frames_held_out_are_never_trained_on(scan, trainer_of, monkeypatch):
    asked = []
    amplitudes = Dataset.amplitudes

    def spy(dataset, rows):
        asked.append(set(dataset.indices[rows].tolist()))
        return amplitudes(dataset, rows)

    trainer = trainer_of(scan, given=False)
    monkeypatch.setattr(Dataset, "amplitudes", spy)
    trained(trainer, 30)
    held = {i for i in range(100) if i % 10 == 5}
    trained_on = set().union(*asked)
    assert trained_on == set(range(100)) - held  # every other frame is, within 30 steps
    asked.clear()
    trainer.snapshot()
    assert set().union(*asked) == held


def test_the_same_seed_gives_the_same_result_bit_for_bit(scan, trainer_of):
    def result(seed):
        trainer = trainer_of(scan, given=False, seed=seed, start_frames=20)
        losses = [trainer.step().loss for _ in range(4)]
        return losses, trainer.snapshot()

    (losses, one), (same, two), (others, three) = result(0), result(0), result(1)
    assert losses == same
    for name in ("object", "probe", "coverage"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert losses != others
    assert not np.array_equal(one.object, three.object)


def test_a_step_reports_what_it_did(scan, trainer_of):
    trainer = trainer_of(scan)
    reports = [trainer.step() for _ in range(3)]
    assert [report.step for report in reports] == [1, 2, 3]
    assert all(1 <= report.frames <= 16 for report in reports)
    assert trainer.snapshot().metrics["loss"] == reports[-1].loss


def test_the_rates_follow_the_anneal(scan, trainer_of):
    trainer = trainer_of(scan, steps=1)
    before = weights(trainer)
    trainer.step(anneal=0.0)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
    trainer.step(anneal=0.5)
    assert [group.rate for group in trainer._optimiser.groups] == [
        0.5 * group.full_rate for group in trainer._optimiser.groups
    ]
    assert all(not torch.equal(value, before[name]) for name, value in weights(trainer).items() if "detail" in name)


@pytest.mark.parametrize(("photons", "likely"), [(30.0, True), (3e5, False)])
def test_where_photons_are_few_the_loss_is_the_likelihood(simulate, trainer_of, photons, likely):
    """`auto` begins with the same loss as the one it names."""
    scan = simulate(photons=photons)
    losses = {}
    for kind in ("auto", "poisson", "smooth_l1"):
        loss = dataclasses.replace(TrainerSettings().loss, kind=kind)
        losses[kind] = trainer_of(scan, loss=loss).step().loss
    assert losses["auto"] == losses["poisson" if likely else "smooth_l1"]
    assert losses["poisson"] != losses["smooth_l1"]


@pytest.mark.parametrize("gain", [1.0, 250.0])
def test_a_detector_that_writes_many_counts_a_photon_learns_the_same_object(scan, trainer_of, gain):
    batch = scan.batch()
    trainer = trainer_of(scan, dataclasses.replace(batch, counts=batch.counts * gain), steps=60)
    assert correlation(trainer, scan) > 0.9
    assert trainer.noise.variance == 0
    counted = (np.abs(trainer.snapshot().probe) ** 2).sum() / scan.counts.sum((1, 2)).mean()
    assert counted == pytest.approx(gain, rel=0.1)


def test_bfloat16_trains_as_float32_does(scan, trainer_of):
    errors = {}
    for precision in ("float32", "bfloat16"):
        trainer = trainer_of(scan, precision=precision, steps=25)
        errors[precision] = trainer.snapshot().metrics["heldout_error"]
    assert errors["bfloat16"] == pytest.approx(errors["float32"], rel=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds(scan):
    trainer = Trainer(scan.geometry, scan.scan_range, device="cuda")
    trainer.append(scan.batch(slice(0, 80)))
    trained(trainer, 30)
    trainer.append(scan.batch(slice(80, 100)))
    trained(trainer, 40)
    assert correlation(trainer, scan) > 0.97


def test_a_probe_learns_less_noise_where_its_lens_sends_no_light(simulate, trainer_of):
    scan = simulate(photons=300.0)
    dark = np.hypot(*(np.mgrid[:32, :32] - 16)) > 11  # the lens lights 9 px
    noise, alike = [], []
    for weight in (0.0, None):
        trainer = trainer_of(scan, steps=80, held_steps=0, loss=LossSettings(aperture=weight))
        [probe] = trainer.snapshot().probe
        far_field = np.abs(np.fft.fftshift(np.fft.fft2(probe, norm="ortho"))) ** 2
        noise.append(far_field[dark].sum() / far_field.sum())
        alike.append(overlap(probe, scan.probe))
    assert noise[1] < 0.8 * noise[0]
    assert alike[1] > alike[0]
