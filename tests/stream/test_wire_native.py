"""Messages of the native form, whole, cut, lying."""

import contextlib
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import FrameArrived, FrameTimed, PixelMaskSent, SeriesEnded, SeriesStarted
from ptyinr_stream.wire import codecs
from ptyinr_stream.wire.native import Decoder


def pixels_of(frame, dtype="uint16", shape=(6, 5)):
    return np.random.default_rng(frame).integers(0, 100, shape).astype(dtype)


def message(**fields):
    return msgpack.packb(fields)


def frame(number, pixels=None, encoded="<", **fields):
    pixels = pixels_of(number) if pixels is None else pixels
    image = {"shape": pixels.shape, "dtype": pixels.dtype.name, "data": codecs.encode(pixels, encoded)}
    return message(**{"type": "frame", "series": 7, "frame": number, "encoding": encoded, **image, **fields})


START = message(type="start", series=7, frames=10, header={"energy_ev": 12e3, "raw": b"?"})
END = message(type="end", series=7)
BAD = np.zeros((6, 5), np.uint8)
BAD[2:4], BAD[0, 4] = 1, 255


def test_a_series_is_read_from_start_to_end():
    decoder = Decoder()
    messages = [START, frame(3, start_ns=300, stop_ns=390), frame(4), END]
    started, third, times, fourth, ended = (event for one in messages for event in decoder.feed([one]))
    assert started == SeriesStarted(7, 10, {"energy_ev": 12e3, "raw": None})
    assert times == FrameTimed(7, 3, 300, 390)
    assert [(third.frame, fourth.frame), ended] == [(3, 4), SeriesEnded(7)]
    assert np.array_equal(codecs.decode(third.image), pixels_of(3))
    assert decoder.counts == {"frames": 2}


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["<", ">", "<F", ">F"])
@pytest.mark.parametrize("compressed", ["", "lz4", "bs{}-lz4"])
def test_every_dtype_and_encoding_is_read(dtype, order, compressed):
    pixels = pixels_of(0, dtype, (97, 33))
    encoding = compressed.format(8 * pixels.itemsize) + order
    (arrived,) = Decoder().feed([frame(0, pixels, encoding)])
    found = codecs.decode(arrived.image)
    assert found.dtype == pixels.dtype
    assert np.array_equal(found, pixels)


def test_a_mask_says_which_pixels_are_bad():
    started, mask = Decoder().feed([message(type="start", series=7, shape=[6, 5], bad_pixels=BAD.tobytes())])
    assert started == SeriesStarted(7)
    assert isinstance(mask, PixelMaskSent)
    assert np.array_equal(mask.trusted, BAD == 0)


@pytest.mark.parametrize(
    "mask",
    [
        {"bad_pixels": BAD.tobytes()},
        {"shape": [6, 4], "bad_pixels": BAD.tobytes()},
        {"shape": [6, 5], "bad_pixels": b"\1" * 30},
        {"shape": [6, 5], "bad_pixels": "0" * 30},
        {"shape": [6, 5], "bad_pixels": None},
    ],
)
def test_a_mask_that_cannot_be_used_is_counted_and_the_series_begins(mask):
    decoder = Decoder()
    assert decoder.feed([message(type="start", series=7, **mask)]) == [SeriesStarted(7)]
    assert decoder.counts == {"refused_mask": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": [2**20, 2**20]},
        {"shape": [2**40, 1]},
        {"shape": [0, 5]},
        {"shape": [6, -5]},
        {"shape": [6.0, 5]},
        {"shape": [6, 5, 1]},
        {"shape": "6x5"},
        {"shape": None},
        {"dtype": "object"},
        {"dtype": "complex64"},
        {"dtype": ">u2"},
        {"dtype": ["uint16"]},
        {"data": "text"},
        {"data": None},
        {"encoding": 7},
        {"encoding": None},
    ],
)
def test_an_image_that_is_not_plausible_is_refused(fields):
    decoder = Decoder()
    assert decoder.feed([frame(0, **fields)]) == []
    assert decoder.counts == {"refused_image": 1}


