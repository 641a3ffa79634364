"""How far episodes got on their way to success, which tells where a policy fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.tables import table
from e0_maniskill.stages import STAGES

STAGES_NOTE = (
    "Of the episodes as usual, those that reached a stage, or a later one, at any step; in their "
    "order."
)


def stages_summary(episodes: Iterable[EpisodeResult], policies: Sequence[str]) -> dict[str, Any]:
    """{"stages": rows}, a row for each task with stages and policy, from episodes as usual; nothing
    where there is no row.

    reached: how many of `episodes` reached each stage, by its name, in order; of a task that is not
    ManiSkill's, a stage that no policy reached is missing. successes: of them.
    """
    usual = [e for e in episodes if e.stages is not None and e.control == "none"]
    rows = []
    for task in dict.fromkeys(e.task for e in usual):
        told = [e.stages or [] for e in usual if e.task == task]
        names = max([*told, list(STAGES.get(task, {}))], key=len)
        for policy in policies:
            own = [e for e in usual if (e.task, e.policy) == (task, policy)]
            if not own:  # an older log tells of none
                continue
            rows.append(
                {
                    "task": task,
                    "policy": policy,
                    "reached": {name: sum(name in (e.stages or []) for e in own) for name in names},
                    "successes": sum(e.success for e in own),
                    "episodes": len(own),
                }
            )
    return {"stages": rows} if rows else {}


def stages_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    cells = []
    for row in rows:
        reached = [f"{name} {count}" for name, count in row["reached"].items()]
        far = " → ".join([*reached, f"success {row['successes']}"])
        cells.append([row["task"], row["policy"], f"{far}, of {row['episodes']}"])
    return table(["task", "policy", "how far"], cells)
