"""SIMPLON 2 messages: CBOR, whole, cut, lying."""

import contextlib
import datetime
import struct
import tracemalloc

import cbor2
import lz4.block
import numpy as np
import pytest
from cbor2 import CBORTag
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import FrameArrived, FrameTimed, PixelMaskSent, SeriesEnded, SeriesStarted
from ptyinr_stream.wire import codecs
from ptyinr_stream.wire.eiger_v2 import Decoder

TAGS = {
    "u1": 64, ">u2": 65, ">u4": 66, ">u8": 67, "<u2": 69, "<u4": 70, "<u8": 71,
    "i1": 72, ">i2": 73, ">i4": 74, ">i8": 75, "<i2": 77, "<i4": 78, "<i8": 79,
    ">f2": 80, ">f4": 81, ">f8": 82, "<f2": 84, "<f4": 85, "<f8": 86,
}  # fmt: skip


def pixels_of(frame, dtype="<u2", shape=(6, 5)):
    return np.random.default_rng(frame).integers(0, 100, shape).astype(dtype)


def framed_lz4(data, block=64):
    """LZ4 in the framing of HDF5's filter."""
    blocks = []
    for start in range(0, len(data), block):
        plain = data[start : start + block]
        packed = lz4.block.compress(plain, store_size=False)
        packed = packed if len(packed) < len(plain) else plain
        blocks.append(struct.pack(">I", len(packed)) + packed)
    return struct.pack(">QI", len(data), block) + b"".join(blocks)


def array(pixels, compression=None, order=40):
    """A multi-dimensional array; pixels keep their byte order."""
    laid = pixels if order == 40 else pixels.T
    data = laid.tobytes()
    if compression == "bslz4":
        swapped = ">" if pixels.dtype.byteorder == ">" else "<"
        data = codecs.encode(laid, f"bs{8 * pixels.itemsize}-lz4{swapped}")
        data = CBORTag(56500, ["bslz4", pixels.itemsize, data])
    elif compression == "lz4":
        data = CBORTag(56500, ["lz4", 0, framed_lz4(data)])
    kind = TAGS[pixels.dtype.str.replace("|", "")]
    return CBORTag(order, [list(pixels.shape), CBORTag(kind, data)])


def message(magic=True, **fields):
    return (b"\xd9\xd9\xf7" if magic else b"") + cbor2.dumps(fields)


def image(frame, data=None, **fields):
    data = {"threshold_1": array(pixels_of(frame))} if data is None else data
    times = {"real_time": [90, 10**6], "start_time": [100 * frame, 10**6], "stop_time": [100 * frame + 90, 10**6]}
    date = {"series_date": CBORTag(0, "2025-02-28T18:44:22.905865051Z"), "series_unique_id": "01HXN"}
    return message(**{"type": "image", "series_id": 7, "image_id": frame, "data": data, **times, **date, **fields})


def start(**fields):
    known = {"number_of_images": 10, "incident_energy": 12000.0, "image_dtype": "uint16", "channels": ["threshold_1"]}
    date = {"arm_date": CBORTag(0, "2025-02-28T18:44:22Z"), "detector_translation": [0.0, 0.0, 2.05]}
    return message(**{"type": "start", "series_id": 7, **known, **date, **fields})


END = message(type="end", series_id=7, series_unique_id="01HXN")


def fed(decoder, messages):
    return [event for one in messages for event in decoder.feed([one])]


def frames(events):
    return {(event.series, event.frame): codecs.decode(event.image) for event in events if type(event) is FrameArrived}


def test_a_series_is_read_from_start_to_end():
    decoder = Decoder()
    started, frame, times, ended = fed(decoder, [start(), image(3), END])
    assert started == SeriesStarted(7, 10, started.header)
    assert started.header["incident_energy"] == 12000.0
    assert started.header["detector_translation"] == [0.0, 0.0, 2.05]
    assert datetime.datetime.fromisoformat(started.header["arm_date"]).year == 2025
    assert np.array_equal(codecs.decode(frame.image), pixels_of(3))
    assert times == FrameTimed(7, 3, 300_000, 390_000)
    assert ended == SeriesEnded(7)
    assert decoder.counts == {"frames": 1}


