"""What the token lab found: a table in Markdown and a figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from e0_bench.figure_style import COLOURS, STYLE, save_figure
from e0_bench.token_lab.decodings import OWN
from e0_bench.token_lab.picks import is_sweep, pick_best
from e0_bench.token_lab.results import Row
from e0_bench.token_lab.settings import WITHOUT_STEPS

REFERENCE_INK = "#8b95a1"
MARKERS = "osD^vP*X"
PLAIN = StrMethodFormatter("{x:g}")  # no powers of ten


class Metric(NamedTuple):
    """What is shown of a row's `key`: digits in tables, label and scale of an axis."""

    title: str
    key: str
    digits: int
    label: str
    scale: str = "linear"


METRICS = (
    Metric("Coherent chunks, share", "coherence", 2, "coherent chunks (share)"),
    Metric("Error of coherent chunks, ×10⁻³", "mae", 2, "error of coherent chunks (×10⁻³)", "log"),
    Metric(
        "Total variation between the modes' frequencies and the true ones",
        "tv", 3, "total variation of modes",
    ),
    Metric("Spread within a mode (1: as the data)", "spread", 2, "spread within a mode"),
    Metric(
        "Spread, over modes and contexts together (1: as the data)",
        "shift_std", 2, "spread (1: as the data)",
    ),
    Metric(
        "Energy distance to exact samples, ×10⁻³",
        "energy_distance", 1, "energy distance (×10⁻³)", "symlog",
    ),
)  # fmt: skip
CHUNKS_PER_SECOND = Metric("Chunks sampled per second", "chunks_per_second", 0, "chunks/s")
BEST_BY = {"energy_distance": "best by energy distance", "coherence": "best by coherence"}
NOTE = """\
Mean ± standard deviation over {seeds}; {samples}. K: denoising steps; "own": \
objectives that fix the number of evaluations (in brackets) themselves, and exact samples, through \
the vocabulary. Error: median absolute distance from the middle of the shifted mode. Exact samples \
have noise there, so a smaller error than theirs is that of the middle, not of a better sample. \
Total variation: exact samples reach {floor:.3f}. Training: batch {batch}, one core; loss: of the \
last 100 steps, to be compared within an objective and vocabulary only; speeds: one core."""
NOTES = {
    "shift_std": "Spread: of the shift over all coherent chunks, so differences between modes and "
    "contexts count as well: a policy without chance (regression) has some. Within a mode it is at "
    "most about this.",
    "energy_distance": "Energy distance: 0 is that of exact samples, but for chance.",
}
DECODINGS_NOTE = """\
Decodings are settings of sampling in place of the policy's own, of the same trainings."""
CHOSEN_NOTE = "The best ones were chosen on trainings with other seeds."


class Line(NamedTuple):
    """What a line of a table is about. decoding: empty for the policy's own settings."""

    variant: str
    decoding: str
    bins: int | None


Lines = dict[Line, list[Row]]


