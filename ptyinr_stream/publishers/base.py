"""What a publisher is, and the thread that keeps it away from training.

Newest wins on the way out: a slow or absent destination costs freshness, never a training step. What must arrive,
the beginning of a scan, its final snapshot and its end, is kept in order and tried until it is delivered.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

from ptyinr.types import Snapshot
from ptyinr_stream.errors import PublishError
from ptyinr_stream.metadata import ScanRecord, plain

logger = logging.getLogger(__name__)

KEPT_SCANS = 16
"""Scans that may wait for an absent destination. Each holds its final snapshot, some 50 MB."""
PAUSE_S = (1.0, 10.0)
"""First and longest pause between attempts."""


def node_name(uid: str) -> str:
    """Turn a uid into a name for a folder or a node: a uid comes from the network, and ../.. would be one too.

    >>> node_name("5ad1e2c3-77"), node_name("../../home")
    ('5ad1e2c3-77', '_.._home')
    """
    return re.sub(r"[^\w.-]", "_", uid).lstrip(".") or "scan"


class Publisher(Protocol):
    """A destination. Its thread calls it, and calls again with the newest snapshot after a PublishError.

    | method | called | must |
    |---|---|---|
    | `open` | once a scan, before its first snapshot | bear being called again after it failed |
    | `publish` | with the newest snapshot; with every final one | leave a whole result, or raise PublishError |
    | `close` | when the scan's reconstruction is over | bear being called again after it failed |
    """

    def open(self, scan: ScanRecord) -> None:
        """A scan begins."""
        ...

    def publish(self, snapshot: Snapshot) -> None:
        """Deliver a snapshot of an open scan."""
        ...

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """A scan is over; `report` is flat and plain like a scan's metadata."""
        ...


@dataclass(frozen=True)
class PublisherStatus:
    """How a destination does; for the status line and the log."""

    name: str
    published: int = 0
    """Snapshots delivered."""
    failed: int = 0
    """Attempts that raised."""
    lost: int = 0
    """Things that had to arrive and were given up: too many scans waited, or the daemon stopped."""
    waiting: int = 0
    """Scans with something undelivered."""
    last_error: str | None = None
    """None again as soon as something is delivered."""
    last_published: float | None = None
    """Seconds since 1970."""


@dataclass(frozen=True)
class _Close:
    uid: str
    report: dict[str, Any]


@dataclass
class _Lane:
    """What one scan still has to deliver, in order. A scan that cannot be delivered does not hold up the next."""

    commands: deque[ScanRecord | Snapshot | _Close] = field(default_factory=deque)
    pause_s: float = 0.0
    not_before: float = 0.0


