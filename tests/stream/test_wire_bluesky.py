"""Bluesky documents over 0MQ, from friends and from strangers."""

import json
import pickle
from pathlib import Path

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr_stream.documents import _USED
from ptyinr_stream.events import BaselineRead, DataRange, DataResource, Reading, RunStarted, RunStopped
from ptyinr_stream.wire.bluesky import Decoder

DOCUMENTS = Path(__file__).parent.parent / "data" / "documents"
RUN = "3b13cd65-5a49-40c9-88c3-3baaf5697876"


def message(name, document, prefix=b""):
    return [b" ".join([prefix, name.encode(), msgpack_numpy.packb(document)])]


def recorded(name):
    documents = json.loads((DOCUMENTS / f"{name}.json").read_text())
    return documents if isinstance(documents, list) else documents["docs"]


def fed(decoder, documents):
    return [event for name, document in documents for event in decoder.feed(message(name, document))]


def descriptor(number, run=RUN, name="baseline"):
    return ("descriptor", {"uid": f"descriptor-{number}", "run_start": run, "name": name})


def test_a_run_of_hxn_is_read():
    decoder = Decoder()
    documents = recorded("hxn_fly2dpd_reconstructed")
    started, before, *data, after, stopped = fed(decoder, documents)
    assert started == RunStarted(RUN, documents[0][1])
    assert (
        before == after == BaselineRead(RUN, {"dcm_th": 9.5, "dcm_th_setpoint": 9.5, "zpsth": 0, "zpsth_setpoint": 0})
    )
    assert stopped == RunStopped(RUN, "success")
    assert decoder.counts == {"documents": len(documents)}
    resources = {event.uid: event for event in data if isinstance(event, DataResource)}
    found = {resources[part.resource].key: part for part in data if isinstance(part, DataRange)}
    for key, dataset in (("inenc2_val", "/INENC2.VAL.Value"), ("inenc3_val", "/INENC3.VAL.Value")):
        resource, part = resources[found[key].resource], found[key]
        assert resource.uri == "file://localhost/data/2026/04/01/panda_rbdata_20260401_120000_abcdef.h5"
        assert (resource.mimetype, resource.parameters["dataset"]) == ("application/x-hdf5", dataset)
        assert (part.run, part.stream, part.first, part.start, part.stop) == (RUN, "primary", 0, 0, 1)
        assert part.shape == (100_000,)
    resource, part = resources[found["eiger2_image"].resource], found["eiger2_image"]
    assert resource.uri == "file://localhost/data/2026/04/01/abc_000000.h5"
    assert resource.parameters["dataset"] == "/entry/data/data"
    assert part == DataRange(resource.uid, RUN, "primary", 0, 0, 1, (10_000, 437, 493))


@pytest.mark.parametrize("name", ["old_flyer_events", "old_flyer_live", "resource_datum", "ophyd_async_fly"])
def test_runs_without_a_baseline_start_and_stop(name):
    decoder = Decoder()
    documents = recorded(name)
    started, *_, stopped = fed(decoder, documents)
    assert started.uid == stopped.uid == documents[0][1]["uid"]
    assert decoder.counts == {"documents": len(documents)}


def test_a_fly_scan_of_ophyd_async_names_its_files():
    events = fed(Decoder(), recorded("ophyd_async_fly"))
    resources = {event.key: event for event in events if isinstance(event, DataResource)}
    assert set(resources) == {"eiger", "eiger-sum", "panda-x", "panda-y"}
    assert resources["panda-x"].parameters["dataset"] == "/x"
    for key, shape in (("eiger", (1, 240, 320)), ("panda-x", (1,))):
        parts = [event for event in events if isinstance(event, DataRange) and event.resource == resources[key].uid]
        assert {part.shape for part in parts} == {shape}
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert [part.first for part in parts] == [part.start for part in parts]
        assert parts[-1].stop == 30
    readings = [event for event in events if isinstance(event, Reading)]
    assert {reading.stream for reading in readings} == {"mx_monitor"}
    assert [reading.number for reading in readings] == list(range(32))


def test_positions_of_an_old_flyer_are_read_from_its_page():
    documents = recorded("old_flyer_events")
    (page,) = (document for name, document in documents if name == "event_page")
    readings = [event for event in fed(Decoder(), documents) if isinstance(event, Reading)]
    assert [reading.number + 1 for reading in readings] == page["seq_num"]
    for key, column in page["data"].items():
        assert [reading.data[key] for reading in readings] == column


