"""Clips of a page: of every policy and task a success and a failure, run once more to be seen.

An episode is the same each time, so what is seen is what was counted; where it is not, as on
another machine, the page says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.checkpoints import read_checkpoints
from e0_bench.closed_loop.decodings import make_decoding
from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.parallel import EpisodeError, episode_pool, evaluate, told_lost
from e0_bench.closed_loop.runner import Assignment, RunnerSettings, clip_path
from e0_bench.report.reading import Part, ReportError
from e0_system.files import file_name
from e0_system.workers import Processes

FOLDER = "clips"


@dataclass(frozen=True)
class Clip:
    """file: relative to the page. success: as it was counted. same: whether the recorded episode
    ended as the counted one."""

    policy: str
    task: str
    seed: int
    success: bool
    steps: int
    file: str
    same: bool


def record_clips(part: Part, folder: Path, number: int, processes: Processes) -> list[Clip]:
    """Record what is missing of `number` successes and failures of each policy in each task, of its
    first training, below the page's folder.

    Empty where policies see no pictures. Raises ReportError if a checkpoint is not there any more,
    EpisodeError if an episode cannot be run.
    """
    options = part.record["environment"]["options"]
    if number == 0 or options.get("state_only") or not _see_pictures(part):
        return []
    given = tuple(f"{name}={_yaml(value)}" for name, value in options.items())
    environment = EnvironmentSettings(part.record["environment"]["type"], given)
    own = folder / FOLDER / f"{part.name}-{_hash(part.record)}"
    chosen = {
        policy: list(_chosen(part.usual_episodes(labels[0]), part.tasks, number))
        for policy, labels in part.trainings.items()
    }
    log = EpisodeLog(own / "episodes.jsonl")
    every = [episode for episodes in chosen.values() for episode in episodes]
    if any(episode.job not in log.results for episode in every):
        assignments = [
            Assignment(episode.job, runner)
            for policy, episodes in chosen.items()
            if episodes and (runner := _runner(part, episodes[0], environment, own / _safe(policy)))
            for episode in episodes
        ]
        with episode_pool(environment, processes) as pool:
            lost = evaluate(assignments, log, pool, description=f"Clips of {part.name}")
        if lost:
            raise EpisodeError(told_lost(lost))
    return [
        Clip(
            policy,
            *(episode.task, episode.seed, episode.success, episode.steps),
            str(clip_path(own / _safe(policy), episode.job).relative_to(folder)),
            log.results[episode.job].success == episode.success,
        )
        for policy, episodes in chosen.items()
        for episode in episodes
    ]


def _see_pictures(part: Part) -> bool:
    """Whether a policy does, or is not there any more to be asked."""
    from lerobot_policy_e0.loading import read_config

    checkpoints = [Path(row["checkpoint"]) for row in part.record["policies"].values()]
    return any(not path.exists() or read_config(path).image_features for path in checkpoints)


def _chosen(
    episodes: Sequence[EpisodeResult], tasks: Sequence[str], number: int
) -> Iterator[EpisodeResult]:
    """The first successes and failures of each task."""
    for task in tasks:
        for success in (True, False):
            own = [e for e in episodes if e.task == task and e.success is success]
            yield from own[:number]


def _runner(
    part: Part, episode: EpisodeResult, environment: EnvironmentSettings, clips: Path
) -> RunnerSettings:
    row = part.record["policies"][episode.policy]
    checkpoint = Path(row["checkpoint"])
    if not checkpoint.exists():
        raise ReportError(
            f"{part.directory} was measured with {checkpoint}, which is not there any more: put it "
            "back, or leave the clips out with --clips 0"
        )
    (measured,) = read_checkpoints([checkpoint], ["measured"])
    if measured.files != row["files"]:
        raise ReportError(
            f"{checkpoint} is not any more what {part.directory} was measured with: put that back, "
            "or leave the clips out with --clips 0"
        )
    settings = RunnerSettings(checkpoint, environment, None, clips)
    if "decoding" not in row:
        return settings
    name = episode.policy.removeprefix(f"{row['name']}-")
    return replace(settings, decoding=make_decoding(name, row["decoding"]))


def _safe(policy: str) -> str:
    """A policy's label as one step of a path."""
    return file_name(policy.replace("/", "-"), "the policy's label")


def _hash(record: Mapping[str, Any]) -> str:
    """Of what was measured, so that clips of something else are never taken for it."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
