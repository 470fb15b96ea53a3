"""Scan files: written, read, and broken in every way."""

import shutil

import h5py
import numpy as np
import pytest

from ptyinr.types import ScanGeometry, ScanRange
from ptyinr_stream.data import siemens_star, siemens_star_reference
from ptyinr_stream.errors import ScanFileError
from ptyinr_stream.formats import RecordedScan, Truth
from ptyinr_stream.formats.ptyinr_h5 import read_scan, write_scan


def scan(counts, **more):
    rng = np.random.default_rng(1)
    geometry = ScanGeometry(1.5e-10, 0.5, 55e-6, counts.shape[1:])
    positions_m = rng.normal(0, 1e-6, (len(counts), 2))
    return RecordedScan(counts, positions_m, geometry, angle_deg=-12.5, name="scan_7", **more)


def some_counts(dtype=np.uint16, shape=(7, 10, 13), most=300):
    return np.random.default_rng(0).integers(0, most, shape, dtype)


def require_complaint(path, name, value, complaint):
    """In one line, once a dataset holds another value, or is missing for None."""
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    with pytest.raises(ScanFileError, match=complaint) as caught:
        read_scan(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "scan_7.h5"
    write_scan(path, scan(some_counts()))
    return path


@pytest.mark.parametrize(
    "counts",
    [
        some_counts(),
        some_counts(shape=(1, 16, 8)),
        some_counts(np.uint32, most=2**20),
        some_counts(np.uint32, most=2**32 - 1),
        np.arange(256 * 256, dtype=np.uint32).reshape(4, 128, 128),
        np.full((3, 8, 8), 65534, np.uint16),
        np.zeros((2, 9, 9), np.uint16),
    ],
)
def test_a_scan_is_read_as_it_was_written(tmp_path, counts):
    written = scan(counts)
    write_scan(tmp_path / "scan_7.h5", written)
    read = read_scan(tmp_path / "scan_7.h5")
    assert read.counts.dtype == counts.dtype
    assert np.array_equal(read.counts, counts)
    assert np.allclose(read.positions_m, written.positions_m, rtol=0, atol=1e-18)
    assert np.allclose(
        [read.geometry.wavelength_m, read.geometry.distance_m, read.geometry.detector_pixel_m], [1.5e-10, 0.5, 55e-6]
    )
    assert (read.geometry.window, read.angle_deg, read.name) == (counts.shape[1:], -12.5, "scan_7")


def test_the_file_has_dc_at_the_corner_and_points_in_micrometres_by_axis(tmp_path):
    counts = np.zeros((2, 8, 9), np.uint16)
    counts[:, 4, 4] = 49
    counts[:, 5, 4] = 4
    positions_m = np.array([[1e-6, 2e-6], [3e-6, 4e-6]])
    write_scan(tmp_path / "a.h5", RecordedScan(counts, positions_m, ScanGeometry(1e-10, 1.0, 75e-6, (8, 9))))
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["diffamp"][0, 0, 0] == 7
        assert file["diffamp"][0, 1, 0] == 2
        assert np.allclose(file["points"], [[1, 3], [2, 4]])
        assert file["ccd_pixel_um"][()] == pytest.approx(75)


def test_large_counts_late_in_the_file_widen_all(tmp_path, path, monkeypatch):
    monkeypatch.setattr("ptyinr_stream.formats.ptyinr_h5._BLOCK_BYTES", 1)  # one frame at a time
    with h5py.File(path, "r+") as file:
        file["diffamp"][5, 0, 0] = 256  # 65536 counts
    counts = read_scan(path).counts
    assert counts.dtype == np.uint32
    assert counts[5, 5, 6] == 65536
    assert np.array_equal(counts[:5], some_counts()[:5])


def test_the_largest_uint16_is_not_used_for_counts_because_detectors_mark_bad_pixels_with_it(path):
    with h5py.File(path, "r+") as file:
        file["diffamp"][0, 0, 0] = np.sqrt(65535)
    assert read_scan(path).counts.dtype == np.uint32


def test_beamline_files_may_lack_the_angle_and_hold_more(path):
    with h5py.File(path, "r+") as file:
        del file["angle"]
        file["ic"] = np.ones(7)
        file["lambda_nm"][...] = 0.2
        del file["z_m"]
        file["z_m"] = [0.5]
    read = read_scan(path)
    assert (read.angle_deg, read.geometry.wavelength_m) == (0.0, pytest.approx(2e-10))


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("diffamp", None, "there is no dataset diffamp"),
        ("points", None, "there is no dataset points"),
        ("lambda_nm", None, "there is no dataset lambda_nm"),
        ("z_m", None, "there is no dataset z_m"),
        ("ccd_pixel_um", None, "there is no dataset ccd_pixel_um"),
        ("diffamp", np.ones((7, 10)), r"diffamp has the shape \(7, 10\): \(frames, rows, columns\) is needed"),
        ("diffamp", np.ones((0, 10, 13)), "frames, rows, columns"),
        ("diffamp", np.ones((7, 10, 13), complex), "diffamp holds complex128: real numbers are needed"),
        ("diffamp", np.full((7, 10, 13), -1.0), "diffamp of frame 0 is not the square root of photon counts"),
        ("diffamp", np.full((7, 10, 13), np.inf), "diffamp of frame 0"),
        ("diffamp", np.full((7, 10, 13), 65536.0), "diffamp of frame 0"),
        ("diffamp", np.ones((7, 4, 4)), "at least 8 x 8"),
        ("points", np.ones((7, 2)), r"points has the shape \(7, 2\): \(2, 7\) is needed for 7 diffamp"),
        ("points", np.ones((2, 6)), r"\(2, 7\) is needed"),
        (
            "points",
            np.array([[0, 1, np.nan, 3, 4, 5, 6], [0, 1, 2, 3, np.inf, 5, 6]]),
            r"not finite for frames \[2, 4\]",
        ),
        ("lambda_nm", 0.0, "lambda_nm is 0.0: it must be positive"),
        ("z_m", -1.0, "z_m is -1.0: it must be positive"),
        ("z_m", np.ones(2), "z_m has the shape .* one number is needed"),
        ("ccd_pixel_um", np.nan, "ccd_pixel_um is nan: a finite number is needed"),
        ("ccd_pixel_um", "75", "ccd_pixel_um holds object: real numbers are needed"),
        ("angle", np.inf, "angle is inf: a finite number is needed"),
    ],
)
def test_a_wrong_dataset_is_named_in_one_line(path, name, value, complaint):
    require_complaint(path, name, value, complaint)