def markdown_tables(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    """A table for each thing measured, with a line for each variant, decoding and vocabulary in the
    order of `rows`, and a note on how to read them. Decodings that were chosen, or of a sweep those
    that are best, come first."""
    steps = settings["denoising_steps"]
    lines, best = _lines(rows), _lines(pick_best(rows) if is_sweep(rows) else rows)
    best = {line: own for line, own in best.items() if line.decoding in BEST_BY.values()}
    trained = {line: own for line, own in lines.items() if not line.decoding}
    tables = [_by_steps("Best decodings", best, steps, _decodings)]
    for metric in (*METRICS, CHUNKS_PER_SECOND):
        cell = partial(_mean_and_deviation, metric=metric.key, digits=metric.digits)
        tables.append(_by_steps(metric.title, lines, steps, cell))
    training = {
        line: [_mean(own, "steps_per_second", 1), _mean(own, "loss", 3)]
        for line, own in trained.items()
    }
    tables.append(_table("Training", ["steps/s", "loss"], training))
    return "\n\n".join([*filter(None, tables), _note(rows, settings)]) + "\n"


def _lines(rows: Iterable[Row]) -> Lines:
    """The rows of each line; one that was chosen belongs to the line of what it was chosen by."""
    lines: Lines = {}
    for row in rows:
        decoding, best_by = row.get("decoding", OWN), row.get("best_by")
        names = [decoding]
        if best_by is not None:
            names = [OWN] * (decoding == OWN) + [BEST_BY[metric] for metric in best_by]
        for name in names:
            lines.setdefault(Line(row["variant"], name, row["bins"]), []).append(row)
    return lines


def _by_steps(
    title: str, lines: Lines, steps: Sequence[int], cell: Callable[[Sequence[Row]], str]
) -> str:
    """A table of what `cell` makes of a line's rows at each number of denoising steps; where that
    is fixed, under "own"."""
    cells = {line: _at_steps(own, steps, cell) for line, own in lines.items()}
    return _table(title, [*(f"K={k}" for k in steps), "own"], cells)


def _at_steps(
    own: Sequence[Row], steps: Sequence[int], cell: Callable[[Sequence[Row]], str]
) -> list[str]:
    fixed = [row for row in own if _without_steps(row)]
    if fixed:
        value, evaluations = cell(fixed), fixed[0]["steps_taken"]
        told = f"{value} ({evaluations})" if value and evaluations is not None else value
        return [*[""] * len(steps), told]
    return [*(cell([row for row in own if row["denoising_steps"] == k]) for k in steps), ""]


def _table(title: str, head: Sequence[str], cells: dict[Line, list[str]]) -> str:
    """Markdown; nothing if no line has anything to show."""
    table = [["objective", "V", *head], ["---", *["---:"] * (len(head) + 1)]]
    for line, values in cells.items():
        if any(values):
            name = ": ".join(filter(None, [line.variant, line.decoding]))
            table.append([name, "" if line.bins is None else str(line.bins), *values])
    shown = "\n".join(f"| {' | '.join(cell)} |" for cell in table)
    return f"**{title}**\n\n{shown}" if len(table) > 2 else ""


def _decodings(rows: Sequence[Row]) -> str:
    return " / ".join(dict.fromkeys(row["decoding"] or "its own" for row in rows))


def draw_figure(rows: Sequence[Row], settings: dict[str, Any], path: Path) -> None:
    """What was measured against K, a column for each vocabulary; bands span the seeds. Each variant
    is decoded as it is best by energy distance, if that was measured, else with its own
    settings."""
    rows = _best_rows(pick_best(rows) if is_sweep(rows) else rows)
    sizes = sorted({row["bins"] for row in rows if row["bins"] is not None}) or [None]
    variants = list(dict.fromkeys(row["variant"] for row in rows if row["objective"] != "exact"))
    references = {row["variant"] for row in rows if row["objective"] == "bayes"}
    trained = [variant for variant in variants if variant not in references]
    metrics = [metric for metric in METRICS if _values(rows, metric.key)]
    with matplotlib.rc_context(STYLE):
        size = 3.5 * len(sizes) + 2.2, 2.6 * len(metrics) + 0.4
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(metrics), len(sizes), sharex=True, sharey="row", squeeze=False)
        for column, bins in enumerate(sizes):
            shown = [row for row in rows if row["bins"] in (bins, None)]
            for metric, axes in zip(metrics, grid[:, column], strict=True):
                for variant in variants:
                    own = [row for row in shown if row["variant"] == variant]
                    _draw_lines(axes, own, metric.key, variant, _look(variant, trained))
                _draw_exact(axes, shown, metric.key)
            grid[0, column].set_title("" if bins is None else f"{bins} bins", fontsize=9)
            grid[-1, column].set_xlabel("network evaluations per chunk")
        _label_axes(grid, rows, metrics)
        handles = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
        save_figure(figure, path)


def _best_rows(rows: Sequence[Row]) -> list[Row]:
    """Those that were best by energy distance, and all of which none was chosen."""
    return [
        row for row in rows
        if row.get("best_by") is None or "energy_distance" in row["best_by"]
    ]  # fmt: skip


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


def _draw_exact(axes: Axes, rows: Sequence[Row], metric: str) -> None:
    exact = _values([row for row in rows if row["objective"] == "exact"], metric)
    if exact:
        axes.axhline(
            statistics.mean(exact), color=REFERENCE_INK, linewidth=1, linestyle=":",
            label="exact samples, encoded",
        )  # fmt: skip


def _label_axes(grid: Any, rows: Iterable[Row], metrics: Sequence[Metric]) -> None:
    ticks = sorted({row["steps_taken"] for row in rows} - {None})
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="y", alpha=0.3, linewidth=0.5)
    for metric, axes in zip(metrics, grid[:, 0], strict=True):
        axes.set_ylabel(metric.label)
        if metric.scale == "log":
            axes.set_yscale("log", subs=(2, 5))
            axes.yaxis.set_minor_formatter(PLAIN)
        elif metric.scale == "symlog":  # what is unbiased may fall below zero
            axes.set_yscale("symlog", linthresh=10)
        else:
            axes.set_ylim(bottom=min(-0.02, axes.get_ylim()[0]))
        axes.yaxis.set_major_formatter(PLAIN)


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
    """Those that there are: older results lack what was not measured yet."""
    return [row[metric] for row in rows if row.get(metric) is not None]


def _mean(rows: Iterable[Row], metric: str, digits: int) -> str:
    values = _values(rows, metric)
    return f"{statistics.mean(values):.{digits}f}" if values else ""


def _mean_and_deviation(rows: Iterable[Row], metric: str, digits: int) -> str:
    values = _values(rows, metric)
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _note(rows: Sequence[Row], settings: dict[str, Any]) -> str:
    seeds = len({row["seed"] for row in rows})
    contexts, chunks = settings["evaluation_contexts"], settings["chunks"]
    note = NOTE.format(
        seeds=f"{seeds} seeds" if seeds > 1 else "one seed",
        samples=f"{contexts} contexts × {chunks} chunks, {settings['train_steps']} training steps",
        floor=rows[0]["tv_floor"],
        batch=settings["batch_size"],
    )
    more = [text for metric, text in NOTES.items() if any(metric in row for row in rows)]
    if any(row.get("decoding", OWN) != OWN for row in rows):
        more.append(DECODINGS_NOTE if is_sweep(rows) else f"{DECODINGS_NOTE} {CHOSEN_NOTE}")
    return " ".join([note, *more])
