"""The trace: frame, position, time, in the order of joining."""

from __future__ import annotations

import numpy as np

from ptyinr.types import Batch
from ptyinr_stream.outputs import Joined, ScanClosed
from ptyinr_stream.scan_report import ScanReport
from ptyinr_stream.trace import HEADER, Trace

REPORT = ScanReport(3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, None, "complete")


def joined(uid, indices, at):
    n = len(indices)
    positions = np.array([[1e-6 * k, -1e-9 * k] for k in indices])
    return Joined(uid, Batch(np.array(indices), np.zeros((n, 2, 2), np.uint16), positions), at)


def test_a_scan_s_frames_are_written_in_the_order_of_joining_when_it_is_closed(tmp_path):
    trace = Trace(tmp_path / "traces")
    trace.take(joined("a", [2], 1.5))
    trace.take(joined("b", [7], 1.6))
    trace.take(joined("a", [0, 1], 2.25))
    assert list(tmp_path.iterdir()) == []
    trace.take(ScanClosed("a", REPORT))
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["a.csv"]
    assert (tmp_path / "traces" / "a.csv").read_text().splitlines() == [
        HEADER,
        "0,2,2.000000,-0.002000,1.500000",
        "1,0,0.000000,-0.000000,2.250000",
        "2,1,1.000000,-0.001000,2.250000",
    ]


def test_a_uid_does_not_lead_out_of_the_folder(tmp_path):
    trace = Trace(tmp_path / "traces")
    trace.take(joined("../../x", [2], 1.5))
    trace.take(ScanClosed("../../x", REPORT))
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["______x.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["traces"]


def test_a_folder_that_cannot_be_written_is_only_logged(tmp_path, caplog):
    (tmp_path / "traces").write_text("a file")
    trace = Trace(tmp_path / "traces")
    trace.take(joined("a", [2], 1.5))
    trace.take(ScanClosed("a", REPORT))
    assert "cannot be written" in caplog.text