def test_a_single_bad_amplitude_is_found_with_its_frame(path):
    with h5py.File(path, "r+") as file:
        file["diffamp"][4, 3, 2] = np.nan
    with pytest.raises(ScanFileError, match="diffamp of frame 4"):
        read_scan(path)


def test_a_missing_file_a_folder_and_a_file_of_another_kind_are_named(tmp_path):
    (tmp_path / "text.h5").write_text("diffamp")
    for name, complaint in (("none.h5", "no such file"), (".", "no such file"), ("text.h5", "not a readable HDF5")):
        with pytest.raises(ScanFileError, match=complaint):
            read_scan(tmp_path / name)


def test_a_group_in_place_of_a_dataset_is_named(path):
    with h5py.File(path, "r+") as file:
        del file["points"]
        file.create_group("points")
    with pytest.raises(ScanFileError, match="there is no dataset points"):
        read_scan(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_a_torn_file_is_refused(tmp_path, share):
    whole = siemens_star().read_bytes()
    torn = tmp_path / "torn.h5"
    torn.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ScanFileError, match="torn"):
        read_scan(torn)


def test_a_damaged_chunk_is_refused(tmp_path):
    damaged = shutil.copy(siemens_star(), tmp_path / "damaged.h5")
    with h5py.File(damaged) as file:
        chunk = file["diffamp"].id.get_chunk_info(3)
    with open(damaged, "r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"\xff" * 64)
    with pytest.raises(ScanFileError, match="torn"):
        read_scan(damaged)


def test_a_scan_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(ScanFileError, match="cannot be written"):
        write_scan(tmp_path / "missing" / "scan.h5", scan(some_counts()))


@pytest.mark.parametrize(
    ("counts", "positions_m"),
    [
        (np.ones((3, 8, 8)), np.zeros((3, 2))),
        (np.full((3, 8, 8), -1, np.float32), np.zeros((3, 2))),
        (np.full((3, 8, 8), np.nan, np.float32), np.zeros((3, 2))),
        (np.ones((3, 8, 9), np.uint16), np.zeros((3, 2))),
        (np.ones((3, 8, 8), np.uint16), np.zeros((2, 3))),
        (np.ones((1, 8, 8), np.uint16), np.full((1, 2), np.nan)),
        (np.ones((0, 8, 8), np.uint16), np.zeros((0, 2))),
    ],
)
def test_a_scan_whose_arrays_do_not_fit_is_refused(counts, positions_m):
    with pytest.raises(ValueError, match=r"^counts|^positions"):
        RecordedScan(counts, positions_m, ScanGeometry(1e-10, 1.0, 75e-6, (8, 8)))


# Counts that are not whole


def fractional(most=300.0, shape=(7, 10, 13)):
    return np.random.default_rng(0).uniform(0, most, shape).astype(np.float32)


@pytest.mark.parametrize("counts", [fractional(), fractional(0.2), fractional(2**31), np.float32(some_counts())])
def test_counts_that_are_not_whole_are_read_to_within_their_rounding(tmp_path, counts):
    write_scan(tmp_path / "scan.h5", scan(counts))
    read = read_scan(tmp_path / "scan.h5")
    assert (read.counts.dtype, read.whole) == (np.float32, False)
    assert np.allclose(read.counts, counts, rtol=5e-7, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_beamline_that_divided_by_the_flux_has_counts_that_are_not_whole(tmp_path, path, dtype):
    amplitudes = np.sqrt(some_counts() * np.linspace(0.9, 1.1, 7)[:, None, None])
    with h5py.File(path, "r+") as file:
        del file["diffamp"]
        file["diffamp"] = np.fft.ifftshift(amplitudes, axes=(1, 2)).astype(dtype)
    read = read_scan(path)
    assert read.counts.dtype == np.float32
    assert np.allclose(read.counts, amplitudes**2, rtol=1e-6)


def test_a_fraction_late_in_the_file_leaves_no_frame_rounded(path, monkeypatch):
    monkeypatch.setattr("ptyinr_stream.formats.ptyinr_h5._BLOCK_BYTES", 1)  # one frame at a time
    with h5py.File(path, "r+") as file:
        file["diffamp"][0, 0, 0] = np.sqrt(7.2)
        file["diffamp"][6, 0, 0] = np.sqrt(7.5)
    counts = read_scan(path).counts
    assert (counts[0, 5, 6], counts[6, 5, 6]) == (pytest.approx(7.2), pytest.approx(7.5))


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 2**19), (np.float32, 2**32 - 2**9), (np.float64, 2**32 - 2)])
def test_roots_in_any_precision_are_roots_of_whole_counts(path, dtype, most):
    counts = np.random.default_rng(3).integers(0, most, (7, 10, 13))
    with h5py.File(path, "r+") as file:
        del file["diffamp"]
        file["diffamp"] = np.sqrt(counts).astype(np.float32).astype(dtype)  # many have been float32 on their way
    assert read_scan(path).counts.dtype == np.uint32


