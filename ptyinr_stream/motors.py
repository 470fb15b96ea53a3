"""Where the frames of a scan lie: which encoder reads which motor, its scale and sign, and the sample's rotation.

Pure functions: what the configuration gives is trusted before what the documents say. A layout is resolved once,
when a scan begins, and holds to its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptyinr_stream.config import EncoderConfig, PositionsConfig
from ptyinr_stream.document_values import number, section
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.grids import Commanded, ScanPlan, laid
from ptyinr_stream.plans import commanded

_X, _Y, _Z = (f"/INENC{k}.VAL.Value" for k in (2, 3, 4))


def _read(channel: str, um_per_count: float, rotation: str | None = None) -> EncoderConfig:
    return EncoderConfig(channel=channel, um_per_count=um_per_count, rotation=rotation)


TABLES: dict[str, dict[str, EncoderConfig]] = {
    "hxn": {
        # The zone plate stage, turned by zpsth. Beyond 45 degrees plans scan its z instead of its x.
        "zpssx": _read(_X, -9.542e-5, "zpsth"),
        "zpssy": _read(_Y, -1.03297e-4),
        "zpssz": _read(_Z, 1e-4, "zpsth"),
        # The stage of the multilayer Laue lenses, turned by dsth.
        "dssx": _read(_X, -1e-4, "dsth"),
        "dssy": _read(_Y, 1e-4),
        "dssz": _read(_Z, 1.047e-4, "dsth"),
        # The tomography stage. Before November 2025 the signs were the other way round.
        "pt_tomo_ssx": _read(_X, -1e-4, "pt_tomo_th"),
        "pt_tomo_ssy": _read(_Z, -1e-4),
        # Their encoders cannot be captured, whatever the channels hold meanwhile.
        "ssx": EncoderConfig(),
        "ssy": EncoderConfig(),
        "ssz": EncoderConfig(),
    }
}
"""Motors and their encoders, by the names that a configuration may give as `positions.table`."""


@dataclass(frozen=True)
class Axis:
    """One axis of the object array: what moves along it, and how that is read."""

    motor: str
    """Empty where the start document names none."""
    channel: str | None
    """None: nothing reads it, and its frames lie where they were commanded."""
    um_per_count: float
    """Along the axis: with its sign, and foreshortened. 0 without a channel."""
    factor: float
    """Of the motor's coordinate in that along the axis: sign and foreshortening."""


@dataclass(frozen=True)
class Layout:
    """How a scan lies over the object array, and how its frames get their positions."""

    plan: ScanPlan
    """Foreshortened as the encoders are."""
    kind: str
    """Of the plan: `scan.type`, else its name."""
    axes: tuple[Axis, Axis]
    samples_per_frame: int
    angle_deg: float
    angle_source: str
    foreshortening: float
    """Of the axes that move across the rotation axis; 1 where there is none."""

    @property
    def measured(self) -> tuple[bool, bool]:
        """Whether an encoder reads axis 0 and axis 1."""
        return self.axes[0].channel is not None, self.axes[1].channel is not None

    def describe(self) -> dict[str, Any]:
        """The layout as a flat dictionary of plain values, for the metadata of outputs."""
        return {
            "position_motors": [axis.motor for axis in self.axes],
            "position_channels": [axis.channel or "none" for axis in self.axes],
            "position_sources": ["encoder" if read else "commanded grid" for read in self.measured],
            "position_um_per_count": [axis.um_per_count for axis in self.axes],
            "samples_per_frame": self.samples_per_frame,
            "angle_deg": self.angle_deg,
            "angle_source": self.angle_source,
            "foreshortening": self.foreshortening,
        }


def channels(positions: PositionsConfig) -> tuple[str, ...]:
    """Every channel that a scan may need, by a configuration alone."""
    explicit = [axis.channel for axis in (positions.axis0, positions.axis1) if axis is not None]
    table = [] if len(explicit) == 2 else [encoder.channel for encoder in _encoders(positions).values()]
    return tuple(dict.fromkeys(channel for channel in (*explicit, *table) if channel is not None))


def awaits_baseline(document: Mapping[str, Any], positions: PositionsConfig) -> bool:
    """Whether a reading that follows the start document decides where its frames lie.

    Raises:
        GeometryError: the document is of no scan that can be placed.
    """
    resolve(document, {}, positions)
    return positions.angle_deg is None and _rotation(commanded(document), positions) is not None


def resolve(document: Mapping[str, Any], baseline: Mapping[str, Any], positions: PositionsConfig) -> Layout:
    """Find where the frames of a scan lie.

    Args:
        document: the start document.
        baseline: the readings that followed it; the angle of a rotation that is missing there counts as 0.
        positions: what is known beforehand.

    Raises:
        GeometryError: the document describes no two-dimensional scan, or one whose motors nobody knows how to read.
    """
    plan = commanded(document)
    angle_deg, source = _angle(document, baseline, plan, positions)
    across = foreshortening(angle_deg, positions.mirror_beyond_minus_45) if positions.foreshorten else 1.0
    axis0, axis1 = (_axis(axis, plan, positions, across) for axis in (0, 1))
    rotation = _rotation(plan, positions)
    layout = Layout(
        plan=laid(plan, positions.motors, (axis0.factor, axis1.factor)),
        kind=plan.kind,
        axes=(axis0, axis1),
        samples_per_frame=_samples_per_frame(document, plan, positions),
        angle_deg=angle_deg,
        angle_source=source,
        foreshortening=1.0 if rotation is None else across,
    )
    _check(plan, layout, positions)
    return layout


