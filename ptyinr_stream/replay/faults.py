"""What a network does to messages, done on purpose: the same for the same seed. No sockets, no clock.

Every message of a road draws the same random numbers whatever is asked of it, so that the same seed drops the same
messages with and without reordering. Where parts travel alone, a message is a part: then single parts are lost.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Road = Literal["documents", "frames", "positions"]
ROADS: tuple[Road, ...] = get_args(Road)


@dataclass(frozen=True)
class Faults:
    """What happens to messages on their way.

    Raises:
        ValueError: a probability is not between 0 and 1, a number is negative or not finite, or a road is unknown.
    """

    drop: float = 0.0
    """The probability with which a message is lost."""
    duplicate: float = 0.0
    """That with which it comes twice."""
    reorder: int = 0
    """The most later messages of its road that may overtake it. Nothing overtakes what opens a series or a capture:
    what came before an opening would belong to another one."""
    delay_s: Mapping[Road, float] = field(default_factory=dict)
    """How much later than the others a whole road comes."""
    late_join: int = 0
    """Whatever goes out until so many frames have been exposed is never sent, as to a subscriber that comes late."""
    seed: int = 0
    on: frozenset[Road] = frozenset(("frames", "positions"))
    """The roads that lose, double, disorder and miss messages; each has random numbers of its own."""

    def touch(self, road: Road) -> bool:
        """Whether anything at all happens to messages of a road."""
        loses = any((self.drop, self.duplicate, self.reorder, self.late_join))
        return (loses and road in self.on) or bool(self.delay_s.get(road))

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name):g}: a probability lies between 0 and 1")
        for name in ("reorder", "late_join", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")
        for road in (*self.on, *self.delay_s):
            if road not in ROADS:
                raise ValueError(f"there is no road {road!r}; there are: {', '.join(ROADS)}")
        for road, seconds in self.delay_s.items():
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"the delay of {road} is {seconds:g} s: it must be finite and not negative")


@dataclass(frozen=True)
class Piece:
    """A share of an image: with all `of` of them, in order and with nothing between, the image is whole."""

    frame: int
    number: int = 0
    of: int = 1


@dataclass(frozen=True)
class Samples:
    """Encoder samples from number `first` up to but without `stop`."""

    first: int
    stop: int


@dataclass(frozen=True)
class Frames:
    """Whole frames `start` to `stop`, which a document announces in a file."""

    start: int
    stop: int


Content = Piece | Samples | Frames


@dataclass(frozen=True)
class Outgoing:
    """A message that is to be sent."""

    road: Road
    parts: list[bytes]
    at_s: float
    """When it is due, in seconds since the first exposure began."""
    exposed: int
    """Frames that have been exposed by then."""
    content: Content | None = None
    """What it carries of the scan."""
    opens: bool = False
    """Whether a series or a capture begins with it."""


def disturbed(
    script: Iterable[Outgoing], faults: Faults, counts: Mapping[Road, Counter[str]], run: int = 0
) -> Iterator[tuple[float, Outgoing]]:
    """Let messages through, each with the second at which it goes out; those seconds never decrease.

    Args:
        script: by increasing `at_s`; it is read no further than the next message to be sent.
        faults: what happens to them.
        counts: of each road, what became of its messages: `sent`, `dropped`, `duplicated`, `reordered` (sent after a
            later one), `late`.
        run: makes each run of a replay disturbed in its own way.
    """
    ways = {road: _Way(faults, counts[road], [faults.seed, run, n]) for n, road in enumerate(ROADS)}
    queue: list[tuple[float, int, Outgoing]] = []
    order = itertools.count()
    now = 0.0

    def push(messages: Iterable[Outgoing]) -> None:
        for message in messages:
            heapq.heappush(queue, (now + faults.delay_s.get(message.road, 0.0), next(order), message))

    for message in script:
        now = message.at_s
        push(ways[message.road].take(message))
        while queue and queue[0][0] <= now:
            due, _, passed = heapq.heappop(queue)
            yield due, passed
    for way in ways.values():
        push(way.flush())
    while queue:
        due, _, passed = heapq.heappop(queue)
        yield due, passed


class _Way:
    """One road's losses, copies and disorder."""

    def __init__(self, faults: Faults, counts: Counter[str], seed: list[int]) -> None:
        self._faults = faults
        self._counts = counts
        self._random = np.random.default_rng(seed)
        self._held: list[tuple[float, int, Outgoing]] = []
        self._taken = 0
        self._newest = -1  # number of the latest message that has been let through

    def take(self, message: Outgoing) -> list[Outgoing]:
        """Accept the next message, and give those whose turn has come."""
        faults, number = self._faults, self._taken
        self._taken += 1
        lost, doubled, *shifts = self._random.random(4)
        if message.road not in faults.on:
            self._counts["sent"] += 1
            return [message]
        before = self.flush() if message.opens else []
        if faults.late_join and message.exposed <= faults.late_join:
            self._counts["late"] += 1
            return before
        if lost < faults.drop:
            self._counts["dropped"] += 1
            return before
        copies = 1
        if doubled < faults.duplicate:
            self._counts["duplicated"] += 1
            copies = 2
        window = 0 if message.opens else faults.reorder
        for shift in shifts[:copies]:
            # No later message has a smaller key than its number: at most `window` of them overtake this one.
            heapq.heappush(self._held, (number + shift * (window + 1), number, message))
        return before + self._release(number + 1)

    def flush(self) -> list[Outgoing]:
        """Give all that is held."""
        return self._release(math.inf)

    def _release(self, before: float) -> list[Outgoing]:
        released = []
        while self._held and self._held[0][0] < before:
            _, number, message = heapq.heappop(self._held)
            self._counts["sent"] += 1
            if number < self._newest:
                self._counts["reordered"] += 1
            self._newest = max(self._newest, number)
            released.append(message)
        return released


class Ledger:
    """What of a scan has gone out, and so what a receiver can know of it.

    Args:
        frames: of the scan.
        samples_per_frame: of the encoders.
    """

    def __init__(self, frames: int, samples_per_frame: int) -> None:
        self.whole = np.zeros(frames, bool)
        """(n,) whether all pieces of a frame went out, in order and with nothing between."""
        self.samples = np.zeros((frames, samples_per_frame), bool)
        """(n, S) encoder samples that went out."""
        self._next: Piece | None = None  # that would continue an image

    def note(self, message: Outgoing) -> None:
        """Take down that a message has been sent."""
        content = message.content
        if isinstance(content, Samples):
            self.samples.reshape(-1)[content.first : content.stop] = True
        if isinstance(content, Frames):
            self.whole[content.start : content.stop] = True
        if message.road != "frames":
            return
        expected, self._next = self._next, None
        if isinstance(content, Piece) and (content.number == 0 or content == expected):
            if content.number + 1 == content.of:
                self.whole[content.frame] = True
            else:
                self._next = Piece(content.frame, content.number + 1, content.of)

    def positions_m(self, counts: NDArray[np.float64], um_per_count: Sequence[float]) -> NDArray[np.float64]:
        """Means (n, 2) of those of the encoder `counts` (n, S, 2) that went out; NaN where none did."""
        sent = self.samples.sum(axis=1)[:, None]
        total = np.where(self.samples[:, :, None], counts, 0).sum(axis=1)
        return 1e-6 * np.divide(total, sent, out=np.full(total.shape, np.nan), where=sent > 0) * um_per_count
