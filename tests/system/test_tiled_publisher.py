import http.server
import itertools
import json
import queue
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from tiled.client import from_uri

from ptyinr.types import Snapshot
from ptyinr_stream import tiled_server
from ptyinr_stream.errors import PublishError
from ptyinr_stream.publishers.base import PublisherThread, ScanRecord
from ptyinr_stream.publishers.tiled import TiledPublisher
from ptyinr_stream.tiled_server import EmbeddedServer

pytestmark = pytest.mark.system

PATH = "hxn/processed/ptyinr"
WAIT_S = 20
uids = map("run-{}".format, itertools.count())


def snapshot(uid, step, *, final=False, shape=(20, 30), modes=2, n=5, metrics=None) -> Snapshot:
    rng = np.random.default_rng(step)

    def field(*size):
        return (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(np.complex64)

    return Snapshot(
        uid=uid,
        step=step,
        frames=n,
        object=field(*shape),
        probe=field(modes, 8, 6),
        coverage=rng.uniform(size=shape).astype(np.float32),
        indices=np.arange(n) * 2,
        positions_px=rng.uniform(0, 9, size=(n, 2)),
        pixel_m=(1e-8, 2e-8),
        metrics={"loss": 1 / step} if metrics is None else metrics,
        final=final,
    )


def scan(uid, **metadata) -> ScanRecord:
    return ScanRecord(uid, 320045, 1.7e9, metadata)


@contextmanager
def connected(uri, **options):
    client = from_uri(uri, **options)
    yield client
    client.context.http_client.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("tiled"), "secret") as server:
        yield server


@pytest.fixture(scope="module")
def reader(server):
    with connected(server.uri) as client:
        yield client


@contextmanager
def opened(server, uid, **metadata):
    publisher = TiledPublisher(server.uri, PATH, "secret")
    publisher.open(scan(uid, **metadata))
    yield publisher
    publisher.close(uid, {})


def test_a_reconstruction_has_the_layout_that_hxns_dashboards_read(server, reader):
    uid = next(uids)
    with opened(server, uid, x_num=3, y_num=2, x_range_um=1.5, xray_energy_kev=9.0) as publisher:
        publisher.publish(snapshot(uid, 1))
        publisher.publish(live := snapshot(uid, 2))
        run = reader[PATH, uid]
        assert run.metadata["complete"] is False
        assert (run.metadata["step"], run.metadata["frames"]) == (2, 5)
        publisher.publish(last := snapshot(uid, 3, final=True))
        publisher.close(uid, {"exit_status": "success"})
    assert set(run) == {"live", "final", "metrics", "positions_um"}
    for folder, shown in (("live", live), ("final", last)):
        for name, field in (("object", shown.object), ("probe", shown.probe[0])):
            node = run[folder, name]
            assert (node.shape, node.dtype) == ((2, *field.shape), np.dtype("float32"))
            amplitude, phase = node.read()
            assert np.allclose(amplitude * np.exp(1j * phase), field, atol=1e-5)
        assert np.array_equal(run[folder, "coverage"].read(), shown.coverage)
        assert run[folder, "object"].metadata["step"] == shown.step
    assert set(run["live"]) == {"object", "probe", "coverage"}
    amplitude, phase = np.moveaxis(run["final/probe_modes"].read(), 1, 0)
    assert np.allclose(amplitude * np.exp(1j * phase), last.probe, atol=1e-5)
    assert run["final/indices"].read().tolist() == [0, 2, 4, 6, 8]
    centres = (last.positions_px + np.array([4, 3])) * np.array([0.01, 0.02])
    assert np.allclose(run["positions_um"].read(), centres)
    assert dict(reader[PATH, uid].metadata) == {
        "raw_uid": uid, "run_uid": uid, "scan_id": "320045", "scan_num": "320045", "started_at": "2023-11-14T22:13:20Z",
        "recon_mode": "ptyinr", "x_pixel_m": 2e-8, "y_pixel_m": 1e-8, "x_num": 3, "y_num": 2, "x_range_um": 1.5,
        "xray_energy_kev": 9.0, "step": 3, "frames": 5, "exit_status": "success", "complete": True,
    }  # fmt: skip


def test_every_array_is_one_chunk_so_that_no_reader_meets_halves(server, reader, monkeypatch):
    monkeypatch.setattr("tiled.client.container.Container._SUGGESTED_MAX_UPLOAD_SIZE", 1000)  # instead of 100 MB
    uid = next(uids)
    with opened(server, uid) as publisher:
        publisher.publish(snapshot(uid, 1, shape=(200, 300)))
    assert reader[PATH, uid, "live/object"].chunks == ((2,), (200,), (300,))


