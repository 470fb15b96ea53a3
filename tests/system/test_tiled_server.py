import re
import socket
import threading

import httpx
import numpy as np
import pytest
from tiled.client import from_uri

from ptyinr_stream.errors import ConfigError, EndpointError
from ptyinr_stream.tiled_server import EmbeddedServer

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with EmbeddedServer(tmp_path_factory.mktemp("tiled"), "secret") as server:
        yield server


def test_whoever_reaches_loopback_may_read_but_not_write(server):
    assert httpx.get(f"{server.uri}/search/").status_code == 200
    body = {"structure_family": "container", "metadata": {}, "data_sources": [], "specs": [], "id": "x"}
    assert httpx.post(f"{server.uri}/metadata/", json=body).status_code == 401
    key = {"Authorization": f"Apikey {server.api_key}"}
    assert httpx.post(f"{server.uri}/metadata/", json=body, headers=key).status_code == 200


def test_the_web_link_opens_tileds_own_interface(server):
    link = server.web_link("/processed/ptyinr/")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ui/browse/processed/ptyinr", link)
    page = httpx.get(link)
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]


def test_a_network_address_needs_the_key_to_read_and_is_reached_by_loopback(tmp_path):
    with EmbeddedServer(tmp_path, "secret", host="0.0.0.0") as server:
        assert server.uri.startswith("http://127.0.0.1:")
        assert httpx.get(f"{server.uri}/search/").status_code == 401
        assert httpx.get(f"{server.uri}/search/", headers={"Authorization": "Apikey secret"}).status_code == 200


def test_a_second_start_on_the_folder_continues(tmp_path):
    server = EmbeddedServer(tmp_path / "new" / "folder", "secret").start()
    client = from_uri(server.uri, api_key="secret")
    client.create_container("run").write_array(np.arange(12.0).reshape(3, 4), key="x")
    client.context.http_client.close()
    server.stop()
    with EmbeddedServer(tmp_path / "new" / "folder", "other") as again:
        client = from_uri(again.uri, api_key="other")
        assert client["run", "x"].read().sum() == 66
        client.create_container("second")
        client.context.http_client.close()


def test_a_stopped_server_answers_no_more_and_leaves_no_thread(tmp_path):
    before = set(threading.enumerate())
    server = EmbeddedServer(tmp_path, None).start()
    server.stop()
    server.stop()
    server.check()
    assert "tiled-server" not in {thread.name for thread in set(threading.enumerate()) - before}
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.uri}/")


def test_a_port_in_use_is_refused_and_names_the_key_to_change(server, tmp_path):
    with pytest.raises(EndpointError, match=rf"^tiled.port: 127.0.0.1:{server.port} cannot be bound \(Address already"):
        EmbeddedServer(tmp_path, "secret", port=server.port).start()


def test_a_key_with_other_characters_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="letters and digits"):
        EmbeddedServer(tmp_path, "se-cret")
    assert re.fullmatch("[a-zA-Z0-9]{32,}", EmbeddedServer(tmp_path, None).api_key)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^tiled.folder: .* cannot be used: .*Not a directory"):
        EmbeddedServer(tmp_path / "file", "secret").start()


def test_a_catalog_that_is_none_is_refused(tmp_path):
    (tmp_path / "catalog.db").write_text("this is not a database " * 100)
    with pytest.raises(ConfigError, match=r"^tiled.folder: .* cannot be used: .*not a database"):
        EmbeddedServer(tmp_path, "secret").start()


def test_what_ends_the_server_is_raised_by_check(tmp_path, monkeypatch):
    server = EmbeddedServer(tmp_path, "secret").start()

    async def broken(counter):
        raise OSError("too many open files")

    monkeypatch.setattr(server._server, "on_tick", broken)
    server._thread.join(10)
    with pytest.raises(EndpointError, match=r"embedded Tiled server has stopped: .*too many open files"):
        server.check()
    server.stop()


def test_a_server_that_cannot_start_says_why(tmp_path, monkeypatch):
    def broken(self, sockets=None):
        raise SystemExit(3)

    monkeypatch.setattr("uvicorn.Server.startup", broken)
    with pytest.raises(EndpointError, match="has stopped: SystemExit"):
        EmbeddedServer(tmp_path, "secret").start()


def test_the_port_is_free_again_after_a_stop(tmp_path):
    server = EmbeddedServer(tmp_path, "secret").start()
    server.stop()
    with socket.create_server(("127.0.0.1", server.port)):
        pass
    with server:
        assert httpx.get(f"{server.uri}/").status_code == 200
