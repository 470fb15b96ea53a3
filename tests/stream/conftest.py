"""The start documents that tests share: see tests/data/plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "data" / "plans"


@pytest.fixture
def documents() -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Gives the start document of a plan, and the baseline readings that follow it."""

    def read(plan: str) -> tuple[dict[str, Any], dict[str, Any]]:
        found = json.loads((FOLDER / f"{plan}.json").read_text())
        return found["start"], found["baseline"]

    return read
