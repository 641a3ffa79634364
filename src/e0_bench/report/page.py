"""The page: one HTML file with its clips beside it, which opens from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from markupsafe import Markup

from e0_bench.closed_loop.figures import CONTROL_NAMES
from e0_bench.closed_loop.summary import ALL_TASKS
from e0_bench.comparison.families_table import columns, lead_in_words
from e0_bench.comparison.trainings_figure import draw_trainings
from e0_bench.demo.figures import draw_loss
from e0_bench.figure_style import page_style
from e0_bench.files import write_text
from e0_bench.pages import PLACEHOLDER_INK, render_page, svg
from e0_bench.report.clips import Clip
from e0_bench.report.reading import Part
from e0_bench.statistics import wilson_interval
from e0_bench.tables import interval_cell

PAGE = "index.html"


def write_page(
    folder: Path,
    title: str,
    data: Mapping[str, Any],
    parts: Sequence[Part],
    clips: Mapping[str, Sequence[Clip]],
) -> None:
    """Write `folder/index.html`.

    data: of `families_table`. clips: by part. Raises OSError where it cannot be written.
    """
    with matplotlib.rc_context(page_style(PLACEHOLDER_INK)):
        page = render_page(
            "report/page.html.jinja",
            title=title,
            lead=lead_in_words(data).replace("**", ""),
            policies=columns(data, "measured"),
            published=columns(data, "published"),
            rows=[_row(row) for row in data["environments"]],
            means={name: f"{100 * row['mean']:.0f} %" for name, row in data["means"].items()},
            common=len(data["common"]),
            success=_success(data),
            parts=[_part(part, clips[part.name]) for part in parts],
        )
    write_text(folder / PAGE, page)


# The table of all environments.


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    measured = {name: _cell(found) for name, found in row["measured"].items()}
    best = max((fmean(found["each"]) for found in row["measured"].values()), default=None)
    return {
        "environment": row["environment"],
        "measured": measured,
        "best": [n for n, found in row["measured"].items() if fmean(found["each"]) == best],
        "published": {name: f"{value:.1f}" for name, value in row["published"].items()},
    }


def _cell(found: Mapping[str, Any]) -> str:
    """Success with what is known of its chance: each training, or the interval of the one."""
    each, episodes = found["each"], found["episodes"]
    if len(each) > 1:
        return f"{_percent(each)} ({', '.join(f'{100 * rate:.0f}' for rate in each)})"
    low, high = wilson_interval(round(each[0] * episodes), episodes)
    return f"{_percent(each)} ({100 * low:.0f}–{100 * high:.0f}), n = {episodes}"


def _percent(each: Sequence[float]) -> str:
    return f"{100 * fmean(each):.0f} %"


def _success(data: Mapping[str, Any]) -> Markup | None:
    rows = [
        {"policy": name, "task": row["environment"], "control": "none", "rates": found["each"]}
        for row in data["environments"]
        for name, found in row["measured"].items()
    ]
    return svg(draw_trainings(rows), "Success by environment and policy") if rows else None


# Each benchmark.


def _part(part: Part, clips: Sequence[Clip]) -> dict[str, Any]:
    return {
        "name": part.name,
        "controls": _controls(part),
        "failed": len(part.results["benchmark"].get("failed_to_run", ())),
        "decodings": part.results["benchmark"].get("decodings", []),
        "costs": _costs(part),
        "losses": _losses(part),
        "recipe": _flat(part.recipe),
        "clips": _by_task(clips),
        "state_only": bool(part.record["environment"]["options"].get("state_only")),
        "trainings": max((len(labels) for labels in part.trainings.values()), default=1),
    }


def _controls(part: Part) -> list[tuple[str, ...]]:
    """What each control takes from each training, over all tasks."""
    task = ALL_TASKS if len(part.tasks) > 1 else part.tasks[0]
    rows = [row for row in part.results["benchmark"]["controls"] if row["task"] == task]
    return [
        (
            row["policy"],
            CONTROL_NAMES.get(row["second"]) or row["second"],
            f"{round(-100 * row['difference']):+d} points",
            interval_cell({"low": -row["high"], "high": -row["low"]}, "{:+.0f} to {:+.0f}"),
            str(row["n"]),
        )
        for row in rows
    ]


def _costs(part: Part) -> list[tuple[str, ...]]:
    facts = part.results["benchmark"]["policies"]
    costs = part.results.get("policies", {})
    rows = []
    for label, fact in facts.items():
        cost = costs.get(label)
        trained = ("–", "–", "–")
        if cost is not None:
            trained = (
                f"{cost['parameters'] / 1e6:.1f} M",
                f"{cost['training_seconds'] / 60:.0f} min",
                f"{cost['error']:.4f}",
            )
        evaluations = fact.get("evaluations")
        counted = "–" if evaluations is None else f"{evaluations:.1f}"
        rows.append((label, *trained, f"{fact['latency_ms']:.1f} ms", counted))
    return rows


def _losses(part: Part) -> dict[str, Markup]:
    """The learning curves of each policy's trainings."""
    figures = {}
    for policy, labels in part.trainings.items():
        curves = [curve for label in labels if (curve := part.learning_curve(label))]
        if curves:
            figures[policy] = svg(draw_loss(curves), f"Loss of {policy} by step")
    return figures


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Settings as rows: training.policy.preset, tiny."""
    if isinstance(value, Mapping):
        rows = [_flat(part, f"{name}.{key}" if name else key) for key, part in value.items()]
        return [row for some in rows for row in some]
    if value in (None, ""):
        return []
    shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(name, shown)]


def _by_task(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    tasks: dict[str, list[Clip]] = {}
    for clip in clips:
        tasks.setdefault(clip.task, []).append(clip)
    return tasks
