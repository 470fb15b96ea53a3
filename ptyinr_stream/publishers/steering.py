"""How the reconstruction stands, as a ZeroMQ message for plans: to stop early, or to scan a region again.

A PUB socket; each message is `ptyinr {...}`, the topic, a space and JSON:

| key | is |
|---|---|
| `uid`, `scan_id` | of the run |
| `state` | `opened`, `live`, `final` or `closed` |
| `step`, `frames`, `expected` | of training and of the scan |
| `heldout_error` | mean squared error of root counts on frames that were never trained on; 0.25 is photon noise |
| `converged` | the share of regions that have converged, by frames |
| `regions` | a list of `lower_um`, `upper_um` along (axis 0, axis 1), `frames`, `error`, `converged`, `coverage` |

Nobody has to listen, and who listens late gets the next one. `deploy/bluesky/steer.py` is the other side.
"""

from __future__ import annotations

import json
from typing import Any

import zmq

from ptyinr.types import Snapshot
from ptyinr_stream.errors import EndpointError
from ptyinr_stream.metadata import ScanRecord
from ptyinr_stream.regions import Region, Regions

TOPIC = "ptyinr"
CONVERGED = 0.9
"""Stillness from which on a region counts as converged."""


class SteeringPublisher:
    """Sends a message at each snapshot, at the beginning and at the end of a scan.

    Args:
        endpoint: to bind; port `*` takes any free one.

    Raises:
        EndpointError: the address is in use or malformed.
    """

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.linger = 0
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close()
            raise EndpointError(f"steering: {endpoint} cannot be bound: {error.strerror}") from error
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        self._scans: dict[str, tuple[ScanRecord, Regions]] = {}

    def open(self, scan: ScanRecord) -> None:
        """A scan begins."""
        self._scans[scan.uid] = scan, Regions()
        self._send("opened", scan, {})

    def publish(self, snapshot: Snapshot) -> None:
        """Tell how it stands."""
        scan, regions = self._scans[snapshot.uid]
        found = regions.look(snapshot)
        told = {
            "step": snapshot.step,
            "frames": snapshot.frames,
            "heldout_error": snapshot.metrics.get("heldout_error"),
            "converged": _share(found),
            "regions": [region.as_dict() for region in found],
        }
        self._send("final" if snapshot.final else "live", scan, told)

    def close(self, uid: str, report: dict[str, Any]) -> None:
        """A scan is over."""
        scan, _ = self._scans.pop(uid)
        self._send("closed", scan, {"report": report})

    def stop(self) -> None:
        """Close the socket."""
        self._socket.close(linger=1000)

    def _send(self, state: str, scan: ScanRecord, more: dict[str, Any]) -> None:
        expected = int(scan.metadata.get("x_num", 0)) * int(scan.metadata.get("y_num", 0))
        message = {"uid": scan.uid, "scan_id": scan.scan_id, "state": state, "expected": expected, **more}
        self._socket.send(f"{TOPIC} {json.dumps(message)}".encode())


def _share(regions: list[Region]) -> float:
    frames = sum(region.frames for region in regions)
    still = sum(region.frames for region in regions if (region.converged or 0.0) >= CONVERGED)
    return still / frames if frames else 0.0
