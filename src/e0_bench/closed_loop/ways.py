"""Tasks that can be done in several ways: which ones a policy goes, and whether it decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.statistics import Rate
from e0_bench.tables import table
from e0_maniskill.tasks import find_task

WAYS_NOTE = (
    "Ways are counted among successes, in the order in which the task gives them. Balance (γ): the "
    "smallest share of a way relative to its share in demonstrations, at most 1. Chance alone "
    "keeps it below 1, the more so the rarer a way is: whoever goes each as often as demonstrated "
    "has, on average over 100 successes, .91 where they are 30 and 70 %, .77 where they are 10, "
    "20, 30 and 40 %. Went between: episodes in which the tool was, at any step, where no "
    "demonstration goes (such as down between the cubes, or into a post), with 95 % Wilson "
    "interval. Changes of mind: how often the way that is being gone changes, per episode."
)


def demonstrated_shares(environment: str, tasks: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """By task that has several ways: the share of each in demonstrations. Of the environment type
    "maniskill"; nothing is known of others."""
    if environment != "maniskill":
        return {}
    return {task: ways for task in tasks if (ways := find_task(task).ways)}


def changes_of_mind(ways: Sequence[int]) -> int:
    """How often the way changes from step to step, those (-1) left out in which it is open."""
    return sum(a != b for a, b in pairwise(way for way in ways if way >= 0))


def balance(counts: Sequence[int], shares: Sequence[float]) -> float | None:
    """The smallest share of a way relative to its share in demonstrations, at most 1: 1 if ways are
    taken as often as there, 0 if one is never taken, None without any count. For two equal ways it
    is 2 min(n1, n2) / (n1 + n2)."""
    total = sum(counts)
    if total == 0:
        return None
    return min(1.0, *(n / (total * share) for n, share in zip(counts, shares, strict=True)))


def ways_summary(
    episodes: Sequence[EpisodeResult],
    policies: Sequence[str],
    shares: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """{"ways": rows}, a row for each policy and task with ways, from its episodes as usual; nothing
    where there is no row.

    counts: of each way among successes. demonstrated: the shares. balance: of the counts.
    went_between: episodes, of `episodes`, with their interval (low, high). changes_of_mind: mean.
    """
    rows = []
    for policy in policies:
        for task, demonstrated in shares.items():
            own = [e for e in episodes if (e.policy, e.task, e.control) == (policy, task, "none")]
            told = [e for e in own if e.between is not None]  # an older log tells of none
            if told:
                rows.append({"policy": policy, "task": task} | _row(told, demonstrated))
    return {"ways": rows} if rows else {}


def _row(episodes: Sequence[EpisodeResult], demonstrated: Sequence[float]) -> dict[str, Any]:
    taken = [e.way for e in episodes if e.success]
    counts = [taken.count(way) for way in range(len(demonstrated))]
    between = Rate(sum(e.between is True for e in episodes), len(episodes))
    low, high = between.interval
    return {
        "counts": counts,
        "demonstrated": list(demonstrated),
        "balance": balance(counts, demonstrated),
        "episodes": len(episodes),
        "went_between": between.successes,
        "low": low,
        "high": high,
        "changes_of_mind": fmean(e.changes_of_mind or 0 for e in episodes),
    }


def ways_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    cells = [
        [
            row["policy"],
            row["task"],
            " / ".join(map(str, row["counts"])),
            " / ".join(f"{100 * share:.0f} %" for share in row["demonstrated"]),
            "no success" if row["balance"] is None else f"{row['balance']:.2f}",
            f"{row['went_between']}/{row['episodes']} "
            f"({100 * row['low']:.0f}–{100 * row['high']:.0f} %)",
            f"{row['changes_of_mind']:.2f}",
        ]
        for row in rows
    ]
    head = ["policy", "task", "ways", "demonstrated", "balance (γ)"]
    return table([*head, "went between", "changes of mind"], cells)
