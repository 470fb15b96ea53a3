"""`simulate` as a user meets it: a file that every other command reads, honest numbers, one line for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import h5py
import numpy as np
import pytest

from ptyinr.simulate import expected_counts
from ptyinr_stream import cli
from ptyinr_stream.formats.ptyinr_h5 import read_scan

pytestmark = pytest.mark.system

SMALL = ("--object-px", "96x100", "--window", "48x64", "--overlap", "0.8", "--defocus-um", "20")


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def simulate(monkeypatch, capsys, tmp_path) -> Callable[..., Ended]:
    """Calls the command in this process, in an empty folder; the file is scan.h5."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, output: str = "scan.h5") -> Ended:
        monkeypatch.setattr(sys, "argv", ["ptyinr-stream", "simulate", output, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        streams = capsys.readouterr()
        return Ended(int(ended.value.code or 0), streams.out, streams.err)

    return call


def test_alone_it_gives_a_scan_as_a_zone_plate_beamline_measures_it(simulate, tmp_path):
    ended = simulate()
    assert (ended.status, ended.err) == (0, "")
    scan = read_scan(tmp_path / "scan.h5")
    assert scan.counts.shape == (400, 128, 128)
    assert scan.counts.dtype == np.uint16
    assert scan.mask is None
    assert scan.geometry.energy_kev == pytest.approx(10)
    assert scan.counts.sum() / 400 == pytest.approx(1e6, rel=1e-3)
    assert scan.truth.object.shape == (384, 384)
    assert ended.out.splitlines() == [
        "scan.h5",
        "400 frames of 128 x 128 pixels, object of 384 x 384 pixels of 8.806 nm, uint16",
        f"counts: {scan.counts.sum() / 400:.4g} a frame, {scan.counts.mean():.4g} a pixel, at most {scan.counts.max()}",
        "step 114.5 nm: windows overlap by 89.8%; the disc that holds 90 % of the light is 286.7 nm wide, and overlaps "
        "by 60.1%",
    ]


@pytest.mark.parametrize("kind", ["star", "maze", "cells"])
@pytest.mark.parametrize("how", ["raster", "snake", "jittered", "spiral"])
def test_the_truth_in_the_file_explains_its_counts(simulate, tmp_path, kind, how):
    ended = simulate(*SMALL, "--object", kind, "--scan", how, "--noise", "none", "--photons", 1e5)
    assert ended.status == 0, ended.err
    scan = read_scan(tmp_path / "scan.h5")
    truth = scan.truth
    again = expected_counts(truth.object, truth.probe, truth.positions_px)
    assert scan.counts.dtype == np.float32
    assert np.abs(scan.counts - again).max() < 1e-5 * again.max()
    offset = truth.positions_px - scan.positions_m / scan.geometry.pixel_m
    assert np.ptp(offset, axis=0) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("lens", ["zone-plate", "laue"])
def test_the_lens_is_the_one_that_was_asked_for(simulate, tmp_path, lens):
    ended = simulate(*SMALL, "--probe", lens, "--laue-focus-mm", "9x9", "--astigmatism-um", 4, "--stop-um", 120)
    assert ended.status == 0, ended.err
    (probe,) = read_scan(tmp_path / "scan.h5").truth.probe
    far = np.abs(np.fft.fftshift(np.fft.fft2(probe)))
    lit = far > 0.5 * far.max()
    rows, columns = np.flatnonzero(lit.any(1)), np.flatnonzero(lit.any(0))
    assert bool(lit[24, 32]) == (lens == "laue")
    assert lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() == (lens == "laue")


@pytest.mark.parametrize(("noise", "whole"), [("photons", True), ("poisson", False), ("gaussian", False)])
def test_noise_decides_whether_counts_are_whole(simulate, tmp_path, noise, whole):
    assert simulate(*SMALL, "--noise", noise, "--alpha", 50, "--sigma", 3).status == 0
    scan = read_scan(tmp_path / "scan.h5")
    assert scan.whole == whole
    if noise == "poisson":
        photons = scan.counts / scan.counts[scan.counts > 0].min()
        assert np.abs(photons - np.rint(photons)).max() < 1e-2


def test_the_papers_simulation_is_one_command(simulate, tmp_path):
    random = np.random.default_rng(0)
    sample = np.exp(1j * random.normal(size=(241, 241))) * 0.2
    spot = np.exp(-np.square(np.mgrid[-56:56, -56:56]).sum(0) / 30) * (1000 + 0j)
    np.save("object.npy", sample)
    np.save("probe.npy", spot)
    ended = simulate("--object", "object.npy", "--probe", "probe.npy", "--crop-probe", "--window", 64, "--overlap", 0.5)
    assert ended.status == 0, ended.err
    truth = read_scan(tmp_path / "scan.h5").truth
    assert truth.positions_px.tolist() == [[32 * i, 32 * j] for i in range(6) for j in range(6)]
    assert np.array_equal(truth.probe[0], spot[24:-24, 24:-24].astype(np.complex64))  # its photons are as given
    assert np.allclose(truth.object, sample / np.abs(sample).max(), atol=1e-6)
    assert "windows overlap by 50.0%; the disc" in ended.out
    assert ended.out.rstrip().endswith("and does not overlap")


def test_a_probes_file_sets_the_window_and_may_have_modes(simulate, tmp_path):
    with h5py.File("probe.h5", "w") as file:
        file["probe"] = np.exp(-np.square(np.mgrid[-20:20, -24:24]).sum(0) / 90) * np.ones((2, 1, 1)) * (30 + 0j)
    assert simulate("--probe", "probe.h5", "--object-px", 96, "--overlap", 0.8, "--photons", 1e4).status == 0
    scan = read_scan(tmp_path / "scan.h5")
    assert (scan.geometry.window, scan.truth.probe.shape) == ((40, 48), (2, 40, 48))
    assert scan.counts.sum() / len(scan.counts) == pytest.approx(1e4, rel=0.02)


def test_a_step_in_micrometres_may_differ_along_the_axes_and_end_between_pixels(simulate, tmp_path):
    ended = simulate("--object-px", 96, "--window", 48, "--defocus-um", 20, "--step-um", "0.2x0.11")
    assert ended.status == 0, ended.err
    steps = np.diff(read_scan(tmp_path / "scan.h5").positions_m, axis=0)
    assert np.unique(steps[:, 1].round(12)).max() == pytest.approx(0.11e-6)
    assert steps[:, 0].max() == pytest.approx(0.2e-6)
    assert "step 200 x 110 nm" in ended.out


def test_a_seed_is_a_file(simulate, tmp_path):
    scans = []
    for seed in (1, 1, 2):
        assert simulate(*SMALL, "--scan", "jittered", "--dead", 0.01, "--object", "cells", "--seed", seed).status == 0
        scans.append(read_scan(tmp_path / "scan.h5"))
    one, same, other = scans
    assert np.array_equal(one.counts, same.counts)
    for name in ("counts", "positions_m", "mask"):
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_garbage_in_masked_pixels_carries_no_weight_in_a_reconstruction(simulate, tmp_path):
    from ptyinr.trainer import TrainerSettings
    from ptyinr_stream.offline import reconstruct

    assert simulate(*SMALL, "--dead", 0.02, "--gap-px", 3, "--photons", 3e5).status == 0
    scan = read_scan(tmp_path / "scan.h5")
    assert 0.02 < (~scan.mask).mean() < 0.1
    results = []
    for garbage in (0, 60_000):
        counts = np.where(scan.mask, scan.counts, garbage).astype(scan.counts.dtype)
        filled = replace(scan, counts=counts)
        results.append(reconstruct(filled, tmp_path / "out.h5", seconds=0, settings=TrainerSettings(seed=0)))
    assert np.array_equal(results[0].object, results[1].object)
    assert np.array_equal(results[0].probe, results[1].probe)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--object", "cat"), "--object cat is unknown; there are: star, maze, cells, or a .npy file"),
        (("--object", "no.npy"), "no.npy: cannot be read as an object"),
        (("--object", "real.npy"), "real.npy: holds float64 (40, 40): finite complex numbers (H, W) are needed"),
        (("--object", "complex.npy", "--object-px", "64"), "--object-px is for objects that are drawn"),
        (("--object-px", "big"), "--object-px is 'big': give one number, or axis 0 x axis 1, such as 128 or 128x96"),
        (("--object-px", "200000"), "--object-px is 200000 x 200000: more than memory is for: give up to 11585"),
        (("--object-px", "200000", "--window", "200000"), "--window is 200000 x 200000: more than memory is for"),
        (("--object-px", "100"), "the window of (128, 128) pixels does not fit on the object of (100, 100)"),
        (("--floor", "0"), "floor is 0.0"),
        (("--probe", "pinhole"), "--probe pinhole is unknown; there are: zone-plate, laue, or a .npy or .h5 file"),
        (("--probe", "no.npy"), "no.npy: cannot be read as a probe"),
        (("--probe", "complex.npy", "--window", "32"), "has (40, 40) pixels, not (32, 32): --crop-probe takes its"),
        (("--probe", "complex.npy", "--window", "64", "--crop-probe"), "cannot be cropped to (64, 64)"),
        (("--window", "7"), "at least 8 x 8"),
        (("--window", "1x2x3"), "--window is '1x2x3': give one number"),
        (("--stop-um", "300"), "stop_m is 0.0003"),
        (("--outermost-zone-nm", "3"), "detector pixels along axis 0, the window has 128: widen it, or move"),
        (("--defocus-um", "1000"), "a defocus of 1000 um along axis 0"),
        (("--probe", "laue", "--laue-um", "0"), "aperture_m[0] is 0.0"),
        (("--energy-kev", "0"), "--energy-kev is 0: it must be positive"),
        (("--distance-m", "-1"), "distance_m is -1.0"),
        (("--object-px", "128x384", "--scan", "spiral"), "--scan spiral takes one frame: the window has 0 x 256"),
        (("--object-px", "128"), "--scan raster takes one frame: the window has 0 x 0 pixels of room"),
        (("--scan", "random"), "--scan random is unknown; there are: raster, snake, jittered, spiral"),
        (("--overlap", "1"), "overlap is 1.0: it must lie in [0, 1)"),
        (("--overlap", "0.5", "--step-um", "0.1"), "--overlap and --step-um say the same thing twice"),
        (("--step-um", "-0.1"), "--step-um is -1e-07: it must be positive"),
        (("--step-um", "1e-5"), "are more than memory is for: give a larger step"),
        (("--noise", "pink"), "noise 'pink' is unknown; there are: none, photons, poisson, gaussian, mixed"),
        (("--alpha", "0"), "alpha is 0.0"),
        (("--noise", "gaussian", "--sigma", "1e38"), "with gaussian noise, alpha 10 and sigma 1e+38, a pixel counts"),
        (("--noise", "gaussian", "--sigma", "1e10"), "at most 2.15e+09 fit: give fewer photons, a larger alpha or a"),
        (("--noise", "poisson", "--alpha", "1e-9"), "not a photon arrives in a trusted pixel: 400 frames"),
        (("--photons", "-1"), "photons is -1.0"),
        (("--photons", "1e18"), "the brightest pixel would count"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(simulate, tmp_path, arguments, complaint):
    np.save("real.npy", np.ones((40, 40)))
    np.save("complex.npy", np.ones((40, 40), complex))
    ended = simulate(*arguments)
    assert ended.status == 2, ended
    assert re.fullmatch(r"error: [^\n]+\n", ended.err)
    assert complaint in ended.err
    assert not (tmp_path / "scan.h5").exists()


@pytest.mark.parametrize(("output", "complaint"), [("no/scan.h5", "does not exist"), (".", "is a folder")])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_simulated(simulate, output, complaint):
    ended = simulate(output=output)
    assert ended.status == 2
    assert complaint in ended.err


@pytest.mark.parametrize("option", ["--probe", "--object"])
def test_a_scan_is_never_written_over_what_it_is_made_of(simulate, tmp_path, option):
    np.save("field.npy", np.ones((40, 40), complex))
    before = (tmp_path / "field.npy").read_bytes()
    ended = simulate(option, "field.npy", output=str(tmp_path / "field.npy"))
    assert ended.status == 2
    assert "field.npy: would be written over field.npy, which it is made from: give another file" in ended.err
    assert (tmp_path / "field.npy").read_bytes() == before


def test_counts_that_are_not_whole_are_replayed_only_when_they_may_be_rounded(simulate, monkeypatch, capsys):
    assert simulate(*SMALL, "--noise", "mixed").status == 0
    for more, complaint in (((), "are not whole numbers"), (("--round",), "nobody has come for the documents")):
        roads = [f"--{road}=tcp://127.0.0.1:*" for road in ("documents", "frames", "positions")]
        monkeypatch.setattr(sys, "argv", ["ptyinr-stream", "replay", "scan.h5", "--wait=0.1", *roads, *more])
        with pytest.raises(SystemExit, match="2"):
            cli.main()
        assert complaint in capsys.readouterr().err


def test_the_command_needs_no_torch(tmp_path):
    code = (
        "import sys; from ptyinr_stream import cli; sys.argv = ['ptyinr-stream', 'simulate', 'a.h5', '--object-px', "
        "'160']\ntry: cli.main()\nexcept SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
