"""Which device trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptyinr_stream.device import choose_device
from ptyinr_stream.errors import ConfigError


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"


def test_the_processor_can_always_be_chosen():
    assert choose_device("cpu") == "cpu"


@pytest.mark.parametrize("name", ["quantum", "", "cuda:99", "cpu cpu", "meta"])
def test_a_device_that_is_not_there_is_refused_in_one_line_that_names_the_choices(name):
    with pytest.raises(ConfigError, match=r"^training.device: .* cannot be used: .*; there are: auto, cpu, cuda$") as e:
        choose_device(name)
    assert "\n" not in str(e.value)
    assert repr(name) in str(e.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_can_be_chosen_by_number():
    assert choose_device("cuda:0") == "cuda:0"


def test_the_package_runs_from_its_tree_without_being_installed(tmp_path):
    """As on a GPU machine that brings its own torch."""
    root = Path(__file__).parents[2]
    hidden = "import importlib.metadata as m\ndef gone(name): raise m.PackageNotFoundError(name)\nm.version = gone\n"
    code = f"{hidden}import ptyinr_stream; print(ptyinr_stream.__version__)"
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'core'}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "run from its tree"