@pytest.mark.parametrize(
    "times",
    [
        {"start_ns": 1},
        {"stop_ns": 1},
        {"start_ns": 2, "stop_ns": 1},
        {"start_ns": -1, "stop_ns": 1},
        {"start_ns": 0.0, "stop_ns": 1.0},
    ],
)
def test_times_that_cannot_be_cost_no_frame(times):
    decoder = Decoder()
    (event,) = decoder.feed([frame(0, **times)])
    assert isinstance(event, FrameArrived)
    assert decoder.counts == {"frames": 1, "bad_times": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "frame"},
        {"type": "frame", "series": 7},
        {"type": "end", "series": True},
        {"type": "end", "series": 2**32},
        {"type": "start", "series": -1},
        {"type": "stop", "series": 7},
        {"type": ["end"], "series": 7},
    ],
)
def test_a_message_without_its_numbers_is_counted(fields):
    decoder = Decoder()
    assert decoder.feed([message(**fields)]) == []
    assert decoder.counts == {"bad_message": 1}


@pytest.mark.parametrize("frames", [None, 0, -1, 2**40, "10", True])
def test_a_number_of_frames_that_is_none_is_not_expected(frames):
    assert Decoder().feed([message(type="start", series=7, frames=frames)]) == [SeriesStarted(7)]


def nested(value, levels):
    for _ in range(levels):
        value = [value]
    return value


def test_a_header_may_be_nested_deeper_than_python_can_recurse():
    (started,) = Decoder().feed([message(type="start", series=7, header={"deep": nested(1, 400)})])
    assert started.header["deep"] is not None


@pytest.mark.parametrize(
    "key", ["type", "series", "frame", "shape", "dtype", "data", "encoding", "start_ns", "bad_pixels"]
)
@pytest.mark.parametrize("kind", ["start", "frame", "end"])
def test_no_key_may_be_nested(key, kind):
    fields = {"type": kind, "series": 7, "frame": 0, "shape": [6, 5], "dtype": "uint8", "data": bytes(30)}
    Decoder().feed([message(**{**fields, key: nested(1, 400)})])


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xc1",
        b"\x07",
        b"{}",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        (b"\xdd" + (1024).to_bytes(4, "big")) * 2000,
        b"\x91" * 100_000,
        b"\xdd" + (2**20).to_bytes(4, "big") + b"\x90" * 2**20,
        b"\x81\x90\x01",
        b"\x81\x07\x01",
        b"\x81\xa1a\xd6\xff\xff\xff\xff\xff",
        b"\x81\xa1a\xa1\xff",
        msgpack.packb([1, 2]),
        END + b"\0",
    ],
)
def test_what_is_no_message_is_counted_and_takes_no_memory(garbage):
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert decoder.feed([garbage]) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.counts == {"undecodable": 1}
    assert peak < 2**24


@pytest.mark.parametrize("encoding", ["<", "lz4<", "bs16-lz4<"])
def test_a_message_cut_anywhere_is_counted(encoding):
    mask = message(type="start", series=7, shape=[6, 5], bad_pixels=BAD.tobytes())
    for whole in (START, mask, frame(0, encoded=encoding), END):
        for at in range(1, len(whole)):
            decoder = Decoder()
            assert decoder.feed([whole[:at]]) == decoder.feed([whole[at:]]) == []
            assert decoder.counts["undecodable"] + decoder.counts["bad_message"] == 2
            assert decoder.feed([END]) == [SeriesEnded(7)]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_counted(data):
    decoder = Decoder()
    assert decoder.feed([data]) == []
    assert decoder.counts.total() == 1


WHOLE = [
    START,
    message(type="start", series=7, shape=[6, 5], bad_pixels=BAD.tobytes()),
    frame(1),
    frame(2, encoded="lz4<"),
    END,
]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_messages_give_images_that_decode_or_are_refused(data):
    damaged = bytearray(data.draw(st.sampled_from(WHOLE)))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=6)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    for event in Decoder().feed([bytes(damaged)]):
        if isinstance(event, FrameArrived):
            with contextlib.suppress(WireError):
                assert codecs.decode(event.image).shape == event.image.shape
