"""Success of several trainings of each policy: every training a point, their mean a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from e0_bench.figure_style import COLOURS, FAINT, STYLE, group_by_task, save_figure

ROW = 0.22  # inches for one policy


def trainings_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Save `draw_trainings` as a picture."""
    with matplotlib.rc_context(STYLE):
        save_figure(draw_trainings(rows), path)


def draw_trainings(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the rows of `over_trainings` of episodes as usual, a group for each task."""
    usual = [row for row in rows if row["control"] == "none"]
    policies, tasks = (list(dict.fromkeys(row[key] for row in usual)) for key in ("policy", "task"))
    group = len(policies) + 1  # an empty row between tasks
    height = ROW * group * len(tasks) + 0.9
    figure = Figure(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    for row in usual:
        policy = policies.index(row["policy"])
        place, colour = (
            group * tasks.index(row["task"]) + policy,
            COLOURS[policy % len(COLOURS)],
        )
        shares = [100 * share for share in row["rates"]]
        mean = fmean(shares)
        axes.plot(shares, [place] * len(shares), "o", color=colour, ms=5, alpha=0.75)
        axes.vlines(mean, place - 0.38, place + 0.38, color=colour, lw=2)
        axes.text(
            1.03, place, f"{mean:.0f} %", va="center", fontsize=7.5,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    group_by_task(axes, tasks, len(policies))
    axes.set(xlim=(-2, 102), xlabel="success, % (points: trainings; line: their mean)")
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    handles = [
        Line2D([], [], color=COLOURS[place % len(COLOURS)], marker="o", ms=5, lw=0)
        for place in range(len(policies))
    ]
    figure.legend(
        handles, policies, loc="outside upper center", ncols=min(4, len(policies)), fontsize=8
    )
    return figure