def test_metrics_are_a_row_a_snapshot_with_fixed_columns(server, reader):
    uid = next(uids)
    with opened(server, uid) as publisher:
        publisher.publish(snapshot(uid, 1, metrics={"loss": 0.5, "probe_power": 7.0}))
        publisher.publish(snapshot(uid, 2, metrics={"loss": 0.25, "heldout_error": 0.1, "newcomer": 1.0}))
    table = reader[PATH, uid, "metrics"].read()
    assert list(table) == ["seq", "step", "frames", "seconds", "heldout_error", "loss", "probe_power"]
    assert table["seq"].tolist() == [0, 1]
    assert table["step"].tolist() == [1, 2]
    assert table["loss"].tolist() == [0.5, 0.25]
    assert np.isnan(table["heldout_error"][0])
    assert table["heldout_error"][1] == 0.1
    assert np.isnan(table["probe_power"][1])
    assert 0 < table["seconds"][0] < table["seconds"][1] < WAIT_S


def test_a_second_reconstruction_of_a_run_gets_a_container_of_its_own(server, reader):
    uid = next(uids)
    for step in (1, 2, 3):
        with opened(server, uid) as publisher:
            publisher.publish(snapshot(uid, step))
    assert [reader[PATH, key].metadata["step"] for key in (uid, f"{uid}-2", f"{uid}-3")] == [1, 2, 3]
    assert reader[PATH, f"{uid}-3"].metadata["raw_uid"] == uid


def test_a_canvas_of_another_shape_goes_on_in_a_new_container(server, reader):
    uid = next(uids)
    with opened(server, uid) as publisher:
        publisher.publish(small := snapshot(uid, 1))
        publisher.publish(snapshot(uid, 2, shape=(40, 30)))
        publisher.publish(large := snapshot(uid, 3, shape=(40, 30)))
        publisher.publish(snapshot(uid, 4, shape=(44, 30), final=True))
        publisher.close(uid, {})
    old, new = reader[PATH, uid], reader[PATH, f"{uid}-2"]
    assert np.array_equal(old["live/coverage"].read(), small.coverage)
    assert np.array_equal(new["live/coverage"].read(), large.coverage)
    assert (old.metadata["continued_in"], new.metadata["continues"]) == (f"{uid}-2", uid)
    assert new["metrics"].read()["step"].tolist() == [2, 3, 4]
    assert "continued_in" not in new.metadata
    assert new["final/object"].shape == (2, 44, 30)


def test_what_is_not_finite_is_never_published_and_the_last_good_image_stays(server, reader):
    uid = next(uids)
    with opened(server, uid) as publisher:
        publisher.publish(good := snapshot(uid, 1))
        bad = snapshot(uid, 2)
        bad.coverage.setflags(write=True)
        bad.coverage[3, 4] = np.nan
        with pytest.raises(PublishError, match=r"live/coverage of .* is not finite"):
            publisher.publish(bad)
    assert np.array_equal(reader[PATH, uid, "live/coverage"].read(), good.coverage)


def test_a_run_container_can_be_downloaded_as_one_file(server, reader, tmp_path):
    uid = next(uids)
    with opened(server, uid, shape=[100, 100], axes=["x", "y"]) as publisher:
        publisher.publish(snapshot(uid, 1, final=True))
        publisher.close(uid, {"lost": 0})
    reader[PATH, uid].export(str(tmp_path / "run.h5"))
    assert (tmp_path / "run.h5").stat().st_size > 10_000


def test_a_scan_without_a_snapshot_leaves_nothing(server, reader):
    uid = next(uids)
    with opened(server, uid) as publisher:
        publisher.close(uid, {})
    assert uid not in reader[PATH]


def test_a_uid_with_slashes_makes_no_path(server, reader):
    uid = f"../{next(uids)}/x"
    with opened(server, uid) as publisher:
        publisher.publish(snapshot(uid, 1))
    assert reader[PATH, f"_{uid[3:-2]}_x"].metadata["raw_uid"] == uid


def test_the_wrong_key_is_named_as_the_reason(server):
    publisher = TiledPublisher(server.uri, PATH, "wrong", access_tags=("hxn_processed",))
    with pytest.raises(PublishError, match=r"the API key or the access tags \(hxn_processed\) are refused: 401"):
        publisher.check()