def test_a_step_scan_names_one_datum_after_the_other():
    events = fed(Decoder(), recorded("resource_datum"))
    parts = [event for event in events if isinstance(event, DataRange)]
    assert [(part.first, part.start, part.stop, part.shape) for part in parts] == [
        (number, 0, 1, (10, 10)) for number in range(2)
    ]
    (resource,) = (event for event in events if isinstance(event, DataResource))
    assert resource.parameters == {"spec": "NPY_SEQ"}  # whose data lie in no dataset


def test_datums_may_come_as_pages():
    documents = recorded("hxn_fly2dpd_reconstructed")
    paged = []
    for name, document in documents:
        if name != "datum":
            paged.append((name, document))
            continue
        kwargs = {key: [value] for key, value in document["datum_kwargs"].items()}
        paged.append(("datum_page", {**document, "datum_id": [document["datum_id"]], "datum_kwargs": kwargs}))
    assert fed(Decoder(), paged) == fed(Decoder(), documents)


def test_an_event_whose_datum_was_lost_is_counted():
    decoder = Decoder()
    documents = [(name, document) for name, document in recorded("hxn_fly2dpd_reconstructed") if name != "datum"]
    assert not [event for event in fed(decoder, documents) if isinstance(event, DataRange)]
    assert decoder.counts == {"documents": len(documents), "datum_unknown": 4}


def test_odd_metadata_costs_nothing():
    start = {"uid": RUN, "time": "noon", "data_groups": 3, "a.key": 1, 7: None, "hints": "none"}
    odd = {"data_keys": {"x": {"shape": None}, "y": 3}, "hints": 1, "configuration": [], "time": None}
    event = {"descriptor": "descriptor-0", "seq_num": 1, "data": {"x": 1.5}, "timestamps": None}
    documents = [("start", start), ("descriptor", {**descriptor(0, name="primary")[1], **odd}), ("event", event)]
    decoder = Decoder()
    started, reading = fed(decoder, documents)
    assert (started.uid, reading.data) == (RUN, {"x": 1.5})
    assert decoder.counts == {"documents": 3}


def test_a_baseline_may_come_as_pages():
    page = {"descriptor": "descriptor-0", "data": {"dcm_th": [9.5, 9.6], "zpsth": np.array([0.0, 1.0])}}
    events = fed(Decoder(), [descriptor(0), ("event_page", page)])
    assert events == [BaselineRead(RUN, {"dcm_th": 9.5, "zpsth": 0}), BaselineRead(RUN, {"dcm_th": 9.6, "zpsth": 1})]


def test_readings_of_another_stream_or_run_are_not_a_baseline():
    event = ("event", {"descriptor": "descriptor-0", "data": {"dcm_th": 9.5}})
    assert not any(isinstance(found, BaselineRead) for found in fed(Decoder(), [descriptor(0, name="primary"), event]))
    stop = ("stop", {"run_start": RUN, "exit_status": "abort"})
    assert fed(Decoder(), [descriptor(0), stop, event]) == [RunStopped(RUN, "abort")]


def test_runs_whose_stop_is_lost_do_not_pile_up():
    decoder = Decoder()
    fed(decoder, [descriptor(number, run=f"run-{number}") for number in range(1000)])
    assert len(decoder._reader._runs) == len(decoder._reader._run_of) == 64
    event = ("event", {"descriptor": "descriptor-999", "data": {"dcm_th": 9.5}})
    assert fed(decoder, [event]) == [BaselineRead("run-999", {"dcm_th": 9.5})]


def test_numpy_values_arrive_as_they_were():
    document = {
        "uid": RUN,
        "array": np.arange(6, dtype=">i2").reshape(2, 3),
        "text": np.array(["ab", "c"]),
        "number": np.float32(1.5),
        "flag": np.bool_(True),
        "complex": 1 - 2j,
        "empty": np.zeros((0, 3)),
        7: [(1, 2), None],
    }
    (started,) = fed(Decoder(), [("start", document)])
    for key in ("array", "text", "empty"):
        assert np.array_equal(started.document[key], document[key])
        assert started.document[key].dtype == document[key].dtype
    for key in ("number", "flag", "complex"):
        assert started.document[key] == document[key]
    assert started.document[7] == [[1, 2], None]


