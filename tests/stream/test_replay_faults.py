"""What a network does to messages, without a network."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptyinr_stream.replay.faults import ROADS, Faults, Frames, Ledger, Outgoing, Piece, Samples, disturbed

RATE_HZ = 100.0


def script(frames=200, per_position=10):
    """Openings, frames, now and then positions, and a stop document."""
    yield Outgoing("documents", [b"start"], 0.0, 0, opens=True)
    yield Outgoing("positions", [b"start"], 0.0, 0, opens=True)
    yield Outgoing("frames", [b"header"], 0.0, 0, opens=True)
    for frame in range(frames):
        exposed = frame + 1
        yield Outgoing("frames", [b"%d" % frame], exposed / RATE_HZ, exposed, Piece(frame))
        if exposed % per_position == 0:
            samples = Samples(exposed - per_position, exposed)
            yield Outgoing("positions", [b"%d" % frame], exposed / RATE_HZ, exposed, samples)
    yield Outgoing("documents", [b"stop"], frames / RATE_HZ, frames)


def sent(faults, run=0, **changes):
    """Of each road what came out, when, and the counts."""
    counts = {road: Counter() for road in ROADS}
    passed = list(disturbed(script(**changes), faults, counts, run))
    times = [due for due, _ in passed]
    assert times == sorted(times)
    roads = {road: [(due, m) for due, m in passed if m.road == road] for road in ROADS}
    assert {road: len(messages) for road, messages in roads.items()} == {r: counts[r]["sent"] for r in ROADS}
    return roads, counts


def parts(messages):
    return [message.parts[0] for _, message in messages]


def test_without_faults_everything_goes_out_when_it_is_due_and_in_order():
    roads, counts = sent(Faults())
    assert parts(roads["frames"]) == [b"header", *(b"%d" % n for n in range(200))]
    assert all(due == message.at_s for due, message in roads["frames"])
    assert counts["frames"] == {"sent": 201}


def test_the_script_is_read_no_further_than_the_next_message():
    read = []
    messages = disturbed((read.append(m) or m for m in script()), Faults(), {road: Counter() for road in ROADS})
    for number, _ in zip(range(1, 20), messages, strict=False):
        assert len(read) == number


@given(
    drop=st.floats(0, 1), duplicate=st.floats(0, 1), reorder=st.integers(0, 30), seed=st.integers(0), run=st.integers(0)
)
def test_the_same_seed_makes_the_same_faults_and_every_message_is_accounted_for(drop, duplicate, reorder, seed, run):
    faults = Faults(drop=drop, duplicate=duplicate, reorder=reorder, seed=seed)
    roads, counts = sent(faults, run)
    again, _ = sent(faults, run)
    assert {road: parts(messages) for road, messages in roads.items()} == {r: parts(m) for r, m in again.items()}
    for road, offered in (("frames", 201), ("positions", 21)):
        became = counts[road]
        assert became["sent"] == offered - became["dropped"] + became["duplicated"]
        assert all(n <= 2 for n in Counter(parts(roads[road])).values())
    assert counts["documents"] == {"sent": 2}


@given(reorder=st.integers(0, 30), duplicate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_a_message_is_overtaken_by_no_more_than_the_window_and_never_before_the_opening(reorder, duplicate, seed):
    roads, counts = sent(Faults(reorder=reorder, duplicate=duplicate, seed=seed))
    came = parts(roads["frames"])
    openings = came.count(b"header")
    assert came[:openings] == [b"header"] * openings
    numbers = [int(name) for name in came[openings:]]
    for place, number in enumerate(numbers):
        assert all(number - before >= -reorder for before in numbers[:place])
    assert set(numbers) == set(range(200))
    assert (counts["frames"]["reordered"] > 0) == (numbers != sorted(numbers))


def test_reordering_really_reorders():
    roads, counts = sent(Faults(reorder=8, seed=1))
    assert parts(roads["frames"])[1:20] != [b"%d" % n for n in range(19)]
    assert counts["frames"]["reordered"] > 50


def test_the_same_seed_drops_the_same_messages_with_and_without_other_faults():
    plain, _ = sent(Faults(drop=0.3, seed=3))
    more, _ = sent(Faults(drop=0.3, seed=3, reorder=9, duplicate=0.5, delay_s={"frames": 1.0}))
    assert set(parts(plain["frames"])) == set(parts(more["frames"]))
    others, _ = sent(Faults(drop=0.3, seed=4))
    next_run, _ = sent(Faults(drop=0.3, seed=3), run=1)
    assert len({tuple(parts(roads["frames"])) for roads in (plain, others, next_run)}) == 3


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_probability_is_one(share):
    _, counts = sent(Faults(drop=share, duplicate=share), frames=20_000)
    assert counts["frames"]["dropped"] / 20_001 == pytest.approx(share, abs=0.02)
    kept = 20_001 - counts["frames"]["dropped"]
    assert counts["frames"]["duplicated"] / kept == pytest.approx(share, abs=0.02)


def test_a_road_comes_late_against_the_others():
    roads, _ = sent(Faults(delay_s={"positions": 0.25}))
    assert all(due == message.at_s + 0.25 for due, message in roads["positions"])
    assert all(due == message.at_s for due, message in roads["frames"])
    assert roads["positions"][-1][0] > roads["documents"][-1][0]  # the stop document has overtaken them


def test_who_joins_late_has_missed_the_openings_and_what_was_exposed():
    roads, counts = sent(Faults(late_join=25))
    assert parts(roads["frames"])[0] == b"25"
    assert parts(roads["positions"])[0] == b"29"
    assert parts(roads["documents"]) == [b"start", b"stop"]
    assert (counts["frames"]["late"], counts["positions"]["late"]) == (26, 3)


def test_only_the_named_roads_suffer():
    roads, counts = sent(Faults(drop=1.0, on=frozenset(["documents"])))
    assert parts(roads["documents"]) == []
    assert (len(roads["frames"]), len(roads["positions"])) == (201, 21)
    assert counts["documents"] == {"dropped": 2}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"drop": 1.5}, "drop is 1.5: a probability lies between 0 and 1"),
        ({"duplicate": float("nan")}, "duplicate is nan: a probability"),
        ({"reorder": -1}, "reorder is -1: it must not be negative"),
        ({"late_join": -1}, "late_join is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"on": frozenset(["frame"])}, "there is no road 'frame'; there are: documents, frames, positions"),
        ({"delay_s": {"sky": 1.0}}, "there is no road 'sky'"),
        ({"delay_s": {"frames": -1.0}}, "the delay of frames is -1 s: it must be finite and not negative"),
        ({"delay_s": {"frames": float("inf")}}, "the delay of frames is inf s"),
    ],
)
def test_faults_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Faults(**wrong)


def piece(frame, number, of=3):
    return Outgoing("frames", [b""], 0.0, 0, Piece(frame, number, of))


OTHER = Outgoing("frames", [b"times"], 0.0, 0)


@pytest.mark.parametrize(
    ("messages", "whole"),
    [
        ([piece(0, 0), piece(0, 1), piece(0, 2), OTHER, piece(1, 0), piece(1, 1), piece(1, 2)], [0, 1]),
        ([piece(0, 0), piece(0, 2)], []),
        ([piece(0, 1), piece(0, 2)], []),
        ([piece(0, 0), piece(0, 1), OTHER, piece(0, 2)], []),
        ([piece(0, 0), piece(0, 1), piece(0, 1), piece(0, 2)], []),
        ([piece(0, 0), piece(0, 0), piece(0, 1), piece(0, 2), piece(0, 2)], [0]),
        ([piece(0, 0), piece(1, 1), piece(1, 2)], []),
        ([piece(0, 0), piece(0, 1), piece(1, 2)], []),
        ([piece(2, 0, 1), piece(1, 0, 1), piece(2, 0, 1)], [1, 2]),
    ],
)
def test_a_frame_is_whole_if_its_pieces_come_in_order_with_nothing_between(messages, whole):
    ledger = Ledger(3, 4)
    for message in messages:
        ledger.note(message)
    assert np.flatnonzero(ledger.whole).tolist() == whole


def test_messages_of_other_roads_do_not_tear_a_frame():
    ledger = Ledger(1, 2)
    between = Outgoing("positions", [b""], 0.0, 0, Samples(0, 2))
    for message in (piece(0, 0), between, piece(0, 1), between, piece(0, 2)):
        ledger.note(message)
    assert ledger.whole.all()


def test_a_document_may_announce_many_whole_frames():
    ledger = Ledger(9, 1)
    ledger.note(Outgoing("documents", [b""], 0.0, 0, Frames(2, 5)))
    assert np.flatnonzero(ledger.whole).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("faults", "touched"),
    [
        (Faults(), []),
        (Faults(drop=0.1), ["frames", "positions"]),
        (Faults(late_join=1, on=frozenset(["documents"])), ["documents"]),
        (Faults(delay_s={"frames": 1.0, "positions": 0.0}), ["frames"]),
    ],
)
def test_it_is_known_which_roads_are_touched(faults, touched):
    assert [road for road in ROADS if faults.touch(road)] == touched


def test_positions_are_means_of_the_samples_that_went_out():
    ledger = Ledger(3, 4)
    for first, stop in ((2, 6), (2, 6)):
        ledger.note(Outgoing("positions", [b""], 0.0, 0, Samples(first, stop)))
    counts = np.arange(24.0).reshape(3, 4, 2)
    positions_m = ledger.positions_m(counts, (2.0, -1.0))
    assert ledger.samples.sum(axis=1).tolist() == [2, 2, 0]
    assert np.allclose(positions_m[:2], 1e-6 * np.array([[2 * 5.0, -6.0], [2 * 9.0, -10.0]]), rtol=1e-12)
    assert np.isnan(positions_m[2]).all()
