"""A reconstruction is judged against everything that is given, in its right place, and only where it was seen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ptyinr.dataset import Dataset
from ptyinr.simulate import expected_counts
from ptyinr.types import Batch, ScanGeometry, Snapshot
from ptyinr_stream.comparison import truth_of
from ptyinr_stream.errors import ConfigError
from ptyinr_stream.evaluation import evaluate
from ptyinr_stream.formats import RecordedScan, Truth
from ptyinr_stream.halves import split_halves
from ptyinr_stream.publishers.files import write_result
from ptyinr_stream.report import page, rows, write_report
from ptyinr_stream.results import read_result

SHAPE, WINDOW = (120, 110), (32, 28)
CANVAS, ORIGIN = (150, 140), (14, 17)
"""A reconstruction's array, and where the truth's first pixel lies in it."""


@pytest.fixture(scope="module")
def scan() -> RecordedScan:
    """Twelve lines of twelve frames over smooth structures, Poisson noise, the truth inside."""
    random = np.random.default_rng(3)
    phase, absorption = (gaussian_filter(random.normal(size=SHAPE), 2.5) for _ in range(2))
    field = (0.8 + 0.1 * np.tanh(absorption / absorption.std())) * np.exp(0.5j * phase / phase.std())
    rows_, columns = np.mgrid[-16:16, -14:14]
    probe = 60 * np.exp((0.03j - 0.02) * (rows_**2 + columns**2))
    corners = np.stack(np.mgrid[:12, :12], -1).reshape(-1, 2) * np.array((7.9, 7.3)) + random.uniform(0, 1, (144, 2))
    geometry = ScanGeometry(1e-10, 1.0, 75e-6, WINDOW)
    counts = random.poisson(expected_counts(field, probe, corners)).astype(np.uint16)
    truth = Truth(field.astype(np.complex64), probe[None].astype(np.complex64), corners)
    return RecordedScan(counts, corners * geometry.pixel_m, geometry, name="cells", truth=truth)


def snapshot_of(scan: RecordedScan, shift: tuple[int, int] = (0, 0), error: float = 0.0, seed: int = 0) -> Snapshot:
    """The truth on a larger canvas, as a blind reconstruction finds it: moved, tilted, and not without error."""
    truth, random = scan.truth, np.random.default_rng(seed)
    ramp = np.exp(1j * (0.05 * np.arange(SHAPE[0])[:, None] - 0.03 * np.arange(SHAPE[1])))
    across = np.exp(-1j * (0.05 * np.arange(WINDOW[0])[:, None] - 0.03 * np.arange(WINDOW[1])))
    noise = error * (random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE))
    field, coverage = np.ones(CANVAS, np.complex64), np.zeros(CANVAS, np.float32)
    there = tuple(slice(o, o + n) for o, n in zip(ORIGIN, SHAPE, strict=True))
    field[there] = (truth.object + noise) * ramp
    lit = np.zeros(SHAPE, np.float32)
    lit[2:-4, 2:-4] = 1
    coverage[there] = lit
    return Snapshot(
        uid=scan.name,
        step=7,
        frames=len(scan.counts),
        object=np.roll(np.where(coverage > 0, field, 1), shift, (0, 1)).astype(np.complex64),
        probe=np.roll(truth.probe * across, shift, (1, 2)).astype(np.complex64),
        coverage=np.roll(coverage, shift, (0, 1)),
        indices=np.arange(len(scan.counts)),
        positions_px=truth.positions_px + ORIGIN,
        pixel_m=scan.geometry.pixel_m,
    )


@pytest.fixture(scope="module")
def written(scan, tmp_path_factory):
    """A function that writes a reconstruction of the scan and reads it back."""
    folder = tmp_path_factory.mktemp("results")

    def write(name="result", holdout=10, **what):
        configuration = json.dumps({"settings": {"holdout": holdout}})
        path = folder / f"{name}.h5"
        write_result(path, snapshot_of(scan, **what), {"configuration": configuration, "seconds": 12.5})
        return read_result(path)

    return write


def test_what_was_written_is_read_back(scan, written):
    result = written()
    snapshot = snapshot_of(scan)
    for name in ("object", "probe", "coverage", "indices", "positions_px"):
        assert np.array_equal(getattr(result, name), getattr(snapshot, name))
    assert result.pixel_m == pytest.approx(scan.geometry.pixel_m)
    assert (result.name, result.holdout, result.window) == ("result", 10, WINDOW)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1)])
def test_the_truth_elsewhere_and_tilted_is_still_the_truth(scan, written, shift):
    found = evaluate(written(shift=shift), scan=scan).compared
    assert found.placed.shift_px == pytest.approx((-shift[0], -shift[1]), abs=1e-6)
    assert found.placed.ramp_rad_px == pytest.approx((0.05, -0.03), abs=1e-5)
    assert min(found.object.amplitude_psnr_db, found.object.phase_psnr_db) > 80
    assert found.object.pixels == 90 * 82
    assert found.probe_overlap > 0.9999
    assert found.phase_correlation > 0.999


def test_an_error_has_the_psnr_that_it_has(scan, written):
    found = evaluate(written(error=0.02), scan=scan).compared
    assert found.object.amplitude_psnr_db == pytest.approx(-20 * math.log10(0.02), abs=0.5)


def test_a_ramp_is_an_error_where_the_probe_was_known(scan, written):
    assert evaluate(written(), scan=scan, ramp=False).compared.object.phase_psnr_db < 15


def test_the_unseen_is_not_compared(scan, written):
    result = written()
    hole = (slice(60, 80), slice(50, 90))
    field, coverage = result.object.copy(), result.coverage.copy()
    field[hole], coverage[hole] = 1, 0
    found = evaluate(replace(result, object=field, coverage=coverage), scan=scan).compared
    assert found.object.pixels == 90 * 82 - 800
    assert found.object.phase_psnr_db > 60


def test_photon_noise_is_all_that_is_left(scan, written):
    evaluation = evaluate(written(), scan=scan)
    assert np.flatnonzero(evaluation.heldout)[:3].tolist() == [5, 15, 25]
    assert evaluation.error.heldout == pytest.approx(evaluation.error.trained, rel=0.15)
    exact = evaluate(truth_of(scan), scan=scan).error
    assert exact.trained == pytest.approx(exact.photon_noise, rel=0.03)
    assert (evaluation.noise, evaluation.noise_alone) == (None, evaluation.error.photon_noise)
    assert exact.trained < evaluation.error.trained < 0.2  # whose rim is unknown
    assert evaluation.error.scale == pytest.approx(1, abs=0.01)
    told = evaluation.numbers()["amplitude_error"]
    assert (told["heldout_frames"], told["trained_frames"]) == (14, 130)


def test_without_a_hold_out_no_frame_is_called_held_out(scan, written):
    error = evaluate(written(holdout=0), scan=scan).error
    assert error.heldout is None
    assert error.trained < 0.3


def test_where_pixels_were_held_out_their_error_is_told_and_no_frame_is_called_held_out(scan, written):
    result = written()
    result = replace(result, attributes=result.attributes | {"heldout_pixels": 0.25})
    evaluation = evaluate(result, scan=scan)
    assert not evaluation.heldout.any()
    assert evaluation.error.heldout == pytest.approx(evaluation.error.trained, rel=0.1)
    # Other counts where the trainer's own dataset says that it did not look, of the same mean, are an error there.
    held = held_out(scan, 4)
    assert held.mean() == pytest.approx(0.25, rel=0.02)
    counts = np.where(held, np.roll(scan.counts, 40, axis=0), scan.counts)
    spoiled = evaluate(result, scan=replace(scan, counts=counts))
    assert spoiled.error.heldout > 3 * evaluation.error.heldout
    assert spoiled.error.trained == pytest.approx(evaluation.error.trained, rel=0.01)
    assert spoiled.heldout_pixels.mean() == spoiled.error.heldout
    table = dict(rows(spoiled))
    assert table["amplitude error, held-out pixels, 1 in 4"] == f"{spoiled.error.heldout:.4f} photons"
    assert table["amplitude error, other pixels"] == f"{spoiled.error.trained:.4f} photons"
    told = spoiled.numbers()["amplitude_error"]
    assert (told["heldout"], told["heldout_frames"], told["heldout_pixels"]) == (spoiled.error.heldout, 0, 0.25)
    assert "pixels held out" in page(spoiled)


def held_out(scan: RecordedScan, every: int) -> np.ndarray:
    """(n, h, w) True at the pixels that the trainer holds out, DC in the centre."""
    frames = np.arange(len(scan.counts))
    dataset = Dataset(WINDOW, every, torch.device("cpu"))
    dataset.append(Batch(frames, scan.counts, scan.positions_m), np.zeros((len(frames), 2)))
    dataset.hold_out_pixels()
    return np.fft.fftshift(dataset.judged(frames).numpy() >= 0, axes=(1, 2))


@pytest.mark.parametrize(("gain", "sigma"), [(2700.0, 0.0), (2700.0, 90.0), (1.0, 40.0)])
def test_counts_that_are_no_photons_are_called_counts_and_noise_alone_is_in_counts_too(scan, gain, sigma):
    random, truth = np.random.default_rng(5), scan.truth
    expected = 0.05 * expected_counts(truth.object, truth.probe, truth.positions_px)
    counts = gain * random.poisson(expected) + random.normal(0, sigma, expected.shape)
    noisy = replace(scan, counts=counts.clip(0).astype(np.float32))
    evaluation = evaluate(truth_of(noisy), scan=noisy)
    assert evaluation.noise.gain == pytest.approx(gain, rel=0.02)
    assert evaluation.error.trained == pytest.approx(evaluation.noise_alone, rel=0.1)
    table = dict(rows(evaluation))
    assert table["amplitude error, 144 other frames"] == f"{evaluation.error.trained:.4f} counts"
    alone = table["amplitude error of noise alone"]
    assert f"{evaluation.noise_alone:.4f} counts (by estimate {evaluation.noise.gain:.4g} a photon" in alone
    assert ("sigma" in alone) == (sigma > 0)
    assert not any(value.endswith("photons") for value in table.values())
    told = evaluation.numbers()["amplitude_error"]
    assert (told["unit"], told["counts_a_photon"]) == ("counts", evaluation.noise.gain)
    assert "mean squared difference of amplitudes / counts" in page(evaluation)


def test_a_reference_is_an_opinion(written):
    evaluation = evaluate(written(error=0.05), reference=written("other", shift=(1, 1), error=0.05, seed=1))
    assert evaluation.compared is None
    assert evaluation.referred.phase_correlation > 0.97
    assert evaluation.referred.probe_overlap > 0.999


def test_a_profile_lies_in_the_same_place_with_and_without_the_truth(scan, written):
    result, segment = written(shift=(2, -1)), ((0.2e-6, 0.1e-6), (0.2e-6, 0.8e-6))
    alone, beside = (evaluate(result, segments=(segment,), scan=given).lines[0] for given in (None, scan))
    assert alone.other_phase is None
    assert beside.phase.values == pytest.approx(beside.other_phase.values, abs=0.01)
    assert beside.amplitude.values == pytest.approx(beside.other_amplitude.values, abs=0.01)
    pixels = 1e-9 * 30  # the shift that only the truth reveals is two pixels of 42 nm
    there = alone.amplitude.distance_m > pixels
    assert np.corrcoef(alone.amplitude.values[there], beside.amplitude.values[there])[0, 1] > 0.3


def test_half_the_data_twice_tells_the_resolution(scan):
    asked = []

    def reconstruct(half, path, number):
        asked.append((half.name, len(half.counts), half.truth, number, path.parent.is_dir()))
        whole = snapshot_of(scan, shift=(3 * number, -number), error=0.15, seed=10 + number)
        corners = scan.truth.positions_px[number::2] + ORIGIN
        return replace(whole, frames=72, indices=np.arange(72), positions_px=corners)

    halves = split_halves(scan, 3.0, reconstruct)
    assert asked == [("cells-even", 72, None, 0, True), ("cells-odd", 72, None, 1, True)]
    assert halves.frames == (72, 72)
    # Structures of sigma 2.5 px fade into white noise long before the pixel's limit, and far above the field's.
    assert 4 < halves.rings.resolution_m / scan.geometry.pixel_m[1] < 20
    assert halves.rings.correlation[:2].min() > 0.9


def test_three_frames_are_too_few_for_two_halves(scan):
    few = replace(scan, counts=scan.counts[:3], positions_m=scan.positions_m[:3], truth=None)
    with pytest.raises(ConfigError, match=r"^cells: has 3 frames: too few for two halves, of two at least"):
        split_halves(few, 3.0, lambda *_: pytest.fail("there is nothing to reconstruct"))


@pytest.mark.parametrize(
    ("frames", "confidences", "said"),
    [
        (9, (0.0, 0.01), "9 and 9 frames, a probe is sought in 60; the even and odd frames' start was not sure"),
        (72, (0.2, 0.01), r"compared: the odd frames' start was not sure of its probe: give a scan .* --probe"),
        (9, (0.2, None), "they have 9 and 9 frames, a probe is sought in 60: give a scan of more frames"),
        (72, (0.2, None), "cannot be compared: the objects share less than 16 x 16 known pixels"),
    ],
)
def test_halves_that_share_nothing_name_too_few_frames_and_starts_that_were_not_sure(scan, frames, confidences, said):
    def reconstruct(half, path, number):
        metrics = {} if confidences[number] is None else {"start_confidence": confidences[number]}
        positions = scan.truth.positions_px[number::2] + ORIGIN
        unseen = {"coverage": np.zeros(CANVAS, np.float32), "indices": np.arange(72), "positions_px": positions}
        return replace(snapshot_of(scan), frames=frames, metrics=metrics, **unseen)

    with pytest.raises(ConfigError, match=said):
        split_halves(scan, 3.0, reconstruct)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": 100}, "result: holds frames up to 143, cells has 100"),
        ({"window": (32, 32)}, r"windows of \(32, 28\), cells has \(32, 32\)"),
        ({"distance_m": 1.1}, "pixels of 41.67 x 47.62 nm, cells has 45.83 x 52.38 nm"),
    ],
)
def test_what_is_not_of_the_same_scan_is_refused(scan, written, change, said):
    n, window = change.get("counts", 144), change.get("window", WINDOW)
    geometry = replace(scan.geometry, window=window, distance_m=change.get("distance_m", 1.0))
    counts = np.zeros((n, *window), np.uint16)
    with pytest.raises(ConfigError, match=said):
        evaluate(written(), scan=RecordedScan(counts, scan.positions_m[:n], geometry, name="cells"))


def test_a_result_of_other_frames_is_refused(written):
    result = written()
    with pytest.raises(ConfigError, match="no frame is also in result"):
        evaluate(result, reference=replace(result, indices=result.indices + 1000))
    with pytest.raises(ConfigError, match=r"pixels of 41\.67 x 47\.62 nm, result has 40 x 40 nm"):
        evaluate(result, truth=replace(result, pixel_m=(4e-8, 4e-8)))


def test_a_truth_that_is_too_small_for_its_windows_is_refused(scan, written):
    small = replace(scan.truth, object=scan.truth.object[:100])
    with pytest.raises(ConfigError, match=r"cells: truth: positions_px reach .* leave the object of \(100, 110\)"):
        evaluate(written(), scan=replace(scan, truth=small))


def test_a_line_outside_of_the_field_says_how_far_it_reaches(written):
    with pytest.raises(ConfigError, match=r"profile's end \(0, 90\) um lies outside of the field: rows reach from 0"):
        evaluate(written(), segments=(((0, 0), (0, 90e-6)),))


def test_files_that_are_no_results_are_refused_with_what_is_missing(tmp_path, scan):
    path = tmp_path / "no.h5"
    with pytest.raises(ConfigError, match=r"no\.h5: there is no such file"):
        read_result(path)
    path.write_bytes(b"text")
    with pytest.raises(ConfigError, match=r"no\.h5: not a readable HDF5 file"):
        read_result(path)
    with h5py.File(path, "w") as file:
        file["object"] = np.ones((60, 60), np.complex64)
        file["probe"] = np.ones((32, 28), np.complex64)
    with pytest.raises(ConfigError, match=r"no\.h5: has no dataset positions_px of numbers"):
        read_result(path)
    with h5py.File(path, "a") as file:
        file["positions_px"] = np.array([(0.0, 40.0)])
    with pytest.raises(ConfigError, match=r"windows of \(32, 28\) leave the object of \(60, 60\)"):
        read_result(path)


def test_a_result_of_another_program_needs_three_datasets_only(tmp_path, scan):
    snapshot = snapshot_of(scan)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["object"], file["probe"], file["positions_px"] = snapshot.object, snapshot.probe[0], snapshot.positions_px
    other = read_result(tmp_path / "other.h5")
    assert (other.probe.shape, other.pixel_m, other.holdout) == ((1, *WINDOW), None, 0)
    assert other.seen.sum() < np.prod(CANVAS)
    assert evaluate(other, scan=scan).compared.object.phase_psnr_db > 40
    with pytest.raises(ConfigError, match="other: has no attribute pixel_m: give the scan"):
        evaluate(other)


# The report


@pytest.fixture(scope="module")
def full(scan, written):
    halves = split_halves(
        scan,
        3.0,
        lambda half, _, k: replace(
            snapshot_of(scan, error=0.1, seed=k),
            indices=np.arange(72),
            frames=72,
            positions_px=scan.truth.positions_px[k::2] + ORIGIN,
        ),
    )
    segments = (((0.2e-6, 0.1e-6), (0.2e-6, 0.8e-6)), ((0.1e-6, 0.1e-6), (1.5e-6, 0.9e-6)))
    found = evaluate(written("<best> & last", error=0.02), scan=scan, reference=written("old"), segments=segments)
    return replace(found, halves=halves)


@pytest.fixture(scope="module")
def numbers(full, tmp_path_factory):
    """The file of numbers beside the report."""
    return write_report(full, tmp_path_factory.mktemp("report") / "report.html")


def test_the_page_stands_alone_and_is_well_formed(numbers):
    html = numbers.with_name("report.html").read_text()
    links = [part.split('"')[0] for part in html.split('href="')[1:]]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
    assert "<script" not in html
    assert "<h1>&lt;best&gt; &amp; last</h1>" in html
    titles = [part.split("<")[0] for part in html.split("<h2>")[1:]]
    assert titles == ["Reconstruction", "Truth", "Reference", "Split halves", "Profiles", "Amplitude error"]
    drawings = ["<svg" + part.split("</svg>")[0] + "</svg>" for part in html.split("<svg")[1:]]
    assert [ElementTree.fromstring(drawing).tag for drawing in drawings] == 6 * ["{http://www.w3.org/2000/svg}svg"]
    names = [{part.split('"')[0] for part in drawing.split('id="')[1:]} for drawing in drawings]
    for one, two in pairwise(names):  # what is referred to must not be another figure's
        assert not {name for name in one & two if len(name) == 11 and name[0] in "pm"}
        assert any(len(name) == 11 and name[0] in "pm" for name in one)


def test_the_page_holds_only_what_was_asked_for(written):
    html = page(evaluate(written()))
    assert [part.split("<")[0] for part in html.split("<h2>")[1:]] == ["Reconstruction"]


def test_the_numbers_are_json(full, numbers):
    told = json.loads(numbers.read_text())
    assert numbers.name == "report.json"
    assert set(told) >= {"truth", "reference", "amplitude_error", "split_halves", "profiles", "pixel_nm", "frames"}
    assert told["truth"]["object"]["phase_psnr_db"] == pytest.approx(full.compared.object.phase_psnr_db)
    assert len(told["profiles"]) == 2
    assert len(told["split_halves"]["correlation"]) == len(told["split_halves"]["half_bit"])


def test_what_is_equal_is_null_in_json(written, scan):
    same = evaluate(written(), scan=scan)
    endless = replace(same.compared.object, amplitude_psnr_db=math.inf)
    same = replace(same, compared=replace(same.compared, object=endless))
    assert same.numbers()["truth"]["object"]["amplitude_psnr_db"] is None


def test_the_table_has_units(full):
    table = dict(rows(full))
    assert table["reconstruction"] == "144 frames, 7 steps, 12 s"
    assert table["sample pixel"] == "41.67 x 47.62 nm"
    assert table["object amplitude and truth"].startswith("PSNR 3")
    assert table["amplitude error, 14 held-out frames"].endswith(" photons")
    assert "resolution, half-bit" in table
