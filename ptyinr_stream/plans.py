"""What a start document commands: how many frames, by which motors, over which range. Pure functions.

Plans are told apart by `scan.type`, which HXN's plans write: `plan_name` is the outermost plan, and a tomography hides
the scans it is made of. Motor coordinates are micrometres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ptyinr_stream.document_values import count, items, names, number, numbers, section
from ptyinr_stream.errors import GeometryError
from ptyinr_stream.grids import Commanded, Pair, pair

Start = Mapping[str, Any]


def commanded(document: Start) -> Commanded:
    """Read what a start document commands.

    Understood are HXN's fly scans by their `scan.type`, the `plan_args` of its older FlyPlan2D, and Bluesky's grid
    scans, list scans, spirals and scans of two motors along a line.

    Raises:
        GeometryError: the document describes no two-dimensional scan, or contradicts itself.
    """
    kind, pattern = section(document, "scan").get("type"), document.get("plan_pattern")
    if isinstance(kind, str) and kind in _BY_TYPE:
        plan = _BY_TYPE[kind](document, kind)
    elif isinstance(kind, str) and (kind.startswith("1D_") or "TIME" in kind):
        raise GeometryError(f"start document: scan.type is {kind!r}: an image needs a scan along two axes")
    elif section(document, "plan_args").keys() >= {"scan_start1", "scan_end1", "num1", "scan_start2"}:
        plan = _fly_plan_2d(document)
    elif isinstance(pattern, str) and pattern in _BY_PATTERN:
        plan = _BY_PATTERN[pattern](document)
    elif "extents" in document:
        plan = _grid(document)
    else:
        raise GeometryError(
            f"start document: scan.type is {kind!r}; a scan needs scan.type {', '.join(_BY_TYPE)} with "
            "scan.scan_input, or the plan_args of a FlyPlan2D, or a plan_pattern "
            f"{', '.join(_BY_PATTERN)}, or extents and shape"
        )
    _check_length(document, plan)
    return plan


# HXN's fly scans


def _panda_fly(document: Start, kind: str) -> Commanded:
    x0, x1, nx, y0, y1, ny = numbers(section(document, "scan").get("scan_input"), 6, "scan.scan_input")
    continuous = kind == "2D_FLY_CONT_PANDA"
    plan = _fly(document, kind, (x0, x1, nx), (y0, y1, ny), continuous or document.get("fly_type") == "pyramid")
    return replace(plan, drift=continuous) if continuous else _repeated(document, plan)


def _repeated(document: Start, plan: Commanded) -> Commanded:
    """Whether the slow motor returned, as `fly2dpd_repeat` makes it: its documents name lines and range of all repeats.

    How often it does they do not tell, unless a `repeat` was added to them.
    """
    nested = (document, section(document, "scan"), section(document, "plan_args"))
    repeat = next((found["repeat"] for found in nested if "repeat" in found), None)
    if repeat is None:
        return replace(plan, path_known=document.get("plan_name") != "fly2dpd_repeat")
    repeats, lines = count(repeat, "repeat"), plan.shape[1]
    if lines % repeats:
        raise GeometryError(f"start document: repeat is {repeats}, which does not divide the {lines} lines")
    start, stop = plan.ends_um[1]
    once = (start, start + (stop - start) / repeats)
    return replace(plan, returns=lines // repeats, ends_um=(plan.ends_um[0], once))


def _function_generator(document: Start, kind: str) -> Commanded:
    given = numbers(section(document, "scan").get("scan_input"), 7, "scan.scan_input")
    centre, width, nx, y0, y1, ny, _dwell = given
    # The generator's ramp goes to and fro whatever `scan.snake` says, which the plan writes and does not use.
    plan = _fly(document, kind, (centre - width / 2, centre + width / 2, nx), (y0, y1, ny), snake=True)
    return replace(plan, drift=True)


def _fly_plan_2d(document: Start) -> Commanded:
    arguments = section(document, "plan_args")
    axes = []
    for axis in "12":
        keys = (f"scan_start{axis}", f"scan_end{axis}", f"num{axis}")
        axes.append(tuple(number(arguments.get(key), f"plan_args.{key}") for key in keys))
    named = [str(document.get(f"motor{axis}") or "") for axis in "12"]
    plan_names = names(document.get("motors"))
    if not all(named) and len(plan_names) == 2:
        named = plan_names
    if document.get("fast_axis") == named[1] != "":
        axes.reverse()
        named.reverse()
    kind = str(section(document, "scan").get("type") or "FlyPlan2D")
    plan = _fly(document, kind, axes[0], axes[1], document.get("fly_type") == "pyramid")
    return replace(plan, motors=(named[0], named[1]))


def _fly(
    document: Start, kind: str, fast: tuple[float, ...], slow: tuple[float, ...], snake: bool = False
) -> Commanded:
    """A grid of (start, stop, frames) along each motor; a fly scan's line is divided into equal exposures."""
    (x0, x1, nx), (y0, y1, ny) = fast, slow
    shape = (count(nx, "frames per line"), count(ny, "lines"))
    return Commanded(
        kind=kind,
        motors=_motors(document),
        shape=shape,
        ends_um=((x0, x1), (y0, y1)),
        start_um=(x0, y0),
        steps_um=((x1 - x0) / shape[0], (y1 - y0) / shape[1]),
        snake=snake,
    )


