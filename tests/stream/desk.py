"""An assembler with a clock, and what it has given: what tests of the join have in common."""

from __future__ import annotations

from typing import Any, Self

from ptyinr_stream.assembler import Assembler, Frame, Output
from ptyinr_stream.config import AssemblyConfig, PositionsConfig
from ptyinr_stream.events import Event


class AssemblerDesk:
    """Each event comes a millisecond after the last, unless it is said otherwise."""

    def __init__(self, positions: PositionsConfig, **assembly: Any) -> None:
        self.assembler = Assembler(positions, AssemblyConfig(**assembly))
        self.now = 0.0
        self.outputs: list[Output] = []

    def feed(self, *events: Event | Frame, after: float = 0.001) -> Self:
        for event in events:
            self.now += after
            self.outputs += self.assembler.feed(event, self.now)
        return self

    def wait(self, seconds: float) -> Self:
        self.now += seconds
        self.outputs += self.assembler.tick(self.now)
        return self

    def finish(self) -> Self:
        self.outputs += self.assembler.finish()
        return self
