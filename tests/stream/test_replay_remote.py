"""Frames that are fetched while they are replayed, without a server."""

from __future__ import annotations

import threading

import httpx
import numpy as np
import pytest
import stamina

from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.replay.remote import ATTEMPTS, WORKERS, RemoteFrames, patiently

FRAMES = np.arange(100 * 6).reshape(100, 2, 3).astype(np.uint16)


def remote(fetch):
    return RemoteFrames(FRAMES.shape, FRAMES.dtype, fetch, "the scan")


@pytest.fixture(autouse=True)
def _no_waiting():
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


def refusal(status):
    request = httpx.Request("GET", "http://tiled")
    return httpx.HTTPStatusError(str(status), request=request, response=httpx.Response(status, request=request))


def test_all_frames_come_once_and_in_order_and_may_be_read_again():
    frames = remote(lambda start, stop: FRAMES[start:stop])
    for _ in range(2):
        assert np.array_equal(np.stack(list(frames)), FRAMES)
    assert (len(frames), frames.ndim, frames.itemsize) == (100, 3, 2)


def test_blocks_are_fetched_at_the_same_time():
    together = threading.Barrier(WORKERS, timeout=20)

    def fetch(start, stop):
        if start < WORKERS * 7:  # those of the first round wait for each other
            together.wait()
        return FRAMES[start:stop]

    frames = RemoteFrames((WORKERS * 7, 2, 3), FRAMES.dtype, lambda a, b: fetch(a, b) * 0, "the scan")
    frames = RemoteFrames((WORKERS * 5, 2, 3), FRAMES.dtype, fetch, frames.name)
    assert np.array_equal(np.stack(list(frames)), FRAMES[: WORKERS * 5])


def test_no_more_is_fetched_than_a_round_ahead():
    asked = []
    big = np.zeros((1, 2048, 1024), np.uint32)

    def fetch(start, stop):
        asked.append(start)
        return np.broadcast_to(big, (stop - start, *big.shape[1:]))

    frames = iter(RemoteFrames((1000, *big.shape[1:]), big.dtype, fetch, "the scan"))
    next(frames)
    frames.close()
    assert len(asked) <= WORKERS


@pytest.mark.parametrize("passing", [httpx.ReadTimeout("slow"), httpx.PoolTimeout("full"), refusal(503), refusal(429)])
def test_what_passes_is_tried_again(passing):
    failures = iter([passing] * (ATTEMPTS - 1))

    def read():
        if (error := next(failures, None)) is not None:
            raise error
        return 7

    assert patiently(read) == 7


@pytest.mark.parametrize("lasting", [refusal(401), refusal(404)])
def test_what_would_not_change_is_not_tried_again(lasting):
    calls = []

    def read():
        calls.append(1)
        raise lasting

    with pytest.raises(httpx.HTTPStatusError):
        patiently(read)
    assert len(calls) == 1


def test_a_block_that_never_comes_names_its_frames():
    def fetch(start, stop):
        if start <= 50 < stop:
            raise httpx.ReadTimeout("the read operation timed out")
        return FRAMES[start:stop]

    came = []
    with pytest.raises(ScanFileError, match=r"the scan: frames 49 to 55 cannot be read: ReadTimeout: the read"):
        came.extend(remote(fetch))


@pytest.mark.parametrize("wrong", [FRAMES[:3], FRAMES.astype(np.float64)])
def test_a_block_that_is_not_what_was_announced_is_refused(wrong):
    with pytest.raises(ScanFileError, match=r"frames 0 to 6 are .*, not uint16 \(7, 2, 3\)"):
        list(remote(lambda start, stop: wrong[start:stop]))
