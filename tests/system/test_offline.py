"""Recorded scans reconstructed without the stream."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from importlib.metadata import version
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from ptyinr.metrics import phase_correlation
from ptyinr.settings import TrainerSettings
from ptyinr.trainer import Trainer
from ptyinr.types import Batch
from ptyinr_stream import offline
from ptyinr_stream.cli import app
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.errors import ConfigError, PublishError, ScanFileError
from ptyinr_stream.evaluation import evaluate
from ptyinr_stream.formats.ptyinr_h5 import read_scan, write_scan
from ptyinr_stream.offline import reconstruct
from ptyinr_stream.results import read_result

pytestmark = pytest.mark.system


def test_the_result_holds_what_the_documentation_promises(tmp_path, simulated):
    told = []
    snapshot = reconstruct(
        simulated,
        tmp_path / "out.h5",
        seconds=0.0,
        settings=TrainerSettings(seed=3),
        progress=lambda spent, trainer: told.append((spent, trainer.steps)),
    )
    assert [steps for _, steps in told] == [1]
    assert (snapshot.step, snapshot.frames, snapshot.final) == (1, 72, True)
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {"object", "probe", "coverage", "indices", "positions_px"}
        shape = file["object"].shape
        assert {name: (file[name].dtype.name, file[name].shape) for name in file} == {
            "object": ("complex64", shape),
            "probe": ("complex64", (1, 32, 24)),
            "coverage": ("float32", shape),
            "indices": ("int64", (72,)),
            "positions_px": ("float64", (72, 2)),
        }
        assert all(np.isfinite(file[name][()]).all() for name in file)
        assert file["indices"][()].tolist() == list(range(72))
        corners = file["positions_px"][()]
        assert corners.min() >= 0
        assert (corners + np.array([32, 24]) <= shape).all()
        expected = simulated.positions_m / simulated.geometry.pixel_m
        assert np.ptp(corners - expected, axis=0).max() < 1e-6
        attributes = dict(file.attrs)
    assert attributes["pixel_m"].tolist() == list(simulated.geometry.pixel_m)
    assert (attributes["frames"], attributes["steps"], attributes["uid"]) == (72, 1, "simulated")
    assert 0 < attributes["seconds"] < 60
    assert attributes["heldout_error"] == snapshot.metrics["heldout_error"]
    assert attributes["version"] == version("ptyinr-stream")
    configuration = json.loads(attributes["configuration"])
    assert (configuration["seconds"], configuration["device"]) == (0.0, "cpu")
    assert configuration["settings"]["seed"] == 3


def test_nothing_is_held_out_when_training_is_on_all_frames(tmp_path, simulated):
    settings = TrainerSettings(holdout=0)
    snapshot = reconstruct(simulated, tmp_path / "out.h5", seconds=0.0, settings=settings)
    assert "heldout_error" not in snapshot.metrics
    with h5py.File(tmp_path / "out.h5") as file:
        assert "heldout_error" not in file.attrs


@pytest.mark.parametrize("of", ["frames", "pixels"])
def test_an_evaluation_finds_the_error_that_training_has_told(tmp_path, simulated, of):
    settings = TrainerSettings(holdout=4, holdout_of=of)
    snapshot = reconstruct(simulated, tmp_path / "out.h5", seconds=2.0, settings=settings)
    error = evaluate(read_result(tmp_path / "out.h5"), scan=simulated).error
    # The trainer's amplitudes are of single precision and have no scale fitted to them.
    assert error.heldout == pytest.approx(snapshot.metrics["heldout_error"], rel=0.02)


def test_time_is_spent_on_steps_whose_rates_fall(tmp_path, simulated, monkeypatch):
    factors = []
    step = Trainer.step
    ticks = itertools.count(0, 0.1)
    monkeypatch.setattr(offline, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(Trainer, "step", lambda self, anneal=1.0: factors.append(anneal) or step(self, anneal))
    rows, columns = np.mgrid[-16:16, -12:12]
    probe = np.exp(-(rows**2 + columns**2) / 30).astype(np.complex64)
    snapshot = reconstruct(simulated, tmp_path / "out.h5", seconds=1.5, settings=TrainerSettings(), probe=probe)
    assert snapshot.step == len(factors) > 2
    assert factors[0] == pytest.approx(1.0, abs=0.2)
    assert factors == sorted(factors, reverse=True)
    assert 0.1 <= factors[-1] < 0.5


def test_a_scan_without_photons_is_refused_by_name(tmp_path, simulated):
    dark = replace(simulated, counts=np.zeros_like(simulated.counts), name="dark")
    with pytest.raises(ScanFileError, match=r"^dark: .*no photons"):
        reconstruct(dark, tmp_path / "out.h5", seconds=0.0, settings=TrainerSettings())
    assert not list(tmp_path.iterdir())


def test_a_result_that_cannot_be_written_says_where(tmp_path, simulated):
    (tmp_path / "out.h5").mkdir()
    with pytest.raises(PublishError, match=r"out\.h5 cannot be written"):
        reconstruct(simulated, tmp_path / "out.h5", seconds=0.0, settings=TrainerSettings())


def test_the_measured_star_is_found_without_a_probe_in_sixty_steps():
    star, reference = read_scan(siemens_star()), np.load(siemens_star_reference())
    trainer = Trainer(star.geometry, star.scan_range, TrainerSettings(holdout=0))
    trainer.append(Batch(np.arange(len(star.counts)), star.counts, star.positions_m))
    for _ in range(60):
        trainer.step()
    found = trainer.snapshot(final=True)
    theirs, corners = reference["lsqml_1mode_object"], reference["lsqml_1mode_corners_px"]
    # 0.918 and 0.928 with two seeds, 0.938 with frames held out.
    assert phase_correlation(found.object, found.positions_px, theirs, corners, star.geometry.window) >= 0.85


@pytest.mark.parametrize(
    "options",
    [["--start", "random"], ["--published"], ["--probe", "PROBE", "--known-probe"], ["--probe", "PROBE"]],
    ids=" ".join,
)
def test_the_command_starts_as_it_is_told(simulated, tmp_path, options):
    scan, probe, out = tmp_path / "scan.h5", tmp_path / "probe.npy", tmp_path / "out.h5"
    write_scan(scan, simulated)
    np.save(probe, np.full(simulated.geometry.window, 5, np.complex64))  # of as much light as a frame
    given = [str(probe) if option == "PROBE" else option for option in options]
    done = CliRunner().invoke(app, ["reconstruct", str(scan), "--output", str(out), "--seconds", "0.1", *given])
    assert done.exit_code == 0, done.output
    with h5py.File(out) as file:
        found = np.asarray(file["probe"])[0]
        settings = json.loads(file.attrs["configuration"])["settings"]
    assert settings["start"] == ("random" if "random" in options or "--published" in options else "blind")
    assert np.array_equal(found, np.load(probe)) == ("--known-probe" in options)


@pytest.mark.parametrize(
    ("options", "holdout"), [([], 10), (["--published"], 0), (["--published", "--holdout", "5"], 5)], ids=str
)
def test_frames_are_held_out_as_the_command_is_told(simulated, tmp_path, options, holdout):
    scan, out = tmp_path / "scan.h5", tmp_path / "out.h5"
    write_scan(scan, simulated)
    done = CliRunner().invoke(app, ["reconstruct", str(scan), "--output", str(out), "--seconds", "0.1", *options])
    assert done.exit_code == 0, done.output
    with h5py.File(out) as file:
        assert json.loads(file.attrs["configuration"])["settings"]["holdout"] == holdout


@pytest.mark.parametrize("options", [["--start", "random"], ["--published"]], ids=" ".join)
def test_random_weights_cannot_begin_with_a_given_probe(simulated, tmp_path, options):
    scan, probe = tmp_path / "scan.h5", tmp_path / "probe.npy"
    write_scan(scan, simulated)
    np.save(probe, np.full(simulated.geometry.window, 5, np.complex64))
    arguments = ["reconstruct", str(scan), "--output", str(tmp_path / "o.h5"), "--probe", str(probe), *options]
    with pytest.raises(ScanFileError, match="begins with random weights and cannot begin with a given probe"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_known_probe_must_be_given(simulated, tmp_path):
    scan = tmp_path / "scan.h5"
    write_scan(scan, simulated)
    with pytest.raises(ConfigError, match="there is no --probe"):
        CliRunner().invoke(
            app, ["reconstruct", str(scan), "--output", str(tmp_path / "o.h5"), "--known-probe"], catch_exceptions=False
        )
