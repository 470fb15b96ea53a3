"""`ptyinr-stream check --orientation`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ptyinr_stream.commands import escaped, out

if TYPE_CHECKING:
    from ptyinr_stream.config import Config, PositionsConfig
    from ptyinr_stream.orientation import Verdict
    from ptyinr_stream.sections import Orientation


def check_orientation(path: Path, config: Config | None, *, quiet: bool = False) -> bool:
    """Print what a recorded scan says about the orientation of its detector; whether the configured one is possible."""
    from ptyinr_stream.device import choose_device
    from ptyinr_stream.formats.ptyinr_h5 import read_scan
    from ptyinr_stream.orientation import CLASSES, find_orientation, relative
    from ptyinr_stream.terminal import counting

    scan = read_scan(path)
    configured: Orientation = "as_sent" if config is None else config.frames.orientation
    device = choose_device("auto" if config is None else config.training.device)
    with counting(out, len(CLASSES), "ways tried", quiet=quiet) as count:
        verdict = find_orientation(scan, device=device, progress=lambda _: count(1))
    _show(verdict, configured)
    right = relative(configured) in verdict.possible
    for line in _advice(verdict, configured, None if config is None else config.positions):
        out.print(escaped(line), highlight=False, soft_wrap=True)
    return right


def _show(verdict: Verdict, configured: Orientation) -> None:
    """All 64 pairs: rows are orientations of the detector, columns maps of the positions as they are configured."""
    from rich.box import SIMPLE
    from rich.table import Table

    from ptyinr_stream.orientation import NAMES, relative

    least = min(verdict.errors)
    table = Table(
        box=SIMPLE,
        padding=(0, 1),
        title=f"error on unseen frames of {verdict.frames}, in units of the least ({least:.3g} counts a pixel)",
        title_justify="left",
        caption='columns: what become axis 0 and axis 1 of the positions; "-1 0" is both swapped, the first reversed',
        caption_justify="left",
    )
    table.add_column("")
    for change in NAMES:
        table.add_column(_axes(change), justify="right")
    for orientation in NAMES:
        cells = []
        for change in NAMES:
            k = relative(orientation, change)
            ratio = f"{verdict.errors[k] / least:.2f}"
            cells.append(f"[bold green]{ratio}[/]" if k in verdict.possible else f"[dim]{ratio}[/]")
        table.add_row(f"[bold]{orientation} *[/]" if orientation == configured else orientation, *cells)
    out.print(table, highlight=False)
    out.print(f"* configured, as are the positions of the column {_axes('as_sent')}", highlight=False)


def _axes(change: Orientation) -> str:
    """A map of positions by the old axes, signed, that its new axes are."""
    from ptyinr_stream.orientation import matrix

    return " ".join(("-" if row.sum() < 0 else "") + str(int(abs(row).argmax())) for row in matrix(change))


def _advice(verdict: Verdict, configured: Orientation, positions: PositionsConfig | None) -> list[str]:
    """What to write into the configuration, in lines."""
    from ptyinr_stream.orientation import CLASSES, position_change, relative, remapped

    names = CLASSES[verdict.best]
    if len(verdict.possible) > 1:
        others = "; ".join(" or ".join(CLASSES[k]) for k in verdict.possible)
        return [
            f"This scan does not tell: {others} explain it equally well (the second is {verdict.margin:.2f} times as "
            "far off). Try one with more overlap, more light or a stronger sample."
        ]
    first = verdict.likely or (configured if configured in names else names[0])
    twin = names[1] if first == names[0] else names[0]
    next_best = f"the next is {verdict.margin:.2f} times as far off"
    if relative(configured) == verdict.best:
        lines = [f"The configured orientation {configured} is right, or the twin of the right one: {next_best}."]
    else:
        lines = [f"The configured orientation {configured} is WRONG. Right is {' or '.join(names)}: {next_best}."]
    lines += ["", "[frames]", f'orientation = "{first}"']
    if verdict.likely is None:
        lines.append(
            f'# or "{twin}", its twin: this sample hardly absorbs, so that nothing tells the sign of the phase'
        )
    else:
        lines.append(f'# not "{twin}", its twin: here what absorbs also advances the phase, as it does for X-rays')
    if positions is not None and configured != first:
        changed = remapped(positions, position_change(configured, first))
        lines += ["", f'Or leave orientation = "{configured}" and turn the positions instead:', ""]
        lines += ["[positions]", f"motors = {list(changed.motors)}"]
        for name in ("axis0", "axis1"):
            axis = getattr(changed, name)
            lines += [f"[positions.{name}]", f'channel = "{axis.channel}"', f"um_per_count = {axis.um_per_count:g}"]
            lines.append(f"motor_sign = {axis.motor_sign}")
    return lines
