"""Which optics hold for a scan: each quantity by its sources in order of trust. Pure functions.

What the configuration gives is trusted first. A detector's header comes last: it holds what somebody once set.
`scan.detector_distance` is a constant in the text of HXN's plans, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ptyinr.types import HC_KEV_M, ScanGeometry
from ptyinr_stream.config import GeometryConfig
from ptyinr_stream.document_values import names, number, section
from ptyinr_stream.errors import GeometryError

_HEADER_ENERGIES = ("incident_energy", "photon_energy")
"""In eV: of stream v2 and of v1."""


@dataclass(frozen=True)
class Optics:
    """The optics of a scan, and where they come from."""

    geometry: ScanGeometry
    energy_source: str
    distance_source: str
    detector: str
    """Its name in the documents, empty where they have none."""
    doubts: tuple[str, ...] = ()
    """Sources that could not be used and such as are used for want of a better, in words."""

    def describe(self) -> dict[str, Any]:
        """Where the optics come from, flat, for the metadata of outputs."""
        return {
            "energy_source": self.energy_source,
            "distance_source": self.distance_source,
            **({"detector": self.detector} if self.detector else {}),
            **({"optics_doubts": list(self.doubts)} if self.doubts else {}),
        }


def scan_optics(
    config: GeometryConfig,
    window: tuple[int, int],
    document: Mapping[str, Any],
    baseline: Mapping[str, Any],
    header: Mapping[str, Any] | None = None,
) -> Optics:
    """Determine the optics of a scan.

    Args:
        config: what is known beforehand.
        window: rows and columns of the diffraction patterns.
        document: the start document gives the detector's name and, last, the distance in metres.
        baseline: gives the photon energy, by `dcm_th` in degrees or by other readings that the configuration names.
        header: of the detector's series, `photon_energy` or `incident_energy` in eV; used last, and None not at all.

    Raises:
        GeometryError: a quantity has no source that can be used; it names all that would have served.
    """
    detector = config.detector or _detector(config, document)
    pixel_um = config.detector_pixel_um or _by_name(config.detector_pixels_um, detector)
    if pixel_um is None:
        raise GeometryError(
            f"the pixel of {f'detector {detector}' if detector else 'an unnamed detector'} is unknown: give "
            "geometry.detector_pixel_um in the configuration, or its name in geometry.detector_pixels_um"
        )
    doubts: list[str] = []
    energy_kev, energy_source = _first(_energies(config, baseline, header or {}), "photon energy", doubts)
    if energy_source.startswith("detector header"):
        doubts.append(f"the photon energy {energy_kev:.4g} keV is only what the detector was once told")
    distance_m, distance_source = _first(_distances(config, detector, document), "detector distance", doubts)
    try:
        geometry = ScanGeometry(
            wavelength_m=HC_KEV_M / energy_kev,
            distance_m=distance_m,
            detector_pixel_m=1e-6 * pixel_um,
            window=window,
        )
    except ValueError as error:
        raise GeometryError(str(error)) from error
    return Optics(geometry, energy_source, distance_source, detector, tuple(doubts))


def dcm_energy_kev(angle_deg: float) -> float:
    """Photon energy that HXN's Si(111) monochromator passes at a Bragg angle in degrees, with HXN's own constants.

    >>> round(dcm_energy_kev(9.5), 3)
    11.979

    Raises:
        GeometryError: the angle is not between 0 and 90 degrees.
    """
    if not 0 < angle_deg < 90:
        raise GeometryError(f"baseline dcm_th is {angle_deg} degrees: a Bragg angle lies between 0 and 90")
    return 12.39842 / (2 * 3.1355893 * math.sin(math.radians(angle_deg)))


Source = tuple[str, Callable[[], float | None]]
"""Its name, and how to get the value; None where there is none."""


def _energies(config: GeometryConfig, baseline: Mapping[str, Any], header: Mapping[str, Any]) -> Iterable[Source]:
    yield "configuration geometry.energy_kev", lambda: config.energy_kev
    for key in config.energy_from:
        yield f"baseline {key}", lambda key=key: _reading_kev(key, baseline)
    for key in _HEADER_ENERGIES:
        yield f"detector header {key}", lambda key=key: _kev(header[key], key) if key in header else None


def _distances(config: GeometryConfig, detector: str, document: Mapping[str, Any]) -> Iterable[Source]:
    scan = section(document, "scan")
    name = "scan.detector_distance"
    yield "configuration geometry.distance_m", lambda: config.distance_m
    yield "configuration geometry.distances_m", lambda: _by_name(config.distances_m, detector)
    yield f"start document {name}", lambda: _positive(scan[name[5:]], name) if name[5:] in scan else None


def _first(sources: Iterable[Source], quantity: str, doubts: list[str]) -> tuple[float, str]:
    """The first value there is, and its source; those that cannot be used before it become doubts."""
    tried, wrong = [], []
    for name, value in sources:
        tried.append(name)
        try:
            found = value()
        except GeometryError as error:
            wrong.append(str(error))
            continue
        if found is not None:
            doubts += wrong
            return found, name
    why = f" ({'; '.join(wrong)})" if wrong else ""
    raise GeometryError(f"the {quantity} is unknown{why}: it can come from {', '.join(tried)}")


def _reading_kev(key: str, baseline: Mapping[str, Any]) -> float | None:
    if key not in baseline:
        return None
    value = number(baseline[key], f"baseline {key}")
    return dcm_energy_kev(value) if key == "dcm_th" else _kev(value, key)


def _kev(value: Any, name: str) -> float:
    """A photon energy in keV, or in eV from 1000 on."""
    energy = _positive(value, name)
    return energy / 1000 if energy >= 1000 else energy


def _positive(value: Any, name: str) -> float:
    found = number(value, name)
    if found <= 0:
        raise GeometryError(f"{name} is {value!r}: it must be positive")
    return found


def _detector(config: GeometryConfig, document: Mapping[str, Any]) -> str:
    """The detector of the scan that a table knows, empty if it names none."""
    listed = names(section(document, "scan").get("detectors")) or names(document.get("detectors"))
    known = [name for name in listed if _by_name({**config.distances_m, **config.detector_pixels_um}, name)]
    if len({_by_name(config.detector_pixels_um, name) for name in known}) > 1 and config.detector_pixel_um is None:
        raise GeometryError(
            f"start document: the scan has the detectors {', '.join(known)}: say in geometry.detector which one's "
            "frames arrive"
        )
    return known[0] if known else ""


def _by_name(table: Mapping[str, float], name: str) -> float | None:
    return next((value for pattern, value in table.items() if fnmatchcase(name, pattern)), None)
