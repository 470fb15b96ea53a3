"""What an engine remembers: of a scan that was cut off, and of the scans before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ptyinr.trainer import Trainer
from ptyinr_stream.errors import DeviceError


def test_a_daemon_that_was_killed_goes_on_from_its_checkpoint(bench, tmp_path):
    b = bench(folder=tmp_path, checkpoint_s=2.0)
    b.begin("a", range(60))
    b.work(12)
    steps = b.engine.status.steps
    assert b.engine.begun == {"a"}
    again = bench(folder=tmp_path, checkpoint_s=2.0)
    again.begin("a", range(72))
    again.work()
    assert steps - 4 <= again.engine.status.resumed_at <= steps
    assert again.engine.status.steps == again.engine.status.resumed_at + 1
    again.close("a")
    again.work(6)
    assert again.sink.only("final", "a").frames == 72
    assert again.engine.begun == set()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_daemon_that_was_killed_while_it_wrote_a_checkpoint_leaves_nothing_when_the_scan_is_over(bench, tmp_path):
    """The next start would take the scan for one that is not over."""
    b = bench(folder=tmp_path, checkpoint_s=2.0)
    b.begin("a", range(60))
    b.work(12)
    (tmp_path / "checkpoints" / "a" / "checkpoint.tmp").write_bytes(b"half of it")
    again = bench(folder=tmp_path, refine_s=0.0)
    again.begin("a")
    again.close("a")  # before it could write one of its own
    assert again.phases == {"a": "done"}
    assert again.engine.begun == set()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_truncated_checkpoint_gives_way_to_the_one_before_and_none_to_a_fresh_start(bench, tmp_path, caplog):
    b = bench(folder=tmp_path, checkpoint_s=2.0)
    b.begin("a", range(60))
    b.work(12)
    newest = tmp_path / "checkpoints" / "a" / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    again = bench(folder=tmp_path, checkpoint_s=1000.0)
    again.begin("a")
    again.work()
    assert again.engine.status.resumed_at is not None
    assert "is torn and left out" in caplog.text
    (tmp_path / "checkpoints" / "a" / "checkpoint.before.pt").write_bytes(b"")
    fresh = bench(folder=tmp_path)
    fresh.begin("a")
    fresh.work(2)
    assert fresh.engine.status.resumed_at is None
    assert fresh.engine.status.phase == "training"


def test_a_checkpoint_that_cannot_be_written_costs_no_picture(bench, tmp_path, caplog):
    (tmp_path / "checkpoints").write_text("a file where a folder belongs")
    b = bench(folder=tmp_path, checkpoint_s=1.0)
    b.begin("a")
    b.work(8)
    assert "live" in b.sink.of("a")
    assert "cannot be written" in caplog.text


def test_the_next_scan_begins_with_the_probe_of_the_last_even_after_a_restart(bench, tmp_path):
    b = bench(folder=tmp_path)
    b.begin("a")
    b.work(4)
    b.close("a")
    b.work(8)
    probe = b.sink.only("final", "a").probe
    for again, uid in ((b, "b"), (bench(folder=tmp_path), "c")):
        again.engine._named = None
        again.begin(uid)
        again.work(2)
        reference = again.engine._scans[uid].trainer._trained.probe.get_buffer("reference").numpy()
        np.testing.assert_allclose(reference / np.abs(reference).max(), probe / np.abs(probe).max(), atol=1e-5)


def test_other_optics_do_not_begin_with_it(bench):
    b = bench()
    b.begin("a")
    b.work(4)
    b.close("a")
    b.work(8)
    geometry = b.sink.only("open", "a").metadata
    assert geometry["distance_m"] > 0
    warm, trained = b.engine._warm, b.recorded.geometry
    assert warm.start(trained).of == "a"
    assert warm.start(replace(trained, distance_m=1.1 * trained.distance_m)).probe is None
    assert warm.start(replace(trained, wavelength_m=1.01 * trained.wavelength_m)).probe is None
    assert warm.start(replace(trained, window=(30, 24))).probe is None


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory: tried to allocate 4 GiB"), "the memory of cpu does not hold"),
        (RuntimeError("CUDA error: unspecified launch failure"), "cpu is lost"),
    ],
)
def test_a_device_that_can_no_more_ends_the_daemon_and_not_the_scan(bench, monkeypatch, tmp_path, raised, said):
    b = bench(folder=tmp_path, checkpoint_s=1.0)
    b.begin("a")
    b.work(6)
    step = Trainer.step

    def fails(self, anneal=1.0):
        raise raised

    monkeypatch.setattr(Trainer, "step", fails)
    with pytest.raises(DeviceError, match=said):
        b.work()
    monkeypatch.setattr(Trainer, "step", step)
    again = bench(folder=tmp_path, checkpoint_s=1.0)
    again.begin("a")
    again.work()
    assert again.engine.status.resumed_at is not None
