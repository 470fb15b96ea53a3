"""SIMPLON 1 messages, whole, flattened and torn."""

import contextlib
import hashlib
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import FrameArrived, SeriesEnded, SeriesStarted
from ptyinr_stream.wire import codecs
from ptyinr_stream.wire.eiger_v1 import Decoder

HEADER = {"htype": "dheader-1.0", "series": 7, "header_detail": "basic"}
CONFIGURATION = {"nimages": 2, "ntrigger": 5, "trigger_mode": "exts"}
END = {"htype": "dseries_end-1.0", "series": 7}


def part(**header):
    return json.dumps(header).encode()


def pixels_of(frame, shape=(6, 5)):
    return np.full(shape, frame + 1, np.uint16)


def image(frame, encoding="bs16-lz4<", series=7, shape=(6, 5)):
    """The four parts of a frame, as a detector sends them."""
    data = codecs.encode(pixels_of(frame, shape), encoding)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return [
        part(htype="dimage-1.0", series=series, frame=frame, hash=digest),
        part(htype="dimage_d-1.0", shape=[shape[1], shape[0]], type="uint16", encoding=encoding, size=len(data)),
        data,
        part(htype="dconfig-1.0", start_time=10, stop_time=20, real_time=10),
    ]


def bundled(messages, form):
    """Messages as a detector sends them, as HXN's proxy does, and as a replay without types does."""
    if form == "multipart":
        return messages
    if form == "flattened":
        return [[single] for message in messages for single in message]
    untyped = []
    for message in messages:
        headers = [json.loads(single) if single[:1] == b"{" else None for single in message[:3]]
        for header in headers:
            if header is not None and header["htype"].startswith("dimage"):
                del header["htype"]
        untyped.append(
            [single if header is None else part(**header) for header, single in zip(headers, message, strict=False)]
        )
    return untyped


def frames(events):
    return {(e.series, e.frame): codecs.decode(e.image) for e in events if isinstance(e, FrameArrived)}


def fed(decoder, messages):
    return [event for message in messages for event in decoder.feed(message)]


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "lz4<", "<"])
@pytest.mark.parametrize("form", ["multipart", "flattened", "replayed"])
def test_frames_are_read_however_their_parts_are_bundled(form, encoding):
    decoder = Decoder()
    found = frames(fed(decoder, bundled([image(frame, encoding) for frame in range(4)], form)))
    assert list(found) == [(7, 0), (7, 1), (7, 2), (7, 3)]
    for (_, frame), pixels in found.items():
        assert np.array_equal(pixels, pixels_of(frame))
    assert decoder.counts == {"frames": 4}


@pytest.mark.parametrize("form", ["multipart", "flattened"])
def test_a_series_begins_and_ends(form):
    messages = [[part(**HEADER), part(**CONFIGURATION)], image(0), [part(**END)]]
    first, frame, last = fed(Decoder(), bundled(messages, form))
    assert first == SeriesStarted(7, 10, CONFIGURATION)
    assert isinstance(frame, FrameArrived)
    assert last == SeriesEnded(7)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"nimages": 3, "ntrigger": 4, "trigger_mode": "ints"}, 12),
        ({"nimages": 3, "ntrigger": 4, "trigger_mode": "exte"}, 4),
        ({"nimages": 3, "ntrigger": 4, "trigger_mode": "inte"}, 4),
        ({"ntrigger": 4, "trigger_mode": "exte"}, 4),
        ({"nimages": 3}, None),
        ({"nimages": True, "ntrigger": -4}, None),
        ({"nimages": 0, "ntrigger": 4}, None),
    ],
)
def test_the_expected_frames_follow_from_the_trigger_mode(configuration, expected):
    assert Decoder().feed([part(**HEADER), part(**configuration)]) == [SeriesStarted(7, expected, configuration)]


def test_a_series_without_its_configuration_begins_with_the_next_part():
    decoder = Decoder()
    assert decoder.feed([part(**HEADER)]) == []
    started, frame = fed(decoder, [image(0)])
    assert started == SeriesStarted(7)
    assert isinstance(frame, FrameArrived)


@pytest.mark.parametrize("form", ["multipart", "flattened"])
def test_the_tables_of_a_detailed_header_are_passed_over(form):
    tables = [
        single
        for name in ("flatfield", "pixelmask", "countrate_table")
        for single in (part(htype=f"{name}-1.0", shape=[5, 6], type="float32"), b'{"\xff' + bytes(117))
    ]
    header = [part(**{**HEADER, "header_detail": "all"}), part(**CONFIGURATION), *tables, part(user="appendix")]
    decoder = Decoder()
    events = fed(decoder, bundled([header, image(0)], form))
    assert [type(event) for event in events] == [SeriesStarted, FrameArrived]
    assert decoder.counts == {"frames": 1, "appendix": 1}


def test_bytes_that_look_like_json_are_an_image_where_their_size_says_so():
    data = part(htype="dseries_end-1.0", series=7).ljust(60)
    _, _, _, times = image(0)
    spec = part(htype="dimage_d-1.0", shape=[5, 6], type="uint16", encoding="<", size=60)
    (frame,) = Decoder().feed([part(htype="dimage-1.0", series=7, frame=0), spec, data, times])
    assert frame.image.data == data


def test_an_image_whose_size_is_not_said_ends_with_the_next_bytes():
    spec = part(shape=[5, 6], type="uint16", encoding="<")
    decoder = Decoder()
    events = fed(decoder, [[part(frame=0, series=1)], [spec], [part(frame=1, series=1)], [spec], [bytes(60)]])
    assert [event.frame for event in events] == [1]
    assert decoder.counts == {"frames": 1, "torn": 1}


