"""A small scan that every test of the running system shares."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from ptyinr.types import ScanGeometry
from ptyinr_stream.formats import RecordedScan

# Nothing here is about time: a machine that does much else is slow, not wrong. And two runs of the same code say the
# same; new cases are for the benchmarks (`assembler_orders`, `fuzz_decoders`).
settings.register_profile("patient", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Fields this small gain nothing from a second thread, and wait for it where other programs share the processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port of this machine on which nobody listens, and that nobody else is given meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(scope="session")
def simulated() -> RecordedScan:
    """Eight lines of nine frames of 32 x 24 pixels, fast along axis 0: defocused light over a smooth phase object."""
    rng = np.random.default_rng(7)
    shape, step_px = (32, 24), 3
    geometry = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=75e-6, window=shape)
    rows, columns = np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij")
    lens = (np.hypot(rows, columns) < 0.2) * np.exp(60j * np.pi * (rows**2 + columns**2))
    probe = np.fft.fftshift(np.fft.ifft2(lens, norm="ortho"))
    probe *= np.sqrt(2e4 / (np.abs(probe) ** 2).sum())
    noise = np.fft.fft2(rng.normal(size=(96, 96)))
    smooth = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96))) < 0.15
    phase = np.fft.ifft2(noise * smooth).real
    sample = np.exp(0.6j * phase / phase.std())
    corners = step_px * np.array([(fast, slow) for slow in range(8) for fast in range(9)])
    windows = [sample[r : r + shape[0], c : c + shape[1]] for r, c in corners]
    patterns = np.abs(np.fft.fft2(probe * np.stack(windows), norm="ortho")) ** 2
    counts = rng.poisson(np.fft.fftshift(patterns, axes=(1, 2))).astype(np.uint16)
    positions_m = (corners - corners.mean(axis=0)) * geometry.pixel_m
    return RecordedScan(counts, positions_m, geometry, name="simulated")
