"""Damaged messages of every wire: 20,000 cases, the same in every run.

What must hold is written in `fuzz_decoders`, whose engine this is; run as a script, it takes any number of cases.
"""

import pytest
from fuzz_decoders import MOST_MEMORY, fuzz
from wire_sessions import all_wires, pixels_of

from ptyinr_stream.plugins import plugin_names
from ptyinr_stream.wire import codecs, eiger_v1, eiger_v2, native

CASES = 20_000


def test_damaged_messages_raise_nothing_allocate_little_and_give_no_wrong_frame():
    tallies, broken, most = fuzz(CASES)
    assert broken == []
    assert most < MOST_MEMORY
    for name, tally in tallies.items():
        assert tally.right > tally.cases / 3, name  # what was damaged lay among what was read
        assert tally.altered or name == "eiger_v1, replay", name
    images = [tally for name, tally in tallies.items() if name not in ("panda", "bluesky")]
    assert all(tally.refused for tally in images)


def test_every_wire_is_fuzzed():
    assert {wire.name.partition(",")[0] for wire in all_wires()} == set(plugin_names("ptyinr_stream.wire"))


@pytest.mark.parametrize("wire", all_wires(), ids=lambda wire: wire.name)
def test_the_sessions_are_valid(wire):
    images = [said for said in wire.truth if said[0] == "FrameArrived"]
    for _, _, frame, shape, dtype, data in images:
        pixels = pixels_of(frame, dtype)
        assert (shape, data) == (pixels.shape, pixels.tobytes())
    assert len(images) == {"eiger_v2": 8, "native": 7, "panda": 0, "bluesky": 0}.get(wire.name, 12)
    assert len(set(wire.truth)) == len(wire.truth)


BROKEN = {
    "a hash that is not compared": (eiger_v1.Decoder, "_believed", lambda _, frame, digest: [frame]),
    "images that lost a part and stay open": (eiger_v1.Decoder, "_close_torn", lambda _: None),
    "a message that is not counted": (native.Decoder, "_message", lambda _, message: iter(())),
    "an exception": (eiger_v2, "_check", lambda data: 1 / 0 if b"\xff\xff\xff\xff" in data else None),
    "an image of another shape": (native, "is_image_shape", lambda shape, dtype: True),
    "a codec that raises what it should not": (codecs, "_undecodable", KeyError),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_fuzzing_finds(what, monkeypatch):
    monkeypatch.setattr(*BROKEN[what])
    assert fuzz(2100)[1]


NESTED = {
    "eiger_v1, multipart": ("encoding", "hash", "start_time", "trigger_mode"),
    "panda": ("size", "data", "msg_type"),
    "bluesky": ("uid", "run_start", "descriptor", "data", "exit_status"),
}


@pytest.mark.parametrize(("wire", "key"), [(wire, key) for wire, keys in NESTED.items() for key in keys])
def test_a_value_nested_as_deep_as_it_can_be_read_raises_nothing(wire, key):
    (found,) = [one for one in all_wires() if one.name == wire]
    parts = [part for message in found.session for part in message if key.encode() in part]
    read = 0
    for levels in range(100, 1100, 27):
        nested = 0
        for _ in range(levels):
            nested = [nested]
        for part in parts:
            try:
                deep = found.rewrite(part, lambda value: replaced(value, key, nested))  # noqa: B023
            except (ValueError, RecursionError):  # nested too deep to be written
                continue
            decoder = found.decoder()
            for message in found.session:
                decoder.feed([deep if one == part else one for one in message])
            read += 1
    assert read


def replaced(value, key, by):
    """The structure with the values of a key replaced."""
    if isinstance(value, dict):
        return {name: by if name == key else replaced(item, key, by) for name, item in value.items()}
    return value
