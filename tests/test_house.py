"""The house rules, held by the one test command."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(file for room in ("core", "ptyinr_stream", "deploy", "tests") for file in (ROOT / room).rglob("*.py"))
TOOLS = {
    "ruff check": ["-m", "ruff", "check", "--quiet", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "--diff", "--quiet", "."],
    "import-linter": [
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        *("--no-cache", "--no-logo"),
    ],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
}
NO_PYRIGHT = "pyright did not start. The first time it is run it fetches itself from the npm registry; see its output."


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_has_a_complaint(tool: str) -> None:
    path = os.pathsep.join([str(ROOT / "core"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *TOOLS[tool]],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    said = done.stdout + done.stderr
    if tool == "pyright" and " errors, " not in said:
        pytest.fail(f"{NO_PYRIGHT}\n{said}", pytrace=False)
    if done.returncode:
        pytest.fail(f"{tool}:\n{said}", pytrace=False)


def test_a_file_is_one_idea() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in FILES}
    assert {file: n for file, n in lines.items() if n > 500} == {}


def uses(names: set[str], but_for: str) -> list[str]:
    """Where an attribute of one of these names (`os.environ`) is read, or imported, outside one file."""
    found = []
    for file in FILES:
        here = str(file.relative_to(ROOT))
        if here.startswith("tests") or here == but_for:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            imported = [f"{node.module}.{name.name}" for name in node.names] if isinstance(node, ast.ImportFrom) else []
            found += [f"{here}: {name}" for name in {dotted, *imported} & names]
    return found


def test_only_the_configuration_reads_the_environment() -> None:
    assert uses({"os.environ", "os.getenv", "os.environb"}, but_for="ptyinr_stream/config.py") == []


def test_only_the_command_line_configures_logging() -> None:
    names = {"logging.basicConfig", "logging.disable", "logging.captureWarnings", "logging.config.dictConfig"}
    assert uses(names, but_for="ptyinr_stream/cli.py") == []
