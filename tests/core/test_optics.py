"""Probes of lenses: what the aperture, the defocus and the window must do to them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptyinr.optics import LaueLenses, ZonePlate, averaged, cropped, focused_probe, lit_diameter_m
from ptyinr.types import HC_KEV_M, ScanGeometry

GEOMETRY = ScanGeometry(HC_KEV_M / 10, 0.5, 55e-6, (96, 128))
PLATE = ZonePlate(240e-6, 30e-9, 80e-6)
LAUE = LaueLenses((40e-6, 30e-6), (5.2e-3, 6.5e-3))


def far_field(probe):
    return np.fft.fftshift(np.abs(np.fft.fft2(probe, norm="ortho")))


def radii_px(geometry, rim=1.0):
    """Distance of each detector pixel from DC."""
    y, x = (np.arange(n) - n // 2 for n in geometry.window)
    return np.hypot(y[:, None], x) / rim


def test_a_zone_plate_lights_a_disc_of_its_outermost_zone_with_a_dark_middle():
    radius = GEOMETRY.wavelength_m * GEOMETRY.distance_m / (2 * PLATE.outermost_zone_m) / GEOMETRY.detector_pixel_m
    light, distance = far_field(focused_probe(PLATE, GEOMETRY)), radii_px(GEOMETRY, radius)
    lit = light > 0.5 * light.max()
    assert lit[(distance > 1 / 3 + 0.05) & (distance < 0.95)].all()
    assert light[distance < 1 / 3 - 0.05].max() < 1e-9 * light.max()
    assert light[distance > 1.05].max() < 1e-9 * light.max()
    open_px = np.pi * radius**2 * (1 - (80 / 240) ** 2)
    assert light.sum() / light.max() == pytest.approx(open_px, rel=2e-3)  # the edges are soft, so that areas are right


def test_without_a_stop_the_middle_of_the_far_field_is_lit():
    light = far_field(focused_probe(replace(PLATE, stop_m=0.0), GEOMETRY))
    assert light[48, 64] == pytest.approx(light.max())


def test_laue_lenses_light_a_rectangle():
    light = far_field(focused_probe(LAUE, GEOMETRY, defocus_m=5e-6))
    half = [
        GEOMETRY.distance_m * a / (2 * f) / GEOMETRY.detector_pixel_m
        for a, f in zip(LAUE.aperture_m, LAUE.focus_m, strict=True)
    ]
    rows, columns = (np.abs(np.arange(n) - n // 2) for n in GEOMETRY.window)
    inside = (rows < half[0] - 1)[:, None] & (columns < half[1] - 1)
    outside = (rows > half[0] + 1)[:, None] | (columns > half[1] + 1)
    assert np.allclose(light[inside], light.max())
    assert light[outside].max() < 1e-9 * light.max()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([PLATE, LAUE]),
    st.floats(-2e-5, 2e-5),
    st.floats(-1e-5, 1e-5),
    st.floats(1e-3, 1e12),
    st.sampled_from([(96, 128), (97, 111), (128, 96)]),
)
def test_a_probe_has_the_wanted_photons_and_lies_in_the_middle(lens, defocus_m, astigmatism_m, photons, window):
    geometry = replace(GEOMETRY, window=window)
    probe = focused_probe(lens, geometry, defocus_m=defocus_m, astigmatism_m=astigmatism_m, photons=photons)
    assert (probe.shape, probe.dtype) == (window, np.complex128)
    assert np.square(np.abs(probe)).sum() == pytest.approx(photons)
    for axis in (0, 1):
        profile = np.square(np.abs(probe)).sum(1 - axis)
        assert profile @ np.arange(window[axis]) / photons == pytest.approx(window[axis] // 2, abs=0.6)


def test_in_focus_the_brightest_pixel_is_the_middle_and_the_probe_is_real():
    for lens in (PLATE, LAUE):
        probe = focused_probe(lens, GEOMETRY)
        assert np.unravel_index(np.abs(probe).argmax(), probe.shape) == (48, 64)
        assert np.abs(probe.imag).max() < 1e-3 * np.abs(probe).max()


def quadratic_phase(axis):
    """pi wavelength nu^2, radians a metre of defocus, DC at the corner."""
    nu = np.fft.fftfreq(GEOMETRY.window[axis], d=GEOMETRY.pixel_m[axis])
    return np.pi * GEOMETRY.wavelength_m * np.expand_dims(nu**2, 1 - axis)


@pytest.mark.parametrize("defoci_m", [(-4e-5, -4e-5), (7e-5, 7e-5), (2e-5, 0.0), (1e-5, 3e-5)])
def test_a_positive_defocus_is_a_positive_quadratic_phase_along_each_axis(defoci_m):
    focused = np.fft.ifftshift(focused_probe(PLATE, GEOMETRY))
    phase = defoci_m[0] * quadratic_phase(0) + defoci_m[1] * quadratic_phase(1)
    expected = np.fft.fftshift(np.fft.ifft2(np.fft.fft2(focused) * np.exp(1j * phase)))
    mean, difference = sum(defoci_m) / 2, defoci_m[0] - defoci_m[1]
    defocused = focused_probe(PLATE, GEOMETRY, defocus_m=mean, astigmatism_m=difference)
    assert np.abs(defocused - expected).max() < 1e-12 * np.abs(expected).max()


def test_out_of_focus_the_light_has_the_size_of_the_rays():
    for defocus_m in (60e-6, 120e-6):
        rays_m = defocus_m * GEOMETRY.wavelength_m / PLATE.outermost_zone_m  # z * diameter / focal length
        assert lit_diameter_m(focused_probe(PLATE, GEOMETRY, defocus_m=defocus_m), GEOMETRY.pixel_m) == pytest.approx(
            rays_m, rel=0.2
        )


def test_the_focal_length_is_diameter_times_outermost_zone_over_wavelength():
    assert PLATE.focal_m(1.2e-10) == pytest.approx(60e-3)


@pytest.mark.parametrize(
    ("lens", "geometry", "more", "complaint"),
    [
        (ZonePlate(240e-6, 8e-9), GEOMETRY, {}, "141 detector pixels along axis 0, the window has 96: .* 0.34 m"),
        (
            LaueLenses((40e-6, 90e-6), (5e-3, 5e-3)),
            GEOMETRY,
            {},
            r"164 detector pixels along axis 1, the window has 128",
        ),
        (
            ZonePlate(240e-6, 1e-6),
            GEOMETRY,
            {},
            "1.1 detector pixels .* focus fills the window: .* 1.78 m",
        ),
        (PLATE, GEOMETRY, {"defocus_m": 3e-4}, r"defocus of 300 um along axis 0 .* at most 272 um fit"),
        (PLATE, GEOMETRY, {"defocus_m": -3e-4}, r"defocus of -300 um"),
        (PLATE, GEOMETRY, {"astigmatism_m": -6e-4}, r"defocus of -300 um along axis 0"),
        (PLATE, GEOMETRY, {"defocus_m": np.nan}, "defocus of nan um"),
    ],
)
def test_a_lens_that_does_not_fit_is_refused_with_what_would(lens, geometry, more, complaint):
    with pytest.raises(ValueError, match=complaint):
        focused_probe(lens, geometry, **more)


@settings(max_examples=50, deadline=None)
@given(st.floats(2e-9, 1e-5), st.floats(1e-6, 1e-2))
def test_what_is_named_as_right_is_accepted(zone_m, defocus_m):
    lens, geometry, more = ZonePlate(240e-6, zone_m), replace(GEOMETRY, window=(32, 32)), {"defocus_m": defocus_m}
    for _ in range(2):  # a distance, then a defocus
        try:
            focused_probe(lens, geometry, **more)
        except ValueError as error:
            number, unit = re.findall(r"([-+.e\d]+) (m or|um fit)", str(error))[0]
            if unit == "um fit":
                more = {"defocus_m": 1e-6 * float(number)}
            else:
                geometry = replace(geometry, distance_m=float(number))
    focused_probe(lens, geometry, **more)


@pytest.mark.parametrize(
    ("lens", "values", "complaint"),
    [
        (ZonePlate, {"diameter_m": 0.0, "outermost_zone_m": 3e-8}, "diameter_m is 0.0: it must be a positive"),
        (ZonePlate, {"diameter_m": 2e-4, "outermost_zone_m": np.inf}, "outermost_zone_m is inf"),
        (ZonePlate, {"diameter_m": 2e-4, "outermost_zone_m": 3e-8, "stop_m": 2e-4}, "stop_m is 0.0002: it must be"),
        (ZonePlate, {"diameter_m": 2e-4, "outermost_zone_m": 3e-8, "stop_m": -1e-6}, "stop_m is -1e-06"),
        (LaueLenses, {"aperture_m": (4e-5, -1.0), "focus_m": (5e-3, 5e-3)}, r"aperture_m\[1\] is -1.0"),
        (LaueLenses, {"aperture_m": (4e-5, 4e-5), "focus_m": (np.nan, 5e-3)}, r"focus_m\[0\] is nan"),
    ],
)
def test_a_wrong_length_is_named(lens, values, complaint):
    with pytest.raises(ValueError, match=complaint):
        lens(**values)


def test_the_middle_of_a_probe_is_cropped_as_a_slice_from_both_sides():
    probe = np.arange(2 * 112 * 112).reshape(2, 112, 112) * 1j
    assert np.array_equal(cropped(probe, (64, 64)), probe[:, 24:-24, 24:-24])
    assert cropped(probe[0], (112, 30)).shape == (112, 30)
    with pytest.raises(ValueError, match=r"\(112, 112\) pixels cannot be cropped to \(113, 64\)"):
        cropped(probe, (113, 64))


def test_the_disc_that_holds_the_light_of_an_evenly_lit_disc_is_known():
    disc = (radii_px(GEOMETRY) < 30) + 0j
    assert lit_diameter_m(disc, (2e-8, 2e-8)) == pytest.approx(2 * 30 * np.sqrt(0.9) * 2e-8, rel=0.02)
    assert lit_diameter_m(np.roll(disc, 9, 1), (2e-8, 2e-8)) == pytest.approx(lit_diameter_m(disc, (2e-8, 2e-8)))
    modes = np.stack([disc, 1e-6 * np.ones_like(disc)])
    assert lit_diameter_m(modes, (2e-8, 2e-8)) == pytest.approx(lit_diameter_m(disc, (2e-8, 2e-8)), rel=1e-6)


def test_the_mean_over_subpixels_is_that_of_the_area():
    assert averaged(lambda dy, dx: np.array([dy > 0, dx > 0.25, True]), 8).tolist() == [0.5, 0.25, 1.0]
