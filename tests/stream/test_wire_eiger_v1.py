"""SIMPLON 1 messages, whole, flattened and torn."""

import contextlib
import hashlib
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import FrameArrived, FrameTimed, PixelMaskSent, SeriesEnded, SeriesStarted
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
    first, frame, times, last = fed(Decoder(), bundled(messages, form))
    assert first == SeriesStarted(7, 10, CONFIGURATION)
    assert isinstance(frame, FrameArrived)
    assert times == FrameTimed(7, 0, 10, 20)
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
        ({"nimages": 2**31, "ntrigger": 2**31}, None),
    ],
)
def test_the_expected_frames_follow_from_the_trigger_mode(configuration, expected):
    assert Decoder().feed([part(**HEADER), part(**configuration)]) == [SeriesStarted(7, expected, configuration)]


def test_a_series_without_its_configuration_begins_with_the_next_part():
    decoder = Decoder()
    assert decoder.feed([part(**HEADER)]) == []
    started, *image_events = fed(decoder, [image(0)])
    assert started == SeriesStarted(7)
    assert [type(event) for event in image_events] == [FrameArrived, FrameTimed]


MASK = np.zeros((6, 5), np.uint32)
MASK[2:4], MASK[0, 4], MASK[5, 0] = 1, 2**31, 8


def table(name, values):
    """Header and bytes of a table; what numpy calls rows comes last."""
    header = part(htype=f"d{name}-1.0", shape=list(reversed(values.shape)), type=values.dtype.name)
    return [header, values.tobytes()]


def detailed(*tables):
    """A header of detail `all`."""
    return [part(**{**HEADER, "header_detail": "all"}), part(**CONFIGURATION), *itertools.chain(*tables)]


FLATFIELD = table("flatfield", np.full((6, 5), 1.5, np.float32))
COUNTRATE = table("countrate_table", np.arange(14, dtype=np.float32).reshape(7, 2))


@pytest.mark.parametrize("form", ["multipart", "flattened"])
def test_a_detailed_header_gives_the_detectors_own_mask(form):
    header = [*detailed(FLATFIELD, table("pixelmask", MASK), COUNTRATE), part(user="appendix")]
    decoder = Decoder()
    started, mask, frame, _ = fed(decoder, bundled([header, image(0)], form))
    assert started == SeriesStarted(7, 10, CONFIGURATION)
    assert isinstance(mask, PixelMaskSent)
    assert mask.series == 7
    assert np.array_equal(mask.trusted, MASK == 0)
    assert isinstance(frame, FrameArrived)
    assert decoder.counts == {"frames": 1, "appendix": 1, "tables": 3}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (part(htype="dpixelmask-1.0", shape=[5, 6], type="float32"), bytes(120)),
        (part(htype="dpixelmask-1.0", shape=[2**20, 2**20], type="uint32"), bytes(120)),
        (part(htype="dpixelmask-1.0", shape=[5], type="uint32"), bytes(20)),
        (part(htype="dpixelmask-1.0"), b""),
        (part(htype="dpixelmask-1.0", shape=[5, 6], type="uint32"), b"\1" * 120),
        (part(htype="dpixelmask-1.0", shape=[5, 6], type="uint32", encoding="bs32-lz4<"), bytes(120)),
        (part(htype="dpixelmask-1.0", shape=[5, 6], type="uint32", size=60), bytes(60)),
    ],
    ids=["floats", "vast", "a line", "nothing", "all bad", "not compressed", "half"],
)
def test_a_table_that_is_no_mask_is_refused(header, data):
    decoder = Decoder()
    events = fed(decoder, [detailed([header, data]), image(0)])
    assert [type(event) for event in events] == [SeriesStarted, FrameArrived, FrameTimed]
    assert decoder.counts == {"frames": 1, "refused_mask": 1}


def test_a_mask_of_an_unknown_series_is_refused():
    decoder = Decoder()
    assert fed(decoder, [detailed(), image(0)[:3], table("pixelmask", MASK)])[-1].frame == 0
    assert decoder.counts["refused_mask"] == 1


@pytest.mark.parametrize("lost", range(2, 8))
def test_a_part_of_a_table_that_is_lost_costs_that_table_only(lost):
    parts = [*detailed(FLATFIELD, table("pixelmask", MASK), COUNTRATE), *image(0)]
    del parts[lost]
    decoder = Decoder()
    events = fed(decoder, [[single] for single in parts])
    masks = [event for event in events if isinstance(event, PixelMaskSent)]
    assert [np.array_equal(mask.trusted, MASK == 0) for mask in masks] == ([] if lost in (4, 5) else [True])
    assert list(frames(events)) == [(7, 0)]
    assert decoder.counts == {"frames": 1, "tables": 2, ("torn_table" if lost % 2 else "orphan_part"): 1}


def test_a_mask_is_taken_by_its_size_though_it_looks_like_json():
    values = np.frombuffer(part(htype="dseries_end-1.0", series=7).ljust(120) + bytes(120), np.uint32).reshape(6, 10)
    _, mask = Decoder().feed(detailed(table("pixelmask", values)))
    assert np.array_equal(mask.trusted, values == 0)


def test_bytes_that_look_like_json_are_an_image_where_their_size_says_so():
    data = part(htype="dseries_end-1.0", series=7).ljust(60)
    _, _, _, times = image(0)
    spec = part(htype="dimage_d-1.0", shape=[5, 6], type="uint16", encoding="<", size=60)
    frame, _ = Decoder().feed([part(htype="dimage-1.0", series=7, frame=0), spec, data, times])
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


def with_hash(message, digest):
    return [part(**{**json.loads(message[0]), "hash": digest}), *message[1:]]


