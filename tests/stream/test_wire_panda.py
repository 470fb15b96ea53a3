"""HXN's PandA messages."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.events import CaptureEnded, CaptureStarted, PositionsArrived
from ptyinr_stream.wire.panda import Decoder

X, Y = "/INENC2.VAL.Value", "/INENC3.VAL.Value"


def dataset(first, values, **changes):
    return {"dtype": "float64", "size": len(values), "starting_sample_number": first, "data": values, **changes}


def message(**datasets):
    names = {"x": X, "y": Y}
    body = {"msg_type": "data", "frame_number": 0, "datasets": {names[key]: value for key, value in datasets.items()}}
    return [json.dumps(body).encode()]


def test_a_capture_is_read_from_start_to_stop():
    decoder = Decoder()
    start = (
        b'{"msg_type":"start","arm_time":"2025-02-28T18:44:22.905865051Z","start_time":"Z","hw_time_offset_ns":null}'
    )
    assert decoder.feed([start]) == [CaptureStarted()]
    (positions,) = decoder.feed(message(x=dataset(40, [1.0, -2.0, 3.5]), y=dataset(40, [7, 8, 9])))
    assert positions.first_sample == 40
    assert np.array_equal(positions.channels[X], [1.0, -2.0, 3.5])
    assert np.array_equal(positions.channels[Y], [7, 8, 9])
    assert positions.channels[Y].dtype == np.float64
    assert decoder.feed([b'{"msg_type":"stop","emitted_frames":4}']) == [CaptureEnded(4)]
    assert decoder.counts == {"messages": 1}


@pytest.mark.parametrize("emitted", ["", ',"emitted_frames":"4"', ',"emitted_frames":-1', ',"emitted_frames":null'])
def test_a_stop_need_not_say_how_many_messages_there_were(emitted):
    assert Decoder().feed([b'{"msg_type":"stop"%s}' % emitted.encode()]) == [CaptureEnded(None)]


def test_channels_that_begin_apart_or_differ_in_length_become_events_of_their_own():
    decoder = Decoder()
    events = decoder.feed(message(x=dataset(40, [1.0, 2.0]), y=dataset(41, [3.0, 4.0])))
    assert [(event.first_sample, list(event.channels)) for event in events] == [(40, [X]), (41, [Y])]
    events = decoder.feed(message(x=dataset(40, [1.0, 2.0]), y=dataset(40, [3.0])))
    assert [(event.first_sample, len(event.channels)) for event in events] == [(40, 1), (40, 1)]


def test_an_empty_dataset_says_nothing():
    decoder = Decoder()
    assert decoder.feed(message(x=dataset(40, []))) == []
    assert decoder.counts == {"messages": 1}


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (dataset(0, [1.0, 2.0], size=3), "torn"),
        (dataset(0, [1.0, 2.0], size=None), "torn"),
        (dataset(0, [1.0, float("nan")]), "not_finite"),
        (dataset(0, [1.0, float("inf")]), "not_finite"),
        (dataset(0, [1.0, None]), "not_finite"),
        (dataset(0, [True, False]), "not_finite"),
        (dataset(0, ["1", "2"]), "not_finite"),
        (dataset(0, [[1.0], [2.0]]), "not_finite"),
        (dataset(0, [[1.0], 2.0]), "not_finite"),
        (dataset(0, [1, 10**400]), "not_finite"),
        (dataset(-1, [1.0]), "not_understood"),
        (dataset(2**31, [1.0]), "not_understood"),
        (dataset(1.0, [1.0]), "not_understood"),
        (dataset(True, [1.0]), "not_understood"),
        ({"size": 1, "data": [1.0]}, "not_understood"),
        ({"starting_sample_number": 0, "data": "1.0"}, "not_understood"),
        (None, "not_understood"),
    ],
)
def test_a_bad_dataset_is_counted_and_the_others_are_kept(bad, kind):
    decoder = Decoder()
    (event,) = decoder.feed(message(x=bad, y=dataset(0, [5.0])))
    assert list(event.channels) == [Y]
    assert decoder.counts == {"messages": 1, kind: 1}


@pytest.mark.parametrize(
    "samples",
    [["x" * 100_000] + ["y"] * 1000, [10**4000] * 1000, [[[]] * 1000] * 10, [{}] * 10_000, [1.0, 1e400]],
    ids=["text", "numbers beyond floats", "lists", "maps", "infinity"],
)
def test_samples_that_are_no_numbers_take_no_memory(samples):
    (text,) = message(x=dataset(0, samples))
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert decoder.feed([text]) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.counts == {"messages": 1, "not_finite": 1}
    assert peak < 2**22 + 20 * len(text)


@pytest.mark.parametrize("text", [b"[" * 2**15 + b"]" * 2**15, b"[%s0]" % (b"0," * 2**23)], ids=["lists", "numbers"])
def test_a_message_that_would_be_vast_in_memory_is_not_read(text):
    decoder = Decoder()
    assert decoder.feed([b'{"msg_type":"stop","emitted_frames":%s}' % text]) == []
    assert decoder.counts == {"not_understood": 1}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"3",
        b'{"msg_type":"data"}',
        b'{"msg_type":["start"]}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
)
def test_what_is_not_understood_is_counted(garbage):
    decoder = Decoder()
    assert decoder.feed([garbage]) == []
    assert decoder.counts == {"not_understood": 1}


VALID = message(x=dataset(40, [1.0, -2.0, 3.5]), y=dataset(40, [7.0, 8.0, 9.0]))[0]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_give_finite_samples_or_nothing(data):
    damaged = bytearray(VALID)
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    for event in Decoder().feed([bytes(damaged), VALID[: data.draw(st.integers(0, len(VALID) - 1))]]):
        assert isinstance(event, PositionsArrived)
        assert 0 <= event.first_sample < 2**31
        for values in event.channels.values():
            assert values.dtype == np.float64
            assert np.isfinite(values).all()


@given(st.lists(st.binary(max_size=60), max_size=4))
@settings(max_examples=100, deadline=None)
def test_random_bytes_are_counted(parts):
    decoder = Decoder()
    assert decoder.feed(parts) == []
    assert decoder.counts["not_understood"] == len(parts)
