"""Warming up takes the way that a scan takes."""

from __future__ import annotations

from ptyinr import training
from ptyinr.warming import warm_up


def test_warming_up_finds_a_probe_trains_and_looks(monkeypatch) -> None:
    trainers = []
    make = training.Trainer
    monkeypatch.setattr(training, "Trainer", lambda *a, **k: trainers.append(make(*a, **k)) or trainers[-1])
    warm_up("cpu")
    (trainer,) = trainers
    assert trainer.start is not None
    assert trainer.steps == 2
