"""Plans that listen to the reconstruction: stop when nothing is gained any more, or scan again what came out badly.

One file for the beamline's profile, needing bluesky and pyzmq. The daemon publishes (`steering.endpoint` in its
configuration), plans listen:

    from steer import Watcher, rescan_worst, until_converged
    watcher = Watcher("tcp://ptyinr.example.org:5580")
    RE(until_converged(my_passes(), watcher))           # passes over the sample, one run each: as many as it takes
    RE(rescan_worst(my_fly_plan, watcher, regions=2))   # a scan, then its worst regions once more

A reconstruction that is away, late or silent never holds a plan up: after `patience_s` it takes its course.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import zmq
from bluesky import plan_stubs as bps
from bluesky.utils import Msg

logger = logging.getLogger("steer")

Plan = Generator[Msg, Any, Any]
TOPIC = b"ptyinr "


class Watcher:
    """The newest message of each run."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint` is where the daemon publishes, such as tcp://ptyinr.example.org:5580."""
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.subscribe(TOPIC)
        self._socket.connect(endpoint)
        self._newest: dict[str, dict[str, Any]] = {}

    def newest(self, uid: str) -> dict[str, Any] | None:
        """What was last said of a run; None if nothing was. Returns at once."""
        while self._socket.poll(0):
            message = json.loads(self._socket.recv()[len(TOPIC) :])
            before = self._newest.get(message["uid"], {})
            # The end of a scan says nothing of its regions, which the final message has told.
            self._newest[message["uid"]] = {**before, **message}
            self._newest = dict(list(self._newest.items())[-100:])
        return self._newest.get(uid)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def wait_for(watcher: Watcher, uid: str, good: Callable[[dict[str, Any]], bool], patience_s: float) -> Plan:
    """Wait until what is said of a run is good; returns the newest message, None if there never was one."""
    ends = time.monotonic() + patience_s
    while True:
        message = watcher.newest(uid)
        if message is not None and good(message):
            return message
        if time.monotonic() >= ends:
            logger.warning("the reconstruction of %s has not come so far in %g s; going on", uid, patience_s)
            return message
        yield from bps.sleep(0.2)


def until_converged(passes: Iterable[Plan], watcher: Watcher, share: float = 0.9, patience_s: float = 60.0) -> Plan:
    """Run passes over a sample, each a run of its own, until enough of the last one's regions have converged.

    Args:
        passes: plans that return the uid of their run, as `bluesky.plans` do.
        watcher: of the reconstruction.
        share: of the frames, that must lie in regions which have converged.
        patience_s: for how long to wait for the reconstruction of each pass.

    Returns:
        The uids of the runs.
    """
    uids = []
    for one in passes:
        uids.append((yield from one))
        message = yield from wait_for(
            watcher, uids[-1], lambda m: m["state"] in ("final", "closed") or m.get("converged", 0) >= share, patience_s
        )
        if message is not None and message.get("converged", 0) >= share:
            break
    return uids


def rescan_worst(
    fly: Callable[..., Plan], watcher: Watcher, regions: int = 1, worse: float = 1.5, patience_s: float = 60.0
) -> Plan:
    """Scan, wait for the reconstruction, and scan the regions again that came out worst.

    Args:
        fly: `fly()` scans all, `fly(lower_um, upper_um)` a region; both return the uid of their run.
        watcher: of the reconstruction.
        regions: at most so many.
        worse: only those whose error is so many times the median.
        patience_s: for how long to wait for the reconstruction.

    Returns:
        The uids of the runs, that of the whole scan first.
    """
    uids = [(yield from fly())]
    message = yield from wait_for(watcher, uids[0], lambda m: m["state"] in ("final", "closed"), patience_s)
    known = [region for region in (message or {}).get("regions", []) if region["error"] is not None]
    ranked = sorted(known, key=lambda region: -region["error"])
    if ranked:
        median = ranked[len(ranked) // 2]["error"]
        for region in ranked[:regions]:
            if region["error"] >= worse * median:
                uids.append((yield from fly(tuple(region["lower_um"]), tuple(region["upper_um"]))))
    return uids
