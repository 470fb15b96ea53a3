"""Starting probes from files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ptyinr_stream.errors import ConfigError
from ptyinr_stream.probe_file import read_probe

PROBE = (np.arange(24.0).reshape(2, 4, 3) * (1 + 2j)).astype(np.complex64)


@pytest.mark.parametrize("probe", [PROBE, PROBE[0], PROBE.astype(np.complex128)])
def test_a_numpy_file_is_read(tmp_path, probe):
    np.save(tmp_path / "probe.npy", probe)
    assert np.array_equal(read_probe(tmp_path / "probe.npy"), probe)


def test_the_probe_of_a_result_is_read(tmp_path):
    with h5py.File(tmp_path / "result.h5", "w") as file:
        file["probe"] = PROBE
        file["object"] = PROBE
    assert np.array_equal(read_probe(tmp_path / "result.h5"), PROBE)


def test_a_missing_file_is_named(tmp_path):
    for name in ("no.npy", "no.h5"):
        with pytest.raises(ConfigError, match=rf"^{tmp_path}/{name}: cannot be read as a probe"):
            read_probe(tmp_path / name)


def test_a_file_without_a_probe_names_what_it_holds(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["object"], file["coverage"] = 1, 2
    with pytest.raises(ConfigError, match="has no dataset 'probe'; it holds coverage, object"):
        read_probe(tmp_path / "x.h5")


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="pickle"):
        read_probe(tmp_path / "evil.npy")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"nonsense", b"\x89HDF\r\n\x1a\n" + b"\0" * 30])
@pytest.mark.parametrize("name", ["torn.npy", "torn.h5"])
def test_a_torn_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as a probe") as caught:
        read_probe(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_archive_under_the_name_of_an_array_is_refused(tmp_path):
    with (tmp_path / "probe.npy").open("wb") as file:
        np.savez(file, probe=PROBE)
    with pytest.raises(ConfigError, match="a probe is complex"):
        read_probe(tmp_path / "probe.npy")


@pytest.mark.parametrize("wrong", [np.ones((4, 4)), np.complex64(1), np.ones((1, 2, 3, 4), complex), np.ones(5, int)])
def test_what_is_no_complex_field_is_refused_with_its_kind_and_shape(tmp_path, wrong):
    np.save(tmp_path / "wrong.npy", wrong)
    with h5py.File(tmp_path / "wrong.h5", "w") as file:
        file["probe"] = wrong
    for name in ("wrong.npy", "wrong.h5"):
        with pytest.raises(ConfigError, match=rf"holds {wrong.dtype} \({', '.join(map(str, wrong.shape))}"):
            read_probe(tmp_path / name)


def test_an_empty_dataset_is_refused(tmp_path):
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["probe"] = h5py.Empty("complex64")
    with pytest.raises(ConfigError, match="a probe is complex"):
        read_probe(tmp_path / "empty.h5")