@pytest.mark.parametrize("form", ["multipart", "flattened"])
def test_a_hash_that_covers_something_else_refuses_no_frame(form):
    decoder = Decoder()
    messages = [with_hash(image(frame), "0" * 32) for frame in range(10)]
    assert [frame for _, frame in frames(fed(decoder, bundled(messages, form)))] == list(range(10))
    assert decoder.counts["frames"] == 10


@pytest.mark.parametrize("before", [0, 1, 7])
@pytest.mark.parametrize("form", ["multipart", "flattened"])
def test_bytes_that_are_not_those_of_the_hash_are_refused_once_the_hash_is_known_to_cover_them(form, before):
    wrong = [with_hash(image(frame), "0" * 32) for frame in range(9)]
    messages = [*wrong[:before], image(20), wrong[8], image(21)]
    decoder = Decoder()
    assert list(frames(fed(decoder, bundled(messages, form)))) == [(7, 20), (7, 21)]
    assert (decoder.counts["frames"], decoder.counts["unproven"], decoder.counts["mismatched"]) == (
        2,
        before,
        before + 1,
    )


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "<"])
def test_a_stream_that_begins_with_a_loss_begins_with_no_wrong_frame(encoding):
    parts = [single for frame in range(3) for single in image(frame, encoding)]
    del parts[2:6]  # from the bytes of frame 0 to the header of the bytes of frame 1
    assert list(frames(fed(Decoder(), [[single] for single in parts]))) == [(7, 2)]


@pytest.mark.parametrize("late", [False, True])
def test_bytes_with_the_hash_of_another_header_prove_what_it_covers(late):
    parts = []
    for frame in range(0, 40, 2):
        here, other = image(frame, "<"), image(frame + 1, "<")
        # The bytes come under the header of the next frame, whose own bytes are lost; or the other way round.
        parts += [other[0], here[1], here[2], here[0]] if late else [here[0], other[0], here[1], here[2]]
    decoder = Decoder()
    assert fed(decoder, [[single] for single in parts]) == []
    assert decoder.counts["mismatched"] == 20


@pytest.mark.parametrize(
    ("times", "kind"),
    [
        ({"start_time": 20, "stop_time": 10}, "bad_times"),
        ({"start_time": -1, "stop_time": 10}, "bad_times"),
        ({"start_time": 0, "stop_time": 2**63}, "bad_times"),
        ({"start_time": 0.0, "stop_time": 1.0}, "bad_times"),
        ({"start_time": True, "stop_time": True}, "bad_times"),
        ({}, "bad_times"),
    ],
)
def test_an_exposure_that_cannot_have_been_is_counted(times, kind):
    decoder = Decoder()
    (event,) = decoder.feed([*image(0)[:3], part(htype="dconfig-1.0", **times)])
    assert isinstance(event, FrameArrived)
    assert decoder.counts == {"frames": 1, kind: 1}


def test_times_belong_to_the_image_whose_bytes_came_just_before():
    decoder = Decoder()
    times = image(0)[3]
    events = decoder.feed([*image(0)[:3], part(user="appendix"), times, times, *image(1), times])
    assert [event for event in events if isinstance(event, FrameTimed)] == [FrameTimed(7, 1, 10, 20)]
    assert decoder.counts == {"frames": 2, "appendix": 1, "orphan_part": 3}


@pytest.mark.parametrize(
    "parts",
    [
        [
            image(0)[0],
            part(htype="dimage_d-1.0", shape=[2**17, 2**17], type="uint32", encoding="<", size=2**32 - 1),
            b"",
        ],
        [image(0)[0], part(htype="dimage_d-1.0", shape=[2**13, 2**13], type="uint32", encoding="bs32-lz4<"), bytes(99)],
        detailed([part(htype="dpixelmask-1.0", shape=[2**17, 2**17], type="uint32"), bytes(99)]),
        detailed([part(htype="dpixelmask-1.0", shape=[2**13, 2**13], type="uint32", encoding="lz4<"), bytes(99)]),
        [b'{"htype":' * 50_000, b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"],
        [b'{"a":[' + b"{}," * 300_000 + b"0]}"],
        [b'{"htype":"dimage-1.0","series":%s,"frame":0}' % (b"9" * 100_000)],
    ],
    ids=["image", "compressed image", "table", "compressed table", "nesting", "maps", "digits"],
)
def test_what_is_only_claimed_takes_no_memory(parts):
    decoder = Decoder()
    tracemalloc.start()
    try:
        for event in decoder.feed(parts):
            if isinstance(event, FrameArrived):
                with contextlib.suppress(WireError):
                    codecs.decode(event.image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**21
    assert decoder.counts.total() > 0


def test_a_header_of_another_type_is_counted_and_announces_nothing():
    decoder = Decoder()
    assert decoder.feed([part(htype="dtemperature-1.0"), b"\1\2", part(htype=7)]) == []
    assert decoder.counts == {"unknown_header": 1, "orphan_part": 1, "appendix": 1}


def test_json_of_many_megabytes_is_not_read():
    decoder = Decoder()
    assert decoder.feed([part(htype="dimage-1.0", series=7, frame=0, padding="x" * 2**20)]) == []
    assert decoder.counts == {"orphan_part": 1}


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
        {"shape": [5, 6], "type": "uint16", "encoding": ["<"]},
        {},
    ],
)
def test_an_image_that_is_not_plausible_is_refused(spec):
    decoder = Decoder()
    header, _, data, times = image(0)
    assert decoder.feed([header, part(**{"htype": "dimage_d-1.0", "encoding": "bs16-lz4<", **spec}), data, times]) == []
    assert decoder.counts["refused_image"] == 1
    assert [event.frame for event in decoder.feed(image(1))] == [1, 1]


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
