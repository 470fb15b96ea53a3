import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from daemons import configuration, eventually
from tiled.client import from_uri

from ptyinr.types import Snapshot
from ptyinr_stream import tiled_process
from ptyinr_stream.daemon import Daemon
from ptyinr_stream.errors import ConfigError, EndpointError
from ptyinr_stream.publishers.base import PublisherThread, ScanRecord
from ptyinr_stream.publishers.tiled import TiledPublisher
from ptyinr_stream.tiled_process import ServerProcess

pytestmark = pytest.mark.system

PATH = "processed/ptyinr"
WAIT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ServerProcess(tmp_path_factory.mktemp("tiled"), "secret") as server:
        yield server


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(tiled_process, "PAUSE_S", 0.01)


def snapshot(uid, step) -> Snapshot:
    return Snapshot(
        uid=uid,
        step=step,
        frames=1,
        object=np.full((20, 30), step, np.complex64),
        probe=np.ones((1, 8, 6), np.complex64),
        coverage=np.ones((20, 30), np.float32),
        indices=np.arange(1),
        positions_px=np.zeros((1, 2)),
        pixel_m=(1e-8, 1e-8),
        metrics={"loss": 1 / step},
        final=False,
    )


@contextmanager
def published(server, uid):
    """A publisher's thread with a scan; yields a function that publishes a step and waits until it has arrived."""
    thread = PublisherThread(TiledPublisher(server.uri, PATH, server.api_key), "tiled", pause_s=(0.05, 0.5)).start()
    thread.open(ScanRecord(uid, 1, 1.7e9, {}))

    def publish(step):
        before = thread.status.published
        thread.publish(snapshot(uid, step))
        eventually(lambda: thread.status.published > before)
        with connected(server) as client:
            assert client[PATH, uid].metadata["step"] == step
            assert client[PATH, uid, "metrics"].read()["step"].tolist()[-1] == step

    yield publish
    thread.close(uid, {})
    assert thread.stop(WAIT_S)
    thread.check()


@contextmanager
def connected(server):
    client = from_uri(server.uri, api_key=server.api_key)
    yield client
    client.context.http_client.close()


def pid(server) -> int:
    return server._child._process.pid


def killed(server) -> int:
    """Kill the server's process, and return the id it had once it has ended."""
    handle = os.pidfd_open(number := pid(server))
    os.kill(number, signal.SIGKILL)
    assert has_ended(handle)
    return number


def has_ended(handle: int) -> bool:
    """Wait for the end of a process."""
    try:
        return bool(select.select([handle], [], [], WAIT_S)[0])
    finally:
        os.close(handle)


def said(caplog) -> list[str]:
    """By this program: what earlier tests left may speak up, too."""
    return [record.message for record in caplog.records if record.name.startswith("ptyinr_stream")]


def answers(server) -> bool:
    try:
        return httpx.get(f"{server.uri}/", timeout=30, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_another_process_serves_what_is_published(server):
    assert pid(server) != os.getpid()
    assert re.fullmatch(rf"http://127\.0\.0\.1:{server.port}/ui/browse/{PATH}", server.web_link(PATH))
    assert httpx.get(server.web_link(PATH)).status_code == 200
    assert httpx.get(f"{server.uri}/search/").status_code == 200
    with published(server, "run") as publish:
        publish(1)
        publish(2)


def test_the_key_is_nowhere_where_others_can_read_it(server):
    for name in ("cmdline", "environ"):
        with open(f"/proc/{pid(server)}/{name}", "rb") as file:
            assert b"secret" not in file.read()


def test_signals_to_the_whole_service_do_not_end_it(server):
    assert os.getsid(pid(server)) == pid(server)  # nothing typed at a terminal reaches it
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid(server), number)
        assert answers(server)
    assert server._child._process.poll() is None


def test_a_killed_server_comes_back_and_the_publisher_goes_on(server, caplog):
    port = server.port
    with published(server, "killed") as publish:
        publish(1)
        before = killed(server)
        publish(2)
        with connected(server) as client:
            assert client[PATH, "killed", "metrics"].read()["step"].tolist() == [1, 2]  # what was there is kept
    assert server.port == port
    assert pid(server) != before
    server.check()
    assert "the embedded Tiled server has ended (exit status -9); it is started again" in caplog.text


def test_a_stopped_server_leaves_no_process_no_thread_and_a_free_port(tmp_path):
    server = ServerProcess(tmp_path, None).start()
    number, thread = pid(server), server._thread
    server.stop()
    server.stop()
    server.check()
    assert server._child._process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert not thread.is_alive()
    with socket.create_server(("127.0.0.1", server.port)):
        pass
    with server:
        assert answers(server)
    assert not answers(server)


