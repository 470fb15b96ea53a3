"""Detector images, encoded and decoded, honest and lying."""

import os
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import lz4.block
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptyinr_stream.errors import WireError
from ptyinr_stream.events import EncodedImage
from ptyinr_stream.wire import codecs
from ptyinr_stream.wire.codecs import bslz4

ENCODINGS = {
    "uint8": ["bs8-lz4<", "lz4<", "<", "", "raw"],
    "uint16": ["bs16-lz4<", "bs16-lz4>", "lz4<", "lz4>", "<", ">"],
    "uint32": ["bs32-lz4<", "bs32-lz4>", "lz4<", "<", ">"],
    "int16": ["bs16-lz4<F", "bs16-lz4>F", "lz4<F", "<F", ">F"],
    "float64": ["bs64-lz4<", "bs64-lz4>F", "lz4>", "<", "F"],
}


LIBRARIES = ["dectris", "bitshuffle", "hdf5"]


def use(library, monkeypatch):
    """Leave this library alone; the others are missing."""
    for name in ("dectris", "bitshuffle"):
        if name != library:
            monkeypatch.setattr(bslz4, name, None)


@pytest.fixture(params=LIBRARIES)
def backend(request, monkeypatch):
    if request.param != "hdf5" and getattr(bslz4, request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    use(request.param, monkeypatch)


def counts(shape, dtype="uint16", seed=0):
    return np.random.default_rng(seed).poisson(3, shape).astype(dtype)


def encoded(pixels, encoding):
    return EncodedImage(codecs.encode(pixels, encoding), pixels.shape, pixels.dtype, encoding)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(128, 128), (97, 33), (3, 1), (1, 8)])
@pytest.mark.parametrize(("dtype", "encoding"), [(d, e) for d, names in ENCODINGS.items() for e in names])
def test_what_was_encoded_is_decoded(shape, dtype, encoding):
    pixels = counts(shape, dtype)
    pixels.flat[0] = 2 ** (8 * pixels.itemsize) - 1 if pixels.dtype.kind == "u" else -1
    decoded = codecs.decode(encoded(pixels, encoding))
    assert decoded.dtype == pixels.dtype
    assert decoded.dtype.isnative
    assert np.array_equal(decoded, pixels)


@pytest.mark.skipif(bslz4.bitshuffle is None, reason="bitshuffle has no wheel for this Python")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_all_libraries_read_and_write_the_same_bytes(dtype):
    pixels = counts((201, 77), dtype)
    by_bitshuffle = bslz4.compress(pixels)
    for library in LIBRARIES:
        with pytest.MonkeyPatch.context() as patch:
            use(library, patch)
            assert np.array_equal(bslz4.decompress(by_bitshuffle, pixels.shape, pixels.dtype), pixels)
            assert library == "dectris" or bslz4.compress(pixels) == by_bitshuffle


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", [(8, 8), (7, 11)])
def test_a_block_may_be_larger_than_the_image(shape):
    image = encoded(counts(shape, "uint8"), "bs8-lz4<")
    vast = image.data[:8] + struct.pack(">I", 2**32 - 8) + image.data[12:]
    assert np.array_equal(codecs.decode(replace(image, data=vast)), counts(shape, "uint8"))


