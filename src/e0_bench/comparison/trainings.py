"""What several trainings of the same policies say together: how far chance in training reaches.

Intervals elsewhere cover the choice of episodes alone. Here each training is one observation, and
the interval is that of Student's t over trainings, which with few of them is wide, as it should be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.camera_shifts import camera_name, shift_of
from e0_bench.statistics import mean_interval
from e0_bench.tables import table

NOTE = (
    "Success in %, one number a training. Mean over trainings with the 95 % interval of Student's "
    "t, each training being one observation: points lost against home, and points more than the "
    "first policy with the same seed, on the same episodes."
)


def over_trainings(summary: Mapping[str, Any], policies: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each policy, control and task of a benchmark's summary, over its trainings.

    policies: training's label -> policy; those of every policy come in the same order of seeds.
    rates: share of successes by training. lost: what a control takes from each training, missing
    for episodes as usual. more: what each training has more than that of the first policy with the
    same seed, missing for the first. Both are shares by training (`each`), with `mean`, `low`,
    `high`.
    """
    labels: dict[str, list[str]] = {}
    for label, policy in policies.items():
        labels.setdefault(policy, []).append(label)
    first = next(iter(labels.values()))
    rates = {(row["policy"], row["control"], row["task"]): row for row in summary["rates"]}
    lost = {(row["policy"], row["second"], row["task"]): row for row in summary["controls"]}
    rows = []
    for control, task in dict.fromkeys((control, task) for _, control, task in rates):
        for policy, own in labels.items():
            shares = [rates[label, control, task]["rate"] for label in own]
            row = {"policy": policy, "control": control, "task": task, "rates": shares}
            row["episodes"] = rates[own[0], control, task]["episodes"]
            if control != "none":
                row["lost"] = _over([lost[label, control, task]["difference"] for label in own])
            if own is not first:
                others = [rates[label, control, task]["rate"] for label in first]
                row["more"] = _over([a - b for a, b in zip(shares, others, strict=True)])
            rows.append(row)
    return rows


def _over(values: Sequence[float]) -> dict[str, Any]:
    low, high = mean_interval(values) or (None, None)
    return {"each": list(values), "mean": fmean(values), "low": low, "high": high}


def trainings_markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows of `over_trainings` as a GitHub Markdown table for each task."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_task.setdefault(row["task"], []).append(row)
    parts = ["## Over trainings"]
    for task, own in by_task.items():
        cells = [
            [
                _control_name(row["control"]),
                row["policy"],
                ", ".join(f"{100 * rate:.0f}" for rate in row["rates"]),
                _points(row.get("lost"), "{:.0f}"),
                _points(row.get("more"), "{:+.0f}"),
            ]
            for row in own
        ]
        head = ["control", "policy", f"success, n = {own[0]['episodes']} each", "lost", "more"]
        parts += [f"### {task}", table(head, cells)]
    return "\n\n".join([*parts, NOTE])


def _control_name(control: str) -> str:
    shift = shift_of(control)
    return control if shift is None else camera_name(shift)


def _points(found: Mapping[str, Any] | None, sign: str) -> str:
    if found is None:
        return "–"
    mean = sign.format(100 * found["mean"] + 0.0)
    if found["low"] is None:
        return f"{mean} (no interval)"
    return f"{mean} ({100 * found['low']:.0f} to {100 * found['high']:.0f})"
