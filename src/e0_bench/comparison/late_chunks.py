"""What chunks that come late cost, over several trainings of each policy: a table and a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from e0_bench.closed_loop.delays import SMOOTHNESS, Delay, described
from e0_bench.figure_style import COLOURS, FAINT, STYLE, save_figure
from e0_bench.tables import table

NOTE = (
    "Success in % of each training, and the mean of what smoothness tells over trainings (see "
    "below). Delay 0: chunks that come at once."
)
BESIDE = 0.12  # control steps
MARKERS = {"given": "o", "naive": "x", "ensemble": "+"}  # of the ways that the figure shows


def late_chunks(summary: Mapping[str, Any], policies: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each policy, task, delay and way of chunking of a benchmark's summary.

    policies: training's label -> policy. rates: success by training. The sizes of `SMOOTHNESS`:
    means over trainings, missing at delay 0.
    """
    rows: dict[tuple[str, str, int, str], dict[str, Any]] = {}
    for rate in summary["rates"]:
        delay = Delay(0) if rate["control"] == "none" else Delay.parse(rate["control"])
        if delay is None or rate["task"] == "all tasks":
            continue
        policy = policies[rate["policy"]]
        chunking = "" if rate["control"] == "none" else described(rate["control"])
        key = (policy, rate["task"], delay.steps, chunking)
        named = dict(zip(("policy", "task", "delay", "chunking"), key, strict=True))
        rows.setdefault(key, named | {"rates": []})["rates"].append(rate["rate"])
    for row in rows.values():
        own = [
            measured
            for measured in summary["delays"]
            if policies[measured["policy"]] == row["policy"]
            and (measured["task"], measured["steps"], measured["chunking"])
            == (row["task"], row["delay"], row["chunking"])
        ]
        row |= {name: fmean(x[name] for x in own) for name in SMOOTHNESS if own}
    return list(rows.values())


def late_chunks_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `late_chunks` as a GitHub Markdown table."""
    cells = [
        [
            row["task"],
            row["policy"],
            str(row["delay"]),
            row["chunking"],
            ", ".join(f"{100 * rate:.0f}" for rate in row["rates"]),
            f"{100 * fmean(row['rates']):.0f}",
            *(f"{row[name]:.2f}" if name in row else "" for name in SMOOTHNESS),
        ]
        for row in sorted(rows, key=lambda row: (row["task"], row["policy"], row["delay"]))
    ]
    head = ["task", "policy", "delay", "chunking", "success of each", "mean"]
    head += [name.replace("_", " ") for name in SMOOTHNESS]
    return "\n\n".join(["## Late chunks, over trainings", table(head, cells), NOTE])


def late_chunks_figure(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Success against delay, a panel for each task: for each policy and way of chunking the points
    of its trainings, and, for what was measured at every delay, a line through their means."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    every = sorted({row["delay"] for row in rows})
    ways = [way for way in MARKERS if any(row["chunking"] == way for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.9 * len(tasks), 3.2), layout="constrained")
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for axes, task in zip(panels, tasks, strict=True):
            for policy, colour in zip(policies, cycle(COLOURS), strict=False):
                own = [row for row in rows if (row["task"], row["policy"]) == (task, policy)]
                for chunking in ways:
                    marker = MARKERS[chunking]
                    _line(axes, own, every, chunking, colour, marker, f"{policy}, {chunking}")
            axes.set(title=task, xlabel="delay, control steps", ylim=(-4, 104), xticks=every)
            axes.grid(axis="y", color=FAINT, lw=0.6)
        panels[0].set_ylabel("success, %")
        handles, labels = panels[0].get_legend_handles_labels()
        columns = len(policies)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8)
        save_figure(figure, path)


def _line(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    every: Sequence[int],
    chunking: str,
    colour: str,
    marker: str,
    label: str,
) -> None:
    """A policy's points under one way of chunking. Measured at `every` delay but 0, where all ways
    are the same, they get a line; else they stand beside, not to hide each other."""
    rates = {row["delay"]: row["rates"] for row in rows if row["chunking"] in ("", chunking)}
    lined = set(every) <= rates.keys()
    beside = 0.0 if lined else BESIDE * list(MARKERS).index(chunking)
    points = [
        (delay + beside, 100 * rate) for delay in rates if lined or delay for rate in rates[delay]
    ]
    if points:
        places = ([x for x, _ in points], [y for _, y in points])
        axes.plot(*places, marker, color=colour, ms=4, alpha=0.7, label=label)
    if lined:
        axes.plot(every, [100 * fmean(rates[delay]) for delay in every], "-", color=colour)
