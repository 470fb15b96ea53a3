"""A probe of an earlier scan: trusted at once, checked as soon as there are frames enough, refused if they say so."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr.metrics import overlap
from ptyinr.probe_start import CONTRADICTED
from ptyinr.trainer import Trainer


def warm(scan, probe, trainer_of, **changes):
    settings = trainer_of(scan, None, start_frames=40, **changes).settings
    return Trainer(scan.geometry, scan.scan_range, settings, probe=probe, check_probe=True)


def test_training_begins_before_the_probe_can_be_checked(scan, trainer_of):
    trainer = warm(scan, scan.probe, trainer_of)
    trainer.append(scan.batch(slice(0, 10)))
    assert trainer.ready()
    trainer.step()
    assert trainer.start is None
    assert "probe_disagreement" not in trainer.snapshot().metrics


def test_a_probe_that_the_frames_confirm_stays(scan, trainer_of):
    trainer = warm(scan, scan.probe, trainer_of)
    trainer.append(scan.batch())
    for _ in range(3):
        trainer.step()
    assert trainer.start is None
    assert trainer.snapshot().metrics["probe_disagreement"] <= CONTRADICTED
    assert overlap(trainer.snapshot().probe[0], scan.probe) > 0.99


@pytest.mark.parametrize("wrong", ["conjugate", "noise"])
def test_a_probe_that_the_frames_contradict_gives_way_to_one_that_is_found_in_them(scan, trainer_of, wrong):
    noise = np.random.default_rng(3).normal(size=(2, *scan.geometry.window))
    probe = scan.probe.conj() if wrong == "conjugate" else noise[0] + 1j * noise[1]
    trainer = warm(scan, probe, trainer_of)
    trainer.append(scan.batch(slice(0, 20)))
    trainer.step()
    trainer.append(scan.batch(slice(20, 100)))
    trainer.step()
    assert trainer.start is not None
    assert trainer.snapshot().metrics["probe_disagreement"] > CONTRADICTED
    assert overlap(trainer.snapshot().probe[0], scan.probe) > 0.7


def probes_of(trainer, steps):
    """The probe after each of some steps."""
    return [trainer.step() and trainer.snapshot().probe for _ in range(steps)]


def test_a_given_probe_stays_as_it_is_while_the_object_is_learned(scan, trainer_of):
    probes = probes_of(trainer_of(scan, held_steps=2), 3)
    assert np.array_equal(probes[0], probes[1])
    assert not np.array_equal(probes[1], probes[2])


def test_a_probe_that_was_found_is_refined_at_once(scan, trainer_of):
    probes = probes_of(trainer_of(scan, given=False), 2)
    assert not np.array_equal(probes[0], probes[1])


def test_a_probe_that_was_found_instead_of_a_given_one_is_refined_at_once(scan, trainer_of):
    trainer = warm(scan, scan.probe.conj(), trainer_of)
    trainer.append(scan.batch())
    probes = probes_of(trainer, 2)
    assert not np.array_equal(probes[0], probes[1])
    assert trainer.start is not None


def test_a_probe_is_checked_once(scan, trainer_of, monkeypatch):
    asked = []
    monkeypatch.setattr("ptyinr.beginning.disagreement", lambda *_: asked.append(1) or 0.5)
    trainer = warm(scan, scan.probe, trainer_of)
    trainer.append(scan.batch())
    for _ in range(3):
        trainer.step()
    assert len(asked) == 1


def test_a_probe_that_is_named_without_a_wish_to_check_it_is_trusted(scan, trainer_of, monkeypatch):
    monkeypatch.setattr("ptyinr.beginning.disagreement", lambda *_: pytest.fail("nobody asked"))
    trainer = trainer_of(scan, given=scan.probe.conj(), start_frames=40, steps=2)
    assert trainer.start is None
