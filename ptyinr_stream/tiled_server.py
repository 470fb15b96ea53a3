"""A Tiled server of our own, in a thread: catalog in SQLite, arrays in Zarr, live updates from memory.

Importing this module takes seconds, because it imports Tiled's server: import it where one is started.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
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

STARTUP_S = 60.0
STREAM_TTL_S = 60
"""How long a written array can be replayed to a late subscriber."""
STREAM_ITEMS = 200
"""Tiled keeps every written payload until then: its own 1000 items were 4 GB of memory for 1024 x 1024 pixels."""


class EmbeddedServer:
    """A Tiled server that keeps `folder/catalog.db`, `folder/data` and `folder/tabular.db`; a later start continues.

    Whoever reaches a loopback address may read, so that a browser needs no key; elsewhere reading needs the key as
    writing always does.

        with EmbeddedServer(Path("tiled"), api_key=None) as server:
            TiledPublisher(server.uri, "processed/ptyinr", server.api_key)

    Args:
        folder: Created if missing.
        api_key: Letters and digits; None makes one up.
        host: The interface to listen on.
        port: 0 takes any free port.

    Raises:
        ConfigError: the key has other characters than letters and digits.
    """

    def __init__(self, folder: Path, api_key: str | None, host: str = "127.0.0.1", port: int = 0) -> None:
        if api_key is not None and not re.fullmatch("[a-zA-Z0-9]+", api_key):
            raise ConfigError("the Tiled API key may only have letters and digits")
        self.api_key = api_key or secrets.token_hex(24)
        self.folder = Path(folder)
        self.host, self.port = host, port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def uri(self) -> str:
        """The API, for clients: http://host:port/api/v1."""
        return f"{self._root}/api/v1"

    def web_link(self, path: str = "") -> str:
        """The page of `path`, slash separated, in Tiled's own web interface."""
        return f"{self._root}/ui/browse/{path.strip('/')}"

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

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def _root(self) -> str:
        address = _address(self.host)
        # "Every interface" can be listened on, not connected to.
        host = "127.0.0.1" if address is not None and address.is_unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family)
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
        address = _address(self.host)
        private = address is not None and address.is_loopback
        return build_app(tree, Authentication(single_user_api_key=self.api_key, allow_anonymous_access=private))

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


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells; None for a name."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None