def foreshortening(angle_deg: float, mirror: bool = False) -> float:
    """How much of a motion across the rotation axis is seen along the beam.

    Up to 45 degrees plans scan a motor that lies across the beam at 0 degrees, beyond that one that lies along it.

    >>> [round(foreshortening(angle), 4) for angle in (0, 30, 45, 60, -60)], foreshortening(-90, mirror=True)
    ([1.0, 0.866, 0.7071, 0.866, 0.866], -1.0)
    """
    angle = math.radians(angle_deg)
    seen = max(abs(math.cos(angle)), abs(math.sin(angle)))
    return -seen if mirror and angle_deg <= -45 else seen


def span_ratios(
    plan: ScanPlan, frames: NDArray[np.int64], positions_m: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """How far frames lie apart, by how far they were meant to, along axis 0 and axis 1.

    Between the second and the 98th percentile, so that an overshoot of the first lines does not count. Negative where
    the stage ran the other way than commanded; None where nothing was commanded along an axis, or not known what.

    Args:
        plan: what was commanded.
        frames: (n,) their numbers.
        positions_m: (n, 2) where they lie, up to a constant.
    """
    if not plan.path_known or len(frames) < 2:
        return None, None
    meant_m = plan.commanded_m(frames)
    ratios: list[float | None] = []
    for meant, found in zip(meant_m.T, positions_m.T, strict=True):
        wanted, lies = (float(np.subtract(*np.percentile(along, (98, 2)))) for along in (meant, found))
        together = float(((meant - meant.mean()) * (found - found.mean())).sum())
        ratios.append(math.copysign(lies / wanted, together) if wanted > 0 and math.isfinite(lies) else None)
    return ratios[0], ratios[1]


def _encoders(positions: PositionsConfig) -> dict[str, EncoderConfig]:
    """The table, with what the configuration says of single motors."""
    found = dict(TABLES[positions.table]) if positions.table else {}
    for motor, given in positions.encoders.items():
        known = found.get(motor, EncoderConfig())
        found[motor] = known.model_copy(update={key: getattr(given, key) for key in given.model_fields_set})
    return found


def _axis(axis: int, plan: Commanded, positions: PositionsConfig, across: float) -> Axis:
    motor = plan.motors[positions.motors[axis]]
    explicit = positions.axis0 if axis == 0 else positions.axis1
    encoders = _encoders(positions)
    encoder = encoders.get(motor)
    seen = across if encoder is not None and encoder.rotation else 1.0
    if explicit is not None:
        return Axis(motor, explicit.channel, explicit.um_per_count * seen, explicit.motor_sign * seen)
    if encoder is None:
        raise GeometryError(
            f"start document: nothing is known of motor {motor!r}, which moves along axis {axis}: give "
            f"[positions.encoders.{motor or 'NAME'}] with channel and um_per_count; known are {', '.join(encoders)}"
        )
    factor = encoder.motor_sign * seen
    if encoder.channel is None:
        return Axis(motor, None, 0.0, factor)
    if encoder.um_per_count is None:
        raise GeometryError(f"positions.encoders.{motor} has a channel and no um_per_count")
    return Axis(motor, encoder.channel, encoder.um_per_count * factor, factor)


def _check(plan: Commanded, layout: Layout, positions: PositionsConfig) -> None:
    motors, read = [axis.motor for axis in layout.axes], [axis.channel for axis in layout.axes]
    if read[0] is not None and read[0] == read[1]:
        raise GeometryError(f"start document: {' and '.join(motors)} are both read on {read[0]}")
    if not all(layout.measured) and not plan.path_known:
        blind = [motor for motor, known in zip(motors, layout.measured, strict=True) if not known]
        raise GeometryError(
            f"start document: no encoder reads {' and '.join(blind)}, and {plan.kind} does not say where its frames lie"
        )
    if plan.relative and positions.zero == "motor" and any(layout.measured):
        raise GeometryError(
            f"start document: {plan.kind} is relative to where its motors stood: that needs positions.zero = "
            '"scan_start"'
        )


def _samples_per_frame(document: Mapping[str, Any], plan: Commanded, positions: PositionsConfig) -> int:
    for kind in (plan.kind, document.get("plan_name")):
        if (samples := positions.samples(str(kind))) is not None:
            return samples
    raise GeometryError(
        f"start document: nobody knows how many encoder samples a frame of {plan.kind} has: give "
        f'positions.samples_per_frame, or "{plan.kind}" in positions.samples_by_type'
    )


def _rotation(plan: Commanded, positions: PositionsConfig) -> str | None:
    """The reading of the rotation that foreshortens a motor of the scan."""
    encoders = _encoders(positions)
    found = (encoders[motor].rotation for motor in plan.motors if motor in encoders)
    return next((rotation for rotation in found if rotation), None)


def _angle(
    document: Mapping[str, Any], baseline: Mapping[str, Any], plan: Commanded, positions: PositionsConfig
) -> tuple[float, str]:
    """The sample's rotation in degrees, and where it comes from."""
    if positions.angle_deg is not None:
        return positions.angle_deg, "configuration"
    rotation = _rotation(plan, positions)
    if rotation is None:
        return 0.0, "no rotation"
    theta = section(document, "scan").get("theta")
    theta = theta.get("val") if isinstance(theta, Mapping) else theta
    for value, source in ((baseline.get(rotation), f"baseline {rotation}"), (theta, "start document scan.theta")):
        try:
            return number(value, source), source
        except GeometryError:
            continue
    return 0.0, f"assumed: no {rotation} in the baseline"
