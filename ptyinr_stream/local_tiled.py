"""A Tiled server of our own, wherever it runs: its key, its address and its links."""

from __future__ import annotations

import ipaddress
import re
import secrets
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from ptyinr_stream.errors import ConfigError


class LocalTiled(ABC):
    """A server that is started here, and how it is reached.

    It keeps `folder/catalog.db`, `folder/data` and `folder/tabular.db`; a later start continues. Whoever reaches a
    loopback address may read, so that a browser needs no key; elsewhere reading needs the key as writing always does.

        with EmbeddedServer(Path("tiled"), api_key=None) as server:
            TiledPublisher(server.uri, "processed/ptyinr", server.api_key)

    Args:
        folder: Created if missing.
        api_key: Letters and digits; None makes one up.
        host: The interface to listen on.
        port: 0 takes any free port; the real one after `start`.

    Raises:
        ConfigError: the key has other characters than letters and digits.
    """

    def __init__(self, folder: Path, api_key: str | None, host: str = "127.0.0.1", port: int = 0) -> None:
        if api_key is not None and not re.fullmatch("[a-zA-Z0-9]+", api_key):
            raise ConfigError("the Tiled API key may only have letters and digits")
        self.api_key = api_key or secrets.token_hex(24)
        self.folder = Path(folder)
        self.host, self.port = host, port

    @abstractmethod
    def start(self) -> Self:
        """Create what is missing, listen, and return when the server answers.

        Raises:
            EndpointError: the address cannot be bound, or the server does not come up.
            ConfigError: the folder cannot be written or belongs to another version of Tiled.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise what ended the server, if anything did.

        Raises:
            EndpointError: the server has stopped by itself, and stays so.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop listening and wait, for a few seconds at most, until it has ended; a second call does nothing."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The API, for clients: http://host:port/api/v1."""
        return f"{self._root}/api/v1"

    def web_link(self, path: str = "") -> str:
        """The page of `path`, slash separated, in Tiled's own web interface."""
        return f"{self._root}/ui/browse/{path.strip('/')}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        address = _address(self.host)
        return address is not None and address.is_loopback

    def _listener(self) -> socket.socket:
        """A socket that listens at its address.

        Raises:
            OSError: it cannot be bound.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server((self.host, self.port), family=family)

    @property
    def _root(self) -> str:
        address = _address(self.host)
        # "Every interface" can be listened on, not connected to.
        host = "127.0.0.1" if address is not None and address.is_unspecified else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells; None for a name."""
    try:
        return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        return None
