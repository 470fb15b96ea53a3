"""HXN's proxy: what the Eiger sends, published, every part as a message of its own.

The proxy receives and sends part by part and does not say that more will follow, so that a full queue loses single
parts.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from numpy.typing import NDArray

from . import multipart


class Encoder(multipart.Encoder):
    """The parts of SIMPLON 1, each alone."""

    socket: ClassVar[Literal["pub", "push"]] = "pub"
    carriers: ClassVar[int] = 3  # exposure times come last

    def arm(self, series: int, frames: int) -> list[list[bytes]]:
        """Open a series."""
        return _alone(super().arm(series, frames))

    def image(self, series: int, frame: int, pixels: NDArray[Any]) -> list[list[bytes]]:
        """Spell a frame."""
        return _alone(super().image(series, frame, pixels))


def _alone(messages: list[list[bytes]]) -> list[list[bytes]]:
    return [[part] for parts in messages for part in parts]