# Bluesky's own plans


def _grid(document: Start) -> Commanded:
    """Slow motor first; unlike a fly scan a grid scan also stops at the end of its range."""
    slow, fast = (numbers(extent, 2, "extents") for extent in items(document.get("extents"), 2, "extents"))
    lines, line = (count(n, "shape") for n in items(document.get("shape"), 2, "shape"))
    snaking = numbers(document.get("snaking", (False, False)), 2, "snaking")[1] != 0
    return Commanded(
        kind=_name(document),
        motors=_motors(document, slow_first=True),
        shape=(line, lines),
        ends_um=((fast[0], fast[1]), (slow[0], slow[1])),
        start_um=(fast[0], slow[0]),
        steps_um=((fast[1] - fast[0]) / max(line - 1, 1), (slow[1] - slow[0]) / max(lines - 1, 1)),
        snake=snaking,
        relative=_is_relative(document),
    )


def _list_grid(document: Start) -> Commanded:
    slow, fast = _lists(document)
    snake = document.get("snake_axes") in (True, "True")
    lines = [fast[::-1] if snake and line % 2 else fast for line in range(len(slow))]
    points = [(x, y) for y, line in zip(slow, lines, strict=True) for x in line]
    return _listed(document, points, (len(fast), len(slow)), slow_first=True)


def _list(document: Start) -> Commanded:
    first, second = _lists(document)
    if len(first) != len(second):
        raise GeometryError(f"start document: the lists of its motors have {len(first)} and {len(second)} places")
    return _listed(document, list(zip(first, second, strict=True)), (len(first), 1))


def _line(document: Start) -> Commanded:
    """Both motors move at once, from place to place of a line."""
    arguments = section(document, "plan_pattern_args")
    _, a, b, _, c, d = _arguments(arguments.get("args"), 3)
    n = count(arguments.get("num"), "plan_pattern_args.num")
    (a, b), (c, d) = numbers((a, b), 2, "plan_pattern_args.args"), numbers((c, d), 2, "plan_pattern_args.args")
    share = [k / max(n - 1, 1) for k in range(n)]
    return _listed(document, [(a + (b - a) * s, c + (d - c) * s) for s in share], (n, 1))