def test_rounding_makes_whole_counts_and_leaves_whole_ones_alone():
    for most, dtype in ((65534.4, np.uint16), (65534.6, np.uint32)):
        counts = np.linspace(0, most, 7 * 8 * 8, dtype=np.float32).reshape(7, 8, 8)
        rounded = scan(counts).rounded()
        assert rounded.counts.dtype == dtype
        assert np.abs(rounded.counts - counts.astype(float)).max() <= 0.5
    whole = scan(some_counts())
    assert whole.rounded() is whole


# Masks and truths


def mask(shape=(10, 13)):
    return np.random.default_rng(4).random(shape) > 0.1


def truth(frames=7, window=(10, 13)):
    random = np.random.default_rng(5)
    field, probe = (random.normal(size=(*shape, 2)).astype(np.float32) for shape in ((40, 50), (2, *window)))
    return Truth(field.view(np.complex64)[..., 0], probe.view(np.complex64)[..., 0], random.uniform(0, 30, (frames, 2)))


@pytest.mark.parametrize("counts", [some_counts(), fractional()])
def test_a_simulated_scan_keeps_its_mask_and_its_truth(tmp_path, counts):
    written = scan(counts, mask=mask(), truth=truth())
    write_scan(tmp_path / "scan.h5", written)
    read = read_scan(tmp_path / "scan.h5")
    assert np.array_equal(read.mask, mask())
    for name in ("object", "probe", "positions_px"):
        assert np.array_equal(getattr(read.truth, name), getattr(truth(), name))
    assert read.counts.dtype == counts.dtype