def test_only_the_own_prefix_is_heard():
    decoder = Decoder(prefix="hxn")
    assert len(decoder.feed(message("start", {"uid": RUN}, b"hxn"))) == 1
    assert decoder.feed(message("start", {"uid": RUN})) == decoder.feed(message("start", {"uid": RUN}, b"hxn2")) == []
    assert decoder.counts == {"documents": 1, "other_prefix": 2}


class Bomb:
    went_off = False

    def __reduce__(self):
        return (setattr, (Bomb, "went_off", True))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused(protocol):
    decoder = Decoder()
    assert decoder.feed([b" start " + pickle.dumps({"uid": RUN, "x": Bomb()}, protocol)]) == []
    assert decoder.counts == {"pickle_refused" if protocol >= 2 else "undecodable": 1}
    assert not Bomb.went_off


def test_the_refusal_of_a_pickle_says_once_what_to_configure(caplog):
    decoder = Decoder()
    for _ in range(3):
        decoder.feed([b" start " + pickle.dumps({"uid": RUN})])
    (record,) = [record for record in caplog.records if record.name.startswith("ptyinr_stream")]
    assert "serializer" in record.message
    assert "streams.documents.unpickle_from_anybody" in record.message
    assert decoder.counts == {"pickle_refused": 3}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_read_where_the_configuration_accepts_it_from_anybody(protocol):
    decoder = Decoder(unpickle_from_anybody=True)
    document = {"uid": RUN, "positions": np.arange(3.0)}
    (started,) = decoder.feed([b" start " + pickle.dumps(document, protocol)])
    assert started.uid == RUN
    assert np.array_equal(started.document["positions"], document["positions"])


def test_a_pickle_that_cannot_be_read_is_counted():
    decoder = Decoder(unpickle_from_anybody=True)
    assert decoder.feed([b" start " + pickle.dumps({"uid": RUN})[:-5]]) == []
    assert decoder.feed([b" start \x80\x04cnowhere\nnothing\n."]) == []
    assert decoder.counts == {"undecodable": 2}


def test_json_is_read():
    documents = recorded("hxn_fly2dpd_reconstructed")
    decoder = Decoder(prefix="hxn")
    messages = [f"hxn {name} {json.dumps(document)}".encode() for name, document in documents]
    assert [event for part in messages for event in decoder.feed([part])] == fed(Decoder(), documents)
    assert decoder.feed([b'hxn start {"uid": ']) == []
    assert decoder.counts == {"documents": len(documents), "undecodable": 1}


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        ({b"nd": True, b"type": "|O", b"kind": b"O", b"shape": (), b"data": pickle.dumps(Bomb())}, "object_refused"),
        # Without kind 'O' the eight bytes would be taken for the address of an object.
        ({b"nd": True, b"type": "|O", b"kind": b"", b"shape": (1,), b"data": b"12345678"}, "object_refused"),
        ({b"nd": False, b"type": "|O", b"data": b"12345678"}, "object_refused"),
        ({b"nd": True, b"type": [["a", "|O"]], b"kind": b"V", b"shape": (1,), b"data": b"12345678"}, "undecodable"),
        ({b"nd": True, b"type": "(9999999,9999999)f8", b"kind": b"", b"shape": (1,), b"data": b""}, "undecodable"),
        ({b"nd": True, b"type": "<f8", b"kind": b"", b"shape": (2**40,), b"data": b"12345678"}, "undecodable"),
        ({b"nd": True, b"type": "<f8", b"kind": b"", b"data": b"12345678"}, "undecodable"),
        ({b"nd": True, b"type": "<f7", b"kind": b"", b"shape": (1,), b"data": b"1234567"}, "undecodable"),
        ({b"nd": False, b"type": "<f8", b"data": b""}, "undecodable"),
        ({b"nd": False, b"type": "<f8", b"data": 3}, "undecodable"),
        ({b"complex": True, b"data": "import os"}, "undecodable"),
        ({b"complex": True}, "undecodable"),
    ],
)
def test_an_array_that_is_none_is_refused(array, kind):
    decoder = Decoder()
    assert decoder.feed([b" start " + msgpack.packb({"uid": RUN, "x": [array]})]) == []
    assert decoder.counts == {kind: 1}
    assert not Bomb.went_off


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("start", {"time": 3.0}),
        ("start", {"uid": 3}),
        ("start", {"uid": "../../etc"}),
        ("start", {"uid": ".."}),
        ("start", {"uid": "x" * 500}),
        ("start", ["uid", RUN]),
        ("descriptor", {"name": "baseline", "uid": "d"}),
        ("event", {"data": {}}),
        ("stop", {"exit_status": "success"}),
        ("descriptor", {"name": 3, "uid": "d", "run_start": RUN}),
        ("resource", {"uid": "r", "spec": "PANDA", "resource_kwargs": {}}),
        ("datum", {"datum_id": "r/0", "resource": "r", "datum_kwargs": 3}),
        ("stream_resource", {"uid": "r", "data_key": "x", "uri": "file://localhost/x.h5"}),
        ("stream_resource", {"uid": "r", "data_key": "x", "uri": 3, "parameters": {}}),
        ("stream_datum", {"descriptor": "d", "stream_resource": "r", "indices": {"start": 0}, "seq_nums": {}}),
    ],
)
def test_a_document_without_what_it_must_have_is_counted(name, document):
    decoder = Decoder()
    assert decoder.feed(message(name, document)) == []
    assert decoder.counts == {"bad_document": 1}