def test_every_node_is_created_with_the_access_tags(server, monkeypatch):
    """A server for a single user forgets them, so what is asked of it is looked at."""
    uid, asked = next(uids), []
    publisher = TiledPublisher(server.uri, PATH, "secret", access_tags=("hxn_processed", "synaps_project"))
    publisher.open(scan(uid))
    http_client = publisher._catalog().context.http_client
    send = http_client.send

    def listening(request, **options):
        if request.method == "POST":
            asked.append(json.loads(request.content))
        return send(request, **options)

    monkeypatch.setattr(http_client, "send", listening)
    publisher.publish(snapshot(uid, 1))
    publisher.publish(snapshot(uid, 2, final=True))
    publisher.close(uid, {})
    expected = [uid, "live", "object", "probe", "coverage", "metrics"]
    expected += ["final", "object", "probe", "coverage", "probe_modes", "indices", "positions_um"]
    assert sorted(body["id"] for body in asked) == sorted(expected)
    assert all(body["access_tags"] == ["hxn_processed", "synaps_project"] for body in asked)


def test_check_finds_a_place_that_can_be_written_and_leaves_it_as_it_was(server, reader):
    for path in ("new/place", PATH):
        publisher = TiledPublisher(server.uri, path, "secret")
        assert publisher.check() == f"{server.uri}: {path} can be read and written"
        before = list(reader[path])
        publisher.check()
        assert list(reader[path]) == before
    assert list(reader["new/place"]) == []


def test_a_server_that_is_away_is_reported_fast(server):
    publisher = TiledPublisher("http://127.0.0.1:1/api/v1", PATH, "secret")
    begun = time.monotonic()
    with pytest.raises(PublishError, match=r"http://127\.0\.0\.1:1/api/v1 cannot be reached"):
        publisher.check()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (403, b'{"detail": "tags"}', r"access tags \(none\) are refused: 403: tags"),
        (502, b"bad gateway", "502 Bad Gateway"),
        (200, b"{}", "is not the API of a Tiled server"),
        (200, b"<html>", "is not the API of a Tiled server"),
    ],
)
def test_what_an_unhelpful_server_says_becomes_one_line(status, body, complaint):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as fake:
        thread = threading.Thread(target=fake.serve_forever)
        thread.start()
        publisher = TiledPublisher(f"http://127.0.0.1:{fake.server_port}/api/v1", PATH, "secret")
        with pytest.raises(PublishError, match=complaint) as caught:
            publisher.check()
        fake.shutdown()
        thread.join(WAIT_S)
    assert "\n" not in str(caught.value)


def test_a_server_that_comes_back_gets_the_newest_snapshot(tmp_path):
    uid = next(uids)
    server = EmbeddedServer(tmp_path, "secret").start()
    publisher = TiledPublisher(server.uri, PATH, "secret")
    publisher.open(scan(uid))
    publisher.publish(snapshot(uid, 1))
    server.stop()
    begun = time.monotonic()
    for step in (2, 3):
        with pytest.raises(PublishError, match="cannot be reached"):
            publisher.publish(snapshot(uid, step))
    assert time.monotonic() - begun < 5
    with server, connected(server.uri) as client:
        publisher.publish(newest := snapshot(uid, 4))
        run = client[PATH, uid]
        assert np.array_equal(run["live/coverage"].read(), newest.coverage)
        assert run["metrics"].read()["step"].tolist() == [1, 4]
        publisher.close(uid, {})


def test_a_server_that_has_lost_everything_gets_the_scan_anew(tmp_path):
    uid = next(uids)
    server = EmbeddedServer(tmp_path / "first", "secret").start()
    publisher = TiledPublisher(server.uri, PATH, "secret")
    publisher.open(scan(uid))
    publisher.publish(snapshot(uid, 1))
    server.stop()
    with EmbeddedServer(tmp_path / "second", "secret", port=server.port) as other, connected(other.uri) as client:
        with pytest.raises(PublishError, match="404"):
            publisher.publish(snapshot(uid, 2))
        publisher.publish(snapshot(uid, 3))
        assert client[PATH, uid].metadata["step"] == 3
        publisher.close(uid, {})


