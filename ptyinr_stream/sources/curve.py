"""CURVE keys of a stream: the server's, and our own where the server keeps a list of the clients it admits.

A key is 40 characters of Z85, as ZeroMQ spells it, or 44 of base64. No message and no log ever holds a secret one.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from ptyinr_stream.config import StreamConfig, secret
from ptyinr_stream.errors import ConfigError


@dataclass(frozen=True)
class Keys:
    """What an encrypted connection needs, in Z85."""

    server: bytes
    """Public key of the server."""
    public: bytes
    """Ours: what a server's list must hold."""
    own: bytes
    """Ours, secret."""

    def __repr__(self) -> str:
        return f"Keys(server={self.server!r}, public={self.public!r})"


def stream_keys(stream: StreamConfig) -> Keys | None:
    """Read the keys that a stream is configured with; None where it is not encrypted.

    Without a key of our own, one is made up for this connection: it encrypts, and no server knows it.

    Raises:
        ConfigError: a key is missing or malformed.
    """
    if stream.server_key_env is None:
        return None
    server = _key(stream, stream.server_key_env, None, "public")
    if stream.secret_key_env is None and stream.secret_key_file is None:
        public, own = zmq.curve_keypair()
    else:
        own = _key(stream, stream.secret_key_env, stream.secret_key_file, "secret")
        public = zmq.curve_public(own)
    return Keys(server, public, own)


def _key(stream: StreamConfig, variable: str | None, file: Path | None, kind: str) -> bytes:
    text = (secret(variable, file) or "").strip()
    if not text:
        raise ConfigError(
            f"{stream.endpoint}: the {kind} key should be in {variable}, but this environment variable is not set"
        )
    return curve_key(text, kind, f"{stream.endpoint}: {_place(variable, file)}")


def curve_key(text: str, kind: str, source: str) -> bytes:
    """A key in ZeroMQ's own spelling, from that or from base64.

    Args:
        text: of the key.
        kind: `public` or `secret`.
        source: where it came from.

    Raises:
        ConfigError: it is neither; the message does not quote it.
    """
    try:
        if len(text) == 40:
            z85.decode(text)
            return text.encode()
        key = base64.b64decode(text, validate=True) if len(text) == 44 else b""
    except (KeyError, ValueError, struct.error, binascii.Error):
        key = b""
    if len(key) != 32:
        raise ConfigError(
            f"{source} holds {len(text)} characters that are no CURVE {kind} key: it must be 40 characters of Z85, or "
            "44 of base64"
        )
    return z85.encode(key)


def _place(variable: str | None, file: Path | None) -> str:
    """Where `secret` has looked."""
    return " or ".join(str(place) for place in (variable, file) if place is not None)
