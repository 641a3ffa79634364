"""What the episodes of a benchmark say: rates, paired comparisons, calibration; and their table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from statistics import median
from typing import Any

from e0_bench.closed_loop.calibration import calibration, calibration_markdown
from e0_bench.closed_loop.camera_shifts import is_moved, shift_rows
from e0_bench.closed_loop.delays import NOTE as DELAYS_NOTE
from e0_bench.closed_loop.delays import delays_summary, delays_table
from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.closed_loop.stages import STAGES_NOTE, stages_summary, stages_table
from e0_bench.closed_loop.viewpoints import (
    VIEWPOINTS_NOTE,
    viewpoints_summary,
    viewpoints_table,
)
from e0_bench.closed_loop.ways import WAYS_NOTE, ways_summary, ways_table
from e0_bench.statistics import (
    Outcomes,
    Pairs,
    Rate,
    difference,
    difference_interval,
    holm,
    mcnemar_p,
    paired,
    verdict,
)
from e0_bench.tables import interval_cell, table

ALL_TASKS = "all tasks"


def summarize(
    episodes: Sequence[EpisodeResult],
    policies: Sequence[str],
    tasks: Sequence[str],
    controls: Sequence[str],
    shares: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The summary as JSON data; `episodes` holds every policy on the same tasks and seeds, `shares`
    the share of each way in demonstrations, by task that has several.

    policies: latency, clipped steps and, where they are counted, evaluations per chunk. rates: a
    row for each policy, control and task, and for all tasks. comparisons: a row for each pair of
    policies and task. controls: each policy as usual against itself under a control, on the
    control's seeds. moved: a row for each pair of policies and task under each control that moves
    cameras, judged for each of these controls apart; missing without such controls. ways: see
    `ways_summary`; missing without tasks that have several. viewpoints: see `viewpoints_summary`;
    missing without LIBERO-Plus's cameras. delays: see `delays_summary`. stages: see
    `stages_summary`; missing without tasks that have some.
    calibration: by policy with entropies, how well they tell failures; ambiguity: the same of it,
    missing where no policy tells it. Raises PairingError if episodes are missing.
    """
    where_there_are = _moved(episodes, policies, controls)
    where_there_are |= ways_summary(episodes, policies, shares or {})
    where_there_are |= viewpoints_summary(episodes, policies)
    where_there_are |= delays_summary(episodes, policies, tasks, controls)
    where_there_are |= stages_summary(episodes, policies)
    if ambiguity := calibration(episodes, policies, "ambiguity"):
        where_there_are["ambiguity"] = ambiguity
    return {
        "policies": {policy: _policy_facts(episodes, policy) for policy in policies},
        "rates": _rates(episodes, policies, tasks, ("none", *controls)),
        "comparisons": _comparisons(_pairs(episodes, policies, "none")),
        "controls": _comparisons(
            [
                (
                    {"policy": policy, "first": "as usual", "second": control},
                    _with_and_without(episodes, policy, control),
                )
                for policy in policies
                for control in controls
            ]
        ),
        "calibration": calibration(episodes, policies, "entropy"),
    } | where_there_are


