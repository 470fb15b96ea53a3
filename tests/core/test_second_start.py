"""A blind start that was not sure is tried again when there are more frames."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ptyinr import Batch
from ptyinr.metrics import overlap
from ptyinr.probe_start import SURE


def standing_still(scan, frames=24):
    """The first frames of a scan, all from one place: they cannot tell the probe from the object."""
    counts = np.random.default_rng(0).poisson(np.repeat(scan.counts[:1], frames, 0))
    return Batch(np.arange(frames), counts, np.repeat(scan.positions_m[:1], frames, 0))


def begun(scan, trainer_of):
    """A trainer that has looked for the probe in vain."""
    return trainer_of(scan, standing_still(scan), given=False, start_frames=20, steps=5)


def test_frames_from_one_place_leave_it_unsure_and_wrong(scan, trainer_of):
    """What the tests below rest on."""
    trainer = begun(scan, trainer_of)
    assert trainer.start.confidence < SURE
    assert trainer.start.frames == 20
    assert overlap(trainer.snapshot().probe[0], scan.probe) < 0.8
    assert trainer.snapshot().metrics["start_confidence"] == trainer.start.confidence


def test_more_frames_replace_a_probe_that_was_wrong(scan, trainer_of):
    trainer = begun(scan, trainer_of)
    trainer.append(scan.batch(first=24))
    trainer.step()
    assert trainer.start.frames > 20
    assert trainer.start.confidence >= SURE
    assert overlap(trainer.snapshot().probe[0], scan.probe) > 0.9
    assert trainer.steps == 6


def test_it_is_not_tried_again_before_there_are_twice_as_many_frames(scan, trainer_of):
    trainer = begun(scan, trainer_of)
    before = trainer.start
    trainer.append(scan.batch(slice(0, 10), first=24))
    trainer.step()
    assert trainer.start is before


def test_a_start_that_was_sure_stays(scan, trainer_of):
    trainer = trainer_of(scan, slice(0, 70), given=False, steps=1)
    assert trainer.start.confidence >= SURE
    before = trainer.start
    trainer.append(scan.batch(slice(70, 100)))
    trainer.append(scan.batch(first=100))
    trainer.step()
    assert trainer.start is before


@pytest.mark.parametrize("confidence", [0.0])
def test_a_second_answer_that_is_the_first_one_costs_no_training(scan, trainer_of, confidence):
    trainer = trainer_of(scan, slice(0, 25), given=False, start_frames=20, steps=30)
    trainer._beginning.start = dataclasses.replace(trainer.start, confidence=confidence)
    before = {name: value.clone() for name, value in trainer._averaged.state_dict().items()}
    trainer.append(scan.batch(slice(25, 100)))
    trainer.step(anneal=0.0)
    assert trainer.start.frames == 40
    after = trainer._averaged.state_dict()
    weights = [name for name in after if "field" in name and "weight" in name]
    assert max(float((after[name] - before[name]).abs().max()) for name in weights) < 1e-2
    assert torch.equal(after["probe.reference"], before["probe.reference"])


def test_a_second_answer_that_is_less_sure_is_not_told(scan, trainer_of, monkeypatch):
    trainer = begun(scan, trainer_of)
    before = trainer.start
    other = dataclasses.replace(before, probe=before.probe.flip(1).conj(), confidence=-1.0, frames=40)
    monkeypatch.setattr(trainer._beginning, "_blind_start", lambda dataset, rows: other)
    monkeypatch.setattr("ptyinr.beginning.overlaps", lambda *_: torch.zeros(1, 1))
    trainer.append(scan.batch(first=24))
    trainer.step()
    assert trainer.start == dataclasses.replace(before, frames=40)
