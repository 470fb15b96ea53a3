"""Whether a configuration would work, without starting anything: one verdict a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ptyinr_stream.config import Config, StreamConfig, secret
from ptyinr_stream.daemon import required_key
from ptyinr_stream.device import choose_device
from ptyinr_stream.errors import ConfigError, StreamError
from ptyinr_stream.frame_store import check_folder
from ptyinr_stream.probe_file import read_probe
from ptyinr_stream.publishers.files import FilesPublisher
from ptyinr_stream.publishers.tiled import TiledPublisher
from ptyinr_stream.sources.probing import probe
from ptyinr_stream.tiled_server import EmbeddedServer
from ptyinr_stream.wire import decoder_of


def checks(config: Config, timeout_s: float) -> Iterator[tuple[str, str, bool]]:
    """Name, verdict, and whether it is good, of every part in turn."""
    for road in ("documents", "frames", "positions"):
        stream = getattr(config.streams, road)
        if stream is None:
            continue  # from files, which the documents will name
        yield _verdict(road, lambda stream=stream: _stream(stream, timeout_s))
    if config.files.paths:
        yield _verdict("files", lambda: _folders(config.files.paths))
    yield _verdict("tiled", lambda: _tiled(config))
    yield _verdict("device", lambda: choose_device(config.training.device))
    if (path := config.training.probe_file) is not None:
        yield _verdict("probe", lambda: f"{path}: {read_probe(path).shape}")
    if (kept := config.training.frames_folder) is not None:
        yield _verdict("frames' folder", lambda: check_folder(kept))
    if (folder := config.output.folder) is not None:
        yield _verdict("output", lambda: _output(folder))


def _verdict(name: str, attempt) -> tuple[str, str, bool]:
    try:
        return name, attempt(), True
    except StreamError as error:
        return name, str(error), False


def _stream(stream: StreamConfig, timeout_s: float) -> str:
    decoder_of(stream)
    return probe(stream, timeout_s)


def _folders(paths: dict[str, str]) -> str:
    if missing := [folder for folder in paths.values() if not os.access(folder, os.R_OK | os.X_OK)]:
        raise ConfigError(f"files.paths: {', '.join(missing)} cannot be read, or is no folder of this machine")
    return ", ".join(f"{folder} is read as {here}" for folder, here in paths.items())


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
