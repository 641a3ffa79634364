"""Success against how far the camera was moved, from the summary of a benchmark whose controls are
camera shifts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e0_bench.closed_loop.camera_shifts import along, moved_axes, shift_of
from e0_bench.figure_style import COLOURS, FAINT, STYLE, save_figure

LABELS = {
    "azimuth": "azimuth, degrees",
    "elevation": "elevation, degrees",
    "radius": "distance, factor",
}
SPREAD = 0.012  # of the axis' width, so that the whiskers of policies stand side by side


def shift_figure(
    summary: dict[str, Any], path: Path, trained: Mapping[str, str] | None = None
) -> None:
    """A row of panels for each task, a panel for each axis of the sphere that cameras moved along,
    a line for each policy, with 95 % Wilson intervals. Shifts along several axes are left out.

    trained: training's label -> policy, where the summary is of several trainings of each policy;
    those of a policy share a colour.
    """
    rates = [(shift_of(row["control"]), row) for row in summary["rates"]]
    moved = moved_axes([row["control"] for _, row in rates])
    tasks = list(dict.fromkeys(row["task"] for _, row in rates))
    names = list(dict.fromkeys(row["policy"] for _, row in rates))
    lines: dict[str, str] = {name: name for name in names} | dict(trained or {})
    policies = list(dict.fromkeys(lines.values()))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 2.5 * len(tasks) + 0.5), layout="constrained")
        grid = figure.subplots(
            len(tasks),
            len(moved),
            sharey=True,
            squeeze=False,
            width_ratios=[2 if axis == "azimuth" else 1 for axis in moved],
        )
        for task, panels in zip(tasks, grid, strict=True):
            for axis, axes in zip(moved, panels, strict=True):
                for number, (name, policy) in enumerate(lines.items()):
                    own = [
                        (getattr(shift, axis), row)
                        for shift, row in rates
                        if (row["task"], row["policy"]) == (task, name)
                        and shift is not None
                        and along(shift, axis)
                    ]
                    colour = COLOURS[policies.index(policy) % len(COLOURS)]
                    _line(axes, own, policy, colour, number - (len(lines) - 1) / 2)
                axes.set(xlabel=LABELS[axis], ylim=(-4, 104))
                axes.grid(axis="y", color=FAINT, lw=0.6)
            panels[0].set_ylabel(f"{task}\nsuccess, %")
        handles, labels = grid[0][0].get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside upper center", ncols=3, fontsize=8)
        save_figure(figure, path)


def _line(
    axes: Axes, points: list[tuple[float, dict[str, Any]]], label: str, colour: str, aside: float
) -> None:
    points = sorted(points, key=lambda point: point[0])
    if not points:
        return
    places = [place for place, _ in points]
    apart = SPREAD * (places[-1] - places[0]) * aside
    share = [100 * row["rate"] for _, row in points]
    margins = [
        [100 * (row["rate"] - row["low"]) for _, row in points],
        [100 * (row["high"] - row["rate"]) for _, row in points],
    ]
    axes.errorbar(
        [place + apart for place in places],
        share,
        margins,
        color=colour,
        marker="o",
        ms=3.5,
        lw=1.2,
        elinewidth=0.7,
        capsize=1.5,
        label=label,
    )