class PublisherThread:
    """Runs a publisher in its own thread. `open`, `publish` and `close` return at once and never fail.

    Args:
        publisher: Called from this thread only.
        name: For the status and the log.
        pause_s: First and longest pause between two attempts for the same scan; it doubles in between.
    """

    def __init__(self, publisher: Publisher, name: str, pause_s: tuple[float, float] = PAUSE_S) -> None:
        self._publisher = publisher
        self._pause_s = pause_s
        self._lanes: dict[str, _Lane] = {}
        self._changed = threading.Condition()
        self._status = PublisherStatus(name)
        self._logged: set[str] = set()
        self._given_up: set[str] = set()
        self._deadline: float | None = None
        self._crash: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"publisher-{name}", daemon=True)

    def start(self) -> Self:
        """Begin to deliver."""
        self._thread.start()
        return self

    def open(self, scan: ScanRecord) -> None:
        """Announce a scan."""
        self._put(scan.uid, scan)

    def publish(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot; it replaces one of the same scan that still waits, unless that one is final."""
        self._put(snapshot.uid, snapshot)

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """End a scan.

        Raises:
            ValueError: the report is not flat and plain.
        """
        self._put(uid, _Close(uid, plain(report)))

    @property
    def status(self) -> PublisherStatus:
        """A consistent copy of the counters."""
        with self._changed:
            return replace(self._status, waiting=len(self._lanes))

    def check(self) -> None:
        """Raise what ended the thread, if anything but `stop` did: a defect, for failures to deliver do not."""
        if self._crash is not None:
            raise self._crash

    def stop(self, timeout_s: float) -> bool:
        """Deliver what waits, for at most `timeout_s`, and end the thread. True if nothing is left behind."""
        with self._changed:
            self._deadline = time.monotonic() + timeout_s
            for lane in self._lanes.values():
                lane.not_before = 0.0
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        with self._changed:
            left_behind = list(self._lanes)
            for uid in left_behind:
                self._lose(uid, "the time to stop was over")
        return not left_behind

    def _put(self, uid: str, command: ScanRecord | Snapshot | _Close) -> None:
        with self._changed:
            if self._deadline is not None or self._crash is not None:
                return
            if isinstance(command, ScanRecord):
                self._given_up.discard(uid)
            elif uid in self._given_up:
                return
            commands = self._lanes.setdefault(uid, _Lane()).commands
            last = commands[-1] if commands else None
            if isinstance(command, Snapshot) and isinstance(last, Snapshot) and not last.final:
                commands.pop()
            commands.append(command)
            if len(self._lanes) > KEPT_SCANS:
                self._lose(next(iter(self._lanes)), f"{KEPT_SCANS} later scans wait as well")
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while (turn := self._next()) is not None:
                self._deliver(*turn)
        except Exception as error:  # noqa: BLE001  a thread shell: `check` raises it
            with self._changed:
                self._crash = error
                self._status = replace(self._status, last_error=repr(error))
                for uid in list(self._lanes):
                    self._lose(uid, repr(error))

    def _next(self) -> tuple[str, ScanRecord | Snapshot | _Close] | None:
        """Wait for a scan whose turn it is; None when there is nothing more to do."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._deadline is not None and (now >= self._deadline or not self._lanes):
                    return None
                for uid, lane in self._lanes.items():
                    if lane.not_before <= now:
                        return uid, lane.commands[0]
                due = [lane.not_before for lane in self._lanes.values()]
                self._changed.wait(min(due) - now if due else None)

    def _deliver(self, uid: str, command: ScanRecord | Snapshot | _Close) -> None:
        try:
            match command:
                case ScanRecord():
                    self._publisher.open(command)
                case Snapshot():
                    self._publisher.publish(command)
                case _Close():
                    self._publisher.close(command.uid, command.report)
        except PublishError as error:
            self._failed(uid, str(error))
        else:
            self._delivered(uid, command)

    def _failed(self, uid: str, error: str) -> None:
        with self._changed:
            self._status = replace(self._status, failed=self._status.failed + 1, last_error=error)
            if (lane := self._lanes.get(uid)) is not None:
                first, longest = self._pause_s
                lane.pause_s = first if self._deadline is not None else min(2 * lane.pause_s or first, longest)
                lane.not_before = time.monotonic() + lane.pause_s
        if error not in self._logged:
            self._logged.add(error)
            logger.warning("%s: %s; it is tried again", self._status.name, error)

    def _delivered(self, uid: str, command: ScanRecord | Snapshot | _Close) -> None:
        with self._changed:
            was_failing = self._status.last_error is not None
            self._status = replace(self._status, last_error=None)
            if isinstance(command, Snapshot):
                self._status = replace(self._status, published=self._status.published + 1, last_published=time.time())
            if (lane := self._lanes.get(uid)) is not None:
                lane.pause_s = 0.0
                if lane.commands[0] is command:  # else a newer snapshot has taken its place
                    lane.commands.popleft()
                if not lane.commands:
                    del self._lanes[uid]
        if was_failing:
            self._logged.clear()
            logger.info("%s: publishing again", self._status.name)

    def _lose(self, uid: str, reason: str) -> None:
        lane = self._lanes.pop(uid)
        if any(isinstance(command, ScanRecord) for command in lane.commands):
            self._given_up.add(uid)  # the publisher has not heard of this scan, and must not hear of its snapshots
        owed = sum(not isinstance(command, Snapshot) or command.final for command in lane.commands)
        self._status = replace(self._status, lost=self._status.lost + owed)
        if owed:
            logger.error("%s: gave up the results of %s: %s", self._status.name, uid, reason)