@pytest.mark.usefixtures("backend")
def test_the_block_size_is_read_from_the_header():
    pixels = counts((64, 64))
    halves = [bslz4.compress(half)[12:] for half in (pixels[:32], pixels[32:])]
    data = struct.pack(">QI", pixels.nbytes, pixels.nbytes // 2) + b"".join(halves)
    assert np.array_equal(codecs.decode(EncodedImage(data, (64, 64), pixels.dtype, "bs16-lz4<")), pixels)


def test_lz4_is_also_read_in_the_framing_of_hdf5():
    noise = np.random.default_rng(0).integers(0, 2**16, (16, 8), np.uint16)  # LZ4 cannot shrink it
    pixels = np.concatenate([counts((96, 8)), noise, counts((5, 8))])
    plain, blocks = pixels.tobytes(), []
    for start in range(0, len(plain), 256):
        block = plain[start : start + 256]
        packed = lz4.block.compress(block, store_size=False)
        blocks.append(packed if len(packed) < len(block) else block)
    framed = struct.pack(">QI", len(plain), 256) + b"".join(struct.pack(">I", len(block)) + block for block in blocks)
    assert any(len(block) == 256 for block in blocks)
    assert np.array_equal(codecs.decode(EncodedImage(framed, pixels.shape, pixels.dtype, "lz4<")), pixels)


@pytest.mark.usefixtures("backend")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    form=st.sampled_from([(dtype, name) for dtype, names in ENCODINGS.items() for name in names]),
    block=st.sampled_from([64, 256, 8192]),
    data=st.data(),
)
def test_rows_decoded_alone_are_those_of_the_whole_image(shape, form, block, data):
    pixels = counts(shape, form[0])
    first = data.draw(st.integers(0, shape[0] - 1))
    rows = slice(first, data.draw(st.integers(first + 1, shape[0])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bslz4, "_BLOCK_BYTES", block)
        image = encoded(pixels, form[1])
    assert np.array_equal(codecs.decode(image, rows), pixels[rows])


def test_rows_cost_no_more_than_the_blocks_they_lie_in(monkeypatch):
    if bslz4.bitshuffle is None:
        pytest.skip("bitshuffle has no wheel for this Python")
    use("bitshuffle", monkeypatch)
    image = encoded(counts((1024, 512)), "bs16-lz4<")
    tracemalloc.start()
    try:
        codecs.decode(image, slice(100, 110))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 512 * 1024 / 20


def refused(image):
    with pytest.raises(WireError) as caught:
        codecs.decode(image)
    assert caught.value.kind == "undecodable"


def test_pixels_that_lie_column_by_column_are_the_same_image():
    pixels = counts((3, 5))
    image = EncodedImage(np.asfortranarray(pixels).tobytes(order="A"), pixels.shape, pixels.dtype, "<F")
    assert np.array_equal(codecs.decode(image), pixels)


@pytest.mark.parametrize("size", [0, 2**17 - 2, 2**17 + 2, 2**40, 2**63])
def test_a_size_that_contradicts_the_image_is_refused_in_lz4(size):
    image = encoded(np.zeros((256, 256), np.uint16), "lz4<")
    framed = struct.pack(">QII", size, 2**17, len(image.data)) + image.data
    refused(replace(image, data=framed))
    right = struct.pack(">Q", 2**17) + framed[8:]
    assert not codecs.decode(replace(image, data=right)).any()


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "lz4<", "<"])
def test_an_image_cut_anywhere_is_refused(encoding):
    image = encoded(counts((40, 50)), encoding)
    for end in range(0, len(image.data), 7):
        refused(replace(image, data=image.data[:end]))
    if encoding != "lz4<":  # LZ4 itself has no end
        refused(replace(image, data=image.data + b"\0"))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (slice(0, 8), struct.pack(">Q", 2**40)),
        (slice(8, 12), struct.pack(">I", 0)),
        (slice(8, 12), struct.pack(">I", 8191)),
        (slice(8, 12), struct.pack(">I", 2**32 - 16)),
        (slice(12, 16), struct.pack(">I", 2**32 - 1)),
        (slice(12, 16), struct.pack(">I", 0)),
        (slice(16, 400), bytes(384)),
    ],
    ids=["size", "no block", "odd block", "vast block", "vast length", "no length", "no LZ4"],
)
@pytest.mark.usefixtures("backend")
def test_a_lying_header_is_refused(at, value):
    image = encoded(counts((100, 100)), "bs16-lz4<")
    data = bytearray(image.data)
    data[at] = value
    refused(replace(image, data=bytes(data)))


@pytest.mark.parametrize("encoding", ["bs32-lz4<", "lz4<", "<"])
def test_nothing_is_allocated_for_a_claim_that_the_bytes_cannot_hold(encoding):
    header = struct.pack(">QI", 4 * 8192 * 8192, 2**31) if encoding.startswith("bs") else b""
    data = header + bytes(1000)
    tracemalloc.start()
    try:
        refused(EncodedImage(data, (8192, 8192), np.dtype(np.uint32), encoding))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("encoding", ["bs16-lz4<x", "bs32-lz4<", "bs16<", "jpeg", "lz4<\n", "lz4F<"])
def test_an_encoding_that_is_unknown_or_of_other_pixels_is_refused(encoding):
    refused(EncodedImage(bytes(200), (10, 10), np.dtype(np.uint16), encoding))
    with pytest.raises(WireError):
        codecs.encode(counts((10, 10)), encoding)


@pytest.mark.skipif(
    bslz4.bitshuffle is None or not os.path.isdir("/proc/self/task"), reason="needs bitshuffle and /proc"
)
def test_decoding_starts_no_threads_and_leaves_openmp_as_it_was():
    # A process of its own: here other tests' threads come and go.
    code = """
import os
import numpy as np
from ptyinr_stream.events import EncodedImage
from ptyinr_stream.wire import codecs
from ptyinr_stream.wire.codecs import bslz4

pixels = np.random.default_rng(0).poisson(3, (256, 256)).astype(np.uint16)
image = EncodedImage(codecs.encode(pixels, "bs16-lz4<"), pixels.shape, pixels.dtype, "bs16-lz4<")
bslz4.dectris = None
openmp = bslz4._openmp()
if openmp is not None:
    openmp.omp_set_num_threads(3)
before = len(os.listdir("/proc/self/task"))
codecs.decode(image)
print(len(os.listdir("/proc/self/task")) - before, 3 if openmp is None else openmp.omp_get_max_threads())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.split() == ["0", "3"]


def outcome(image):
    """What an image decodes to, or the kind of the error."""
    try:
        pixels = codecs.decode(image)
    except WireError as error:
        return error.kind
    return pixels.shape, pixels.dtype


IMAGES = [encoded(counts((24, 30), dtype, seed=1), encoding) for dtype, all_ in ENCODINGS.items() for encoding in all_]


@given(st.sampled_from(IMAGES), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_decode_to_the_claimed_shape_or_are_refused(image, data):
    damaged = bytearray(image.data)
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=8)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged)
    for library in LIBRARIES:
        with pytest.MonkeyPatch.context() as patch:
            use(library, patch)
            assert outcome(replace(image, data=damaged)) in ("undecodable", (image.shape, image.dtype))


@given(st.binary(max_size=300), st.sampled_from([e for names in ENCODINGS.values() for e in names]))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_unless_they_are_an_image(data, encoding):
    image = EncodedImage(data, (8, 9), np.dtype(np.uint16), encoding)
    assert outcome(image) in ("undecodable", (image.shape, image.dtype))
