"""Figures of a benchmark, drawn without pyplot, so that no display and no global state matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from e0_bench.figure_style import COLOURS, FAINT, INK, STYLE, group_by_task, save_figure
from e0_bench.statistics import Rate

MARKERS = {"none": "o", "blackout": "s", "instruction": "D"}
CONTROL_NAMES = {
    "none": "as usual",
    "blackout": "black images",
    "instruction": "another instruction",
}
ROW = 0.22  # inches for one rate


def success_figure(summary: dict[str, Any], path: Path) -> None:
    """Success of every policy on every task with Wilson intervals; controls of the input with open
    markers."""
    rates = [row for row in summary["rates"] if row["control"] in MARKERS]
    policies, tasks, controls = (
        list(dict.fromkeys(row[key] for row in rates)) for key in ("policy", "task", "control")
    )
    size = len(policies) * len(controls)
    gap = size + 1  # an empty row between tasks
    with matplotlib.rc_context(STYLE):
        height = ROW * gap * len(tasks) + 0.7 + 0.2 * max(len(policies), len(controls))
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.add_subplot()
        for row in rates:
            policy = policies.index(row["policy"])
            place = gap * tasks.index(row["task"]) + policy * len(controls)
            place += controls.index(row["control"])
            rate = Rate(row["successes"], row["episodes"])
            colour = COLOURS[policy % len(COLOURS)]
            _point(axes, rate, place, colour, MARKERS[row["control"]], row["control"] == "none")
            axes.text(
                1.03, place, f"{rate.successes}/{rate.episodes}", va="center", fontsize=7.5,
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
        group_by_task(axes, tasks, size)
        _percent_axis(axes)
        _legends(figure, policies, controls)
        save_figure(figure, path)


def calibration_figure(summary: dict[str, Any], path: Path) -> None:
    """Failure rate against the rank of the posterior's entropy, a panel for each policy."""
    calibration = summary["calibration"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.1 + 2.9 * len(calibration), 3.4), layout="constrained")
        panels = figure.subplots(1, len(calibration), sharey=True, squeeze=False)[0]
        for axes, (policy, scores) in zip(panels, calibration.items(), strict=True):
            for number, (name, found) in enumerate(scores.items()):
                _reliability(axes, found["bins"], name, number)
            counts = next(iter(scores.values()))
            base = 100 * counts["failures"] / counts["n"]
            axes.axhline(base, color=INK, lw=0.8, ls=":", label="all episodes")
            axes.set_title(f"{policy}\n{_areas(scores)}", fontsize=8.5)
            axes.set(xlim=(0, 100), ylim=(-4, 104))
            axes.set_xticks(range(0, 100, 20))  # 100 would touch the next panel's 0
            axes.grid(axis="y", color=FAINT, lw=0.6)
            axes.set_axisbelow(True)
        panels[0].set_ylabel("failed, % (95 % interval)")
        figure.supxlabel("rank of entropy among episodes of the same task, %", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        columns = 3 if len(panels) > 1 else 1
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8)
        save_figure(figure, path)


def _areas(scores: dict[str, dict[str, Any]]) -> str:
    """The areas under the curve, in words."""
    texts = []
    for name, found in scores.items():
        if found["auc"] is None:
            return f"no AUC: {found['failures']} of {found['n']} failed"
        text = f"AUC {name} {100 * found['auc']:.0f} %"
        if found["low"] is not None:
            text += f" ({100 * found['low']:.0f}–{100 * found['high']:.0f})"
        texts.append(text)
    return "\n".join(texts)


def _reliability(axes: Axes, bins: list[dict[str, Any]], name: str, number: int) -> None:
    rates = [Rate(row["failures"], row["n"]) for row in bins]
    shift = 1.5 * (2 * number - 1)  # so that the whiskers of two scores stand side by side
    x = [50 * (row["low"] + row["high"]) + shift for row in bins]
    y = [100 * rate.share for rate in rates]
    axes.errorbar(
        x,
        y,
        yerr=_margins(rates),
        fmt="os"[number] + "-",
        color=COLOURS[number],
        mfc=COLOURS[number] if number == 0 else "white",
        ms=5,
        lw=1.2,
        capsize=2.5,
        label=f"mean entropy, {name}",
    )


def _point(axes: Axes, rate: Rate, place: float, colour: str, marker: str, filled: bool) -> None:
    axes.errorbar(
        [100 * rate.share],
        [place],
        xerr=_margins([rate]),
        fmt=marker,
        color=colour,
        mfc=colour if filled else "white",
        ms=6 if filled else 5,
        lw=1.4 if filled else 1,
        capsize=3,
    )


def _margins(rates: list[Rate]) -> list[list[float]]:
    """Lengths of the whiskers below and above, in per cent."""
    below = [max(0.0, 100 * (rate.share - rate.interval[0])) for rate in rates]
    above = [max(0.0, 100 * (rate.interval[1] - rate.share)) for rate in rates]
    return [below, above]


def _percent_axis(axes: Axes) -> None:
    axes.set(xlim=(-2, 102), xlabel="success, % (95 % Wilson interval)")
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)


def _legends(figure: Figure, policies: list[str], controls: list[str]) -> None:
    """What the colours mean, and, with controls, the markers."""
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker="o", lw=1.4, label=policy)
        for i, policy in enumerate(policies)
    ]
    if len(controls) > 1:
        handles += [
            Line2D(
                [], [], color=INK, marker=MARKERS[control], lw=0, label=CONTROL_NAMES[control],
                mfc=INK if control == "none" else "white",
            )
            for control in controls
        ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8)