def test_a_process_that_does_not_end_is_killed(tmp_path, monkeypatch):
    server = ServerProcess(tmp_path, None).start()
    os.kill(pid(server), signal.SIGSTOP)
    monkeypatch.setattr(tiled_process, "STOP_S", 0.2)
    server.stop()
    assert server._child._process.wait(WAIT_S) == -signal.SIGKILL


def test_a_stop_while_it_is_being_started_again_leaves_no_process(tmp_path, caplog):
    server = ServerProcess(tmp_path, None).start()
    thread, before = server._thread, killed(server)
    eventually(lambda: pid(server) != before)
    server.stop()
    assert not thread.is_alive()
    assert server._child._process.returncode is not None
    assert len(said(caplog)) == 1
    server.check()


def test_a_port_that_stays_in_use_is_refused_and_names_the_key_to_change(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tiled_process, "PORT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ServerProcess(tmp_path, "secret", port=port)
        with pytest.raises(EndpointError, match=rf"^tiled.port: 127.0.0.1:{port} cannot be bound \(Address already"):
            server.start()
    assert server._child._process.returncode is not None
    assert said(caplog) == [
        f"tiled.port: 127.0.0.1:{port} is in use, by the server of a daemon that was killed? Waiting 0.3 s at most"
    ]
    server.stop()


def test_a_key_with_other_characters_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="letters and digits"):
        ServerProcess(tmp_path, "se-cret")
    assert re.fullmatch("[a-zA-Z0-9]{32,}", ServerProcess(tmp_path, None).api_key)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^tiled.folder: .* cannot be used: .*Not a directory"):
        ServerProcess(tmp_path / "file", "secret").start()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ((sys.executable, "-c", ""), "has ended, or said nothing"),
        ((sys.executable, "-c", "import sys; sys.stdin.readline(); sys.stdin.read()"), "said nothing for 0.5 s"),
        (("/nowhere/python",), "cannot be started: .*No such file"),
    ],
)
def test_a_process_that_does_not_come_up_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, command, complaint):
    monkeypatch.setattr(tiled_process, "COMMAND", command)
    monkeypatch.setattr(tiled_process, "REPORT_S", 0.5)
    server = ServerProcess(tmp_path, None)
    with pytest.raises(EndpointError, match=complaint):
        server.start()
    assert server._child is None or server._child._process.returncode is not None
    server.stop()


def test_a_server_that_cannot_be_started_again_is_given_up_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(tiled_process, "RESTARTS", 1)
    server = ServerProcess(tmp_path, None).start()
    killed(server)
    with socket.create_server(("127.0.0.1", server.port)):
        server._thread.join(WAIT_S)
        with pytest.raises(EndpointError, match=r"has ended 2 times in a row: tiled.port: .* cannot be bound"):
            server.check()
    server.stop()


def test_a_long_life_is_not_counted_among_the_failures(tmp_path, monkeypatch):
    monkeypatch.setattr(tiled_process, "RESTARTS", 0)
    monkeypatch.setattr(tiled_process, "STEADY_S", 0.0)
    with ServerProcess(tmp_path, None) as server:
        killed(server)
        eventually(lambda: answers(server))
        server.check()


PARENT = """
import signal, sys
from pathlib import Path
from ptyinr_stream.replay import HXN_ENCODERS
from ptyinr_stream.tiled_process import ServerProcess

server = ServerProcess(Path(sys.argv[1]), None).start()
print(server._child._process.pid, server.port, flush=True)
signal.pause()
"""


def test_the_death_of_the_parent_ends_it(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        handle = os.pidfd_open(int(parent.stdout.readline().split()[0]))
        parent.kill()
        assert has_ended(handle)


def test_a_daemon_that_is_started_at_once_after_a_kill_waits_for_the_port(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tiled_process, "PORT_S", WAIT_S)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with parent:
        orphan, port = map(int, parent.stdout.readline().split())
        handle = os.pidfd_open(orphan)
        os.kill(orphan, signal.SIGSTOP)  # it ends late
        parent.kill()
    asked = logging.Handler()
    asked.emit = lambda record: os.kill(orphan, signal.SIGCONT)
    tiled_process.logger.addHandler(asked)
    try:
        with ServerProcess(tmp_path, None, port=port) as server:
            assert has_ended(handle)
            assert (server.port, answers(server)) == (port, True)
    finally:
        tiled_process.logger.removeHandler(asked)
    [message] = said(caplog)
    assert f"127.0.0.1:{port} is in use" in message


def test_the_daemon_starts_the_kind_of_server_it_is_given(tmp_path):
    with Daemon(configuration(tmp_path), embedded=ServerProcess) as daemon:
        assert isinstance(daemon.server, ServerProcess)
        with connected(daemon.server) as client:
            assert PATH.split("/", maxsplit=1)[0] in client
        number = pid(daemon.server)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
