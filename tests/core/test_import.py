"""Whoever needs only the types does not wait for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "core"
HEAVY = ("torch", "scipy", "skimage", "h5py", "tiled", "zmq", "pydantic", "matplotlib", "ptyinr_stream", "bluesky")


def loaded_by(statement: str) -> set[str]:
    """Which heavy modules a fresh interpreter has after a statement."""
    code = f"import sys\n{statement}\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(CORE)},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import ptyinr",
        "import ptyinr; ptyinr.Batch, ptyinr.ScanGeometry, ptyinr.ScanRange, ptyinr.Snapshot",
        "import ptyinr.simulate, ptyinr.optics, ptyinr.scans, ptyinr.noise, ptyinr.geometry",
    ],
)
def test_types_and_physics_need_numpy_alone(statement):
    assert loaded_by(statement) == set()


def test_training_needs_torch_and_nothing_of_the_stream():
    assert loaded_by("import ptyinr; ptyinr.Trainer, ptyinr.reconstruct") == {"torch"}