@pytest.mark.parametrize("order", [40, 1040])
@pytest.mark.parametrize("compression", [None, "bslz4", "lz4"])
@pytest.mark.parametrize("dtype", [name for name in TAGS if name not in (">f2", "<f2")])
def test_every_typed_array_is_read(dtype, compression, order):
    pixels = pixels_of(0, dtype, (97, 33))
    ((_, found),) = frames(Decoder().feed([image(0, {"threshold_1": array(pixels, compression, order)})])).items()
    assert found.dtype == pixels.dtype.newbyteorder("=")
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("dtype", [">f2", "<f2"])
def test_floats_of_half_size_are_read(dtype):
    (frame, _) = Decoder().feed([image(0, {"threshold_1": array(pixels_of(0, dtype))})])
    assert np.array_equal(codecs.decode(frame.image), pixels_of(0))


def test_compressed_bytes_are_handed_on_as_they_came():
    data = codecs.encode(pixels_of(0), "bs16-lz4<")
    (frame, _) = Decoder().feed([image(0, {"threshold_1": array(pixels_of(0), "bslz4")})])
    assert frame.image.data == data
    assert frame.image.encoding == "bs16-lz4<"


CHANNELS = {f"threshold_{n}": array(pixels_of(n)) for n in (1, 2)} | {"difference": array(pixels_of(3))}


@pytest.mark.parametrize(
    ("configured", "sent", "chosen"),
    [
        (None, ["threshold_1", "threshold_2", "difference"], "threshold_1"),
        (None, ["threshold_2", "threshold_1"], "threshold_1"),
        (None, ["difference"], "difference"),
        ("threshold_2", ["threshold_1", "threshold_2"], "threshold_2"),
        ("difference", ["difference"], "difference"),
        (None, ["threshold_2", "difference"], None),
        ("threshold_2", ["threshold_1"], None),
        (None, [], None),
    ],
)
@pytest.mark.parametrize("armed", [True, False])
def test_one_channel_is_read_and_the_others_are_counted(configured, sent, chosen, armed):
    decoder = Decoder(channel=configured)
    if armed:
        decoder.feed([start(channels=sent)])
    events = decoder.feed([image(0, {name: CHANNELS[name] for name in sent})])
    if chosen is None:
        assert events == []
        assert decoder.counts["no_channel"] == 1
    else:
        truth = pixels_of(["", "threshold_1", "threshold_2", "difference"].index(chosen))
        assert np.array_equal(codecs.decode(events[0].image), truth)
    assert decoder.counts["other_channel"] == len(sent) - (chosen is not None)


def test_a_series_never_mixes_channels():
    decoder = Decoder()
    decoder.feed([start(channels=["threshold_1", "threshold_2"])])
    assert decoder.feed([image(0, {"threshold_2": CHANNELS["threshold_2"]})]) == []
    assert decoder.counts == {"no_channel": 1, "other_channel": 1}


MASK = np.zeros((6, 5), "<u4")
MASK[2:4], MASK[0, 4], MASK[5, 0] = 1, 2**31, 8


@pytest.mark.parametrize("compression", [None, "bslz4", "lz4"])
@pytest.mark.parametrize("order", [40, 1040])
def test_the_detectors_own_mask_is_read(compression, order):
    flatfield = {"threshold_1": array(np.ones((6, 5), "<f4"))}
    table = CBORTag(85, np.arange(9, dtype="<f4").tobytes())
    masks = {"threshold_2": array(MASK + 1), "threshold_1": array(MASK, compression, order)}
    decoder = Decoder()
    started, mask = decoder.feed(
        [start(pixel_mask=masks, flatfield=flatfield, countrate_correction_lookup_table=table)]
    )
    assert isinstance(mask, PixelMaskSent)
    assert mask.series == 7
    assert np.array_equal(mask.trusted, MASK == 0)
    assert not set(started.header) & {"pixel_mask", "flatfield", "countrate_correction_lookup_table"}
    assert decoder.counts == {}


