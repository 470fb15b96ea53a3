"""What all wires share: how they are found, what they are given, what passes for a number."""

import datetime

import numpy as np
import pytest

from ptyinr_stream.config import StreamConfig
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.events import RunStopped
from ptyinr_stream.plugins import plugin_names
from ptyinr_stream.wire import decoder_of, exposure_ns, is_image_shape, plain


def stream(wire, **options):
    return StreamConfig(endpoint="tcp://127.0.0.1:5559", wire=wire, **options)


@pytest.mark.parametrize("wire", plugin_names("ptyinr_stream.wire"))
def test_every_wire_counts_what_it_does_not_understand(wire):
    decoder = decoder_of(stream(wire))
    assert decoder.feed([b"nonsense"]) == []
    assert decoder.counts.total() == 1


def test_a_decoder_is_given_the_options_that_it_takes():
    decoder = decoder_of(stream("bluesky", prefix="hxn"))
    assert decoder.feed([b"hxn stop \x81\xa9run_start\xa2u1"]) == [RunStopped("u1")]


@pytest.mark.parametrize("wire", ["eiger_v1", "panda", "native", "eiger_v2"])
def test_an_option_that_a_wire_does_not_have_is_refused(wire):
    with pytest.raises(ConfigError, match=f"wire '{wire}' has no prefix: leave out prefix = 'hxn'"):
        decoder_of(stream(wire, prefix="hxn"))


def test_a_wire_that_does_not_exist_is_refused_with_the_list_of_those_that_do():
    with pytest.raises(ConfigError, match="no 'eiger'; there are: bluesky, eiger_v1, eiger_v2, native, panda"):
        decoder_of(stream("eiger"))


@pytest.mark.parametrize(
    ("shape", "holds"),
    [
        ([2**14, 2**13], True),
        ([2**14, 2**13 + 1], False),
        ((1, 1), True),
        ([0, 1], False),
        ([1], False),
        ([True, 1], False),
        ([2**40, 2**40], False),
        (None, False),
    ],
)
def test_an_image_of_more_than_256_mib_is_none(shape, holds):
    assert is_image_shape(shape, np.dtype(np.uint16)) is holds


def test_an_exposure_ends_after_it_begins():
    assert exposure_ns(5, 5) == (5, 5)
    assert exposure_ns(6, 5) is exposure_ns(0.0, 5) is exposure_ns(True, 5) is exposure_ns(0, 2**63) is None


def test_a_header_becomes_what_json_can_say():
    deep = value = []
    for _ in range(2000):
        value.append([])
        value = value[0]
    date = datetime.datetime(2025, 2, 28, tzinfo=datetime.UTC)
    assert plain({"date": date, "none": None, 1: 2}) == {"date": "2025-02-28T00:00:00+00:00", "none": None}
    assert str(plain(deep)) == "[" * 16 + "None" + "]" * 16
