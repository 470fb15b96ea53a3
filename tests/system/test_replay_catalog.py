"""Scans in a real Tiled server, read and replayed."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest
import stamina
from tiled.client import from_uri

from ptyinr_stream.errors import EndpointError, ScanFileError
from ptyinr_stream.replay import HXN_ENCODERS, remote
from ptyinr_stream.replay.catalog import read_catalog
from ptyinr_stream.replay.messages import encoder_counts, run_documents
from ptyinr_stream.tiled_server import EmbeddedServer

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("tiled"), "secret") as server:
        yield server


@pytest.fixture
def root(server, monkeypatch):
    monkeypatch.setenv("PTYINR_TILED_API_KEY", "secret")
    client = from_uri(server.uri, api_key="secret")
    yield client
    client.context.http_client.close()


@pytest.fixture
def address(server):
    return lambda *path: f"{server.uri}/metadata/{'/'.join(path)}"


def store_run(
    root, scan, key, shape, *, stream="primary", names=("inenc2_val", "inenc3_val"), frames=None, samples=None
):
    """A run as HXN's catalogs keep it."""
    documents = {}
    for name, document in run_documents(scan, HXN_ENCODERS, key, 3, 100.0):
        documents.setdefault(name, document)
    run = root.create_container(key, metadata={"start": documents["start"], "stop": documents["stop"]})
    primary = run
    for part in stream.split("/"):
        primary = primary.create_container(part)
    baseline = run.create_container("baseline")
    baseline.write_array(np.array([documents["event"]["data"]["dcm_th"]] * 2), key="dcm_th")
    counts = encoder_counts(scan.positions_m, HXN_ENCODERS)
    images = scan.counts.reshape(shape)
    primary.write_array(images if frames is None else images[:, :frames], key="eiger2_image")
    for axis, name in enumerate(names):
        values = (
            1e6 * scan.positions_m[:, axis] if name.startswith("zp") else counts[:, :, axis].reshape(1, -1)[:, :samples]
        )
        primary.write_array(values, key=name)


@pytest.mark.parametrize(
    ("shape", "stream", "names"),
    [
        ((1, 72, 32, 24), "primary", ("inenc2_val", "inenc3_val")),
        ((72, 1, 32, 24), "streams/primary", ("inenc2_val", "inenc3_val")),
        ((72, 32, 24), "primary/data", ("zpssx", "zpssy")),
    ],
)
def test_a_run_is_read_however_the_catalog_keeps_it(root, address, simulated, shape, stream, names):
    key = f"run-{len(shape)}-{shape[0]}"
    store_run(root, simulated, key, shape, stream=stream, names=names)
    scan = read_catalog(address(key))
    assert (scan.name, scan.counts.shape, scan.counts.dtype) == ("simulated", (72, 32, 24), np.uint16)
    assert np.array_equal(np.stack(list(scan.counts)), simulated.counts)
    assert np.abs((scan.positions_m - simulated.positions_m) / simulated.geometry.pixel_m).max() < 1e-3
    assert scan.geometry.wavelength_m == pytest.approx(simulated.geometry.wavelength_m, rel=1e-9)
    assert replace(scan.geometry, wavelength_m=1e-10) == replace(simulated.geometry, wavelength_m=1e-10)


@pytest.mark.parametrize("amplitudes", [False, True])
def test_a_container_with_the_arrays_of_a_scan_file_is_read(root, address, simulated, amplitudes):
    numbers = {
        "lambda_nm": 1e9 * simulated.geometry.wavelength_m,
        "z_m": simulated.geometry.distance_m,
        "ccd_pixel_um": 1e6 * simulated.geometry.detector_pixel_m,
    }
    if amplitudes:
        node = root.create_container("scan-file")
        roots = np.sqrt(np.fft.ifftshift(simulated.counts, axes=(1, 2))).astype(np.float32)
        node.write_array(roots, key="diffamp")
        node.write_array(1e6 * simulated.positions_m.T, key="points")
        for name, value in numbers.items():
            node.write_array(np.array([value]), key=name)
    else:
        node = root.create_container("arrays", metadata=numbers | {"angle": 12.0})
        node.write_array(simulated.counts, key="counts")
        node.write_array(simulated.positions_m, key="positions_m")
    scan = read_catalog(address(node.path_parts[-1]))
    assert np.array_equal(np.stack(list(scan.counts)), simulated.counts)
    assert np.allclose(scan.positions_m, simulated.positions_m, rtol=1e-12)
    assert scan.geometry.wavelength_m == pytest.approx(1e-10)
    assert scan.angle_deg == (0.0 if amplitudes else 12.0)


@pytest.mark.parametrize(("frames", "samples"), [(50, 720), (72, 705)])
def test_frames_and_positions_without_a_partner_are_left_out(root, address, simulated, frames, samples):
    key = f"stopped-{frames}"
    store_run(root, simulated, key, (1, *simulated.counts.shape), frames=frames, samples=samples)
    scan = read_catalog(address(key))
    n = min(frames, samples // 10)
    assert np.array_equal(np.stack(list(scan.counts)), simulated.counts[:n])
    assert np.abs((scan.positions_m - simulated.positions_m[:n]) / simulated.geometry.pixel_m).max() < 1e-3


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("eiger2_image", "the stream primary has none of eiger2_image, eiger2"),
        ("inenc3_val", "the stream primary has none of inenc3_val, zpssy"),
    ],
)
def test_what_a_run_lacks_is_named(root, address, simulated, left_out, said):
    store_run(root, simulated, f"lacks-{left_out}", simulated.counts.shape)
    root[f"lacks-{left_out}", "primary"].delete_contents(left_out, external_only=False)
    with pytest.raises(ScanFileError, match=said):
        read_catalog(address(f"lacks-{left_out}"))


def test_a_container_that_is_no_scan_is_refused(root, address):
    root.create_container("empty")
    with pytest.raises(ScanFileError, match="neither a Bluesky run nor a container with counts or diffamp"):
        read_catalog(address("empty"))


def test_a_server_that_refuses_or_has_no_such_node_is_named(root, address, monkeypatch):
    with pytest.raises(EndpointError, match=r"nowhere: the server refuses: 404: No such entry"):
        read_catalog(address("nowhere"))
    monkeypatch.setenv("PTYINR_TILED_API_KEY", "wrong")
    with pytest.raises(EndpointError, match=r"nowhere: the server refuses: 401"):
        read_catalog(address("nowhere"))


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(remote, "_CALLER", stamina.RetryingCaller(attempts=1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    with pytest.raises(EndpointError, match=f"127.0.0.1:{port}.*: cannot be read: ConnectError"):
        read_catalog(f"http://127.0.0.1:{port}/api/v1")
