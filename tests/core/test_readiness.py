"""When training may begin, and what it says of what it cannot use."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ptyinr import Batch, ScanRange
from ptyinr.hashgrid import GridSettings
from ptyinr.model import ProbeSettings


def trained(trainer, steps):
    for _ in range(steps):
        report = trainer.step()
    return report


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
def test_a_probe_that_cannot_be_one_is_refused(scan, trainer_of, probe, words):
    with pytest.raises(ValueError, match=words):
        trainer_of(scan, given=probe)


def test_a_probe_that_is_to_stay_must_be_given(scan, trainer_of):
    with pytest.raises(ValueError, match="to stay fixed: give it"):
        trainer_of(scan, given=False, probe=ProbeSettings(fixed=True))


def test_networks_of_random_weights_cannot_begin_with_a_probe(scan, trainer_of):
    random = ProbeSettings(kind="network")
    with pytest.raises(ValueError, match="cannot begin with a given probe: take kind 'modulation' or 'pixels'"):
        trainer_of(scan, start="random", probe=random)
    trainer_of(scan, start="random", probe=dataclasses.replace(random, fixed=True), steps=1)
    trainer_of(scan, start="random", probe=random, given=False, steps=1)


def test_a_known_probe_in_other_units_is_refused_with_the_factor_that_is_missing(scan, trainer_of):
    unit = np.abs(scan.probe).max()
    photons = scan.counts[:60].sum((1, 2)).mean()
    missing = (photons / (np.abs(scan.probe / unit) ** 2).sum()) ** 0.5
    with pytest.raises(ValueError, match=f"in root counts, .* multiply it by {missing:.2g}"):
        trainer_of(scan, given=scan.probe / unit, probe=ProbeSettings(fixed=True), steps=1)
    trainer_of(scan, given=scan.probe / unit, steps=1)  # one that is refined is scaled


def test_one_frame_with_light_among_dark_or_masked_ones_is_one_frame(scan, trainer_of):
    counts, mask = np.zeros_like(scan.counts), np.zeros(scan.counts.shape, bool)
    counts[3], mask[3] = scan.counts[3], True
    for alone in (
        dataclasses.replace(scan.batch(), counts=counts),
        dataclasses.replace(scan.batch(), mask=mask),
    ):
        with pytest.raises(
            ValueError, match="frames to train on: 1; those that are dark or wholly masked do not count"
        ):
            trainer_of(scan, alone, steps=1)


@pytest.mark.parametrize("scale", [1e-4, 1e-8])
def test_counts_that_were_divided_by_a_flux_are_reconstructed_as_well(simulate, trainer_of, scale):
    scan = simulate(poisson=False, photons=1e6)
    errors = []
    for factor in (1.0, scale):
        batch = dataclasses.replace(scan.batch(), counts=scan.counts * factor)
        trainer = trainer_of(scan, batch, steps=60)
        errors.append(trainer.snapshot(final=True).metrics["heldout_error"] / factor**0.5)
    assert errors[1] < 1.3 * errors[0]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("frames", [2, 10])
def test_two_frames_or_a_line_are_enough_for_a_picture(scan, trainer_of, frames, given):
    trainer = trainer_of(scan, slice(0, frames), given=given)
    assert np.isfinite(trained(trainer, 3).loss)
    assert trainer.snapshot(final=True).frames == frames


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("rows", "left"), [(slice(0, 0), 0), (slice(0, 1), 1), (slice(5, 6), 0), (slice(4, 6), 1)])
def test_fewer_than_two_frames_to_train_on_are_refused(scan, trainer_of, given, rows, left):
    """Frame 5 is held out."""
    with pytest.raises(ValueError, match=f"frames to train on: {left}; .* at least two"):
        trainer_of(scan, rows, given=given, steps=1)


def test_a_scan_that_stays_in_one_place_has_a_picture_of_it(scan, trainer_of):
    place = scan.positions_m[0]
    still = Batch(np.arange(20), np.repeat(scan.counts[:1], 20, 0), np.repeat(place[None], 20, 0))
    trainer = trainer_of(scan, still, scan_range=ScanRange(tuple(place), tuple(place)), steps=3)
    assert trainer.snapshot().coverage.max() == 1


@pytest.mark.parametrize("given", [False, True])
def test_frames_without_light_are_refused(scan, trainer_of, given):
    dark = dataclasses.replace(scan.batch(), counts=np.zeros_like(scan.counts))
    with pytest.raises(ValueError, match="no photons"):
        trainer_of(scan, dark, given=given, steps=1)


@pytest.mark.parametrize("given", [False, True])
def test_frames_that_are_masked_altogether_are_refused_and_the_masks_meaning_told(scan, trainer_of, given):
    masked = dataclasses.replace(scan.batch(), mask=np.zeros((32, 32), bool))
    with pytest.raises(ValueError, match="is masked: a mask is True where a pixel may be trusted"):
        trainer_of(scan, masked, given=given, steps=1)


def test_dark_frames_among_others_do_no_harm(scan, trainer_of):
    counts = scan.counts.copy()
    counts[::7] = 0
    mask = np.ones(counts.shape, bool)
    mask[3::7] = False
    trainer = trainer_of(scan, Batch(np.arange(100), counts, scan.positions_m, mask), steps=10)
    assert np.isfinite(trainer.snapshot().metrics["heldout_error"])
    assert trainer.rollbacks == 0


def test_the_blind_start_waits_for_light(scan, trainer_of):
    first = scan.batch(slice(0, 70))
    trainer = trainer_of(scan, dataclasses.replace(first, counts=np.zeros_like(first.counts)), given=False)
    assert not trainer.ready()
    trainer.append(scan.batch(slice(0, 100), first=70))
    assert trainer.ready()
    trainer.step()
    assert trainer.start is not None
    assert min(np.array(trainer.start.defocus_m) * scan.defocus_m) > 0


def test_nothing_can_be_done_before_there_is_a_frame(scan, trainer_of):
    trainer = trainer_of(scan, None)
    assert not trainer.ready()
    assert not trainer.ready(complete=True)
    with pytest.raises(ValueError, match="nothing to show before the first step"):
        trainer.snapshot()
    with pytest.raises(ValueError, match="nothing to judge before the first step"):
        trainer.judge()
    trainer.append(scan.batch(slice(5, 6)))  # held out
    assert not trainer.ready(complete=True)


def test_a_trainer_is_ready_when_the_blind_start_has_its_frames_or_no_more_will_come(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 21), given=False, start_frames=20)  # 19 of them to train on
    assert not trainer.ready()
    assert trainer.ready(complete=True)
    trainer.append(scan.batch(slice(21, 22)))
    assert trainer.ready()
    begun_by_hand = trainer_of(scan, slice(0, 8), given=False, start_frames=20, steps=1)
    assert begun_by_hand.ready()


def test_a_given_probe_waits_for_two_lit_frames_only(scan, trainer_of):
    counts = scan.counts[:2] * np.array([1, 0], np.uint16)[:, None, None]
    trainer = trainer_of(scan, dataclasses.replace(scan.batch(slice(0, 2)), counts=counts))
    assert not trainer.ready()
    trainer.append(scan.batch(slice(2, 3)))
    assert trainer.ready()


def test_an_empty_batch_changes_nothing(scan, trainer_of):
    trainer = trainer_of(scan)
    canvas = trainer.canvas
    trainer.append(scan.batch(slice(0, 0)))
    assert (len(trainer.dataset), trainer.canvas) == (100, canvas)


def test_a_batch_that_is_refused_leaves_no_trace(scan, trainer_of):
    trainer, batch = trainer_of(scan), scan.batch(slice(0, 4))
    canvas = trainer.canvas
    with pytest.raises(ValueError, match=r"frames are \(31, 32\) pixels, the dataset holds frames of \(32, 32\)"):
        trainer.append(dataclasses.replace(batch, counts=batch.counts[:, :-1]))
    with pytest.raises(ValueError, match="check the encoders and the commanded range"):
        trainer.append(dataclasses.replace(batch, positions_m=batch.positions_m + np.array((0, 2.0))))
    assert (len(trainer.dataset), trainer.canvas) == (100, canvas)
    trainer.step()


def test_a_backend_that_is_not_there_says_so_at_the_first_step(scan, trainer_of):
    with pytest.raises(ValueError, match="tinycudann"):
        trainer_of(scan, probe=ProbeSettings(grid=GridSettings(backend="tinycudann")), steps=1)
