"""Raw frames as HXN's detector sends them, by the shipped configuration: every trusted count comes out as it was."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptyinr_stream.assembler import CalibrationAdded, ScanClosed
from ptyinr_stream.data import siemens_star
from ptyinr_stream.formats.ptyinr_h5 import read_scan

pytestmark = pytest.mark.system

FRAMES = 64


def benchmark():
    """The generator is the benchmark's, so that both speak of the same scan."""
    path = Path(__file__).parents[1] / "benchmarks" / "embedded_star.py"
    spec = importlib.util.spec_from_file_location("embedded_star", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["embedded_star"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_mirrored_off_centre_scan_with_gap_and_hot_pixels_comes_out_bit_equal() -> None:
    embedded = benchmark()
    star = read_scan(siemens_star())
    scan = embedded.EmbeddedScan(replace(star, counts=star.counts[:FRAMES], positions_m=star.positions_m[:FRAMES]))
    config = embedded.configuration((128, 128), star.geometry.energy_kev)
    # Of so few lines the six that come before them are a tenth: frames lie further from their commanded places.
    wide = config.assembly.model_copy(update={"gate_margin": 0.35})
    outputs = embedded.received(scan, config.model_copy(update={"assembly": wide}))

    (found,) = [output for output in outputs if isinstance(output, CalibrationAdded)]
    row, column = found.values["frame_centre"]
    # The star was cropped by others: its cone lies a pixel and a half beside the middle of its patterns.
    assert (row, column) == pytest.approx(embedded.CENTRE, abs=2)

    batch = embedded.joined(outputs, scan.early)
    assert batch.indices.tolist() == list(range(scan.early, scan.early + FRAMES))
    assert batch.counts.dtype == np.uint16
    window = slice(row - 64, row + 64), slice(column - 64, column + 64)
    assert batch.mask is not None
    # Nothing but the gap, the hot pixels, and the direct beam, which leaks through the zone plate into one pixel.
    beam = np.zeros(embedded.SHAPE, np.bool_)
    beam[embedded.CENTRE[0], embedded.CENTRE[1] + 1] = True
    for mask in batch.mask:
        np.testing.assert_array_equal(mask | beam[window], (scan.trusted | beam)[window])
    for frame, counts, mask in zip(batch.indices, batch.counts, batch.mask, strict=True):
        np.testing.assert_array_equal(counts[mask], scan.image(int(frame))[window][mask])

    moved = batch.positions_m - batch.positions_m[0]
    um_per_sample = 1e-10 / 10  # half a count of a tenth of a nanometre, a tenth of them a frame
    np.testing.assert_allclose(moved, star.positions_m[:FRAMES] - star.positions_m[0], atol=10 * um_per_sample)

    (closed,) = [output for output in outputs if isinstance(output, ScanClosed)]
    assert (closed.report.paired + closed.report.gated, closed.report.lost) == (scan.frames, 0)
