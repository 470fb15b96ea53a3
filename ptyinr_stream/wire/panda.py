"""HXN's PandA stream: one JSON object a message, encoder samples under absolute sample numbers.

`Decoder.counts`: `messages` of samples read; `torn` datasets whose size is not what they say; `not_finite` datasets
with values that are no finite numbers; `not_understood` all else that came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import CaptureEnded, CaptureStarted, Event, PositionsArrived

from . import read_json

_LARGEST_MESSAGE = 2**24  # bytes: some fifty times what comes in a second
_MOST_SAMPLES = 2**31  # sample numbers beyond it are garbage, and nothing downstream should allocate by them


class Decoder:
    """Read PandA messages.

    >>> decoder = Decoder()
    >>> x = b'{"dtype":"float64","size":2,"starting_sample_number":40,"data":[7,8]}'
    >>> decoder.feed([b'{"msg_type":"data","frame_number":3,"datasets":{"/INENC2.VAL.Value":%s}}' % x])
    [PositionsArrived(first_sample=40, channels={'/INENC2.VAL.Value': array([7., 8.])})]
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def feed(self, parts: list[bytes]) -> list[Event]:
        """Read one message. Never raises.

        Datasets that begin at different samples or differ in length become one event for each such group.
        """
        events: list[Event] = []
        for part in parts:
            match read_json(part, _LARGEST_MESSAGE):
                case {"msg_type": "start"}:
                    events.append(CaptureStarted())
                case {"msg_type": "data", "datasets": dict() as datasets}:
                    events += self._samples(datasets)
                case {"msg_type": "stop", **rest}:
                    messages = rest.get("emitted_frames")
                    events.append(CaptureEnded(messages if _is_number(messages) else None))
                case _:
                    self.counts["not_understood"] += 1
        return events

    def _samples(self, datasets: dict[str, Any]) -> list[PositionsArrived]:
        self.counts["messages"] += 1
        groups: dict[tuple[int, int], dict[str, NDArray[np.float64]]] = defaultdict(dict)
        for name, dataset in datasets.items():
            try:
                first, values = _dataset(dataset)
            except WireError as error:
                self.counts[error.kind] += 1
                continue
            if len(values):
                groups[first, len(values)][name] = values
        return [PositionsArrived(first, channels) for (first, _), channels in groups.items()]


def _dataset(dataset: Any) -> tuple[int, NDArray[np.float64]]:
    """First sample and values of a dataset."""
    match dataset:
        case {"starting_sample_number": first, "data": list() as data, **rest} if _is_number(first):
            pass
        case _:
            raise WireError("not_understood", "a dataset needs a starting_sample_number and a list of data")
    if len(data) != rest.get("size", len(data)):
        raise WireError("torn", f"a dataset has {len(data)} samples, and announces others")
    # Before numpy sees them: an array of text is as wide as its longest.
    if not set(map(type, data)) <= {int, float}:
        raise WireError("not_finite", "samples are not numbers")
    try:
        values = np.array(data, np.float64)
    except OverflowError as error:
        raise WireError("not_finite", "a sample is beyond what a float can hold") from error
    if not np.isfinite(values).all():
        raise WireError("not_finite", "samples are not finite numbers")
    return first, values


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_SAMPLES  # not isinstance: true is no sample number
