"""Short valid sessions of every wire, for `fuzz_decoders`: messages as senders make them, and what they say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cbor2
import msgpack
import msgpack_numpy
import numpy as np

from ptyinr_stream.events import Event, FrameArrived, PixelMaskSent, PositionsArrived, SeriesStarted
from ptyinr_stream.wire import WireDecoder, bluesky, codecs, eiger_v1, eiger_v2, native, panda


@dataclass(frozen=True)
class Wire:
    """A valid session of one wire, and what may be done to it."""

    name: str
    decoder: Callable[[], WireDecoder]
    session: list[list[bytes]]
    closing: list[list[bytes]]
    """Two messages that must be read after anything."""
    rewrite: Callable[[bytes, Callable[[Any], Any]], bytes]
    """Apply a function to the structure that a part holds; any exception if it holds none or cannot hold the result."""
    hashed: bool = False
    """The bytes of images are covered, and parts may be lost and moved on their own."""
    remembers: bool = True
    """A damaged message may alter what is read of the next ones."""
    truth: list[Any] = field(default_factory=list)
    """The fingerprints of all that the session and the closing messages say, in order."""

    def __post_init__(self) -> None:
        decoder = self.decoder()
        for message in self.session + self.closing:
            self.truth.extend(map(fingerprint, decoder.feed(message)))
        if self.name.startswith("eiger_v1"):  # says so where the configuration was lost
            self.truth.insert(0, fingerprint(SeriesStarted(7)))

    @property
    def last(self) -> Any:
        """What the last message says, after anything."""
        return self.truth[-1] if self.truth else None


def fingerprint(event: Event) -> Any:
    """All that an event says.

    Raises:
        WireError: it is an image that cannot be decoded.
    """
    match event:
        case FrameArrived(series, frame, image):
            pixels = codecs.decode(image)
            return "FrameArrived", series, frame, pixels.shape, pixels.dtype.str, pixels.tobytes()
        case PixelMaskSent(series, trusted):
            return "PixelMaskSent", series, trusted.shape, trusted.tobytes()
        case PositionsArrived(first, channels):
            return "PositionsArrived", first, *((name, values.tobytes()) for name, values in channels.items())
    try:
        return type(event).__name__, repr(event)
    except RecursionError:  # a document that is nested as deep as can be
        return (type(event).__name__,)


def pixels_of(frame: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    """An image like no other."""
    return np.random.default_rng(frame).integers(0, 200, (6, 5)).astype(dtype)


MASK = np.zeros((6, 5), np.uint32)
MASK[2:4], MASK[0, 4] = 1, 2**31


def json_part(value: Any) -> bytes:
    """As SIMPLON 1 and the PandA say it."""
    return json.dumps(value).encode()


def rewrite_json(part: bytes, change: Callable[[Any], Any]) -> bytes:
    """See `Wire.rewrite`."""
    return json_part(change(json.loads(part)))


def rewrite_cbor(part: bytes, change: Callable[[Any], Any]) -> bytes:
    """See `Wire.rewrite`."""
    return cbor2.dumps(change(cbor2.loads(part)))


def rewrite_msgpack(part: bytes, change: Callable[[Any], Any]) -> bytes:
    """See `Wire.rewrite`."""
    return msgpack.packb(change(msgpack.unpackb(part, strict_map_key=False)))


def eiger_v1_image(frame: int, encoding: str, dtype: str, form: str, series: int = 7) -> list[bytes]:
    """The parts of an image; a replay gives neither types nor sizes, hash nor times."""
    data = codecs.encode(pixels_of(frame, dtype), encoding)
    head: dict[str, Any] = {"series": series, "frame": frame}
    spec: dict[str, Any] = {"shape": [5, 6], "type": dtype, "encoding": encoding}
    if form == "replay":
        return [json_part(head), json_part(spec), data]
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    times = {"htype": "dconfig-1.0", "start_time": 1000 * frame, "stop_time": 1000 * frame + 900, "real_time": 900}
    return [
        json_part({"htype": "dimage-1.0", **head, "hash": digest}),
        json_part({"htype": "dimage_d-1.0", **spec, "size": len(data)}),
        data,
        json_part(times),
    ]


def eiger_v1_wire(form: str) -> Wire:
    """SIMPLON 1 as a detector, a proxy and a replay send it."""
    kinds = [("bs16-lz4<", "uint16"), ("<", "uint16"), ("<", "uint16"), ("lz4<", "uint32"), ("bs8-lz4<", "uint8")]
    images = [eiger_v1_image(frame, *kinds[frame % 5], form) for frame in range(10)]
    tables: list[bytes] = []
    for name, table in (("flatfield", np.full((6, 5), 1.5, np.float32)), ("pixelmask", MASK)):
        tables += [json_part({"htype": f"d{name}-1.0", "shape": [5, 6], "type": table.dtype.name}), table.tobytes()]
    header = {"htype": "dheader-1.0", "series": 7, "header_detail": "all"}
    configuration = {"nimages": 1, "ntrigger": 10, "trigger_mode": "exte", "photon_energy": 12e3}
    end = [json_part({"htype": "dseries_end-1.0", "series": 7})]
    session = [[json_part(header), json_part(configuration), *tables], *images, end]
    closing = [eiger_v1_image(frame, *kinds[0], form, series=9) for frame in (20, 21)]
    if form == "flattened":
        session, closing = ([[part] for message in messages for part in message] for messages in (session, closing))
    name = f"eiger_v1, {form}"
    return Wire(name, eiger_v1.Decoder, session, closing, rewrite_json, hashed=form != "replay")


def eiger_v2_wire() -> Wire:
    """SIMPLON 2 with two channels, masks, compressed and not, by rows and by columns."""

    def array(frame: int, kind: int = 69, compression: str = "", order: int = 40) -> cbor2.CBORTag:
        pixels = pixels_of(frame, eiger_v2._DTYPES[kind])
        laid = pixels if order == 40 else pixels.T
        data: Any = codecs.encode(laid, ">" if kind in (65, 66) else "<")
        if compression == "bslz4":
            encoding = f"bs{8 * pixels.itemsize}-lz4{'>' if kind in (65, 66) else '<'}"
            data = cbor2.CBORTag(56500, ["bslz4", pixels.itemsize, codecs.encode(laid, encoding)])
        return cbor2.CBORTag(order, [[6, 5], cbor2.CBORTag(kind, data)])

    def message(**fields: Any) -> list[bytes]:
        return [b"\xd9\xd9\xf7" + cbor2.dumps(fields)]

    def image(frame: int, series: int, data: dict[str, Any]) -> list[bytes]:
        times = {"start_time": [100 * frame, 10**6], "stop_time": [100 * frame + 90, 10**6]}
        return message(type="image", series_id=series, image_id=frame, data=data, series_unique_id="01HXN", **times)

    kinds = [(69, "", 40), (69, "bslz4", 40), (64, "", 1040), (65, "bslz4", 1040), (70, "bslz4", 40), (66, "", 40)]
    images = [
        image(frame, 7, {"threshold_1": array(frame, *kind), "threshold_2": array(frame + 100)})
        for frame, kind in enumerate(kinds)
    ]
    mask = {"threshold_1": cbor2.CBORTag(40, [[6, 5], cbor2.CBORTag(70, MASK.tobytes())])}
    channels = ["threshold_1", "threshold_2"]
    start = message(type="start", series_id=7, number_of_images=6, channels=channels, pixel_mask=mask, user_data=[])
    session = [start, *images, message(type="end", series_id=7)]
    closing = [image(frame, 9, {"threshold_1": array(frame)}) for frame in (20, 21)]
    return Wire("eiger_v2", eiger_v2.Decoder, session, closing, rewrite_cbor)


def native_wire() -> Wire:
    """The project's own form."""

    def frame(number: int, encoding: str, dtype: str, series: int = 7) -> list[bytes]:
        pixels = pixels_of(number, dtype)
        image = {"shape": pixels.shape, "dtype": dtype, "encoding": encoding, "data": codecs.encode(pixels, encoding)}
        times = {"start_ns": 10 * number, "stop_ns": 10 * number + 9}
        return [msgpack.packb({"type": "frame", "series": series, "frame": number, **image, **times})]

    kinds = [("<", "uint16"), ("lz4<", "uint32"), ("bs16-lz4<F", "int16"), (">F", "float32"), ("bs64-lz4>", "float64")]
    bad = {"shape": [6, 5], "bad_pixels": (MASK != 0).astype(np.uint8).tobytes()}
    start = {"type": "start", "series": 7, "frames": 5, "header": {"energy_ev": 12e3, "who": ["a", "b"]}, **bad}
    session = [
        [msgpack.packb(start)],
        *(frame(number, *kind) for number, kind in enumerate(kinds)),
        [msgpack.packb({"type": "end", "series": 7})],
    ]
    closing = [frame(number, *kinds[0], series=9) for number in (20, 21)]
    return Wire("native", native.Decoder, session, closing, rewrite_msgpack, remembers=False)


