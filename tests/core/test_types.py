"""The values at the core's border refuse what could not be reconstructed."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr import Batch, ScanGeometry, ScanRange, Snapshot
from ptyinr.types import HC_KEV_M


def geometry(**changes):
    return ScanGeometry(
        **{"wavelength_m": 1e-10, "distance_m": 2.0, "detector_pixel_m": 1e-4, "window": (32, 64)} | changes
    )


def batch(n=3, **changes):
    arrays = {
        "indices": np.arange(n),
        "counts": np.ones((n, 8, 8), np.uint16),
        "positions_m": np.zeros((n, 2)),
        "mask": None,
    }
    return Batch(**arrays | changes)


def snapshot(**changes):
    arrays = {
        "object": np.ones((20, 20), np.complex64),
        "probe": np.ones((1, 8, 8), np.complex64),
        "coverage": np.zeros((20, 20), np.float32),
        "indices": np.arange(2),
        "positions_px": np.zeros((2, 2)),
        "judged": np.zeros(5),
    }
    return Snapshot(uid="a", step=1, frames=2, pixel_m=(1e-8, 1e-8), **arrays | changes)


@pytest.mark.parametrize("name", ["wavelength_m", "distance_m", "detector_pixel_m"])
@pytest.mark.parametrize("value", [0.0, -1e-10, np.nan, np.inf])
def test_an_optical_number_must_be_positive_and_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        geometry(**{name: value})


@pytest.mark.parametrize("window", [(7, 32), (32, 7), (0, 0)])
def test_a_window_has_at_least_eight_pixels_along_each_axis(window):
    with pytest.raises(ValueError, match="at least 8 x 8"):
        geometry(window=window)


def test_the_sample_pixel_of_each_axis_follows_from_its_own_number_of_pixels():
    assert geometry().pixel_m == pytest.approx((1e-10 * 2.0 / (32 * 1e-4), 1e-10 * 2.0 / (64 * 1e-4)))
    assert geometry().energy_kev == pytest.approx(HC_KEV_M / 1e-10)
    assert geometry().energy_kev == pytest.approx(12.398, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", ["lower_m", "upper_m"])
def test_a_scan_range_is_finite(end, axis, bad):
    bounds = {"lower_m": [0.0, 0.0], "upper_m": [1e-6, 1e-6]}
    bounds[end][axis] = bad
    with pytest.raises(ValueError, match="not finite"):
        ScanRange(tuple(bounds["lower_m"]), tuple(bounds["upper_m"]))


@pytest.mark.parametrize("upper", [(-1e-9, 1.0), (1.0, -1e-9)])
def test_a_scan_range_does_not_run_backwards(upper):
    with pytest.raises(ValueError, match="runs backwards"):
        ScanRange((0.0, 0.0), upper)


def test_a_scan_may_have_no_extent():
    assert ScanRange((1e-6, 2e-6), (1e-6, 2e-6)).upper_m == (1e-6, 2e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"counts": np.ones((2, 8, 8))},
        {"counts": np.ones((3, 64))},
        {"counts": np.ones((3, 1, 8, 8))},
        {"positions_m": np.zeros((2, 2))},
        {"positions_m": np.zeros((3, 3))},
        {"positions_m": np.zeros(3)},
    ],
)
def test_the_arrays_of_a_batch_fit_together(changes):
    with pytest.raises(ValueError, match="a batch of 3 indices needs"):
        batch(**changes)


@pytest.mark.parametrize("shape", [(8, 9), (9, 8), (3, 8, 9), (2, 8, 8), (1, 8, 8), (3, 64), (8,), ()])
def test_a_mask_has_the_shape_of_the_counts_or_of_a_frame(shape):
    with pytest.raises(ValueError, match=r"must have the shape of counts \(3, 8, 8\), or of a frame"):
        batch(mask=np.ones(shape, bool))
    assert batch(mask=np.ones((8, 8), bool)).mask.shape == (8, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_position_that_is_not_finite_is_named_by_its_frame(bad):
    positions = np.zeros((3, 2))
    positions[1, 0] = bad
    with pytest.raises(ValueError, match=r"frames \[8\] are not finite"):
        batch(indices=np.array([7, 8, 9]), positions_m=positions)


@pytest.mark.parametrize(("bad", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (-1.0, "never negative")])
def test_a_bad_count_is_refused_unless_it_is_masked(bad, words):
    counts = np.ones((3, 8, 8))
    counts[1, 2, 3] = bad
    with pytest.raises(ValueError, match=words):
        batch(counts=counts)
    mask = np.ones(counts.shape, bool)
    mask[0, 2, 3] = False
    with pytest.raises(ValueError, match=words):
        batch(counts=counts, mask=mask)
    mask[1, 2, 3] = False
    assert batch(counts=counts, mask=mask).mask is mask
    assert not batch(counts=counts, mask=mask[1]).mask[2, 3]


def test_counts_beyond_single_precision_are_refused():
    with pytest.raises(ValueError, match=r"counts reach 2e\+35"):
        batch(counts=np.full((3, 8, 8), 2e35))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": np.ones((3, 8, 8), np.complex64)}, "counts are complex64: give integers or floats"),
        ({"counts": np.ones((3, 8, 8), bool)}, "counts are bool: give integers or floats"),
        ({"mask": np.ones((8, 8), np.uint8)}, "mask is uint8: give bool, True where"),
        ({"indices": np.array([0, 1, 1])}, r"each is there once: \[0, 1, 1\]"),
        ({"indices": np.array([-1, 0, 1])}, r"0 or more, .*\[-1, 0, 1\]"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_what_would_be_right(changes, words):
    with pytest.raises(ValueError, match=words):
        batch(**changes)


def test_a_window_given_as_a_list_is_the_same_window():
    geometry = ScanGeometry(1e-10, 1.0, 1e-4, [32, 48])
    assert geometry == ScanGeometry(1e-10, 1.0, 1e-4, (32, 48))


def test_a_negative_integer_is_refused_too():
    with pytest.raises(ValueError, match="counts reach -1"):
        batch(counts=np.full((3, 8, 8), -1, np.int32))


def test_a_batch_may_be_empty_or_wholly_masked():
    assert len(batch(0).indices) == 0
    assert not batch(counts=np.full((3, 8, 8), -1), mask=np.zeros((3, 8, 8), bool)).mask.any()


@pytest.mark.parametrize("name", ["object", "probe", "coverage", "positions_px", "judged"])
def test_a_snapshot_is_finite(name):
    array = getattr(snapshot(), name).copy()
    array.flat[3] = np.nan
    with pytest.raises(ValueError, match=f"snapshot 1: {name} is not finite"):
        snapshot(**{name: array})


@pytest.mark.parametrize("name", ["object", "probe", "coverage", "indices", "positions_px", "judged"])
def test_a_snapshot_cannot_be_written_to(name):
    with pytest.raises(ValueError, match="read-only"):
        getattr(snapshot(), name)[...] = 0
