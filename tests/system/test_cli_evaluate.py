"""`evaluate` as a user meets it: a table, a page, numbers, and one line for what was wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from ptyinr.types import Snapshot
from ptyinr_stream import cli, offline
from ptyinr_stream.formats import Truth
from ptyinr_stream.formats.ptyinr_h5 import write_scan
from ptyinr_stream.probe_file import read_probe
from ptyinr_stream.publishers.files import write_result

pytestmark = pytest.mark.system


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Calls the command line in this process, in an empty folder: exit status, output, complaint."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ptyinr-stream", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return int(ended.value.code or 0), streams.out, streams.err

    return call


@pytest.fixture
def files(tmp_path, simulated):
    """A scan, the same with a truth inside, and a result that comes near it."""
    random = np.random.default_rng(0)
    corners = (simulated.positions_m - simulated.positions_m.min(0)) / simulated.geometry.pixel_m + (3, 4)
    field = np.exp(0.5j * np.cumsum(random.normal(size=(80, 72)), axis=1) / 6).astype(np.complex64)
    probe = (
        12 * np.exp(-np.add.outer(np.linspace(-2, 2, 32) ** 2, np.linspace(-2, 2, 24) ** 2)).astype(np.complex64)[None]
    )
    noise = 0.05 * random.normal(size=field.shape)
    snapshot = Snapshot(
        "simulated", 5, 72, (field + noise).astype(np.complex64), probe, np.ones(field.shape, np.float32),
        np.arange(72), corners, simulated.geometry.pixel_m,
    )  # fmt: skip
    write_scan(tmp_path / "scan.h5", simulated)
    write_scan(tmp_path / "known.h5", replace(simulated, truth=Truth(field, probe, corners)))
    configuration = json.dumps({"settings": {"holdout": 10}})
    write_result(tmp_path / "result.h5", snapshot, {"configuration": configuration, "seconds": 3.0})
    return tmp_path


def test_a_result_alone_gets_a_page_beside_it(command, files):
    status, out, err = command("result.h5")
    assert (status, err) == (0, "")
    assert "72 frames, 5 steps, 3 s" in out
    assert "result.html: the report; result.json: its numbers" in out
    assert (files / "result.html").read_text().startswith("<!doctype html>")


def test_the_truth_of_a_scan_is_found_in_it(command, files):
    status, out, _ = command("result.h5", "--scan", "known.h5", "--output", "page.html")
    assert status == 0
    assert re.search(r"object amplitude and truth +PSNR 2\d\.\d\d dB, SSIM 0\.\d{4}", out)
    told = json.loads((files / "page.json").read_text())
    assert told["truth"]["object"]["phase_psnr_db"] > 30
    assert told["amplitude_error"]["heldout_frames"] == 7
    assert "<h2>Truth</h2>" in (files / "page.html").read_text()


@pytest.mark.parametrize("truth", ["known.h5", "result.h5"])
def test_a_truth_may_be_a_scan_or_a_result(command, files, truth):
    assert command("result.h5", "--truth", truth)[0] == 0
    assert json.loads((files / "result.json").read_text())["truth"]["probe"]["overlap"] > 0.99


def test_json_is_all_that_is_printed_when_asked_for(command, files):
    status, out, _ = command("result.h5", "--reference", "result.h5", "--profile", "0.5,0.5:0.5,1.5", "--json")
    assert status == 0
    told = json.loads(out)
    assert told == json.loads((files / "result.json").read_text())
    assert told["profiles"][0]["from_um"] == pytest.approx([0.5, 0.5])
    assert told["reference"]["probe_overlap"] > 0.999


def test_halves_are_reconstructed_and_correlated(command, files):
    status, out, err = command("result.h5", "--scan", "scan.h5", "--split-halves", "--seconds", "0", "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)["split_halves"]
    assert told["frames"] == [36, 36]
    assert len(told["correlation"]) == len(told["half_bit"]) > 5
    assert "<h2>Split halves</h2>" in (files / "result.html").read_text()


@pytest.mark.parametrize(
    ("options", "given", "told"),
    [
        ((), None, "found anew in each half"),
        (("--probe", "probe.npy"), "probe.npy", "given to both at first"),
        (("--probe", "probe.npy", "--known-probe"), "probe.npy", "given and kept"),
        (("--known-probe",), "result.h5", "given and kept"),
    ],
)
def test_both_halves_start_from_the_probe_that_is_given(command, files, monkeypatch, options, given, told):
    np.save("probe.npy", np.full((1, 32, 24), 5, np.complex64))
    probe = None if given is None else read_probe(files / given)
    made, reconstruct = [], offline.reconstruct

    def watched(*arguments, **more):
        made.append((more["probe"], more["settings"].probe.fixed, more["settings"].seed))
        return reconstruct(*arguments, **more)

    monkeypatch.setattr(offline, "reconstruct", watched)
    status, _, err = command("result.h5", "--scan", "scan.h5", "--split-halves", "--seconds", "0", "--json", *options)
    assert (status, err) == (0, "")
    assert [(fixed, seed) for _, fixed, seed in made] == [("--known-probe" in options, seed) for seed in (0, 1)]
    assert all(np.array_equal(used, probe) if given else used is None for used, *_ in made)
    assert f"a probe that was {told}" in (files / "result.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no.h5",), "no.h5: there is no such file"),
        (("scan.h5",), "scan.h5: has no dataset object of numbers; a result has object, probe, positions_px, ..."),
        (("result.h5", "--scan", "no.h5"), "no.h5: there is no such file"),
        (("result.h5", "--truth", "no.h5"), "no.h5: there is no such file"),
        (("result.h5", "--truth", "scan.h5"), "scan.h5: is a scan without a truth: give a simulated one, or a result"),
        (("result.h5", "--split-halves"), "--split-halves needs --scan: the frames to divide"),
        (("result.h5", "--probe", "result.h5"), "--probe needs --split-halves: it is for reconstructing them"),
        (("result.h5", "--scan", "scan.h5", "--split-halves", "--probe", "no.npy"), "no.npy: cannot be read as a"),
        (("result.h5", "--profile", "1,2"), "--profile '1,2': four numbers in um are needed, ROW,COL:ROW,COL"),
        (("result.h5", "--profile", "0,0:0,99"), "profile's end (0, 99) um lies outside of the field: rows reach from"),
        (("result.h5", "--output", "none/page.html"), "none/page.html: the folder none does not exist"),
        (("result.h5", "--output", "page.json"), "page.json: the numbers go to a .json beside the report"),
    ],
)
def test_what_cannot_be_is_one_line(command, files, arguments, said):
    status, _, err = command(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(files.glob("*.html"))


@pytest.mark.parametrize(
    ("output", "arguments", "source"),
    [
        ("scan.h5", ("--scan", "scan.h5"), "scan.h5"),
        ("result.h5", (), "result.h5"),
        ("known.h5", ("--truth", "known.h5"), "known.h5"),
        ("../{here}/known.h5", ("--reference", "known.h5"), "known.h5"),
        ("link.html", ("--scan", "scan.h5"), "scan.h5"),
        ("page.html", ("--scan", "page.json"), "page.json"),
        ("rec/000-series-7.h5", ("--scan", "rec"), "rec"),
    ],
)
def test_a_report_is_never_written_over_what_it_is_made_from(command, files, output, arguments, source):
    (files / "link.html").symlink_to(files / "scan.h5")
    (files / "page.json").hardlink_to(files / "scan.h5")
    (files / "rec").mkdir()
    (files / "rec" / "000-series-7.h5").write_bytes(b"frames")
    before = {path: path.read_bytes() for path in files.rglob("*") if path.is_file()}
    status, _, err = command("result.h5", *arguments, "--output", output.format(here=files.name))
    assert status == 2
    assert re.fullmatch(rf"error: \S+: would be written over {source}, which it is made from: [^\n]+\n", err)
    assert {path: path.read_bytes() for path in files.rglob("*") if path.is_file()} == before


def test_a_report_may_be_written_again(command, files):
    assert [command("result.h5", "--output", "page.html")[0] for _ in range(2)] == [0, 0]


def test_the_command_line_loads_neither_torch_nor_matplotlib():
    program = "import sys, ptyinr_stream.cli; print({'matplotlib', 'scipy', 'skimage', 'torch'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
