"""What a regular raster leaves open does not wander into the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptyinr.lattice import raster_frequencies, without
from ptyinr.propagation import predicted_amplitude
from ptyinr.scans import jittered, raster, snake, spiral
from ptyinr.simulate import simulate
from ptyinr.trainer import Trainer
from ptyinr.types import ScanGeometry, ScanRange

NOTHING = (0.0,)


def smooth(shape):
    """A complex field whose amplitude and phase change slowly."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] / 25.0
    return torch.from_numpy(
        ((0.8 + 0.1 * np.sin(rows + 0.3) * np.cos(columns)) * np.exp(1j * (rows + np.sin(columns)))).astype(
            np.complex64
        )
    )


def periodic(shape, steps, seed=0):
    """A complex field of a given period, near 1."""
    random = np.random.default_rng(seed)
    cell = np.exp(0.05 * (random.normal(size=steps) + 1j * random.normal(size=steps)))
    repeats = [-(-n // step) for n, step in zip(shape, steps, strict=True)]
    return torch.from_numpy(np.tile(cell, repeats)[: shape[0], : shape[1]].astype(np.complex64))


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ((3, 3), ((0, 1 / 3), (0, 1 / 3))),
        ((2, 5), ((0, 1 / 2), (0, 1 / 5, 2 / 5))),
        ((2.5, 7.3), ((0, 0.4), (0, 1 / 7.3, 2 / 7.3, 3 / 7.3))),
        ((1, 4), (NOTHING, (0, 1 / 4, 1 / 2))),
    ],
)
@pytest.mark.parametrize("pattern", [raster, snake])
def test_the_frequencies_of_a_raster_are_found(pattern, step, found):
    frequencies = raster_frequencies(pattern((80, 90), step) - 1234.5678)
    for mine, theirs in zip(frequencies, found, strict=True):
        assert mine == pytest.approx(theirs, abs=2e-4)


def test_encoders_that_scatter_a_little_keep_to_the_raster_and_others_do_not():
    random = np.random.default_rng(0)
    corners = raster((120, 120), (6.0, 6.0))
    near = raster_frequencies(corners + random.normal(0, 0.3, corners.shape))
    assert near[0][:2] == pytest.approx((0, 1 / 6), abs=1e-3)
    assert raster_frequencies(corners + random.normal(0, 2.0, corners.shape)) == (NOTHING, NOTHING)


@pytest.mark.parametrize(
    "corners",
    [
        spiral((100, 100), (4.0, 4.0)),
        jittered((100, 100), (4.0, 4.0), np.random.default_rng(0), 0.5),
        np.random.default_rng(0).uniform(0, 100, (60, 2)),
        np.zeros((1, 2)),
        np.array([[0.0, 0.0], [7.0, 7.0]]),
    ],
)
def test_scans_without_a_raster_leave_nothing_open(corners):
    assert raster_frequencies(corners) == (NOTHING, NOTHING)


def test_lines_that_begin_anywhere_leave_a_factor_open_along_one_axis():
    random = np.random.default_rng(0)
    corners = np.array([[5.0 * line, 2.7 * k + random.uniform(0, 40)] for line in range(20) for k in range(30)])
    rows, columns = raster_frequencies(corners)
    assert rows == pytest.approx((0, 0.2, 0.4), abs=1e-3)
    assert columns == NOTHING


@pytest.mark.parametrize("steps", [(2, 2), (3, 3), (4, 5), (1, 6)])
def test_a_factor_with_the_period_of_the_raster_explains_every_frame_as_well(steps):
    """The theorem: what is left out of the object could not have been known."""
    random = np.random.default_rng(1)
    field, probe = smooth((60, 60)), torch.from_numpy(random.normal(size=(1, 16, 16, 2)).astype(np.float32))
    probe, factor = torch.view_as_complex(probe), periodic((60, 60), steps)
    positions = torch.from_numpy(raster((44, 44), steps).astype(float))
    one = predicted_amplitude(field, probe, positions)
    other = predicted_amplitude(field * factor, probe / factor[:16, :16], positions)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [(2, 2), (3, 3), (4, 5), (1, 6)])
@pytest.mark.parametrize("shape", [(96, 96), (101, 77)])
def test_that_factor_is_taken_out_of_a_change_and_nothing_else_is(steps, shape):
    frequencies = raster_frequencies(raster((80, 80), steps))
    field, factor = smooth(shape), periodic(shape, steps)
    slow = field * 0.05 * smooth(shape)
    taken = without(field * factor / factor.mean() - field, field, frequencies)
    assert taken.abs().mean() < 0.1 * (field * factor - field).abs().mean()
    assert (without(slow, field, frequencies) - slow).abs().max() < 3e-3 * slow.abs().max()


def test_without_a_raster_a_change_stays_as_it_is():
    change = periodic((20, 20), (3, 3)) - 1
    assert without(change, torch.ones_like(change), (NOTHING, NOTHING)) is change


def test_blind_training_does_not_move_the_factor_from_the_probe_into_the_object():
    """Without the constraint the pixels of each of the nine classes drift apart, by 0.036 in these steps, and on."""
    geometry = ScanGeometry(wavelength_m=1e-10, distance_m=1.0, detector_pixel_m=1e-4, window=(24, 24))
    random = np.random.default_rng(2)
    rows, columns = np.meshgrid(np.fft.fftfreq(24), np.fft.fftfreq(24), indexing="ij")
    lens = (np.hypot(rows, columns) < 0.3) * np.exp(40j * (rows**2 + columns**2))
    probe = np.fft.fftshift(np.fft.ifft2(lens, norm="ortho")) * 3000.0
    truth = smooth((72, 72)).numpy()
    scan = simulate(geometry, truth, probe, raster((48, 48), (3, 3)))
    wrong = scan.probe[0] * np.exp(0.1 * random.normal(size=(24, 24)))
    trainer = Trainer(geometry, ScanRange.of(scan.positions_m), probe=wrong)
    trainer.append(scan.batch())
    for _ in range(150):
        trainer.step()
    found = trainer.snapshot()
    first = np.floor(found.positions_px.min(0)).astype(int)
    ratio = np.abs(found.object[first[0] : first[0] + 72, first[1] : first[1] + 72] / truth)[12:-12, 12:-12]
    classes = [np.median(ratio[i::3, j::3]) for i in range(3) for j in range(3)]
    assert np.std(classes) / np.mean(classes) < 0.006
