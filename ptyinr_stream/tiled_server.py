"""A Tiled server of our own, in a thread: catalog in SQLite, arrays in Zarr, live updates from memory.

Importing this module takes seconds, because it imports Tiled's server: import it where one is started.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from pathlib import Path
from typing import Self

import uvicorn
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from fastapi import FastAPI
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.alembic_utils import DatabaseUpgradeNeeded, UninitializedDatabase, UnrecognizedDatabase
from tiled.catalog import from_uri as catalog_from_uri
from tiled.catalog.alembic_constants import ALEMBIC_DIR
from tiled.catalog.core import check_catalog_database, initialize_database
from tiled.config import Authentication, StreamingCacheConfig
from tiled.server.app import build_app

from ptyinr_stream.errors import ConfigError, EndpointError
from ptyinr_stream.local_tiled import LocalTiled

STARTUP_S = 60.0
STREAM_TTL_S = 60
"""How long a written array can be replayed to a late subscriber."""
STREAM_ITEMS = 200
"""Tiled keeps every written payload until then: its own 1000 items were 4 GB of memory for 1024 x 1024 pixels."""


class EmbeddedServer(LocalTiled):
    """A Tiled server in a thread of this process."""

    def __init__(self, folder: Path, api_key: str | None, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(folder, api_key, host, port)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self) -> Self:
        """Create what is missing, listen, and return when the server answers.

        Raises:
            EndpointError: the address cannot be bound, or the server does not come up.
            ConfigError: the folder cannot be written or belongs to another version of Tiled.
        """
        self._prepare_folder()
        app, listener = self._app(), self._listen()
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="error",
            ws_max_size=2**26,
            timeout_graceful_shutdown=2,  # a subscriber's open websocket must not keep the server from stopping
        )
        self._error, self._server = None, _Server(config)
        self._thread = threading.Thread(
            target=self._serve, args=(self._server, listener), name="tiled-server", daemon=True
        )
        self._thread.start()
        self._server.ready.wait(STARTUP_S)
        if not self._server.started:
            self.stop()
            self.check()
            raise EndpointError(f"the embedded Tiled server did not come up within {STARTUP_S:.0f} s")
        return self

    def check(self) -> None:
        """Raise what ended the server, if anything did.

        Raises:
            EndpointError: the server has stopped by itself.
        """
        if self._error is not None:
            raise EndpointError(f"the embedded Tiled server has stopped: {self._error!r}") from self._error

    def stop(self) -> None:
        """Stop listening and wait for the thread; a second call does nothing."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(10)
        self._server = self._thread = None

    @property
    def _database(self) -> str:
        return f"sqlite+aiosqlite:///{self.folder.resolve() / 'catalog.db'}"

    def _prepare_folder(self) -> None:
        try:
            (self.folder / "data").mkdir(parents=True, exist_ok=True)
            asyncio.run(_initialize(self._database))
        except (OSError, DatabaseError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"tiled.folder: {self.folder} cannot be used: {reason}") from error
        except DatabaseUpgradeNeeded as error:
            raise ConfigError(
                f"tiled.folder: {self.folder}/catalog.db is older than this Tiled: "
                f"run `tiled catalog upgrade-database {self._database}` or name another folder"
            ) from error
        except UnrecognizedDatabase as error:
            raise ConfigError(f"tiled.folder: {self.folder}/catalog.db is not a catalog this Tiled knows") from error

    def _listen(self) -> socket.socket:
        # Bound here and not by uvicorn, which would log the error and end its thread with SystemExit.
        try:
            return self._listener()
        except OSError as error:
            raise EndpointError(
                f"tiled.port: {self.host}:{self.port} cannot be bound ({str(error.strerror).split(' (')[0]}): "
                "name another port, or 0 for any free one"
            ) from error

    def _app(self) -> FastAPI:
        # Tiled hangs a handler of its own on this logger and greets with its version.
        logging.getLogger(build_app.__module__).setLevel(logging.WARNING)
        cache = StreamingCacheConfig(uri="memory", data_ttl=STREAM_TTL_S).model_dump()
        folder = self.folder.resolve()
        tree = catalog_from_uri(
            self._database,
            writable_storage=[str(folder / "data"), f"sqlite:///{folder / 'tabular.db'}"],
            cache_config={**cache, "maxsize": STREAM_ITEMS},
        )
        return build_app(
            tree, Authentication(single_user_api_key=self.api_key, allow_anonymous_access=self.is_loopback)
        )

    def _serve(self, server: _Server, listener: socket.socket) -> None:
        try:
            server.run(sockets=[listener])
            self._error = server.error
        except (Exception, SystemExit) as error:  # noqa: BLE001  a thread shell: `check` raises it
            self._error = error
        finally:
            listener.close()
            server.ready.set()


class _Server(uvicorn.Server):
    """Says when it has come up, and shuts down in order when its loop fails."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self.error: Exception | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Set `ready` once connections are accepted."""
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Serve until asked to stop, or until an error, which is kept."""
        try:
            await super().main_loop()
        except Exception as error:  # noqa: BLE001  a thread shell: `EmbeddedServer.check` raises it
            self.error = error


async def _initialize(database: str) -> None:
    """Create the catalog's tables where there are none.

    Tiled's own `init_if_not_exists` starts a process for it, which takes 3 s.
    """
    engine = create_async_engine(database)
    try:
        await check_catalog_database(engine)
    except UninitializedDatabase:
        await initialize_database(engine)
        async with engine.begin() as connection:
            await connection.run_sync(_stamp)
    finally:
        await engine.dispose()


def _stamp(connection: Connection) -> None:
    """Note the version of the tables, as `tiled catalog init` does."""
    MigrationContext.configure(connection).stamp(ScriptDirectory(ALEMBIC_DIR), "head")