@pytest.mark.parametrize(
    ("configured", "channels"), [(None, ["difference"]), ("difference", ["difference"]), (None, 7)]
)
def test_the_only_mask_serves_the_channel_that_is_read(configured, channels):
    _, mask = Decoder(channel=configured).feed([start(channels=channels, pixel_mask={"threshold_1": array(MASK)})])
    assert np.array_equal(mask.trusted, MASK == 0)


def test_a_start_that_names_no_channels_has_those_of_its_masks():
    masks = {"threshold_2": array(MASK[::-1]), "threshold_1": array(MASK)}
    _, mask = Decoder().feed([start(channels=None, pixel_mask=masks)])
    assert np.array_equal(mask.trusted, MASK == 0)


@pytest.mark.parametrize(
    ("masks", "kind"),
    [
        ({"threshold_1": array(np.ones((6, 5), "<u4"))}, "refused_mask"),
        ({"threshold_1": CBORTag(40, [[6, 5], CBORTag(70, bytes(60))])}, "refused_mask"),
        ({"threshold_1": bytes(120)}, "refused_mask"),
        ({"threshold_2": array(MASK), "difference": array(MASK)}, "no_channel"),
    ],
)
def test_a_mask_that_cannot_be_used_is_counted_and_the_series_begins(masks, kind):
    decoder = Decoder()
    (event,) = decoder.feed([start(pixel_mask=masks)])
    assert isinstance(event, SeriesStarted)
    assert decoder.counts == {kind: 1}


@pytest.mark.parametrize(
    "value",
    [
        None,
        bytes(60),
        CBORTag(41, [[6, 5], CBORTag(69, bytes(60))]),
        CBORTag(40, [[6, 5], bytes(60)]),
        CBORTag(40, [[6, 5], CBORTag(83, bytes(480))]),
        CBORTag(40, [[6, 5], CBORTag(69, "text")]),
        CBORTag(40, [[6, 5], CBORTag(69, CBORTag(69, bytes(60)))]),
        CBORTag(40, [[6, 5], CBORTag(69, CBORTag(56500, ["zstd", 2, bytes(60)]))]),
        CBORTag(40, [[6, 5], CBORTag(69, CBORTag(56500, ["bslz4", 4, bytes(60)]))]),
        CBORTag(40, [[6, 5], CBORTag(69, CBORTag(56500, ["bslz4", [2], bytes(60)]))]),
        CBORTag(40, [[6, 5], CBORTag(69, CBORTag(56500, ["lz4", 0]))]),
        CBORTag(40, [[2**20, 2**20], CBORTag(69, bytes(60))]),
        CBORTag(40, [[2**40, 1], CBORTag(69, bytes(60))]),
        CBORTag(40, [[6, 0], CBORTag(69, b"")]),
        CBORTag(40, [[6, -5], CBORTag(69, bytes(60))]),
        CBORTag(40, [[6, 5.0], CBORTag(69, bytes(60))]),
        CBORTag(40, [[6, 5, 1], CBORTag(69, bytes(60))]),
        CBORTag(40, [{"rows": 6}, CBORTag(69, bytes(60))]),
        CBORTag(40, [[6, 5]]),
    ],
)
def test_an_image_that_is_not_plausible_is_refused(value):
    decoder = Decoder()
    assert decoder.feed([image(0, {"threshold_1": value})]) == []
    assert decoder.counts in ({"refused_image": 1}, {"undecodable": 1})  # a tag of another stream is no message
    assert list(frames(decoder.feed([image(1)]))) == [(7, 1)]


@pytest.mark.parametrize(
    "fields",
    [
        {"series_id": None},
        {"series_id": True},
        {"series_id": 2**32},
        {"image_id": -1},
        {"image_id": 1.0},
        {"data": [1]},
        {"type": "picture"},
        {"type": ["image"]},
    ],
)
def test_a_message_without_its_numbers_is_counted(fields):
    decoder = Decoder()
    assert decoder.feed([image(0, **fields)]) == []
    assert decoder.counts == {"bad_message": 1}


