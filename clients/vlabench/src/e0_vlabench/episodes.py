"""One episode of VLABench with a served policy, as a row of `e0 bench`'s log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dm_control.rl.control import PhysicsError  # pyright: ignore[reportMissingImports]

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_vlabench.policy import Answer, ServedPolicy
from e0_vlabench.simulation import opened, step_limit
from e0_vlabench.tasks import Episode


def run_episode(
    policy: ServedPolicy, envs: Any, root: Path, label: str, episode: Episode
) -> EpisodeResult:
    """Run an episode to its end: solved, out of steps, or the simulation diverged under the
    policy's actions, which is a failure.

    envs, root: VLABench's module and directory. label: what the policy is called in the log.
    Raises EpisodeError if it cannot be set up, and what `ServedPolicy.act` raises.
    """
    solved, steps, out_of_reach = False, 0, 0
    policy.reset(episode.seed)
    with opened(envs, episode) as simulation:
        limit = step_limit(root, episode)
        while steps < limit and not solved:
            view = simulation.look()
            pose = policy.act(
                view.front, view.wrist, view.ee_state, simulation.instruction, view.base
            )
            steps += 1
            try:
                solved, missed = simulation.move(pose)
            except PhysicsError as error:
                logging.warning(
                    "%s, episode %d: the simulation diverged in step %d, a failure (%s)",
                    *(episode.name, episode.seed, steps, error),
                )
                break
            out_of_reach += missed
        scores = simulation.scores
    return EpisodeResult(
        policy=label,
        task=episode.name,
        seed=episode.seed,
        control="none",
        success=solved,
        steps=steps,
        total_reward=0.0,  # VLABench gives none
        entropy=_entropies(policy.answers),
        chunks=len(policy.answers),
        latency_ms=fmean(answer.milliseconds for answer in policy.answers),
        instruction=simulation.instruction,
        clipped_steps=out_of_reach,
        intention_score=scores.intention,
        progress_score=scores.progress,
        released_progress_score=scores.released_progress,
    )


def _entropies(answers: Sequence[Answer]) -> list[float]:
    return [answer.entropy for answer in answers if answer.entropy is not None]