@pytest.mark.parametrize("data", [None, 3, {"a": 3}, {"a": "text"}, {"a": np.array(3.0)}])
def test_a_page_without_lists_is_counted(data):
    decoder = Decoder()
    assert fed(decoder, [descriptor(0), ("event_page", {"descriptor": "descriptor-0", "data": data})]) == []
    assert decoder.counts == {"documents": 1, "bad_document": 1}


@pytest.mark.parametrize(
    ("garbage", "kind"),
    [
        (b"", "unknown_name"),
        (b"start", "other_prefix"),
        (b" begin \x81", "unknown_name"),
        (b" start ", "undecodable"),
        (b" start \xc1", "undecodable"),
        (b" start " + b"\x91" * 100_000, "undecodable"),
        (b" start \xdf\xff\xff\xff\xff", "undecodable"),
        (b" start \x81\x91\x01\x02", "undecodable"),
        (b" start \x81\xa1\xff\x02", "undecodable"),
        (b" start \x01\x02", "undecodable"),
        (b" start \x01", "bad_document"),
    ],
)
def test_garbage_is_counted(garbage, kind):
    decoder = Decoder()
    assert decoder.feed([garbage]) == []
    assert decoder.counts == {kind: 1}


VALID = [message(name, document)[0] for name, document in recorded("hxn_fly2dpd_reconstructed")]
VALID += message("start", {"uid": RUN, "array": np.arange(4.0), "number": np.int16(3)})


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_documents_never_raise(data):
    decoder = Decoder()
    for index in data.draw(st.lists(st.integers(0, len(VALID) - 1), min_size=1, max_size=4)):
        damaged = bytearray(VALID[index])
        for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=8)):
            damaged[at] ^= data.draw(st.integers(1, 255))
        del damaged[data.draw(st.integers(0, len(damaged))) or len(damaged) :]
        decoder.feed([bytes(damaged)])
    assert decoder.counts.total() > 0


DATA = [*recorded("hxn_fly2dpd_reconstructed"), *recorded("ophyd_async_fly"), *recorded("old_flyer_live")]
USED = sorted({key for keys in _USED.values() for key in (*keys[0], *keys[1])} | {"data_keys", "start", "shape"})
JUNK = st.sampled_from([None, True, -1, 2**62, 1.5, float("nan"), "", "x", b"", [], [None], {}, {"a": {}}, {3: 4}])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_documents_with_anything_in_them_never_raise_and_never_announce_what_has_no_number(data):
    decoder = Decoder()
    first = data.draw(st.integers(0, len(DATA) - 30))
    for name, document in DATA[:2] + DATA[first : first + 30]:
        changed = dict(document)
        for key in data.draw(st.lists(st.sampled_from(USED), max_size=3)):
            changed[key] = data.draw(JUNK)
            if isinstance(document.get(key), dict):
                changed[key] = {**document[key], **dict.fromkeys(document[key], changed[key])}
        for event in decoder.feed(message(name, changed)):
            if isinstance(event, DataRange):
                assert 0 <= event.start <= event.stop < 2**31
                assert 0 <= event.first < 2**31
                assert all(side >= 0 for side in event.shape)
    assert decoder.counts.total() >= 32


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_random_payloads_never_raise(payload):
    decoder = Decoder()
    decoder.feed([b" start " + payload, b" event " + payload, payload])
    assert decoder.counts.total() == 3