def panda_wire() -> Wire:
    """HXN's encoders."""

    def data(first: int, size: int) -> list[bytes]:
        datasets = {
            f"/INENC{n}.VAL.Value": {
                "dtype": "float64",
                "size": size,
                "starting_sample_number": first,
                "data": [n * 1e3 + sample for sample in range(first, first + size)],
            }
            for n in (2, 3)
        }
        return [json_part({"msg_type": "data", "frame_number": first // 7, "datasets": datasets})]

    start = [json_part({"msg_type": "start", "arm_time": "2025-02-28T18:44:22Z", "hw_time_offset_ns": None})]
    stop = [json_part({"msg_type": "stop", "emitted_frames": 5})]
    session = [start, *(data(7 * n, 7) for n in range(5)), stop]
    return Wire("panda", panda.Decoder, session, [data(70, 3), data(80, 3)], rewrite_json, remembers=False)


def bluesky_wire() -> Wire:
    """A run's documents, numpy arrays among them."""
    uid, descriptor = "3b13cd65-0000-4000-8000-000000000001", "9a1f0000-0000-4000-8000-000000000002"
    scan = {"type": "2D_FLY_PANDA", "scan_input": [-1.0, 1.0, 100.0, -1.0, 1.0, 100.0], "dwell": 0.01}
    readings = {"dcm_th": np.array([11.2, 11.2]), "zpsth": np.array([0.0, 0.5])}
    documents = [
        ("start", {"uid": uid, "time": 1.0, "scan_id": 4, "motors": ["zpssx", "zpssy"], "scan": scan}),
        ("descriptor", {"uid": descriptor, "run_start": uid, "name": "baseline", "data_keys": {}}),
        ("event", {"uid": "e", "descriptor": descriptor, "data": {"dcm_th": 11.2, "shift": np.float64(2.0)}}),
        ("descriptor", {"uid": "other", "run_start": uid, "name": "primary", "data_keys": {}}),
        ("event_page", {"uid": ["e", "f"], "descriptor": descriptor, "data": readings}),
        ("stop", {"uid": "s", "run_start": uid, "exit_status": "success"}),
    ]

    def message(name: str, document: Any) -> list[bytes]:
        return [b" ".join([b"hxn", name.encode(), msgpack_numpy.packb(document)])]

    closing = [message("start", {"uid": f"closing{n}", "time": 1.0}) for n in (0, 1)]
    session = [message(*document) for document in documents]

    def rewrite(part: bytes, change: Callable[[Any], Any]) -> bytes:
        prefix, name, payload = part.split(b" ", 2)
        return b" ".join([prefix, name, rewrite_msgpack(payload, change)])

    return Wire("bluesky", lambda: bluesky.Decoder(prefix="hxn"), session, closing, rewrite)


def all_wires() -> list[Wire]:
    """Every decoder of the package; SIMPLON 1 in its three forms."""
    forms = [eiger_v1_wire(form) for form in ("multipart", "flattened", "replay")]
    return [*forms, eiger_v2_wire(), native_wire(), panda_wire(), bluesky_wire()]