def summary_of(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """`summarize` of all policies, tasks and controls that a log of episodes has, as a client in
    another environment writes it (`clients/`). Raises PairingError if some are missing."""
    policies, tasks, controls = (
        list(dict.fromkeys(getattr(episode, name) for episode in episodes))
        for name in ("policy", "task", "control")
    )
    return summarize(episodes, policies, tasks, [name for name in controls if name != "none"])


def _moved(
    episodes: Sequence[EpisodeResult], policies: Sequence[str], controls: Sequence[str]
) -> dict[str, Any]:
    rows = [
        {"control": control} | row
        for control in filter(is_moved, controls)
        for row in _comparisons(_pairs(episodes, policies, control))
    ]
    return {"moved": rows} if any(map(is_moved, controls)) else {}


def _pairs(
    episodes: Sequence[EpisodeResult], policies: Sequence[str], control: str
) -> list[tuple[dict[str, str], tuple[Outcomes, Outcomes]]]:
    """The outcomes of every two policies under a control."""
    return [
        (
            {"first": first, "second": second},
            (_outcomes(episodes, first, control), _outcomes(episodes, second, control)),
        )
        for first, second in combinations(policies, 2)
    ]


def _policy_facts(episodes: Iterable[EpisodeResult], policy: str) -> dict[str, Any]:
    own = [e for e in episodes if e.policy == policy and e.control == "none"]
    return {
        "latency_ms": median(e.latency_ms for e in own),
        "clipped_share": sum(e.clipped_steps for e in own) / sum(e.steps for e in own),
    } | _evaluations(own)


def _evaluations(episodes: Iterable[EpisodeResult]) -> dict[str, float]:
    """The mean over chunks, of episodes that tell."""
    told = [(e.chunks, e.evaluations) for e in episodes if e.evaluations is not None]
    chunks = sum(n for n, _ in told)
    return {"evaluations": sum(n * mean for n, mean in told) / chunks} if chunks else {}


def _rates(
    episodes: Sequence[EpisodeResult],
    policies: Sequence[str],
    tasks: Sequence[str],
    controls: Sequence[str],
) -> list[dict[str, Any]]:
    rows = []
    names = (*tasks, ALL_TASKS) if len(tasks) > 1 else tasks
    for policy in policies:
        for control in controls:
            own = [e for e in episodes if (e.policy, e.control) == (policy, control)]
            for name in names:
                some = [e for e in own if name in (e.task, ALL_TASKS)]
                rate = Rate(sum(e.success for e in some), len(some))
                rows.append({"policy": policy, "control": control, "task": name} | _as_data(rate))
    return rows


def _as_data(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return asdict(rate) | {"rate": rate.share, "low": low, "high": high}


def _outcomes(episodes: Iterable[EpisodeResult], policy: str, control: str) -> Outcomes:
    return {
        (e.task, e.seed): e.success for e in episodes if (e.policy, e.control) == (policy, control)
    }


def _with_and_without(
    episodes: Sequence[EpisodeResult], policy: str, control: str
) -> tuple[Outcomes, Outcomes]:
    """Outcomes as usual and under the control, both on the control's episodes."""
    usual, changed = _outcomes(episodes, policy, "none"), _outcomes(episodes, policy, control)
    return {key: success for key, success in usual.items() if key in changed}, changed


def _comparisons(
    pairs: Sequence[tuple[dict[str, str], tuple[Outcomes, Outcomes]]],
) -> list[dict[str, Any]]:
    """A row for each pair and task, and for all tasks where there are several."""
    rows = []
    for names, outcomes in pairs:
        by_task = paired(*outcomes)
        everything = {ALL_TASKS: list(by_task.values())} if len(by_task) > 1 else {}
        for task, some in ({task: [p] for task, p in by_task.items()} | everything).items():
            only_first = sum(p.only_first for p in some)
            only_second = sum(p.only_second for p in some)
            low, high = difference_interval(some)
            rows.append(
                names
                | {
                    "task": task,
                    "n": sum(p.n for p in some),
                    "only_first": only_first,
                    "only_second": only_second,
                    "difference": difference(some),
                    "low": low,
                    "high": high,
                    "p": mcnemar_p(only_first, only_second),
                }
            )
    for task in {row["task"] for row in rows}:
        own = [row for row in rows if row["task"] == task]
        for row, adjusted in zip(own, holm([row["p"] for row in own]), strict=True):
            names = (row["first"], row["second"])
            row["p_holm"] = adjusted
            row["verdict"] = verdict(*names, row["n"], row["difference"], adjusted)
    return rows


def renew_intervals(summary: dict[str, Any]) -> dict[str, Any]:
    """A kept summary whose comparisons have the intervals that their counts give today."""
    renewed = dict(summary)
    for kind in ("comparisons", "controls", "moved"):
        if kind in summary:
            renewed[kind] = [_with_interval(row) for row in summary[kind]]
    return renewed


def _with_interval(row: dict[str, Any]) -> dict[str, Any]:
    low, high = difference_interval([Pairs(row["n"], row["only_first"], row["only_second"])])
    return row | {"low": low, "high": high}


# The table.


def markdown(summary: dict[str, Any]) -> str:
    """The summary as GitHub Markdown, readable as plain text too."""
    counted = any("evaluations" in facts for facts in summary["policies"].values())
    note = f"{SUCCESS_NOTE} {EVALUATIONS_NOTE}" if counted else SUCCESS_NOTE
    parts = ["## Success", _success_table(summary, counted), note]
    if summary["comparisons"]:
        parts += ["## Policies compared on the same episodes"]
        parts += [_comparison_table(summary["comparisons"], ("first", "second")), COMPARISON_NOTE]
    if "stages" in summary:
        parts += ["## How far episodes got", stages_table(summary["stages"]), STAGES_NOTE]
    if "ways" in summary:
        parts += ["## Ways", ways_table(summary["ways"]), WAYS_NOTE]
    if "viewpoints" in summary:
        parts += ["## Success by viewpoint", viewpoints_table(summary["viewpoints"])]
        parts += [VIEWPOINTS_NOTE]
    if "delays" in summary:
        parts += ["## Chunks that come late", delays_table(summary["delays"]), DELAYS_NOTE]
    if "moved" in summary:
        parts += ["## Success with moved cameras", *_shift_tables(summary), SHIFT_NOTE]
    controls = [row for row in summary["controls"] if not is_moved(row["second"])]
    if controls:
        parts += ["## Controls: each policy as usual and with its input changed"]
        columns = ("policy", "first", "second")
        parts += [_comparison_table(controls, columns), COMPARISON_NOTE]
    if summary["calibration"]:
        parts.append(calibration_markdown(summary["calibration"], "entropy"))
    if "ambiguity" in summary:
        parts.append(calibration_markdown(summary["ambiguity"], "ambiguity"))
    if "failed_to_run" in summary:
        parts.append(_failed_to_run(summary["failed_to_run"]))
    for policy, facts in summary["policies"].items():
        if facts["clipped_share"] > 0:
            parts.append(
                f"{policy} left the action space in {100 * facts['clipped_share']:.1f} % of its "
                "steps; these actions were clipped."
            )
    return "\n\n".join(parts) + "\n"


SUCCESS_NOTE = (
    "95 % Wilson intervals in brackets. Time to make a chunk: median over episodes, measured while "
    "other episodes ran."
)
EVALUATIONS_NOTE = (
    "Evaluations of the network: mean over chunks; one of several draws at once counts as one."
)
COMPARISON_NOTE = (
    "Differences with 95 % score intervals for pairs (Tango's, with continuity correction); exact "
    "McNemar p, and adjusted (Holm) for all rows of its task, by which the verdict goes."
)
SHIFT_NOTE = (
    "Success in % with 95 % Wilson intervals; points lost against home on the same episodes, with "
    "95 % score intervals for pairs (Tango's, with continuity correction); ahead: exact McNemar "
    "test, adjusted (Holm) for all pairs of policies on this task with this camera."
)


def _failed_to_run(episodes: Sequence[dict[str, Any]]) -> str:
    names = "; ".join("{policy}, {task}, {seed}, {control} ({why})".format(**e) for e in episodes)
    return f"Failed to run, and left out for all policies (policy, task, seed, control): {names}."


def _shift_tables(summary: dict[str, Any]) -> list[str]:
    tasks = dict.fromkeys(row["task"] for row in summary["rates"])
    parts = []
    for task in tasks:
        parts += [f"### {task}", table(*shift_rows(summary, task))]
    return parts


def _success_table(summary: dict[str, Any], counted: bool) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in summary["rates"]))
    names = {"latency_ms": "ms per chunk"} | ({"evaluations": "evaluations"} if counted else {})
    by_row: dict[tuple[str, str], dict[str, str]] = {}
    for row in summary["rates"]:
        if is_moved(row["control"]):
            continue
        share = f"{100 * row['rate']:.0f} % ({100 * row['low']:.0f}–{100 * row['high']:.0f})"
        cells = by_row.setdefault((row["policy"], row["control"]), {})
        cells[row["task"]] = f"{row['successes']}/{row['episodes']}, {share}"
    rows = []
    for (policy, control), cells in by_row.items():
        usual = control == "none"
        name = policy if usual else f"{policy}, {control}"
        facts = summary["policies"][policy] if usual else {}
        costs = [f"{facts[cost]:.1f}" if cost in facts else "" for cost in names]
        rows.append([name, *(cells[task] for task in tasks), *costs])
    return table(["policy", *tasks, *names.values()], rows)


def _comparison_table(comparisons: list[dict[str, Any]], names: Sequence[str]) -> str:
    rows = []
    for row in comparisons:
        interval = interval_cell(row, "{:+.0f} to {:+.0f}")
        rows.append(
            [
                *(row[name] for name in names),
                row["task"],
                str(row["n"]),
                f"{row['only_first']} / {row['only_second']}",
                f"{100 * row['difference']:+.0f} ({interval})",
                _p(row["p"]),
                _p(row["p_holm"]),
                row["verdict"],
            ]
        )
    head = ["A" if name == "first" else "B" if name == "second" else name for name in names]
    head += ["task", "n", "only A / only B", "A − B, points", "p", "adjusted p", "verdict"]
    return table(head, rows)


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"
