"""Sans-IO decoders, one file a wire: bytes in, events out. No sockets, no clock, no threads.

Every module here defines `Decoder`, which the wire's name in the configuration finds. `codecs` decodes the images.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from ptyinr_stream.events import Event


class WireDecoder(Protocol):
    """What every `Decoder` of this package can do; it is constructed as `Decoder(prefix=...)`."""

    counts: Counter[str]
    """Messages by what became of them; each decoder names its kinds."""

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Turn one ZeroMQ message, given as its parts, into events. Never raises: what it cannot read it counts."""
        ...
