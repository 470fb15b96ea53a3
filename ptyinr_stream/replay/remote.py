"""Frames that are fetched while they are replayed: ahead of their turn, several blocks at a time, with patience.

A facility's Tiled server gives one or two megabytes a second to one connection, and now and then nothing for minutes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import stamina
from numpy.typing import NDArray

from ptyinr_stream.errors import ScanFileError

WORKERS = 16
ATTEMPTS = 6
_BLOCK_BYTES = 8 * 2**20
_CALLER = stamina.RetryingCaller(attempts=ATTEMPTS, timeout=None, wait_initial=1.0, wait_max=60.0)


@dataclass(frozen=True, eq=False)
class RemoteFrames:
    """Stands where an array (n, h, w) of whole counts stands, for whoever reads frame after frame.

    Raises:
        ScanFileError: while it is read: a block cannot be fetched, or is not what was announced.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    fetch: Callable[[int, int], NDArray[Any]]
    """Gives frames `start` to `stop`; called in several threads at once. It may raise `httpx.HTTPError`."""
    name: str
    """For complaints."""

    @property
    def ndim(self) -> int:
        """Three."""
        return 3

    @property
    def itemsize(self) -> int:
        """Bytes of a pixel."""
        return self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        n, h, w = self.shape
        step = max(1, min(_BLOCK_BYTES // (h * w * self.itemsize), -(-n // WORKERS)))
        starts = iter(range(0, n, step))
        pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="fetch frames")
        try:
            ahead: deque[Future[NDArray[Any]]] = deque()
            while True:
                while len(ahead) < WORKERS and (start := next(starts, None)) is not None:
                    ahead.append(pool.submit(self._block, start, min(start + step, n)))
                if not ahead:
                    return
                yield from ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _block(self, start: int, stop: int) -> NDArray[Any]:
        try:
            block = patiently(lambda: self.fetch(start, stop))
        except httpx.HTTPError as error:
            raise ScanFileError(
                f"{self.name}: frames {start} to {stop - 1} cannot be read: {type(error).__name__}: {error}"
            ) from error
        wanted = (stop - start, *self.shape[1:])
        if block.shape != wanted or block.dtype != self.dtype:
            raise ScanFileError(
                f"{self.name}: frames {start} to {stop - 1} are {block.dtype} {block.shape}, not {self.dtype} {wanted}"
            )
        return block


def patiently(read: Callable[[], Any]) -> Any:
    """What `read` gives; tried again, ever more slowly, while the server or the network fails.

    Tiled's client would, too, but only until 45 s have passed, which one request that times out takes.

    Raises:
        httpx.HTTPError: the last attempt's, or at once one that would not change, such as a wrong key.
    """
    return _CALLER(_passes, read)


def _passes(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        return status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.TOO_MANY_REQUESTS
    return isinstance(error, httpx.TransportError)
