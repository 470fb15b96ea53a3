"""What is installed: the wheel that comes of the source distribution holds both packages and their data."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
STAR = "ptyinr_stream/data/siemens_star"


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without isolation, so that nothing is fetched; hatchling comes with the `test` extra."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (source,) = folder.glob("*.tar.gz")
    pip = ("-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"ptyinr", "ptyinr_stream"}
    assert len(names) == len(set(names))


def test_every_module_of_the_repository_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for root in (ROOT, ROOT / "core"):
        for package in ("ptyinr", "ptyinr_stream"):
            modules = {str(file.relative_to(root)) for file in (root / package).rglob("*.py")}
            assert modules <= names


def test_the_wheel_holds_the_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".dist-info/licenses/LICENSE")]
    assert f"{STAR}/LICENSE.txt" in names


def test_the_installed_package_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    said = run(
        "-c",
        "import ptyinr.types, ptyinr_stream.config; print(ptyinr.types.__file__, ptyinr_stream.config.__file__)",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    assert said.split() == [str(installed / "ptyinr" / "types.py"), str(installed / "ptyinr_stream" / "config.py")]


def test_the_installed_package_brings_the_siemens_star(installed: Path, tmp_path: Path) -> None:
    said = run(
        "-c",
        "from ptyinr_stream.data import siemens_star; print(siemens_star())",
        cwd=tmp_path,
        PYTHONPATH=str(installed),
    )
    star = Path(said.strip())
    assert star == installed / STAR / "siemens_star.h5"
    assert star.read_bytes() == (ROOT / STAR / "siemens_star.h5").read_bytes()
    assert {"LICENSE.txt", "README.md"} <= {file.name for file in star.parent.iterdir()}


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "bin" / "ptyinr-stream", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "Usage: ptyinr-stream" in said
