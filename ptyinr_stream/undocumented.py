"""A scan without documents: a start document made from what is configured, or from the first lines. Pure.

What is made has the form of HXN's own, so that nothing downstream needs to know. Its uid follows from the detector's
series and the time at which the capture was armed: a replay of the same streams gives the same one.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import PositionsConfig

_NAMESPACE = uuid.UUID("5b0c1d5e-6f0a-5a3c-9a51-7d3a53c7a3d1")
_LEAST_LINES = 3
_LEAST_POINTS = 4
"""Of a line: fewer cannot be told from noise."""
_MISFIT_STEPS = 1.0
"""By how many steps, in the median, positions may be off the line that is fitted to them."""


KIND = "2D_FLY_PANDA"
"""Of a scan that nobody announced: its samples per frame are those of this `scan.type`."""


def start_document(series: int, armed_at: str, scan_input: Sequence[float], snake: bool = False) -> dict[str, Any]:
    """A start document for frames of `series` and a capture that was armed at `armed_at`, in the PandA's words.

    Args:
        series: the detector's number.
        armed_at: any text that tells captures apart.
        scan_input: [x0, x1, nx, y0, y1, ny], fast and slow motor in micrometres, as HXN's documents have it.
        snake: whether every second line runs backwards.
    """
    x0, x1, nx, y0, y1, ny = (float(value) for value in scan_input)
    uid = uuid.uuid5(_NAMESPACE, f"series {series}, {int(nx) * int(ny)} frames, armed {armed_at}")
    kind = "2D_FLY_CONT_PANDA" if snake else KIND
    return {
        "uid": str(uid),
        "scan_id": series,
        "plan_name": "without_documents",
        "shape": [int(nx), int(ny)],
        "scan": {"type": kind, "scan_input": [x0, x1, nx, y0, y1, ny], "shape": [int(nx), int(ny)]},
    }


def commanded(
    positions_m: NDArray[np.float64], expected: int, positions: PositionsConfig
) -> tuple[list[float], bool] | None:
    """Guess what was commanded from where the first frames lie.

    Lines are found by trying every length that divides the scan: the fast axis must repeat itself from line to line, or
    run to and fro. The slow axis is continued over all lines by the median step between those that are there.

    Args:
        positions_m: (n, 2) of frames 0 to n - 1, as the encoders read.
        expected: frames of the whole scan.
        positions: tells which axis the fast motor moves along, and the motors' signs.

    Returns:
        `scan_input` and whether the scan runs to and fro; None while fewer than three lines can be made out.
    """
    fast_axis = positions.motors.index(0)
    signs = [axis.motor_sign for axis in positions.axes]
    motors_um = 1e6 * positions_m * signs
    fast, slow = motors_um[:, fast_axis], motors_um[:, 1 - fast_axis]
    best: tuple[float, list[float], bool] | None = None
    for line in range(_LEAST_POINTS, min(len(fast), expected) // _LEAST_LINES + 1):
        if expected % line:
            continue
        lines = len(fast) // line
        rows = fast[: lines * line].reshape(lines, line)
        for snake in (False, True):
            straight = rows.copy()
            straight[1::2] = straight[1::2, :: -1 if snake else 1]
            mean = np.median(straight, axis=0)
            slope, first = np.polyfit(np.arange(line), mean, 1)
            if slope == 0:
                continue
            misfit = float(np.median(np.abs(straight - (first + slope * np.arange(line)))) / abs(slope))
            if misfit < _MISFIT_STEPS and (best is None or misfit < best[0]):
                heights = np.median(slow[: lines * line].reshape(lines, line), axis=1)
                step, count = float(np.median(np.diff(heights))), expected // line
                ends = [first, first + slope * line, float(line), heights[0], heights[0] + step * count, float(count)]
                best = (misfit, [float(value) for value in ends], snake)
    return None if best is None else (best[1], best[2])


def enclosing(positions_m: NDArray[np.float64], expected: int, positions: PositionsConfig) -> list[float]:
    """`scan_input` of one line of all frames, over the extent of those that have a position (n, 2)."""
    signs = [axis.motor_sign for axis in positions.axes]
    motors_um = 1e6 * positions_m * signs
    fast, slow = (motors_um[:, positions.motors.index(motor)] for motor in (0, 1))
    return [fast.min(), fast.max(), float(expected), slow.min(), slow.max(), 1.0]
