"""Damages messages of every wire, feeds them to the decoders, and decodes the images that come out.

    python tests/benchmarks/fuzz_decoders.py [--cases 1000000] [--seed 0] [--first 0]

Prints, for each wire, the cases, the messages, the events that were right, those altered by damage that nothing could
tell, the images that the codecs refused, and what the decoder counted; then the peak of memory and the cases per
second. It ends with 1 if anything was broken. A case is found again by `--first NUMBER --cases 1`.

A case takes a few messages of a valid session, loses, repeats, moves, cuts, flips, overwrites, rewrites or invents
some, and feeds them to a new decoder; then two valid messages, the last of which must be read. Broken is:

* an exception from `feed`, and any but WireError from `decode`;
* a message that gave no event and was not counted (of SIMPLON 1, whose parts wait for each other: noise that was not);
* a case for which Python allocated more than 8 MiB (one in fifty is measured);
* a wrong event. An event is known to be wrong if no valid message says so, the message that gave it was not damaged,
  and no damaged one came before it that a decoder remembers (SIMPLON 1 and 2, Bluesky). Loss, repetition, order,
  truncation and noise are no damage: after them everything must be right. Changed bytes are damage, for no checksum
  covers them; but the bytes of an image under the hash of SIMPLON 1 must be right whatever happens to them. Where its
  parts travel alone or are exchanged, this holds for frames: masks and exposure times have no identity of their own.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import cbor2
from wire_sessions import Wire, all_wires, fingerprint

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import Event, FrameArrived
from ptyinr_stream.wire import WireDecoder

MOST_MEMORY = 8 * 2**20
MEASURED = 50  # one case in so many


@dataclass
class Message:
    """Parts under way."""

    parts: list[bytes]
    damaged: bool = False
    noise: bool = False


@dataclass
class Tally:
    """What came of the cases of one wire."""

    cases: int = 0
    messages: int = 0
    right: int = 0
    altered: int = 0
    refused: int = 0
    counts: Counter[str] = field(default_factory=Counter)


# ------------------------------------------------------------------------------------------------ damage

NUMBERS = (None, True, -1, 0, 1, 2, 2**31, 2**32, 2**63, 2**64 - 1, 1e308, 0.5)
WORDS = ("", "x" * 300, "<", "bs16-lz4<", "lz4<F", "uint8", "float64", "threshold_2", "stop")
CLAIMS = tuple(bytes([head]) for head in (0x5B, 0x7B, 0x9B, 0xBB, 0xC6, 0xDB, 0xDD, 0xDF))
OPENINGS = (*CLAIMS, b"\xd9\xd9\xf7\xa1\x61a", b'{"htype":', b"hxn start ", b"hxn stop \x80\x04")
REPEATED = (b"\0", b"{", b"[", b"\xff", b"\x81", b"\x91", b"\xd8\x28", b"\x9f", b'{"a":')


def lie(rng: random.Random, value: Any) -> Any:
    """The same structure with one value, key or tag replaced."""
    if isinstance(value, cbor2.CBORTag):
        if rng.random() < 0.2:
            return cbor2.CBORTag(rng.choice([0, 35, 40, 64, 69, 70, 85, 1040, 56500]), value.value)
        return cbor2.CBORTag(value.tag, lie(rng, value.value))
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        kept = {other: item for other, item in value.items() if other != key}
        return kept if rng.random() < 0.1 else {**kept, key: lie(rng, value[key])}
    if isinstance(value, list | tuple) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], lie(rng, value[at]), *value[at + 1 :]]
    if rng.random() < 0.2:
        nested: Any = [] if rng.random() < 0.5 else {}
        for _ in range(rng.choice([1, 10, 100, 500, rng.randrange(900, 1000)])):
            nested = [nested]
        uneven = ["x" * 20_000, *["y"] * 1000]  # in an array of fixed width, 80 MB
        return rng.choice([nested, {}, [], {"a": nested}, [value] * 20, [2**20, 2**20], uneven])
    return rng.choice(NUMBERS + WORDS)


def noise(rng: random.Random) -> bytes:
    """Bytes that no sender meant: random, repeated, or such as claim that gigabytes follow."""
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(200))
        case 1:
            return rng.choice(REPEATED) * rng.choice((1, 60, 3000))
        case 2:
            return rng.choice(OPENINGS) + b"\xff" * rng.choice((2, 4, 8)) + rng.randbytes(rng.randrange(20))
    return rng.choice(OPENINGS) + rng.randbytes(rng.randrange(60))


def disturb(rng: random.Random, wire: Wire, messages: list[Message]) -> None:
    """Do one thing to the messages."""
    message = rng.choice(messages)
    # To whole messages, or to the parts of one.
    units: list[Any] = message.parts if wire.hashed and rng.random() < 0.5 else messages
    what = rng.choice(("lose", "repeat", "move", "exchange", "noise", "cut", "flip", "flip", "overwrite", "lie", "lie"))
    where = rng.randrange(len(units))
    match what:
        case "lose" if len(units) > 1:
            most = len(units) - 1  # an image without a part is a message still
            del units[where : where + min(most, rng.choice((1, 1, 2, 3, 4, 4, 4, 5)))]
        case "repeat":
            units.insert(rng.randrange(len(units) + 1), copy.deepcopy(units[where]))
        case "move":
            units.insert(rng.randrange(len(units)), units.pop(where))
        case "exchange" if wire.hashed:
            other = rng.choice(messages)
            mine, its = rng.randrange(len(message.parts)), rng.randrange(len(other.parts))
            message.parts[mine], other.parts[its] = other.parts[its], message.parts[mine]
            message.damaged = other.damaged = message.damaged or other.damaged
            message.noise = other.noise = False
        case "noise":
            parts = [noise(rng) for _ in range(rng.choice((1, 1, 4)))]
            messages.insert(rng.randrange(len(messages) + 1), Message(parts, noise=True))
        case _:
            change(rng, wire, message, what)


def change(rng: random.Random, wire: Wire, message: Message, what: str) -> None:
    """Cut a part, or change bytes of it; only the latter is damage, where no hash covers them."""
    at = rng.randrange(len(message.parts))
    part = message.parts[at]
    covered = wire.hashed and part[:1] != b"{"
    if what == "cut" or not part:
        end = rng.randrange(len(part) + 1)
        message.parts[at] = part[:end] if rng.random() < 0.7 else part[end:]
        return
    if what == "lie":
        try:
            message.parts[at] = wire.rewrite(part, lambda value: lie(rng, value))
            message.damaged = True
            return
        except (OverflowError, RecursionError, TypeError, ValueError, cbor2.CBORError):
            pass  # bytes, and no structure
    changed = bytearray(part)
    if what == "overwrite":
        first = rng.randrange(len(part))
        length = min(rng.choice((1, 2, 4, 8)), len(part) - first)
        changed[first : first + length] = rng.choice((b"\0" * length, b"\xff" * length, rng.randbytes(length)))
    else:
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    message.parts[at] = bytes(changed)
    message.damaged |= not covered


# ------------------------------------------------------------------------------------------------ judgement


class Broken(Exception):
    """A decoder did what it must not do."""


def run_case(rng: random.Random, wire: Wire, tally: Tally) -> None:
    """Disturb a few messages of a wire and judge what becomes of them.

    Raises:
        Broken: see the module.
    """
    several = 24 if wire.name.endswith("flattened") else 6
    first = rng.randrange(len(wire.session))
    messages = [Message([*parts]) for parts in wire.session[first : first + rng.randint(1, several)]]
    for _ in range(rng.choice((1, 1, 2, 3))):
        disturb(rng, wire, messages)
    decoder, damaged = wire.decoder(), False
    tally.cases += 1
    for message in messages:
        tally.messages += 1
        damaged = message.damaged or (damaged and wire.remembers)
        before = decoder.counts.total()
        events = feed(decoder, message.parts)
        silent = not events and decoder.counts.total() == before
        if silent and (message.noise or not wire.name.startswith("eiger_v1")):
            raise Broken(f"{message.parts} is not counted")
        for event in events:
            judge(wire, event, damaged, tally)
    closing = list(itertools.chain.from_iterable(feed(decoder, parts) for parts in wire.closing))
    if wire.last not in map(fingerprint, closing):
        raise Broken(f"it did not recover: {decoder.counts}")
    tally.counts.update(decoder.counts)


def feed(decoder: WireDecoder, parts: list[bytes]) -> list[Event]:
    """Feed, and tell which message raised."""
    try:
        return decoder.feed(parts)
    except Exception as error:
        raise Broken(f"{parts} raised {error!r}") from error


def judge(wire: Wire, event: Event, damaged: bool, tally: Tally) -> None:
    """Count an event as right, altered or refused."""
    try:
        said = fingerprint(event)
    except WireError:
        tally.refused += 1
        return
    except Exception as error:
        raise Broken(f"decoding {event} raised {error!r}") from error
    if said in wire.truth:
        tally.right += 1
    elif damaged or (wire.hashed and not isinstance(event, FrameArrived)):
        tally.altered += 1
    else:
        raise Broken(f"{event} is wrong")


def fuzz(cases: int, seed: int = 0, first: int = 0) -> tuple[dict[str, Tally], list[str], int]:
    """Run cases; give the tallies, what was broken, and the most bytes that a measured case allocated."""
    wires, broken, most = all_wires(), [], 0
    tallies = {wire.name: Tally() for wire in wires}
    for case in range(first, first + cases):
        wire = wires[case % len(wires)]
        measured = case // len(wires) % MEASURED == 0
        if measured:
            tracemalloc.start()
        try:
            run_case(random.Random(seed << 40 | case), wire, tallies[wire.name])
        except Broken as error:
            broken.append(f"case {case} of {wire.name}: {str(error)[:2000]}")
        if measured:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    if most > MOST_MEMORY:
        broken.append(f"a case allocated {most / 2**20:.1f} MiB")
    return tallies, broken, most


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    fuzz(100)  # so that what is loaded once is not taken for growth
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    tallies, broken, most = fuzz(arguments.cases, arguments.seed, arguments.first)
    took = time.perf_counter() - began
    for name, tally in tallies.items():
        print(f"{name}: {tally.cases} cases, {tally.messages} messages")
        print(f"  events: {tally.right} right, {tally.altered} altered, {tally.refused} images refused by the codecs")
        print(f"  counted: {', '.join(f'{number} {kind}' for kind, number in tally.counts.most_common())}")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{arguments.cases} cases in {took:.0f} s, {arguments.cases / took:.0f} a second")
    print(f"memory: {after / 1024:.0f} MiB at most, {(after - before) / 1024:.1f} MiB more than after 100 cases;")
    print(f"        {most / 2**20:.2f} MiB at most allocated by one measured case")
    print(f"broken: {len(broken)}")
    print(*broken[:20], sep="\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