def test_a_failure_halfway_is_completed_by_the_next_snapshot(server, reader, monkeypatch):
    """A request is answered with 500, each time a later one; what was made until then is taken up again."""
    monkeypatch.setattr("ptyinr_stream.publishers.tiled.CLIENT_ATTEMPTS", 1)
    for failing in itertools.count(0, 3):
        uid, requests = next(uids), itertools.count()
        with opened(server, uid) as publisher:
            http_client = publisher._catalog().context.http_client
            send = http_client.send

            def faulty(request, send=send, requests=requests, failing=failing, **options):
                response = send(request, **options)
                if next(requests) == failing:  # the server has done it, and the answer is lost
                    response.status_code = 500
                return response

            with monkeypatch.context() as patched, suppress(PublishError):
                patched.setattr(http_client, "send", faulty)
                publisher.publish(snapshot(uid, 1, final=True))
            publisher.publish(snapshot(uid, 2, final=True))
        run = reader[PATH, uid if "final" in reader[PATH, uid] else f"{uid}-2"]
        assert set(run["final"]) == {"object", "probe", "coverage", "probe_modes", "indices"}
        assert run.metadata["step"] == 2
        assert run["metrics"].read()["step"].tolist()[-1] == 2
        assert np.array_equal(run["final/coverage"].read(), snapshot(uid, 2).coverage)
        if next(requests) <= failing:
            break
    assert failing > 15


def test_a_server_without_storage_for_tables_gets_everything_else(tmp_path, monkeypatch, caplog):
    uid = next(uids)
    without = EmbeddedServer(tmp_path, "secret")
    from_uri = tiled_server.catalog_from_uri

    def only_files(uri, *, writable_storage, **options):
        return from_uri(uri, writable_storage=writable_storage[:1], **options)

    monkeypatch.setattr(tiled_server, "catalog_from_uri", only_files)
    with without, connected(without.uri) as client:
        with opened(without, uid) as publisher:
            for step in (1, 2, 3):
                publisher.publish(snapshot(uid, step))
            publisher.publish(snapshot(uid, 4, final=True))
        run = client[PATH, uid]
        assert set(run) == {"live", "final", "positions_um"}
        assert run.metadata["complete"] is True
    complaints = [record.message.split(": ")[2] for record in caplog.records if record.message.count("is missing")]
    assert complaints == ["step 1 is missing", "step 2 is missing"]


def test_a_slow_server_costs_freshness_and_keeps_the_final(server, reader):
    uid = next(uids)
    inside, go_on = queue.Queue(), queue.Queue()

    class Slow(TiledPublisher):
        def publish(self, snapshot):
            inside.put(snapshot.step)
            go_on.get(timeout=WAIT_S)
            super().publish(snapshot)

    thread = PublisherThread(Slow(server.uri, PATH, "secret"), "tiled").start()
    thread.open(scan(uid))
    thread.publish(snapshot(uid, 1))
    assert inside.get(timeout=WAIT_S) == 1
    for step in range(2, 50):
        thread.publish(snapshot(uid, step))
    go_on.put(None)
    assert inside.get(timeout=WAIT_S) == 49
    thread.publish(snapshot(uid, 50, final=True))
    thread.close(uid, {})
    for _ in range(2):
        go_on.put(None)
    assert thread.stop(WAIT_S)
    thread.check()
    assert reader[PATH, uid, "metrics"].read()["step"].tolist() == [1, 49, 50]
    assert reader[PATH, uid].metadata["complete"] is True
    assert thread.status.published == 3


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")  # in Tiled
def test_a_subscriber_gets_new_runs_and_every_update(server, reader):
    """Callbacks are weakly referenced: they are methods of an object that is kept."""

    class Viewer:
        def __init__(self):
            self.events = queue.Queue()
            self.subscriptions = []

        def watch(self, node):
            subscription = node.subscribe()
            if hasattr(subscription, "new_data"):
                subscription.new_data.add_callback(self.data)
            else:
                subscription.child_created.add_callback(self.child)
            self.subscriptions.append(subscription.start_in_thread(0, max_size=2**28) or subscription)

        def child(self, event):
            self.events.put(event.key)
            if event.key in ("live", "object") or event.key == uid:
                self.watch(event.child())

        def data(self, event):
            self.events.put(event.data())

    uid, viewer = next(uids), Viewer()
    if "hxn" not in reader:
        TiledPublisher(server.uri, PATH, "secret").check()
    viewer.watch(reader[PATH])
    steps = [snapshot(uid, step, shape=(600, 600)) for step in (1, 2, 3)]  # 2.9 MB, more than a websocket takes unasked
    with opened(server, uid) as publisher:
        for shown in steps:
            publisher.publish(shown)
    images = []
    while len(images) < 3:
        event = viewer.events.get(timeout=WAIT_S)
        if not isinstance(event, str):
            images.append(event)
    for image, shown in zip(images, steps, strict=True):
        assert np.allclose(image[0], np.abs(shown.object), atol=1e-5)
    for subscription in viewer.subscriptions:
        subscription.disconnect()
