"""Each quantity of the optics comes from the most trusted source there is; what is missing is named with its remedy."""

from __future__ import annotations

import pytest

from ptyinr_stream.config import GeometryConfig
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.optics import dcm_energy_kev, scan_optics

PIXEL = GeometryConfig(detector_pixel_um=75.0)
START = {"scan": {"detectors": ["fs", "eiger2", "xspress3", "sclr1"], "detector_distance": 2.05}}
DCM = {"dcm_th": 9.5}


def test_the_configuration_overrules_the_documents():
    config = GeometryConfig(detector_pixel_um=55.0, distance_m=0.5, energy_kev=8.0)
    optics = scan_optics(config, (128, 64), START, DCM, {"photon_energy": 9000.0})
    assert (optics.geometry.distance_m, optics.geometry.energy_kev) == pytest.approx((0.5, 8.0))
    assert optics.geometry.detector_pixel_m == pytest.approx(55e-6)
    assert optics.geometry.window == (128, 64)
    assert optics.describe() == {
        "energy_source": "configuration geometry.energy_kev",
        "distance_source": "configuration geometry.distance_m",
        "detector": "eiger2",
    }


def test_documents_give_what_the_configuration_leaves_out():
    optics = scan_optics(GeometryConfig(), (256, 256), START, DCM, {"photon_energy": 9000.0})
    assert optics.geometry.distance_m == 2.05
    assert optics.geometry.energy_kev == pytest.approx(dcm_energy_kev(9.5))
    assert optics.geometry.wavelength_m == pytest.approx(1.239841984e-9 / dcm_energy_kev(9.5))
    assert optics.geometry.detector_pixel_m == pytest.approx(75e-6)
    assert (optics.energy_source, optics.distance_source) == (
        "baseline dcm_th",
        "start document scan.detector_distance",
    )
    assert optics.doubts == ()


def test_a_calibrated_distance_is_trusted_before_the_constant_of_the_plans():
    config = GeometryConfig(distances_m={"eiger2": 1.987, "eiger*": 1.0})
    optics = scan_optics(config, (256, 256), START, DCM)
    assert (optics.geometry.distance_m, optics.distance_source) == (1.987, "configuration geometry.distances_m")
    mobile = scan_optics(config, (256, 256), {"scan": {"detectors": ["eiger_mobile"]}}, DCM)
    assert mobile.geometry.distance_m == 1.0


@pytest.mark.parametrize(
    ("detectors", "pixel_um"),
    [(["eiger2"], 75), (["eiger_mobile"], 75), (["xspress3", "merlin1"], 55), (["maxipix_2"], 55)],
)
def test_the_detectors_name_gives_its_pixel(detectors, pixel_um):
    optics = scan_optics(GeometryConfig(distance_m=1.0), (256, 256), {"scan": {"detectors": detectors}}, DCM)
    assert optics.geometry.detector_pixel_m == pytest.approx(1e-6 * pixel_um)


def test_of_two_detectors_the_configured_one_is_meant():
    start = {"scan": {"detectors": ["merlin1", "eiger2"]}}
    config = GeometryConfig(distance_m=1.0, detector="eiger2")
    assert scan_optics(config, (256, 256), start, DCM).geometry.detector_pixel_m == pytest.approx(75e-6)


def test_of_two_detectors_with_different_pixels_none_is_guessed():
    start = {"scan": {"detectors": ["merlin1", "eiger2"]}}
    with pytest.raises(GeometryError, match=r"merlin1, eiger2.*geometry\.detector"):
        scan_optics(GeometryConfig(distance_m=1.0), (256, 256), start, DCM)


def test_a_detector_that_nobody_knows_is_named():
    with pytest.raises(GeometryError, match="detector dexela is unknown"):
        scan_optics(GeometryConfig(detector="dexela"), (256, 256), START, DCM)
    with pytest.raises(GeometryError, match="an unnamed detector is unknown"):
        scan_optics(GeometryConfig(), (256, 256), {"scan": {"detector_distance": 1}}, DCM)


@pytest.mark.parametrize(("reading", "energy_kev"), [(12.4, 12.4), (12400.0, 12.4)])
def test_other_readings_of_the_baseline_may_give_the_energy(reading, energy_kev):
    config = GeometryConfig(detector_pixel_um=75, energy_from=("energy", "dcm_th"))
    optics = scan_optics(config, (256, 256), START, {**DCM, "energy": reading})
    assert optics.geometry.energy_kev == pytest.approx(energy_kev)
    assert optics.energy_source == "baseline energy"
    assert scan_optics(config, (256, 256), START, DCM).energy_source == "baseline dcm_th"


@pytest.mark.parametrize(
    ("header", "source"),
    [({"photon_energy": 12000}, "photon_energy"), ({"incident_energy": 12000.0}, "incident_energy")],
)
def test_the_detectors_header_is_the_last_resort_and_a_doubt(header, source):
    optics = scan_optics(PIXEL, (256, 256), START, {"zpsth": 0.0}, header)
    assert optics.geometry.energy_kev == pytest.approx(12.0)
    assert optics.energy_source == f"detector header {source}"
    assert optics.describe()["optics_doubts"] == ["the photon energy 12 keV is only what the detector was once told"]


def test_a_reading_that_makes_no_sense_is_a_doubt_where_another_source_serves():
    optics = scan_optics(PIXEL, (256, 256), START, {"dcm_th": 0.0}, {"photon_energy": 12000})
    assert "Bragg angle" in optics.doubts[0]
    assert len(optics.doubts) == 2


@pytest.mark.parametrize(
    ("start", "baseline", "complaint"),
    [
        ({}, DCM, r"geometry\.distance_m.*scan\.detector_distance"),
        (START, {"zpsth": 0}, r"geometry\.energy_kev.*dcm_th.*photon_energy"),
        (START, {"dcm_th": 0}, "Bragg angle"),
        (START, {"dcm_th": None}, "finite number"),
        ({"scan": {"detector_distance": -1}}, DCM, "must be positive"),
    ],
)
def test_missing_optics_are_named_together_with_where_to_give_them(start, baseline, complaint):
    with pytest.raises(GeometryError, match=complaint):
        scan_optics(PIXEL, (256, 256), start, baseline)