def _spiral(document: Start) -> Commanded:
    """Begins in the middle; of its `extents` Bluesky's spirals fill half, so the range is taken from the arguments."""
    arguments = section(document, "plan_args")
    ends = []
    for axis in "xy":
        key = f"{axis}_center" if f"{axis}_center" in arguments else f"{axis}_start"
        middle = number(arguments.get(key), f"plan_args.{key}")
        half = abs(number(arguments.get(f"{axis}_range"), f"plan_args.{axis}_range")) / 2
        ends.append((middle - half, middle + half))
    # `motors` of a spiral are in any order; which of them is x only the device's own words tell.
    first, second = _motors(document)
    if f"'{second}'" in str(arguments.get("x_motor")):
        first, second = second, first
    return Commanded(
        kind=_name(document),
        motors=(first, second),
        shape=(count(document.get("num_points"), "num_points"), 1),
        ends_um=(ends[0], ends[1]),
        start_um=pair(sum(end) / 2 for end in ends),
        steps_um=(0.0, 0.0),
        path_known=False,
        relative=_is_relative(document),
    )


def _listed(document: Start, points: list[Pair], shape: tuple[int, int], slow_first: bool = False) -> Commanded:
    fast, slow = ([point[axis] for point in points] for axis in (0, 1))
    return Commanded(
        kind=_name(document),
        motors=_motors(document, slow_first),
        shape=shape,
        ends_um=((min(fast), max(fast)), (min(slow), max(slow))),
        start_um=points[0],
        steps_um=(0.0, 0.0),
        points_um=tuple(points),
        relative=_is_relative(document),
    )


def _lists(document: Start) -> tuple[list[float], list[float]]:
    name = "plan_pattern_args.args"
    _, first, _, second = _arguments(section(document, "plan_pattern_args").get("args"), 2)
    found = []
    for places in (first, second):
        if not isinstance(places, list | tuple) or not places:
            raise GeometryError(f"start document: {name} has {places!r} where a list of places is needed")
        found.append([number(place, name) for place in places])
    return found[0], found[1]


def _arguments(value: Any, each: int) -> list[Any]:
    """The arguments of two motors, `each` of them a motor."""
    if isinstance(value, list | tuple) and len(value) == each:
        raise GeometryError("start document: its plan moves one motor: an image needs a scan along two axes")
    return items(value, 2 * each, "plan_pattern_args.args")


_BY_TYPE: dict[str, Callable[[Start, str], Commanded]] = {
    "2D_FLY_PANDA": _panda_fly,
    "2D_FLY_CONT_PANDA": _panda_fly,
    "FIP_2D_FLY": _function_generator,
}
_BY_PATTERN: dict[str, Callable[[Start], Commanded]] = {
    "outer_product": _grid,
    "outer_list_product": _list_grid,
    "inner_product": _line,
    "inner_list_product": _list,
    "spiral": _spiral,
    "spiral_fermat": _spiral,
    "spiral_square": _spiral,
}


def _motors(document: Start, slow_first: bool = False) -> tuple[str, str]:
    found = names(document.get("motors"))
    if len(found) == 2:
        return (found[1], found[0]) if slow_first else (found[0], found[1])
    scan = section(document, "scan")
    fast, slow = (section(scan, f"{axis}_axis").get("motor_name") for axis in ("fast", "slow"))
    return str(fast or ""), str(slow or "")


def _name(document: Start) -> str:
    return str(document.get("plan_name") or document.get("plan_pattern") or "grid")


def _is_relative(document: Start) -> bool:
    return str(document.get("plan_name")).startswith("rel")


def _check_length(document: Start, plan: Commanded) -> None:
    expected = math.prod(plan.shape)
    scan = section(document, "scan")
    for name, value in (("shape", document.get("shape")), ("scan.shape", scan.get("shape"))):
        if value is not None and math.prod(numbers(value, 2, name)) != expected:
            shape = " x ".join(map(str, plan.shape))
            raise GeometryError(f"start document: {name} {value} contradicts the {shape} frames of its plan")
    points = document.get("num_points")
    if points is not None and number(points, "num_points") != expected:
        raise GeometryError(f"start document: num_points {points} contradicts the {expected} frames of its plan")
