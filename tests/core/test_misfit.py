"""The held-out error of a model that is right is that of the noise."""

from __future__ import annotations

import numpy as np
import pytest

from ptyinr.misfit import misfit, photon_noise
from ptyinr.simulate import expected_counts

HELDOUT = np.arange(40) % 10 == 5


@pytest.fixture(scope="module")
def scan():
    random = np.random.default_rng(0)
    field = np.exp(0.5j * random.normal(size=(60, 50)))
    rows, columns = np.mgrid[-12:12, -10:10]
    probe = 40 * np.exp(-(rows**2 + columns**2) / 60) + 0j
    corners = random.uniform(0, (36, 30), (40, 2))
    return field, probe, corners, random.poisson(expected_counts(field, probe, corners) + 5).astype(np.uint16)


def test_without_noise_nothing_is_left_whatever_the_scale(scan):
    field, probe, corners, _ = scan
    found = misfit(field, 3 * probe[None], corners, expected_counts(field, probe, corners), HELDOUT)
    assert found.scale == pytest.approx(1 / 3)
    assert max(found.heldout, found.trained) < 1e-6
    assert found.frames.shape == (40,)


def test_photon_noise_leaves_a_quarter(scan):
    field, probe, corners, _ = scan
    bright = 20 * probe
    counts = np.random.default_rng(1).poisson(expected_counts(field, bright, corners))
    found = misfit(field, bright / 7, corners, counts, HELDOUT)
    assert found.heldout == pytest.approx(0.25, abs=0.02)
    assert found.trained == pytest.approx(found.photon_noise, abs=0.01)


@pytest.mark.parametrize("mean", [0.05, 0.7, 3.0, 20.0, 300.0])
def test_the_noise_of_photons_is_that_of_a_draw(mean):
    drawn = np.random.default_rng(0).poisson(mean, 400_000)
    assert photon_noise(np.array([mean]))[0] == pytest.approx(((np.sqrt(drawn) - np.sqrt(mean)) ** 2).mean(), rel=0.01)


def test_a_bad_frame_tells_on_itself_alone(scan):
    field, probe, corners, _ = scan
    counts = expected_counts(field, probe, corners)
    counts[5] = counts[6]
    found = misfit(field, probe, corners, counts, HELDOUT)
    assert np.flatnonzero(found.frames > 0.01).tolist() == [5]
    assert found.heldout == pytest.approx(found.frames[5] / 4)
    assert misfit(field, probe, corners, counts, np.zeros(40, bool)).heldout is None


def test_masked_pixels_do_not_count(scan):
    field, probe, corners, _ = scan
    counts, mask = expected_counts(field, probe, corners), np.ones((24, 20), bool)
    counts[:, 3, 4], mask[3, 4] = 1e6, False
    assert misfit(field, probe, corners, counts, HELDOUT, mask).heldout < 1e-6


def test_frames_that_do_not_fit_are_refused(scan):
    field, probe, corners, counts = scan
    with pytest.raises(ValueError, match="39"):
        misfit(field, probe, corners[1:], counts, HELDOUT)
    with pytest.raises(ValueError, match="none is left"):
        misfit(field, probe, corners, counts, np.ones(40, bool))
