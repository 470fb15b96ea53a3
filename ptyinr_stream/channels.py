"""What stands between the receivers and the intake: an inbox bounded in bytes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import Condition

from ptyinr_stream.events import Event, FrameArrived, FrameFound, PositionsArrived


@dataclass(frozen=True)
class Message:
    """One message as it came off a socket, or what a source has read elsewhere."""

    road: str
    """`documents`, `frames` or `positions`; `files` for what was read from them."""
    parts: list[bytes]
    received: float
    """Seconds of `time.monotonic`."""
    events: tuple[Event, ...] = ()
    """What it says, where there is nothing to decode: then it has no parts."""

    @property
    def size(self) -> int:
        """Bytes of all parts, and of the images and samples in its events."""
        return sum(map(len, self.parts)) + sum(map(_size, self.events))


def _size(event: Event) -> int:
    match event:
        case FrameArrived() | FrameFound():
            return len(event.image.data)
        case PositionsArrived():
            return sum(values.nbytes for values in event.channels.values())
    return 0


class Inbox:
    """Messages on their way from the receivers to the one intake, in the order of arrival.

    A full inbox makes its receivers wait, and they their senders: memory is bounded, and nothing received is dropped.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._messages: deque[tuple[Message, int]] = deque()
        self._changed = Condition()
        self._closed = False
        self._bytes = 0
        self.high_water_bytes = 0
        """The most it ever held."""

    def put(self, message: Message, size: int) -> bool:
        """Add a message of `size` bytes, waiting for room; False, and the message is refused, once it is closed.

        A message larger than the whole inbox is let into an empty one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._bytes or self._bytes + size <= self.capacity_bytes)
            if self._closed:
                return False
            self._messages.append((message, size))
            self._bytes += size
            self.high_water_bytes = max(self.high_water_bytes, self._bytes)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> Message | None:
        """Take the oldest message; None after `timeout` seconds, and at once when the inbox is `drained`."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout)
            if not self._messages:
                return None
            message, size = self._messages.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return message

    def close(self) -> None:
        """Refuse further messages and release who waits; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def drained(self) -> bool:
        """Closed and empty: there will never be another message."""
        with self._changed:
            return self._closed and not self._messages

    @property
    def held_bytes(self) -> int:
        """What it holds now."""
        return self._bytes
