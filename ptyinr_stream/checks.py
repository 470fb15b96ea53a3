"""Whether a configuration would work, without starting anything: one verdict a part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ptyinr_stream.config import Config, StreamConfig, secret
from ptyinr_stream.daemon import required_key
from ptyinr_stream.device import choose_device
from ptyinr_stream.errors import StreamError
from ptyinr_stream.plugins import load_plugin
from ptyinr_stream.probe_file import read_probe
from ptyinr_stream.publishers.files import FilesPublisher
from ptyinr_stream.publishers.tiled import TiledPublisher
from ptyinr_stream.sources.probing import probe
from ptyinr_stream.tiled_server import EmbeddedServer


def checks(config: Config, timeout_s: float) -> Iterator[tuple[str, str, bool]]:
    """Name, verdict, and whether it is good, of every part in turn."""
    for road in ("documents", "frames", "positions"):
        stream = getattr(config.streams, road)
        yield _verdict(road, lambda stream=stream: _stream(stream, timeout_s))
    yield _verdict("tiled", lambda: _tiled(config))
    yield _verdict("device", lambda: choose_device(config.training.device))
    if (path := config.training.probe_file) is not None:
        yield _verdict("probe", lambda: f"{path}: {read_probe(path).shape}")
    if (folder := config.output.folder) is not None:
        yield _verdict("output", lambda: _output(folder))


def _verdict(name: str, attempt) -> tuple[str, str, bool]:
    try:
        return name, attempt(), True
    except StreamError as error:
        return name, str(error), False


def _stream(stream: StreamConfig, timeout_s: float) -> str:
    load_plugin("ptyinr_stream.wire", stream.wire)
    return probe(stream, timeout_s)


def _output(folder: Path) -> str:
    FilesPublisher(folder)
    return f"{folder}: can be written"


def _tiled(config: Config) -> str:
    tiled = config.tiled
    key = secret(tiled.api_key_env, tiled.api_key_file)
    if tiled.uri is not None:
        return TiledPublisher(tiled.uri, tiled.path, required_key(tiled, key), tiled.access_tags).check()
    with EmbeddedServer(tiled.folder, key, tiled.host, tiled.port) as server:
        return TiledPublisher(server.uri, tiled.path, server.api_key, tiled.access_tags).check() + " (embedded)"
