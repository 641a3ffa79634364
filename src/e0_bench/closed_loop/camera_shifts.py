"""Controls that move cameras: what they are, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from e0_experts.cameras import CameraShift

OPTION = "camera_shift="
HOME = CameraShift()
AXES = ("azimuth", "elevation", "radius")


def shift_of(control: str) -> CameraShift | None:
    """The camera's shift under a control; none at all as usual, None for other controls."""
    if control == "none":
        return HOME
    given = [option for option in control.split() if option.startswith(OPTION)]
    return CameraShift.parse(given[0].removeprefix(OPTION)) if given else None


def is_moved(control: str) -> bool:
    """Whether cameras are elsewhere under this control."""
    return shift_of(control) not in (None, HOME)


def along(shift: CameraShift, axis: str) -> bool:
    """Whether a shift is along this axis alone, or none at all."""
    others = {name: value for name, value in vars(shift).items() if name != axis}
    return all(value == getattr(HOME, name) for name, value in others.items())


def moved_axes(controls: Sequence[str]) -> list[str]:
    """The axes of the sphere along which some of these controls move cameras, in order."""
    shifts = [shift for shift in map(shift_of, controls) if shift not in (None, HOME)]
    return [axis for axis in AXES if any(shift and along(shift, axis) for shift in shifts)]


def shift_rows(summary: dict[str, Any], task: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a task's table: a row for each shift, a column for each policy with its
    success, the points it lost to home, and the policies that it is ahead of under this shift."""
    rates = [row for row in summary["rates"] if row["task"] == task]
    policies = list(dict.fromkeys(row["policy"] for row in rates))
    by_cell = {(row["control"], row["policy"]): row for row in rates}
    lost = {
        (row["second"], row["policy"]): row for row in summary["controls"] if row["task"] == task
    }
    pairs = [row for row in summary["moved"] if row["task"] == task]
    rows = []
    for control in dict.fromkeys(row["control"] for row in rates):
        shift = shift_of(control)
        if shift is not None:
            ahead = _ahead([row for row in pairs if row["control"] == control])
            cells = [
                _cell(by_cell[control, policy], lost.get((control, policy)), ahead.get(policy, []))
                for policy in policies
            ]
            rows.append([camera_name(shift), *cells])
    return ["camera", *policies], rows


def _ahead(pairs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Policy -> those it is ahead of, by the verdicts of these comparisons."""
    found: dict[str, list[str]] = {}
    for row in pairs:
        for winner, other in ((row["first"], row["second"]), (row["second"], row["first"])):
            if row["verdict"] == f"{winner} ahead":
                found.setdefault(winner, []).append(other)
    return found


def _cell(rate: dict[str, Any], lost: dict[str, Any] | None, ahead: Sequence[str]) -> str:
    text = f"{100 * rate['rate']:.0f} ({100 * rate['low']:.0f}–{100 * rate['high']:.0f})"
    if lost is not None:
        interval = f"{round(100 * lost['low'])} to {round(100 * lost['high'])}"
        text += f", lost {round(100 * lost['difference'])} ({interval})"
    return f"{text}; ahead of {', '.join(ahead)}" if ahead else text


def camera_name(shift: CameraShift) -> str:
    """A shift in words, as in "azimuth +15°"."""
    parts = [f"{name} {getattr(shift, name):+g}°" for name in ("azimuth", "elevation", "roll")]
    parts = [part for part in parts if not part.endswith(" +0°")]
    if shift.radius != HOME.radius:
        parts.append(f"distance ×{shift.radius:g}")
    return ", ".join(parts) or "home"
