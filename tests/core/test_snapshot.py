"""What the trainer shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr import Batch
from ptyinr.geometry import ROUNDED
from ptyinr.light import bounding_box, illumination, windows_a_pixel
from ptyinr.siren import ObjectSettings


def shifted(field, offset):
    """By fractions of a pixel towards larger indices."""
    nu = [np.fft.fftfreq(n) for n in field.shape]
    ramp = np.exp(-2j * np.pi * (nu[0][:, None] * offset[0] + nu[1][None, :] * offset[1]))
    return np.fft.ifft2(np.fft.fft2(field) * ramp)


def test_a_snapshot_is_what_its_documentation_says(scan, trainer_of):
    order = np.random.default_rng(0).permutation(100)
    trainer = trainer_of(scan, order, steps=3)
    snapshot = trainer.snapshot()
    assert (snapshot.uid, snapshot.step, snapshot.frames, snapshot.final) == ("a scan", 3, 100, False)
    assert snapshot.object.shape == snapshot.coverage.shape == trainer.canvas.shape
    assert snapshot.probe.shape == (1, 32, 32)
    assert (snapshot.object.dtype, snapshot.probe.dtype) == (np.complex64, np.complex64)
    assert (snapshot.coverage.dtype, snapshot.positions_px.dtype) == (np.float32, np.float64)
    assert snapshot.pixel_m == scan.geometry.pixel_m
    assert set(snapshot.metrics) == {"loss", "rollbacks", "heldout_error"}
    assert trainer.snapshot(final=True).final
    for name in ("object", "probe", "coverage", "indices", "positions_px"):
        array = getattr(snapshot, name)
        assert np.isfinite(array).all()
        assert not array.flags.writeable
    # Whatever order the frames came in, the positions are in the order of their numbers.
    np.testing.assert_array_equal(snapshot.indices, np.arange(100))
    pixel = np.array(scan.geometry.pixel_m)
    steps = (scan.positions_m - scan.positions_m[0]) / pixel
    np.testing.assert_allclose(snapshot.positions_px - snapshot.positions_px[0], steps, atol=2 * 10.0**-ROUNDED)


def test_coverage_is_light_and_where_there_is_none_the_object_is_one(scan, trainer_of):
    trainer = trainer_of(scan, steps=2)
    snapshot = trainer.snapshot()
    assert snapshot.coverage.min() == 0
    assert snapshot.coverage.max() == 1
    assert (snapshot.object[snapshot.coverage == 0] == 1).all()
    assert (snapshot.object[snapshot.coverage > 0.1] != 1).mean() > 0.99
    # The middle of every window is lit, and nothing beyond all windows is.
    middles = np.round(snapshot.positions_px + 16).astype(int)
    assert (snapshot.coverage[middles[:, 0], middles[:, 1]] > 0).all()
    inside = np.zeros(snapshot.coverage.shape, bool)
    for row, column in np.floor(snapshot.positions_px).astype(int):
        inside[row : row + 32, column : column + 32] = True
    assert not snapshot.coverage[~inside].any()


def test_a_stage_that_stood_still_does_not_wipe_out_the_rest_of_the_picture(scan, trainer_of):
    trainer = trainer_of(scan, steps=2)
    before = trainer.snapshot()
    still = np.repeat(scan.positions_m[-1:], 1000, axis=0)
    trainer.append(Batch(np.arange(100, 1100), np.repeat(scan.counts[-1:], 1000, axis=0), still))
    after = trainer.snapshot()
    assert (after.coverage > 0).sum() >= 0.95 * (before.coverage > 0).sum()


def test_object_and_probe_of_a_snapshot_predict_the_frames(scan, trainer_of):
    """The scale and the conventions that are published: |FFT(probe * object)| / sqrt(h w), DC at the corner."""
    trainer = trainer_of(scan, object=ObjectSettings(), frames_per_step=None, steps=50)
    snapshot = trainer.snapshot()
    errors = []
    for index in range(5, 100, 10):  # the frames that were held out
        position = snapshot.positions_px[index]
        row, column = np.floor(position).astype(int)
        view = snapshot.object[row : row + 32, column : column + 32]
        wave = np.fft.fft2(shifted(snapshot.probe[0], position - (row, column)) * view) / 32
        measured = np.sqrt(np.fft.ifftshift(scan.counts[index].astype(float)))
        errors.append(((np.abs(wave) - measured) ** 2).mean())
        assert (np.abs(wave) ** 2).sum() == pytest.approx(scan.counts[index].sum(), rel=0.1)
    assert np.mean(errors) == pytest.approx(snapshot.metrics["heldout_error"], rel=0.05)
    assert np.mean(errors) < 0.5  # root photons squared; the noise is some 0.2


@pytest.mark.parametrize(
    "corners",
    [
        [[-33.5, 0.0], [-1e-17, 0.0]],
        [[-1e-17, -1e-17], [-1e-17, 0.0]],
        [[0.3, -7.2], [64.9, 3.0]],
        [[-58.0, -58.0], [-58.0, -58.0]],
    ],
)
def test_a_bounding_box_holds_every_window_and_hardly_more(corners):
    corners = np.array(corners)
    first, shape = bounding_box(corners, (8, 10))
    rows = np.floor(corners - first).astype(int)
    assert (rows >= 0).all()
    assert (rows + np.array((8, 10)) <= shape).all()
    assert (shape - rows.max(0) - (8, 10) == 0).all()


def test_illumination_is_the_sum_of_the_probes(scan):
    random = np.random.default_rng(0)
    corners = random.uniform(0, [40, 25], (30, 2))
    corners[0] = 0, 0
    probe = random.standard_normal((2, 9, 7)) + 1j * random.standard_normal((2, 9, 7))
    expected = np.zeros((49, 32))
    for row, column in np.floor(corners).astype(int):
        expected[row : row + 9, column : column + 7] += (np.abs(probe) ** 2).sum(0)
    light = illumination(corners, torch.from_numpy(probe), (49, 32)).numpy()
    np.testing.assert_allclose(light, expected / expected.max(), atol=1e-5)
    assert light.max() == 1


@pytest.mark.parametrize(("step", "windows"), [(1.0, 80.0), (2.0, 20.0), (4.0, 5.0), (0.5, 80.0)])
def test_windows_over_a_pixel_follow_from_how_far_the_nearest_neighbour_is(step, windows):
    """Of 8 x 10 pixels each, on a raster and in any order."""
    rows, columns = np.mgrid[:6, :6] * step
    corners = np.random.default_rng(0).permutation(np.stack([rows.ravel(), columns.ravel()], axis=1))
    assert windows_a_pixel(corners, (8, 10)) == pytest.approx(windows)
    assert windows_a_pixel(np.concatenate([corners, corners, corners]), (8, 10)) == pytest.approx(windows)


def test_a_place_that_is_measured_again_is_the_same_place_however_the_encoders_scatter():
    rows, columns = np.mgrid[:6, :6] * 20.0
    corners = np.stack([rows.ravel(), columns.ravel()], axis=1)
    again = corners + np.random.default_rng(0).uniform(-0.4, 0.4, corners.shape)
    assert windows_a_pixel(np.concatenate([corners, again]), (40, 40)) == pytest.approx(4.0, rel=0.1)


def test_a_scan_of_one_place_has_no_windows_beside_it():
    assert windows_a_pixel(np.zeros((9, 2)), (8, 8)) == 0


def test_a_snapshot_tells_where_its_frames_lie_and_how_each_judge_is_explained(scan, trainer_of):
    shown = trainer_of(scan, np.arange(100)[::-1], steps=3).snapshot()
    np.testing.assert_allclose(shown.positions_m, scan.positions_m, atol=1e-5 * shown.pixel_m[0])
    assert shown.judges.tolist() == [n for n in range(100) if n % 10 == 5][::-1]
    assert shown.judged.mean() == pytest.approx(shown.metrics["heldout_error"])
