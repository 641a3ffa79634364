"""Success by how the camera was moved, on LIBERO-Plus's camera axis: a few rows for its hundreds of
viewpoints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.statistics import Rate
from e0_bench.tables import table
from e0_libero.plus import CameraTask

VIEWPOINTS_NOTE = (
    "By where LIBERO-Plus moves the agent view: azimuth to either side; distance from its pivot, "
    "0.8 m above the world's origin. 95 % Wilson intervals in brackets."
)


def viewpoints_summary(
    episodes: Iterable[EpisodeResult], policies: Sequence[str]
) -> dict[str, Any]:
    """{"viewpoints": rows}, a row for each suite of cameras, band of viewpoints and policy, from
    episodes as usual, of which every policy has the same; nothing where there is no row.

    band: see `Viewpoint.band`. successes: of `episodes`; rate: their share, with its interval (low,
    high).
    """
    outcomes: dict[tuple[str, str, str], list[bool]] = defaultdict(list)
    for episode in episodes:
        task = CameraTask.parse(episode.variant or "")
        if task is not None and episode.control == "none":
            outcomes[episode.task, task.viewpoint.band, episode.policy].append(episode.success)
    rows = [
        {"task": task, "band": band, "policy": policy} | _rate(outcomes[task, band, policy])
        for task, band in sorted({key[:2] for key in outcomes})
        for policy in policies
    ]
    return {"viewpoints": rows} if rows else {}


def _rate(outcomes: Sequence[bool]) -> dict[str, Any]:
    rate = Rate(sum(outcomes), len(outcomes))
    low, high = rate.interval
    return asdict(rate) | {"rate": rate.share, "low": low, "high": high}


def viewpoints_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown: a line for each suite and band, a column for each policy."""
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    lines: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        share = f"{100 * row['rate']:.0f} % ({100 * row['low']:.0f}–{100 * row['high']:.0f})"
        cell = f"{row['successes']}/{row['episodes']}, {share}"
        lines[row["task"], row["band"]].append(cell)
    return table(["task", "camera", *policies], [[*key, *cells] for key, cells in lines.items()])