@pytest.mark.parametrize("lost", range(4))
def test_an_image_that_lost_a_part_is_counted_and_passed_over(lost):
    messages = bundled([image(0), image(1), image(2)], "flattened")
    del messages[4 + lost]
    decoder = Decoder()
    found = frames(fed(decoder, messages))
    assert set(found) == ({(7, 0), (7, 1), (7, 2)} if lost == 3 else {(7, 0), (7, 2)})
    assert decoder.counts["torn"] == (1 if lost in (1, 2) else 0)


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "<"])
def test_no_loss_of_parts_gives_a_frame_the_image_of_another(encoding):
    parts = bundled([image(frame, encoding) for frame in range(1, 4)], "flattened")
    wrong = 0
    for kept in itertools.product([True, False], repeat=len(parts)):
        decoder = Decoder()
        found = frames(fed(decoder, bundled([image(0, encoding)], "flattened")))
        found |= frames(fed(decoder, itertools.compress(parts, kept)))
        wrong += sum(not np.array_equal(pixels, pixels_of(frame)) for (_, frame), pixels in found.items())
        assert decoder.counts["frames"] == len(found)
    assert wrong == 0


def test_a_size_and_bytes_without_a_header_of_their_own_join_no_other_image():
    decoder = Decoder()
    messages = [[single] for frame in range(2) for single in [part(series=7, frame=frame), *image(frame)[1:3]]]
    del messages[2:4]  # the bytes of frame 0 and the header of frame 1
    assert fed(decoder, messages) == []
    assert decoder.counts == {"torn": 1, "orphan_part": 1}


def test_a_hash_that_covers_something_else_refuses_no_frame():
    decoder = Decoder()
    messages = bundled([image(frame) for frame in range(3)], "flattened")
    for message in messages[::4]:
        message[0] = part(**{**json.loads(message[0]), "hash": "0" * 32})
    assert len(fed(decoder, messages)) == 3


@pytest.mark.parametrize(
    "spec",
    [
        {"shape": [2**20, 2**20], "type": "uint16"},
        {"shape": [0, 6], "type": "uint16"},
        {"shape": [5, -6], "type": "uint16"},
        {"shape": [5.0, 6], "type": "uint16"},
        {"shape": [5, 6, 2], "type": "uint16"},
        {"shape": [5, 6], "type": "float64"},
        {"shape": [5, 6], "type": ["uint16"]},
        {"shape": [5, 6], "type": "uint16", "size": 2**31},
        {"shape": [5, 6], "type": "uint16", "size": "60"},
        {"shape": "5x6", "type": "uint16"},
        {},
    ],
)
def test_an_image_that_is_not_plausible_is_refused(spec):
    decoder = Decoder()
    header, _, data, times = image(0)
    assert decoder.feed([header, part(htype="dimage_d-1.0", encoding="bs16-lz4<", **spec), data, times]) == []
    assert decoder.counts["refused_image"] == 1
    assert len(decoder.feed(image(1))) == 1


@pytest.mark.parametrize("number", [None, True, -1, 1.5, "1", 2**32, [1]])
@pytest.mark.parametrize("key", ["series", "frame"])
def test_a_number_that_is_none_is_counted_as_a_bad_header(key, number):
    decoder = Decoder()
    header, *rest = image(0)
    assert decoder.feed([part(**{**json.loads(header), key: number}), *rest]) == []
    assert decoder.counts["bad_header"] == 1
    if key == "series":
        assert decoder.feed([part(**{**HEADER, key: number})]) == decoder.feed([part(**{**END, key: number})]) == []
        assert decoder.counts["bad_header"] == 3


def test_bytes_that_nothing_announced_are_counted():
    decoder = Decoder()
    assert decoder.feed([b"", b"\x00\x01", b"{" * 100_000, b"[1]", b'{"htype":"dimage_d-1.0"}']) == []
    assert decoder.counts == {"orphan_part": 5}


def test_a_new_series_closes_the_image_that_was_open():
    decoder = Decoder()
    decoder.feed(image(0)[:2])
    assert decoder.feed([part(**HEADER), part(**CONFIGURATION)]) == [SeriesStarted(7, 10, CONFIGURATION)]
    assert decoder.counts == {"torn": 1}


STREAM = [part(**HEADER), part(**CONFIGURATION), *image(0), *image(1, "lz4<"), *image(2, "<"), part(**END)]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_streams_give_images_that_decode_or_are_refused(data):
    parts = [data.draw(st.sampled_from(STREAM)) for _ in range(data.draw(st.integers(1, 12)))]
    for index in data.draw(st.lists(st.integers(0, len(parts) - 1), max_size=4)):
        damaged = bytearray(parts[index])
        if damaged and data.draw(st.booleans()):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            del damaged[data.draw(st.integers(0, len(damaged))) :]
        parts[index] = bytes(damaged)
    decoder = Decoder()
    for event in decoder.feed(parts) if data.draw(st.booleans()) else fed(decoder, [[single] for single in parts]):
        if isinstance(event, FrameArrived):
            with contextlib.suppress(WireError):
                assert codecs.decode(event.image).shape == event.image.shape


@given(st.lists(st.binary(max_size=80) | st.sampled_from(STREAM), max_size=8))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise_nor_make_frames(parts):
    decoder = Decoder()
    delivered = [event for event in decoder.feed(parts) if isinstance(event, FrameArrived)]
    assert decoder.counts["frames"] == len(delivered) <= sum(single in STREAM for single in parts) // 3