def test_the_file_has_the_masks_dc_at_the_corner_and_the_probes_middle_in_the_middle(tmp_path):
    trusted = np.ones((10, 13), bool)
    trusted[5, 6] = False
    write_scan(tmp_path / "scan.h5", scan(some_counts(), mask=trusted, truth=truth()))
    with h5py.File(tmp_path / "scan.h5") as file:
        assert np.argwhere(file["mask"][()] == 0).tolist() == [[0, 0]]
        assert np.array_equal(file["truth/probe"], truth().probe)


def test_a_probe_of_one_mode_may_be_written_without_an_axis_for_it(path):
    with h5py.File(path, "r+") as file:
        file["truth/object"], file["truth/probe"] = truth().object, truth().probe[0].astype(np.complex128)
        file["truth/positions_px"] = truth().positions_px
    assert np.array_equal(read_scan(path).truth.probe, truth().probe[:1])


def test_anything_may_stand_in_a_masked_pixel(tmp_path, path):
    trusted = np.ones((10, 13), bool)
    trusted[2, :3] = False
    counts = fractional()
    counts[:, 2, 0], counts[:, 2, 1] = np.nan, -5
    write_scan(tmp_path / "floats.h5", scan(counts, mask=trusted))
    assert np.allclose(read_scan(tmp_path / "floats.h5").counts[:, trusted], counts[:, trusted])
    with h5py.File(path, "r+") as file:
        file["mask"] = np.fft.ifftshift(trusted)
        row = (2 - 10 // 2) % 10
        file["diffamp"][:, row, 7], file["diffamp"][:, row, 8] = np.nan, np.inf
        file["diffamp"][:, row, 9] = -0.5
    read = read_scan(path)
    assert read.counts.dtype.kind == "u"
    assert np.array_equal(read.counts[:, trusted], some_counts()[:, trusted])


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("mask", np.ones((13, 10), bool), r"mask has the shape \(13, 10\): \(10, 13\) is needed"),
        ("mask", np.ones((10, 13), complex), "mask holds complex128: real numbers are needed"),
        ("truth/object", None, "there is no dataset truth/object"),
        ("truth/object", np.ones((40, 50)), "truth/object holds float64: complex numbers are needed"),
        ("truth/object", np.full((40, 50), np.nan + 0j), "truth: object .* be finite"),
        (
            "truth/probe",
            np.ones((9, 9), complex),
            r"truth: probe and .* do not fit 7 frames of \(10, 13\)",
        ),
        ("truth/positions_px", np.ones((6, 2)), "do not fit 7 frames"),
        ("truth/positions_px", np.ones(7), "must have 2 dimensions"),
    ],
)
def test_a_wrong_mask_or_truth_is_named_in_one_line(tmp_path, name, value, complaint):
    path = tmp_path / "scan.h5"
    write_scan(path, scan(some_counts(), mask=mask(), truth=truth()))
    require_complaint(path, name, value, complaint)


@pytest.mark.parametrize("wrong", [np.ones((10, 13)), np.ones((13, 10), bool)])
def test_a_mask_that_does_not_fit_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^mask .* must be bool \(10, 13\)"):
        scan(some_counts(), mask=wrong)


# The measured scan


def test_the_siemens_star_holds_what_was_measured():
    star = read_scan(siemens_star())
    assert star.counts.shape == (516, 128, 128)
    assert star.counts.dtype == np.uint16
    assert (int(star.counts.sum()), int(star.counts.max())) == (237_985_853, 963)
    brightest = np.unravel_index(star.counts.sum(axis=0, dtype=np.int64).argmax(), (128, 128))
    assert np.abs(np.array(brightest) - 64).max() < 32  # DC in the centre
    assert star.geometry.energy_kev == pytest.approx(8.8)
    assert np.round(1e9 * np.array(star.geometry.pixel_m), 2).tolist() == [28.18, 28.18]
    pixels = star.positions_m / star.geometry.pixel_m
    assert pixels.min() == pytest.approx(-164.39053, abs=1e-5)
    assert pixels.max() == pytest.approx(167.57964, abs=1e-5)
    assert star.scan_range == ScanRange(tuple(star.positions_m.min(axis=0)), tuple(star.positions_m.max(axis=0)))


def test_the_reference_lies_on_the_positions_of_the_siemens_star():
    star = read_scan(siemens_star())
    with np.load(siemens_star_reference()) as reference:
        assert reference["lsqml_1mode_object"].shape == (490, 487)
        corners = reference["lsqml_1mode_corners_px"]
    offset = corners - star.positions_m / star.geometry.pixel_m
    assert np.abs(offset - offset.mean(axis=0)).max() < 1e-3
