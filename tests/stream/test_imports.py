"""Importing is free: it starts nothing, changes nothing, and does not load what a command may never need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPORT_ALL = """
import importlib, pkgutil

def import_all(*packages):
    for name in packages:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            if not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
"""

# Twice, because other people's packages do change things when they are imported: Tiled's server replaces
# sys.excepthook. The second time they are all there, and what changes is our own doing.
EFFECTS = (
    IMPORT_ALL
    + """
import gc, logging, os, random, signal, sys, threading, warnings
import numpy as np
import torch

environment = dict(os.environ)
import_all("ptyinr", "ptyinr_stream")
for name in [name for name in sys.modules if name.split(".")[0] in ("ptyinr", "ptyinr_stream")]:
    del sys.modules[name]
os.environ.clear()
os.environ.update(environment)
logging.root.handlers.clear()
warnings.resetwarnings()
random.seed(20260301)
np.random.seed(20260301)
torch.manual_seed(20260301)
torch.set_num_threads(1)

def state():
    return {
        "environment": set(os.environ.items()),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "logging": (logging.root.handlers[:], logging.root.level, logging.root.manager.disable),
        "numpy": (np.geterr(), np.get_printoptions(), np.random.get_state()[1].tolist()),
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None,
        "path": sys.path[:],
        "random": random.getstate(),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "threads": [thread.name for thread in threading.enumerate()],
        "torch": (
            torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
        ),
        "warnings": warnings.filters[:],
    }

gc.collect()
before = state()
import_all("ptyinr", "ptyinr_stream")
after = state()
for name, value in before.items():
    if after[name] != value:
        what = value ^ after[name] if isinstance(value, set) else f"{value} became {after[name]}"
        raise SystemExit(f"importing changed {name}: {what}")
"""
)


def python(code: str, folder: Path) -> None:
    """Run code in a fresh interpreter; what it complains of is the test's failure."""
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_importing_has_no_effect(tmp_path: Path) -> None:
    python(EFFECTS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_core_knows_nothing_of_the_stream(tmp_path: Path) -> None:
    python(
        IMPORT_ALL
        + """
import sys
import_all("ptyinr")
strangers = {"ptyinr_stream", "tiled", "bluesky", "zmq", "h5py", "pydantic", "typer"} & sys.modules.keys()
if strangers:
    raise SystemExit(f"ptyinr imports {sorted(strangers)}")
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("ptyinr_stream.cli", ["torch", "tiled", "h5py", "pyarrow"]),
        ("ptyinr_stream.config", ["torch", "tiled", "zmq", "h5py"]),
        ("ptyinr_stream.wire.bluesky", ["torch", "tiled", "zmq", "bluesky"]),
    ],
)
def test_a_module_loads_only_what_it_needs(module: str, heavy: list[str], tmp_path: Path) -> None:
    python(
        f"""
import sys
import {module}
loaded = [name for name in {heavy} if name in sys.modules]
if loaded:
    raise SystemExit(f"{module} imports {{loaded}}")
""",
        tmp_path,
    )


def test_the_core_can_be_imported_under_one_name_only() -> None:
    # With it, `core.ptyinr` would be a package of its own in an editable install, with second copies of every class.
    assert not (ROOT / "core" / "__init__.py").exists()