@pytest.mark.parametrize(
    "times",
    [
        {"start_time": [1, 0]},
        {"start_time": [-1, 10]},
        {"stop_time": None},
        {"start_time": [5.0, 10]},
        {"start_time": [2**64 - 1, 1]},
        {"start_time": [1, 2, 3]},
        {"start_time": [10**6, 1]},
    ],
)
def test_times_that_cannot_be_cost_no_frame(times):
    decoder = Decoder()
    (event,) = decoder.feed([image(0, **times)])
    assert isinstance(event, FrameArrived)
    assert decoder.counts == {"frames": 1, "bad_times": 1}


def test_an_image_needs_no_times():
    decoder = Decoder()
    (event,) = decoder.feed([message(type="image", series_id=7, image_id=0, data=CHANNELS)])
    assert isinstance(event, FrameArrived)
    assert decoder.counts == {"frames": 1, "other_channel": 2}


@pytest.mark.parametrize("expected", [None, 0, -1, 2**40, "10", True])
def test_a_number_of_images_that_is_none_is_not_expected(expected):
    (started,) = Decoder().feed([start(number_of_images=expected)])
    assert started.expected is None


def test_messages_of_version_1_are_told_from_garbage():
    decoder = Decoder()
    assert decoder.feed([b'{"htype":"dheader-1.0","series":4,"header_detail":"none"}']) == []
    assert decoder.counts == {"version_1": 1}


def claim(major, number):
    """The head of a CBOR item that claims a length."""
    return bytes([major << 5 | 27]) + struct.pack(">Q", number)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xd9\xd9\xf7",
        b"\xff",
        b"\x1c",
        b"\xa1\x61",
        *(claim(major, number) for major in (2, 3, 4, 5) for number in (10 * 2**30, 2**63, 2**64 - 1)),
        claim(4, 2**16) * 40,
        b"\x81" * 100_000,
        b"\x9f" * 100_000,
        b"\xd8\x28" * 100_000,
        b"\x80" * 5,
        claim(4, 2**20) + b"\x80" * 2**20,
        cbor2.dumps(CBORTag(35, "(a{1,99}){1,99}")),
        cbor2.dumps({"type": CBORTag(36, "mail")}),
        b"\xa1\x61a\xd8\x1c\x81\xd8\x1d\x00",
        b"\xa1\x61a\xa1\x61a\x61\xff",
        cbor2.dumps({"type": CBORTag(0, "yesterday")}),
        cbor2.dumps([1, 2]),
        cbor2.dumps(7),
        b"\xa0\xa0",
        b"\xbf\x61a\x01",
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
    assert peak < 2**22


def test_items_of_indefinite_length_are_read():
    ended = b"\xbf" + b"".join(map(cbor2.dumps, ("type", "end", "series_id", 7))) + b"\x7f\x61x\xff\x9f\x01\x02\xff\xff"
    assert Decoder().feed([ended]) == [SeriesEnded(7)]


@pytest.mark.parametrize("compression", [None, "bslz4", "lz4"])
def test_a_message_cut_anywhere_is_counted(compression):
    masks = {"threshold_1": array(MASK, compression)}
    for whole in (start(pixel_mask=masks), image(0, {"threshold_1": array(pixels_of(0), compression)}), END):
        for at in range(len(whole)):
            decoder = Decoder()
            assert decoder.feed([whole[:at]]) == []
            assert decoder.counts == {"undecodable": 1}
            if at not in (0, 3):  # of the whole message, and of all but the tag that says that it is CBOR
                assert decoder.feed([whole[at:]]) == []
            assert decoder.feed([END]) == [SeriesEnded(7)]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_counted(data):
    decoder = Decoder()
    assert decoder.feed([data]) == []
    assert decoder.counts.total() == 1


WHOLE = [start(pixel_mask={"threshold_1": array(MASK)}), image(1), image(2, CHANNELS), END]


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
