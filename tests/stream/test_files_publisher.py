import json
import os
import threading

import h5py
import numpy as np
import pytest
from PIL import Image

from ptyinr.types import Snapshot
from ptyinr_stream.errors import ConfigError, PublishError
from ptyinr_stream.publishers.base import ScanRecord
from ptyinr_stream.publishers.files import FilesPublisher, write_result

SCAN = ScanRecord("5ad1e2c3", 320045, 1.7e9, {"x_num": 3, "sample": "star"})


def snapshot(step=10, final=False) -> Snapshot:
    rng = np.random.default_rng(step)
    return Snapshot(
        uid="5ad1e2c3",
        step=step,
        frames=3,
        object=(rng.normal(size=(20, 30)) + 1j).astype(np.complex64),
        probe=rng.normal(size=(2, 8, 8)).astype(np.complex64),
        coverage=rng.uniform(size=(20, 30)).astype(np.float32),
        indices=np.array([0, 2, 5]),
        positions_px=rng.uniform(size=(3, 2)),
        pixel_m=(1e-8, 2e-8),
        metrics={"loss": 0.5},
        final=final,
    )


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_snapshot_leaves_a_picture_and_the_final_one_a_result(tmp_path):
    publisher = FilesPublisher(tmp_path, attributes={"version": "0.1.0", "configuration": '{"a": 1}'})
    publisher.open(SCAN)
    publisher.publish(snapshot(10))
    publisher.publish(last := snapshot(25, final=True))
    publisher.close("5ad1e2c3", {"exit_status": "success", "frames_lost": 0})
    run = tmp_path / "5ad1e2c3"
    assert files(run) == ["latest.png", "report.json", "result.h5", "snapshots/000010.png", "snapshots/000025.png"]
    assert (run / "latest.png").read_bytes() == (run / "snapshots/000025.png").read_bytes()
    with Image.open(run / "latest.png") as image:
        image.load()
    assert json.loads((run / "report.json").read_text())["frames_lost"] == 0
    with h5py.File(run / "result.h5") as result:
        for name in ("object", "probe", "coverage", "indices", "positions_px"):
            stored, given = result[name][()], getattr(last, name)
            assert stored.dtype == given.dtype
            assert np.array_equal(stored, given)
        attributes = dict(result.attrs)
    assert attributes["pixel_m"].tolist() == [1e-8, 2e-8]
    assert (attributes["frames"], attributes["steps"], attributes["loss"]) == (3, 25, 0.5)
    assert (attributes["scan_id"], attributes["sample"], attributes["version"]) == (320045, "star", "0.1.0")
    assert json.loads(attributes["configuration"]) == {"a": 1}
    assert attributes["seconds"] >= 0


def test_without_every_snapshot_only_the_latest_and_the_final_picture_remain(tmp_path):
    publisher = FilesPublisher(tmp_path, every_snapshot=False)
    publisher.open(SCAN)
    publisher.publish(snapshot(10))
    assert files(tmp_path / "5ad1e2c3") == ["latest.png"]
    publisher.publish(snapshot(20, final=True))
    assert files(tmp_path / "5ad1e2c3") == ["latest.png", "result.h5", "snapshots/000020.png"]


def test_a_second_reconstruction_of_a_scan_does_not_touch_the_first(tmp_path):
    for step in (10, 20):
        publisher = FilesPublisher(tmp_path)
        publisher.open(SCAN)
        publisher.publish(snapshot(step, final=True))
    assert (tmp_path / "5ad1e2c3/snapshots/000010.png").exists()
    assert (tmp_path / "5ad1e2c3-2/snapshots/000020.png").exists()


def test_a_uid_cannot_lead_out_of_the_folder(tmp_path):
    publisher = FilesPublisher(tmp_path / "results")
    publisher.open(ScanRecord("../../evil/uid", 1, 0.0))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["_.._evil_uid"]


def test_a_result_replaces_the_old_one_only_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.h5"
    write_result(path, snapshot(10), {})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("h5py.AttributeManager.update", full_disk)
    with pytest.raises(PublishError, match=r"result\.h5 cannot be written: No space left on device"):
        write_result(path, snapshot(99), {})
    assert files(tmp_path) == ["result.h5"]
    with h5py.File(path) as result:
        assert result.attrs["steps"] == 10


def test_readers_never_meet_half_a_picture(tmp_path):
    publisher = FilesPublisher(tmp_path, every_snapshot=False)
    publisher.open(SCAN)
    publisher.publish(snapshot(1))
    latest, done, torn = tmp_path / "5ad1e2c3/latest.png", threading.Event(), []

    def read():
        while not done.is_set():
            if not latest.read_bytes().endswith(b"IEND\xaeB`\x82"):
                torn.append(1)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(5):
        publisher.publish(snapshot(step))
    done.set()
    reader.join(10)
    assert not torn


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^output.folder: .*file/results cannot be created: Not a directory$"):
        FilesPublisher(tmp_path / "file" / "results")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"^output.folder: .* cannot be written: permission denied$"):
        FilesPublisher(tmp_path)


def test_a_folder_that_vanishes_is_a_failure_to_publish(tmp_path):
    publisher = FilesPublisher(tmp_path / "results")
    publisher.open(SCAN)
    for path in sorted((tmp_path / "results").rglob("*"), reverse=True):
        path.rmdir()
    with pytest.raises(PublishError, match=r"latest\.png cannot be written: No such file"):
        publisher.publish(snapshot())
