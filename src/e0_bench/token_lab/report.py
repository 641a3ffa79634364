"""What the token lab found: a table in Markdown and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from e0_bench.figure_style import COLOURS, STYLE, save_figure
from e0_bench.token_lab.results import Row
from e0_bench.token_lab.settings import WITHOUT_STEPS

REFERENCE_INK = "#8b95a1"
MARKERS = "osD^vP*X"
PLAIN = StrMethodFormatter("{x:g}")  # no powers of ten
METRICS = (
    ("Coherent chunks, share", "coherence", 2),
    ("Error of coherent chunks, ×10⁻³", "mae", 2),
    ("Total variation between the modes' frequencies and the true ones", "tv", 3),
)
NOTE = """\
Mean ± standard deviation over {seeds}; {samples}. K: denoising steps; "own": \
objectives that fix the number of evaluations (in brackets) themselves, and exact samples, through \
the vocabulary. Error: median absolute error, which may be less than that of exact samples, as \
these are noisy. Total variation: exact samples reach {floor:.3f}. Training: batch {batch}, one \
core; chunks/s: sampling at the largest K, one core."""


def markdown_tables(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """A table for each thing measured, with a line for each variant and vocabulary in the order of
    `rows`, and a note on how to read them."""
    by_variant: dict[tuple[str, int | None], list[Row]] = {}
    for row in rows:
        by_variant.setdefault((row["variant"], row["bins"]), []).append(row)
    quality = [
        (title, [*(f"K={k}" for k in settings["denoising_steps"]), "own"],
         [_at_steps(own, settings["denoising_steps"], metric, digits)
          for own in by_variant.values()])
        for title, metric, digits in METRICS
    ]  # fmt: skip
    speed = [_speed(own) for own in by_variant.values()]
    parts = []
    for title, head, lines in [*quality, ("Speed", ["training steps/s", "chunks/s"], speed)]:
        table = [["objective", "V", *head], ["---", *["---:"] * (len(head) + 1)]]
        for (variant, bins), cells in zip(by_variant, lines, strict=True):
            if any(cells):
                table.append([variant, "" if bins is None else str(bins), *cells])
        parts += [f"**{title}**", "\n".join(f"| {' | '.join(line)} |" for line in table)]
    return "\n\n".join([*parts, _note(rows, settings)]) + "\n"


def _at_steps(own: Sequence[Row], steps: Sequence[int], metric: str, digits: int) -> list[str]:
    """A metric at each number of denoising steps; for a variant without them only under "own"."""
    fixed = [row for row in own if _without_steps(row)]
    if fixed:
        evaluations = fixed[0]["steps_taken"]
        value = _spread(fixed, metric, digits)
        return [*[""] * len(steps), value if evaluations is None else f"{value} ({evaluations})"]
    at = {k: [row for row in own if row["denoising_steps"] == k] for k in steps}
    return [*(_spread(at[k], metric, digits) for k in steps), ""]


def _speed(own: Sequence[Row]) -> list[str]:
    """Training steps per second, and chunks per second at the largest number of evaluations."""
    most = max(row["steps_taken"] or 0 for row in own)
    slowest = [row for row in own if (row["steps_taken"] or 0) == most]
    return [_mean(own, "steps_per_second", 1), _mean(slowest, "chunks_per_second", 0)]


def draw_figure(rows: Sequence[Row], settings: dict[str, Any], path: Path) -> None:
    """Coherence and error against K, a column for each vocabulary; bands span the seeds."""
    sizes = sorted({row["bins"] for row in rows if row["bins"] is not None}) or [None]
    variants = list(dict.fromkeys(row["variant"] for row in rows if row["objective"] != "exact"))
    references = {row["variant"] for row in rows if row["objective"] == "bayes"}
    trained = [variant for variant in variants if variant not in references]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5 * len(sizes) + 2.2, 5.6), layout="constrained")
        grid = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
        for column, bins in enumerate(sizes):
            shown = [row for row in rows if row["bins"] in (bins, None)]
            for variant in variants:
                own = [row for row in shown if row["variant"] == variant]
                look = _look(variant, trained)
                _draw_lines(grid[0, column], own, "coherence", variant, look)
                _draw_lines(grid[1, column], own, "mae", variant, look)
            _draw_floor(grid[1, column], shown)
            grid[0, column].set_title("" if bins is None else f"{bins} bins", fontsize=9)
            grid[1, column].set_xlabel("network evaluations per chunk")
        _label_axes(grid, rows)
        handles = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
        save_figure(figure, path)


def _draw_lines(axes: Axes, rows: Sequence[Row], metric: str, label: str, look: Any) -> None:
    """Mean over seeds, and a band from the smallest to the largest."""
    points = []
    for evaluations in sorted({row["steps_taken"] for row in rows}):
        values = _values([row for row in rows if row["steps_taken"] == evaluations], metric)
        if values:
            points.append((evaluations, statistics.mean(values), min(values), max(values)))
    if not points:
        return
    x, mean, low, high = zip(*points, strict=True)
    axes.plot(x, mean, label=label, markersize=5, linewidth=1.5, **look)
    if len(points) == 1:
        axes.errorbar(x, mean, [(mean[0] - low[0],), (high[0] - mean[0],)], color=look["color"])
    else:
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)


def _draw_floor(axes: Axes, rows: Sequence[Row]) -> None:
    floor = _values([row for row in rows if row["objective"] == "exact"], "mae")
    if floor:
        axes.axhline(
            statistics.mean(floor), color=REFERENCE_INK, linewidth=1, linestyle=":",
            label="exact samples, encoded",
        )  # fmt: skip


def _label_axes(grid: Any, rows: Iterable[Row]) -> None:
    ticks = sorted({row["steps_taken"] for row in rows} - {None})
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    grid[0, 0].set_ylim(-0.02, 1.02)
    grid[0, 0].set_ylabel("coherent chunks (share)")
    grid[1, 0].set_yscale("log", subs=(2, 5))
    grid[1, 0].yaxis.set_major_formatter(PLAIN)
    grid[1, 0].yaxis.set_minor_formatter(PLAIN)
    grid[1, 0].set_ylabel("error of coherent chunks (×10⁻³)")


def _look(variant: str, trained: Sequence[str]) -> dict[str, Any]:
    """Colour and marker of their own for each trained variant; references in grey, dashed."""
    if variant not in trained:
        line = "--" if "ordinal" in variant else "-."
        return {"color": REFERENCE_INK, "marker": "", "linestyle": line}
    place = trained.index(variant)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": "-" if place < len(COLOURS) else ":",
    }


def _without_steps(row: Row) -> bool:
    return row["objective"] in WITHOUT_STEPS or row["denoising_steps"] is None


def _values(rows: Iterable[Row], metric: str) -> list[float]:
    return [row[metric] for row in rows if row[metric] is not None]


def _mean(rows: Iterable[Row], metric: str, digits: int) -> str:
    values = _values(rows, metric)
    return f"{statistics.mean(values):.{digits}f}" if values else ""


def _spread(rows: Iterable[Row], metric: str, digits: int) -> str:
    values = _values(rows, metric)
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _note(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    seeds = len({row["seed"] for row in rows})
    contexts, chunks = settings["evaluation_contexts"], settings["chunks"]
    return NOTE.format(
        seeds=f"{seeds} seeds" if seeds > 1 else "one seed",
        samples=f"{contexts} contexts × {chunks} chunks, {settings['train_steps']} training steps",
        floor=rows[0]["tv_floor"],
        batch=settings["batch_size"],
    )
