"""Training on simulated scans: it learns, on whatever comes, in whatever order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ptyinr import Batch, ScanRange
from ptyinr.dataset import Dataset
from ptyinr.geometry import window_corners_px
from ptyinr.hashgrid import GridSettings
from ptyinr.metrics import phase_correlation
from ptyinr.settings import TrainerSettings
from ptyinr.siren import ObjectSettings
from ptyinr.trainer import Trainer

SMALL = TrainerSettings(object=ObjectSettings(width=32), precision="float32", frames_per_step=16)


def trainer_of(scan, *, probe=True, appended=True, settings=SMALL, scan_range=None, **changes):
    """With the true probe, unless it is to be found."""
    trainer = Trainer(
        scan.geometry,
        scan_range or scan.scan_range,
        dataclasses.replace(settings, **changes),
        uid="a scan",
        probe=scan.probe if probe else None,
    )
    if appended:
        trainer.append(scan.batch())
    return trainer


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
    trainer = trainer_of(scan, probe=False, settings=TrainerSettings(precision="float32"))
    trainer.step()
    assert trainer.start is not None
    before, correlated_before = trainer.snapshot().metrics["heldout_error"], correlation(trainer, scan)
    trained(trainer, 69)
    after = trainer.snapshot()
    assert after.metrics["heldout_error"] < 0.25 * before  # 0.12 of it when this was written
    assert correlated_before < 0.6
    assert correlation(trainer, scan) > 0.97  # 0.997 when this was written
    products = np.fft.ifft2(np.fft.fft2(after.probe[0]) * np.conj(np.fft.fft2(scan.probe)))
    energies = (np.abs(after.probe[0]) ** 2).sum() * (np.abs(scan.probe) ** 2).sum()
    assert np.abs(products).max() > 0.97 * np.sqrt(energies)
    assert trainer.rollbacks == 0


def test_frames_that_come_later_are_learned_too(scan):
    trainer = trainer_of(scan, appended=False)
    trainer.append(scan.batch(slice(0, 60)))
    trained(trainer, 20)
    assert trainer.snapshot().frames == 60
    for start in range(60, 100, 8):
        trainer.append(scan.batch(slice(start, min(start + 8, 100))))
        trained(trainer, 4)
    trained(trainer, 60)
    assert trainer.snapshot().frames == 100
    assert correlation(trainer, scan) > 0.9


def test_frames_in_any_order_are_learned(scan):
    trainer = trainer_of(scan, appended=False)
    for rows in np.array_split(np.random.default_rng(0).permutation(100), 5):
        trainer.append(scan.batch(rows))
    trained(trainer, 80)
    assert correlation(trainer, scan) > 0.9


def test_a_rectangular_window_is_learned_with_its_two_pixel_sizes(simulate):
    scan = simulate(window=(24, 32))
    assert scan.geometry.pixel_m[0] > 1.3 * scan.geometry.pixel_m[1]
    trainer = trainer_of(scan)
    trained(trainer, 80)
    assert correlation(trainer, scan) > 0.9


def test_positions_with_a_wrong_sign_do_not_fit(scan):
    """What the tests above rest on: the data tell a mirrored scan from a true one."""
    errors = []
    for sign in ((1, 1), (-1, 1), (1, -1)):
        batch = scan.batch()
        middle = (np.array(scan.scan_range.lower_m) + scan.scan_range.upper_m) / 2
        trainer = trainer_of(scan, appended=False)
        trainer.append(dataclasses.replace(batch, positions_m=middle + (batch.positions_m - middle) * sign))
        trained(trainer, 40)
        errors.append(trainer.snapshot().metrics["heldout_error"])
    assert min(errors[1:]) > 2 * errors[0]


def test_a_probe_of_several_modes_is_taken_as_it_is_and_scaled_to_the_photons(scan):
    modes = np.stack([scan.probe, 0.1j * scan.probe[::-1]]) * 1e-3
    trainer = Trainer(scan.geometry, scan.scan_range, SMALL, probe=modes)
    trainer.append(scan.batch())
    trainer.step()
    probe = trainer.snapshot().probe
    assert probe.shape == (2, 32, 32)
    training = trainer.dataset.training[: SMALL.start_frames]
    assert (np.abs(probe) ** 2).sum() == pytest.approx(scan.counts[training].sum((1, 2)).mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (np.ones((32, 31)), r"the frames need \(modes, 32, 32\)"),
        (np.ones((1, 1, 32, 32)), r"the frames need \(modes, 32, 32\)"),
        (np.ones(32), r"the frames need \(modes, 32, 32\)"),
        (np.full((32, 32), np.nan), "finite"),
        (np.zeros((32, 32)), "not zero everywhere"),
    ],
)
def test_a_probe_that_cannot_be_one_is_refused(scan, probe, words):
    with pytest.raises(ValueError, match=words):
        Trainer(scan.geometry, scan.scan_range, probe=probe)


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 2), slice(0, 10)])
def test_one_frame_or_two_or_a_line_are_enough_for_a_picture(scan, rows, probe):
    trainer = trainer_of(scan, probe=probe, appended=False)
    trainer.append(scan.batch(rows))
    report = trained(trainer, 3)
    assert np.isfinite(report.loss)
    assert trainer.snapshot(final=True).frames == rows.stop


def test_a_scan_that_stays_in_one_place_has_a_picture_of_it(scan):
    place = scan.positions_m[0]
    trainer = trainer_of(scan, appended=False, scan_range=ScanRange(tuple(place), tuple(place)))
    trainer.append(Batch(np.arange(20), np.repeat(scan.counts[:1], 20, 0), np.repeat(place[None], 20, 0)))
    trained(trainer, 3)
    assert trainer.snapshot().coverage.max() == 1


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_frames_without_light_are_an_error(scan, probe, masked):
    trainer = trainer_of(scan, probe=probe, appended=False)
    counts = np.full((80, 32, 32), 5 if masked else 0, np.uint16)
    mask = np.zeros(counts.shape, bool) if masked else None
    trainer.append(Batch(np.arange(80), counts, scan.positions_m[:80], mask))
    with pytest.raises(ValueError, match="no photons"):
        trainer.step()


def test_dark_frames_among_others_do_no_harm(scan):
    counts = scan.counts.copy()
    counts[::7] = 0
    mask = np.ones(counts.shape, bool)
    mask[3::7] = False
    trainer = trainer_of(scan, appended=False)
    trainer.append(Batch(np.arange(100), counts, scan.positions_m, mask))
    trained(trainer, 10)
    assert np.isfinite(trainer.snapshot().metrics["heldout_error"])
    assert trainer.rollbacks == 0


def test_the_blind_start_waits_for_light(scan):
    trainer = trainer_of(scan, probe=False, appended=False)
    first = scan.batch(slice(0, 70))
    trainer.append(Batch(first.indices, np.zeros_like(first.counts), first.positions_m))
    assert not trainer.ready()
    trainer.append(scan.batch(slice(0, 100), first=70))
    assert trainer.ready()
    trainer.step()
    assert trainer.start is not None
    assert trainer.start.defocus_m * scan.defocus_m > 0


def test_nothing_can_be_done_before_there_is_a_frame(scan):
    trainer = trainer_of(scan, appended=False)
    assert not trainer.ready()
    assert not trainer.ready(complete=True)
    with pytest.raises(ValueError, match="no frame to train on"):
        trainer.step()
    with pytest.raises(ValueError, match="before the first step"):
        trainer.snapshot()
    trainer.append(scan.batch(slice(5, 6)))  # frame 5 is held out
    assert not trainer.ready(complete=True)
    with pytest.raises(ValueError, match="no frame to train on"):
        trainer.step()


def test_a_trainer_is_ready_when_the_blind_start_has_its_frames_or_no_more_will_come(scan):
    trainer = trainer_of(scan, probe=False, appended=False, start_frames=20)
    trainer.append(scan.batch(slice(0, 21)))  # 19 of them to train on
    assert not trainer.ready()
    assert trainer.ready(complete=True)
    trainer.append(scan.batch(slice(21, 22)))
    assert trainer.ready()
    other = trainer_of(scan, probe=False, appended=False, start_frames=20)
    other.append(scan.batch(slice(0, 8)))
    other.step()  # begun by hand
    assert other.ready()


def test_a_given_probe_waits_for_one_frame_only(scan):
    trainer = trainer_of(scan, appended=False)
    assert not trainer.ready()
    trainer.append(scan.batch(slice(0, 1)))
    assert trainer.ready()


def test_an_empty_batch_changes_nothing(scan):
    trainer = trainer_of(scan)
    canvas = trainer.canvas
    trainer.append(scan.batch(slice(0, 0)))
    assert (len(trainer.dataset), trainer.canvas) == (100, canvas)


def test_a_batch_that_is_refused_leaves_no_trace(scan):
    trainer = trainer_of(scan)
    canvas = trainer.canvas
    batch = scan.batch(slice(0, 4))
    with pytest.raises(ValueError, match="pixels"):
        trainer.append(dataclasses.replace(batch, counts=batch.counts[:, :-1]))
    with pytest.raises(ValueError, match="check the encoders"):
        trainer.append(dataclasses.replace(batch, positions_m=batch.positions_m + np.array((0, 2.0))))
    assert (len(trainer.dataset), trainer.canvas) == (100, canvas)
    trainer.step()


def test_a_canvas_that_grows_costs_no_weight_and_moves_nothing(scan):
    lower = scan.scan_range.lower_m
    small = ScanRange(lower, (lower[0] + 2e-7, lower[1] + 2e-7))
    trainer = trainer_of(scan, appended=False, scan_range=small)
    corners = window_corners_px(scan.positions_m, scan.geometry, small)
    inside = trainer.canvas.including(corners[:2], scan.geometry.window) == trainer.canvas
    assert inside
    trainer.append(scan.batch(slice(0, 2)))
    trained(trainer, 5)
    before, old = trainer.snapshot(), trainer.canvas
    kept = weights(trainer)
    trainer.append(scan.batch(slice(2, 100), first=0))
    after, new = trainer.snapshot(), trainer.canvas
    assert new != old
    assert all(torch.equal(value, kept[name]) for name, value in weights(trainer).items())
    first = [o - n for o, n in zip(old.corner, new.corner, strict=True)]
    part = tuple(slice(f, f + n) for f, n in zip(first, old.shape, strict=True))
    seen = (before.coverage > 0) & (after.coverage[part] > 0)
    assert seen.sum() > 400
    np.testing.assert_allclose(after.object[part][seen], before.object[seen], atol=1e-5)
    np.testing.assert_allclose(after.positions_px[:2], before.positions_px + first)
    trained(trainer, 3)
    assert trainer.snapshot().object.shape == new.shape


def test_frames_held_out_are_never_trained_on(scan, monkeypatch):
    asked = []
    amplitudes = Dataset.amplitudes

    def spy(dataset, rows):
        asked.append(set(dataset.indices[rows].tolist()))
        return amplitudes(dataset, rows)

    trainer = trainer_of(scan, probe=False)
    monkeypatch.setattr(Dataset, "amplitudes", spy)
    trained(trainer, 30)
    held = {i for i in range(100) if i % 10 == 5}
    trained_on = set().union(*asked)
    assert trained_on == set(range(100)) - held  # every other frame is, within 30 steps
    asked.clear()
    trainer.snapshot()
    assert set().union(*asked) == held


def test_the_same_seed_gives_the_same_result_bit_for_bit(scan):
    def result(seed):
        trainer = trainer_of(scan, probe=False, seed=seed, start_frames=20)
        losses = [trainer.step().loss for _ in range(8)]
        return losses, trainer.snapshot()

    (losses, one), (same, two), (others, three) = result(0), result(0), result(1)
    assert losses == same
    for name in ("object", "probe", "coverage"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert losses != others
    assert not np.array_equal(one.object, three.object)


def test_a_step_reports_what_it_did(scan):
    trainer = trainer_of(scan)
    reports = [trainer.step() for _ in range(3)]
    assert [report.step for report in reports] == [1, 2, 3]
    assert all(1 <= report.frames <= SMALL.frames_per_step for report in reports)
    assert trainer.snapshot().metrics["loss"] == reports[-1].loss


def test_the_rates_follow_the_anneal(scan):
    trainer = trainer_of(scan)
    trainer.step()
    before = weights(trainer)
    trainer.step(anneal=0.0)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())
    trainer.step(anneal=0.5)
    assert [group["lr"] for group in trainer._optimiser.param_groups] == [
        0.5 * group["full_rate"] for group in trainer._optimiser.param_groups
    ]
    assert any(not torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_bfloat16_trains_as_float32_does(scan):
    errors = {}
    for precision in ("float32", "bfloat16"):
        trainer = trainer_of(scan, precision=precision)
        trained(trainer, 40)
        errors[precision] = trainer.snapshot().metrics["heldout_error"]
    assert errors["bfloat16"] == pytest.approx(errors["float32"], rel=0.2)


@pytest.mark.parametrize(
    "bad",
    [
        {"object_rate": 0},
        {"probe_rate": -1e-3},
        {"table_rate": 0},
        {"beta": 0},
        {"frames_per_step": 0},
        {"start_frames": 0},
        {"averaging": 1.0},
        {"averaging": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must be positive and averaging in"):
        TrainerSettings(**bad)


def test_a_backend_that_is_not_there_says_so_at_the_first_step(scan):
    trainer = trainer_of(scan, settings=dataclasses.replace(SMALL, probe=GridSettings(backend="tinycudann")))
    with pytest.raises(ValueError, match="tinycudann"):
        trainer.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_what_the_cpu_finds(scan):
    trainer = Trainer(scan.geometry, scan.scan_range, device="cuda")
    trainer.append(scan.batch(slice(0, 80)))
    trained(trainer, 30)
    trainer.append(scan.batch(slice(80, 100)))
    trained(trainer, 40)
    assert correlation(trainer, scan) > 0.97
