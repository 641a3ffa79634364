"""Does a measure of a policy's chunks tell which episodes fail?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.statistics import (
    FEWEST_EPISODES,
    Discrimination,
    failure_auc,
    reliability_bins,
    too_few,
)
from e0_bench.tables import interval_cell, table

FEWEST_OF_A_KIND = 5  # failures and successes, for a claim on telling them apart
MOST_BINS, EPISODES_PER_BIN = 5, 10

# Failed episodes are the longer ones, and what follows a failure looks odd to any policy. So the
# whole episode may only notice a failure; the start that all episodes of a task share foresees it.
WHOLE, START = "whole episode", "shared start"

AUC_NOTE = (
    "AUC: how often a failure has a higher mean {} than a success of the same task (50 % is "
    "chance), with 95 % bootstrap interval. Failed episodes run longer, so only the start, the "
    "chunks that every episode of the task has, foretells."
)


def calibration(
    episodes: Iterable[EpisodeResult], policies: Sequence[str], measure: str
) -> dict[str, dict[str, Any]]:
    """How well a measure of each chunk, a field of `EpisodeResult`, tells failures, by policy that
    has it: over whole episodes and over their shared start."""
    calibrations = {}
    for policy in policies:
        usual = [e for e in episodes if e.policy == policy and e.control == "none"]
        own = [(e, scores) for e in usual if (scores := getattr(e, measure))]
        if own:
            shortest = {
                task: min(len(scores) for e, scores in own if e.task == task)
                for task in {e.task for e, _ in own}
            }
            measured = [e for e, _ in own]
            calibrations[policy] = {
                WHOLE: _discrimination(measured, [fmean(scores) for _, scores in own], measure),
                START: _discrimination(
                    measured, [fmean(scores[: shortest[e.task]]) for e, scores in own], measure
                ),
            }
    return calibrations


def _discrimination(
    episodes: Sequence[EpisodeResult], scores: Sequence[float], measure: str
) -> dict[str, Any]:
    failures, tasks = [not e.success for e in episodes], [e.task for e in episodes]
    found = failure_auc(scores, failures, tasks)
    bins = max(1, min(MOST_BINS, len(episodes) // EPISODES_PER_BIN))
    low, high = (found and found.interval) or (None, None)
    return {
        "n": len(episodes),
        "failures": sum(failures),
        "auc": found and found.auc,
        "low": low,
        "high": high,
        "verdict": _verdict(len(episodes), found, measure),
        "bins": [
            {
                "low": b.low,
                "high": b.high,
                "failures": b.failures.successes,
                "n": b.failures.episodes,
            }
            for b in reliability_bins(scores, failures, tasks, bins)
        ],
    }


def _verdict(n: int, found: Discrimination | None, measure: str) -> str:
    if n < FEWEST_EPISODES:
        return too_few(n)
    if found is None:
        return "no task has both failures and successes"
    if min(found.failures, found.successes) < FEWEST_OF_A_KIND:
        kind = "failures" if found.failures < found.successes else "successes"
        return f"too few {kind} for a claim ({min(found.failures, found.successes)})"
    low, high = found.interval or (found.auc, found.auc)
    if low > 0.5:
        return f"failures have the higher {measure}"
    return f"failures have the lower {measure}" if high < 0.5 else "not distinguishable from chance"


def calibration_markdown(calibrations: dict[str, Any], measure: str) -> str:
    """What `calibration` gives, as a section of GitHub Markdown."""
    rows = []
    for policy, scores in calibrations.items():
        for name, found in scores.items():
            auc = "undefined"
            if found["auc"] is not None:
                auc = f"{100 * found['auc']:.0f} % ({interval_cell(found, '{:.0f}–{:.0f}')})"
            counts = f"{found['failures']} of {found['n']}"
            rows.append([policy, name, counts, auc, found["verdict"]])
    rows_table = table(["policy", f"{measure} of", "failures", "AUC", "verdict"], rows)
    heading = f"## Does {measure} foretell failure?"
    return "\n\n".join([heading, rows_table, AUC_NOTE.format(measure)])
