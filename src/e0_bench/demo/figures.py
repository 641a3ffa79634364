"""The figures of the demo's report, drawn without pyplot: no display, no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from e0_bench.statistics import Rate

SEEING, BLIND, FAILURE = "#3b82c4", "#8b95a1", "#d9703b"
POSTERIOR_ROWS = 48  # as many as a small picture can show
TELLING_DIMENSIONS = ("x", "y", "z", "gripper")


class Task(Protocol):
    """A task's rates of success: the policy's, and that of its blind control where it was run."""

    @property
    def name(self) -> str: ...
    @property
    def seeing(self) -> Rate: ...
    @property
    def blind(self) -> Rate | None: ...


def draw_success(tasks: Sequence[Task]) -> Figure:
    """A bar with its interval for each task, and one for its blind control."""
    figure = Figure(figsize=(5.2, 0.9 + 0.6 * len(tasks)), layout="constrained")
    axes = figure.add_subplot()
    seeing: dict[float, Rate] = {place: task.seeing for place, task in enumerate(tasks)}
    blind = {place + 0.4: task.blind for place, task in enumerate(tasks) if task.blind}
    _draw_bars(axes, seeing, "policy", SEEING)
    if blind:
        _draw_bars(axes, blind, "blind control (black images)", BLIND)
    middles = [place + 0.2 * (place + 0.4 in blind) for place in seeing]
    axes.set_yticks(middles, [task.name for task in tasks])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="success rate in %, with 95 % interval")
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _draw_bars(axes: Axes, rates: dict[float, Rate], label: str, colour: str) -> None:
    """A horizontal bar with its interval at each place of the vertical axis."""
    places, ink = list(rates), matplotlib.rcParams["text.color"]
    shares = np.array([100 * rate.share for rate in rates.values()])
    bounds = np.array([rate.interval for rate in rates.values()])
    axes.barh(places, shares, 0.36, color=colour, label=label)
    margins = np.abs(100 * bounds.T - shares)
    axes.errorbar(shares, places, xerr=margins, fmt="none", capsize=3, lw=1, ecolor=ink)
    for place, rate in rates.items():
        axes.text(102, place, f"{rate.successes}/{rate.episodes}", va="center", fontsize=8)


def draw_loss(curves: Sequence[list[dict[str, float]]]) -> Figure:
    """Loss and learning rate by step, of one training or several of the same policy."""
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for curve in curves:
        _plot(loss, curve, "loss", SEEING)
        _plot(rate, curve, "lr", BLIND)
    loss.set_ylabel("loss")
    rate.set(xlabel="training step", ylabel="learning\nrate", ylim=(0, None))
    return figure


def draw_pace(curve: list[dict[str, float]]) -> Figure:
    """Seconds of each update by step, and what of them was waiting for data."""
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axes = figure.add_subplot()
    _plot(axes, curve, "update_s", SEEING, label="update of the network")
    _plot(axes, curve, "dataloading_s", FAILURE, label="waiting for data")
    axes.set(xlabel="training step", ylabel="seconds", ylim=(0, None))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def _plot(
    axes: Axes, curve: list[dict[str, float]], key: str, colour: str, label: str = ""
) -> None:
    steps, values = [row["step"] for row in curve], [row[key] for row in curve]
    # A line through a single row would be invisible.
    axes.plot(steps, values, "o-" if len(curve) == 1 else "-", color=colour, lw=1.4, label=label)
    axes.grid()


def draw_posterior(
    posterior: np.ndarray, codebook: np.ndarray, dimension_names: list[str]
) -> Figure:
    """Probability (H, D, V) of each action value at each step of the chunk; codebook: (D, V)."""
    names = [name for name in TELLING_DIMENSIONS if name in dimension_names]
    names = names or dimension_names[:4]
    figure = Figure(figsize=(2.1, 0.35 + 0.85 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        d = dimension_names.index(name)
        _draw_codes(axes, posterior[:, d], codebook[d])
        axes.set_ylabel(name, fontsize=8)
    panels[-1].set_xlabel("step of the chunk", fontsize=8)
    figure.align_ylabels()
    return figure


def _draw_codes(axes: Axes, posterior: np.ndarray, codebook: np.ndarray) -> None:
    """Probabilities (H, V) as a picture whose rows are groups of adjacent codes."""
    codes, first = np.unique(codebook, return_index=True)  # padding repeats the last code
    mass = np.add.reduceat(posterior, first, axis=1)
    # Among 2048 rows a sharp peak would vanish on screen.
    groups = np.linspace(0, len(codes), min(len(codes), POSTERIOR_ROWS) + 1).astype(int)[:-1]
    mass = np.add.reduceat(mass, groups, axis=1)
    shades = LinearSegmentedColormap.from_list("", [to_rgba(SEEING, 0), to_rgba(SEEING)])
    axes.imshow(mass.T, shades, PowerNorm(0.5, 0, 1), extent=(0.5, len(mass) + 0.5, 0, len(codes)))
    shown = np.unique(np.linspace(0, len(codes) - 1, 3 if len(codes) > 2 else 2).astype(int))
    digits = 2 - math.floor(math.log10(np.ptp(codes) or 1))
    axes.set_yticks(shown + 0.5, [f"{codes[i].round(digits) + 0:g}" for i in shown])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=7, length=2)
    axes.spines[["top", "right"]].set_visible(True)


def draw_entropy(episodes: list[list[float]], outcomes: list[bool]) -> Figure:
    """Mean entropy (nats) of each chunk, a line for each episode."""
    figure = Figure(figsize=(4.6, 2.8), layout="constrained")
    axes = figure.add_subplot()
    for entropy, success in zip(episodes, outcomes, strict=True):
        # Failures are dashed as well: colour alone does not reach every reader.
        line, label, colour = ("o-", "success", SEEING) if success else ("o--", "failure", FAILURE)
        chunks = range(1, len(entropy) + 1)
        axes.plot(chunks, entropy, line, ms=2.5, lw=1.1, alpha=0.75, color=colour, label=label)
    axes.set(xlabel="chunk", ylabel="mean entropy (nats)", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    one_each = {line.get_label(): line for line in axes.lines}
    figure.legend(handles=list(one_each.values()), loc="outside upper center", ncols=2)
    return figure
