"""Closed-loop evaluation: one record per episode, kept as soon as it is there.

Every episode has its own seed for the simulator and for the policy's noise, so a result does not
depend on the order, the number of processes or an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to run. `blackout`: the policy gets black images, everything else as usual."""

    task: str
    seed: int
    blackout: bool = False


@dataclass(frozen=True)
class EpisodeResult:
    """How it went. `entropy`: mean posterior entropy of each chunk in nats, in order."""

    task: str
    seed: int
    blackout: bool
    success: bool
    steps: int
    total_reward: float
    entropy: list[float]

    @property
    def job(self) -> EpisodeJob:
        return EpisodeJob(self.task, self.seed, self.blackout)


@dataclass(frozen=True)
class EvaluationSettings:
    """What is evaluated: a checkpoint directory, the environment's settings (arguments of
    `e0_maniskill.ManiSkillEnv`), denoising steps, and where clips go (or None)."""

    checkpoint: Path
    environment: dict[str, Any]
    denoising_steps: int
    clips: Path | None = None


def evaluate(
    jobs: Iterable[EpisodeJob],
    settings: EvaluationSettings,
    results: Path,
    *,
    workers: int = 2,
    on_result: Callable[[EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """Run the jobs that `results` (JSON lines) doesn't hold yet; return all, in the jobs' order."""
    from e0_maniskill.collection import CollectionSettings, worker_pool

    jobs = list(jobs)
    done = {result.job: result for result in read_results(results)}
    missing = [job for job in dict.fromkeys(jobs) if job not in done]
    if not missing:
        return [done[job] for job in jobs]
    results.parent.mkdir(parents=True, exist_ok=True)
    state_only = settings.environment.get("state_only", False)
    with worker_pool(workers, CollectionSettings(state_only=state_only)) as pool:
        futures = [pool.submit(_run, job, settings) for job in missing]
        with results.open("a") as file:
            for future in as_completed(futures):
                result = future.result()
                done[result.job] = result
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                if on_result:
                    on_result(result)
    return [done[job] for job in jobs]


def read_results(path: Path) -> list[EpisodeResult]:
    """Results kept so far. A last line that a kill cut short is removed from the file, so that its
    episode runs again; a broken line elsewhere raises ValueError."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    try:
        return [EpisodeResult(**json.loads(line)) for line in whole.splitlines()]
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(
            f"{path} holds a line that is not an episode's result ({error}); move the file away to "
            "evaluate anew"
        ) from error


class Runner:
    """A loaded policy with its processors and environments, one process' worth."""

    def __init__(self, settings: EvaluationSettings) -> None:
        from lerobot.policies import make_pre_post_processors

        from lerobot_policy_e0 import E0Policy

        self.settings = settings
        self.policy = E0Policy.from_pretrained(settings.checkpoint)
        self.preprocess, self.postprocess = make_pre_post_processors(
            self.policy.config,
            str(settings.checkpoint),
            preprocessor_overrides={"device_processor": {"device": self.policy.config.device}},
        )
        self._environments: dict[str, Any] = {}

    def environment(self, task: str) -> Any:
        """The environment of a task; one is kept for each."""
        from e0_maniskill import ManiSkillEnv

        if task not in self._environments:
            self._environments[task] = ManiSkillEnv(task, **self.settings.environment)
        return self._environments[task]

    def batch(self, observation: dict[str, Any], instruction: str, blackout: bool) -> Any:
        """An observation of the environment as the policy's input."""
        from lerobot.envs.utils import preprocess_observation

        if blackout:
            black = {name: np.zeros_like(image) for name, image in observation["pixels"].items()}
            observation = observation | {"pixels": black}
        return self.preprocess(preprocess_observation(observation) | {"task": [instruction]})

    def run(self, job: EpisodeJob) -> EpisodeResult:
        """One episode in closed loop, a new chunk every `n_action_steps`."""
        env = self.environment(job.task)
        device = torch.device(self.policy.config.device or "cpu")
        generator = torch.Generator(device).manual_seed(job.seed)
        observation, info = env.reset(seed=job.seed)
        frames, entropy, steps, total, ended = [env.render()], [], 0, 0.0, False
        while not ended:
            chunk = self.policy.predict(
                self.batch(observation, env.task_description, job.blackout),
                steps=self.settings.denoising_steps,
                generator=generator,
            )
            entropy.append(float(chunk.entropy.mean()))
            actions = self.postprocess(chunk.actions[0, : self.policy.config.n_action_steps])
            for action in actions.numpy():
                observation, reward, terminated, truncated, info = env.step(action)
                frames.append(env.render())
                steps, total, ended = steps + 1, total + reward, terminated or truncated
                if ended:
                    break
        if self.settings.clips is not None:
            _save_clip(frames, clip_path(self.settings.clips, job))
        return EpisodeResult(
            **asdict(job),
            success=bool(info["is_success"]),
            steps=steps,
            total_reward=float(total),
            entropy=entropy,
        )


def clip_path(directory: Path, job: EpisodeJob) -> Path:
    """Where the clip of an episode is kept."""
    return directory / f"{job.task}-{job.seed}{'-blackout' if job.blackout else ''}.webp"


@cache
def _runner(settings: str) -> Runner:
    data = json.loads(settings)
    paths = {name: data[name] and Path(data[name]) for name in ("checkpoint", "clips")}
    return Runner(EvaluationSettings(**(data | paths)))


def _run(job: EpisodeJob, settings: EvaluationSettings) -> EpisodeResult:
    return _runner(json.dumps(asdict(settings), default=str)).run(job)


def _save_clip(frames: list[np.ndarray], path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0, quality=70)
