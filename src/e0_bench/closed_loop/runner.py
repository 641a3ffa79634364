"""A policy in closed loop with its environment, in several processes.

Every episode has its own seed for the simulator and for the policy's noise, so a result does not
depend on the order, the number of processes or an interruption.
"""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from e0_bench.closed_loop.decodings import Decoding
from e0_bench.closed_loop.environments import (
    Environment,
    EnvironmentSettings,
    Step,
    open_environment,
)
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLog, EpisodeResult, changed_options
from e0_bench.closed_loop.ways import changes_of_mind
from e0_bench.futures import as_finished
from e0_maniskill.files import file_name, write_bytes
from e0_maniskill.processes import WorkerLostError

EPISODE_SECONDS = 1800.0  # loading the policy included; what takes longer is taken to hang


class EpisodeError(RuntimeError):
    """An episode could not be run to its end; finished ones are kept."""


@dataclass(frozen=True)
class RunnerSettings:
    """A checkpoint directory and what it is run in; how an E0 policy is decoded (None: by its own
    settings), and where clips go (None: nowhere)."""

    checkpoint: Path
    environment: EnvironmentSettings
    decoding: Decoding | None = None
    clips: Path | None = None


@dataclass(frozen=True)
class Assignment:
    """An episode with all that it takes. instructions: those from which the control "instruction"
    draws another than the right one."""

    job: EpisodeJob
    settings: RunnerSettings
    instructions: tuple[str, ...] = ()


@dataclass
class _Progress:
    """What an episode adds up to, step by step."""

    steps: int = 0
    total_reward: float = 0.0
    success: bool = False
    clipped_steps: int = 0
    entropy: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    ambiguity: list[float] = field(default_factory=list)
    ways: list[int] = field(default_factory=list)
    between: bool | None = None

    def take(self, step: Step) -> None:
        """Add what an action led to."""
        self.steps += 1
        self.total_reward += step.reward
        self.success |= step.success
        self.clipped_steps += step.clipped
        if step.way is not None:
            self.ways.append(step.way)
        if step.between is not None:
            self.between = bool(self.between) or step.between


class Runner:
    """A loaded policy with its processors; any type that LeRobot knows."""

    def __init__(self, settings: RunnerSettings) -> None:
        from lerobot.policies import make_pre_post_processors

        from lerobot_policy_e0.loading import load_policy, read_config

        self.settings = settings
        config: Any = read_config(settings.checkpoint)
        if settings.decoding is not None:
            config = settings.decoding.of(config)
        with redirect_stdout(io.StringIO()):
            self.policy: Any = load_policy(settings.checkpoint, config)
        self.policy.eval()
        self.device = torch.device(self.policy.config.device or "cpu")
        self.preprocess, self.postprocess = make_pre_post_processors(
            self.policy.config,
            str(settings.checkpoint),
            preprocessor_overrides={"device_processor": {"device": str(self.device)}},
        )
        self._environment_processors: dict[Environment, tuple[Any, Any]] = {}
        self._warm: set[tuple[Environment, str]] = set()

    def environment(self, task: str) -> Environment:
        """The environment of a task."""
        return open_environment(self.settings.environment, task)

    def batch(
        self,
        environment: Environment,
        observation: dict[str, Any],
        instruction: str,
        *,
        blackout: bool = False,
    ) -> dict[str, Any]:
        """An observation of the environment as the policy's input."""
        from lerobot.envs import preprocess_observation

        prepare, _ = self._processors_of(environment)
        batch = prepare(preprocess_observation(observation) | {"task": [instruction]})
        return self.preprocess(_without_light(batch) if blackout else batch)

    def warm_up(
        self, environment: Environment, observation: dict[str, Any], instruction: str
    ) -> None:
        """Have the policy make ahead what an episode's first chunk would wait for, once for all
        episodes that look alike. Only E0 policies know how; nothing else changes."""
        if hasattr(self.policy, "warm_up") and (environment, instruction) not in self._warm:
            batch = self.batch(environment, observation, instruction)
            with torch.inference_mode(), self._autocast():
                self.policy.warm_up(batch)
            self._warm.add((environment, instruction))

    def run(self, assignment: Assignment) -> EpisodeResult:
        """One episode in closed loop."""
        from lerobot.utils.random_utils import set_seed

        job = assignment.job
        changed = self.settings.environment.changed(changed_options(job.control))
        environment = open_environment(changed, job.task)
        set_seed(job.seed)
        observation = environment.reset(job.seed)
        told = _told(assignment, environment.instruction)
        instruction = told or environment.instruction
        self.warm_up(environment, observation, instruction)
        self.policy.reset()
        set_seed(job.seed)  # again, so that the policy's noise does not hang on the scene's
        clip = None if self.settings.clips is None else [environment.render()]
        progress, ended = _Progress(), False
        while not ended:
            batch = self.batch(
                environment,
                observation,
                told or environment.instruction,
                blackout=job.control == "blackout",
            )
            action = self._act(environment, batch, progress)
            look = clip is not None or self._looks_next(job)
            step = environment.step(action, look=look)
            observation, ended = step.observation, step.ended
            progress.take(step)
            if clip is not None:
                clip.append(environment.render())
        if clip is not None and self.settings.clips is not None:
            _save_clip(clip, clip_path(self.settings.clips, job))
        return EpisodeResult(
            policy=job.policy,
            task=job.task,
            seed=job.seed,
            control=job.control,
            success=progress.success,
            steps=progress.steps,
            total_reward=progress.total_reward,
            entropy=progress.entropy,
            chunks=len(progress.milliseconds),
            latency_ms=float(np.mean(progress.milliseconds)),
            instruction=instruction,
            clipped_steps=progress.clipped_steps,
            evaluations=float(np.mean(progress.evaluations)) if progress.evaluations else None,
            ambiguity=progress.ambiguity or None,
            way=next((way for way in reversed(progress.ways) if way >= 0), None),
            changes_of_mind=changes_of_mind(progress.ways) if progress.ways else None,
            between=progress.between,
        )

    def _act(
        self, environment: Environment, batch: dict[str, Any], progress: _Progress
    ) -> np.ndarray:
        """The next action (1, D); notes time, evaluations and entropy of a chunk that was made for
        it."""
        from lerobot.utils.constants import ACTION

        before = getattr(self.policy, "last_chunk", None)
        start = self._now()
        with torch.inference_mode(), self._autocast():
            action: Tensor = self.policy.select_action(batch)
        milliseconds = 1e3 * (self._now() - start)
        after = getattr(self.policy, "last_chunk", None)
        if self._made_chunk(before, after, progress.steps):
            progress.milliseconds.append(milliseconds)
            if after is not None:
                progress.evaluations.append(float(after.steps_taken))
                if after.entropy is not None:
                    progress.entropy.append(float(after.entropy.float().mean()))
                if after.ambiguity is not None:
                    progress.ambiguity.append(float(after.ambiguity.mean()))
        _, finish = self._processors_of(environment)
        return finish({ACTION: self.postprocess(action)})[ACTION].to("cpu").numpy()

    def _looks_next(self, job: EpisodeJob) -> bool:
        """Whether the next observation's pictures matter: E0 policies tell how many actions of
        their chunk are left, others may look at any time."""
        return job.control != "blackout" and getattr(self.policy, "actions_left", 0) == 0

    def _processors_of(self, environment: Environment) -> tuple[Any, Any]:
        """LeRobot's pre- and post-processor of an environment, kept."""
        from lerobot.envs import make_env_pre_post_processors

        if environment not in self._environment_processors:
            self._environment_processors[environment] = make_env_pre_post_processors(
                environment.config, self.policy.config
            )
        return self._environment_processors[environment]

    def _made_chunk(self, before: Any, after: Any, step: int) -> bool:
        """Whether an action was the first of a new chunk: E0 policies tell; others make one every
        `n_action_steps` calls, if they have such a setting."""
        if hasattr(self.policy, "last_chunk"):
            return after is not before
        return step % (getattr(self.policy.config, "n_action_steps", None) or 1) == 0

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type) if self.policy.config.use_amp else nullcontext()


def _without_light(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with black images."""
    from lerobot.utils.constants import OBS_IMAGE

    dark = {
        name: torch.zeros_like(image) for name, image in batch.items() if name.startswith(OBS_IMAGE)
    }
    return batch | dark


def _told(assignment: Assignment, right: str) -> str | None:
    """The wrong instruction of an episode, drawn by its seed; None for the right one."""
    if assignment.job.control != "instruction":
        return None
    others = sorted(set(assignment.instructions) - {right})
    if not others:
        raise ValueError(
            f"the control 'instruction' needs an instruction other than {right!r}; the environment "
            "and the other tasks offer none"
        )
    return others[int(np.random.default_rng(assignment.job.seed).integers(len(others)))]


# Several episodes at once.


@contextmanager
def episode_pool(
    environment: EnvironmentSettings, workers: int, episode_seconds: float = EPISODE_SECONDS
) -> Iterator[Executor]:
    """Processes for episodes in this environment, of one thread each, that end with this one, or
    when they are still at one episode after so many seconds."""
    from e0_maniskill.collection import CollectionSettings, worker_pool

    state_only = environment.type != "maniskill" or getattr(
        environment.config(), "state_only", True
    )
    settings = CollectionSettings(state_only=state_only)
    with worker_pool(workers, settings, episode_seconds) as pool:
        yield pool


def evaluate(
    assignments: Sequence[Assignment],
    log: EpisodeLog,
    pool: Executor,
    *,
    description: str = "Evaluating",
) -> dict[EpisodeJob, str]:
    """Run the episodes that the log does not hold yet, into the log, with a progress bar.

    Returns those that failed to run, with the reason: their processes died or hung, twice. They say
    nothing of the policy, and are not in the log. Raises EpisodeError naming an episode that ended
    in an error; finished ones are kept.
    """
    wanted = {assignment.job: assignment for assignment in assignments}
    missing = [wanted[job] for job in wanted if job not in log.results]
    done = len(wanted) - len(missing)
    succeeded = sum(log.results[job].success for job in wanted if job in log.results)
    futures = {pool.submit(_run, assignment): assignment.job for assignment in missing}
    lost: dict[EpisodeJob, str] = {}
    with tqdm(total=len(wanted), initial=done, desc=description, unit="episode") as bar:
        for future in as_finished(futures):
            job = futures[future]
            try:
                result = _result_of(future, job)
            except WorkerLostError as error:
                lost[job] = str(error)
                bar.write(f"{job} failed to run: {error}")
                continue
            log.append(result)
            done, succeeded = done + 1, succeeded + result.success
            bar.set_postfix_str(f"{succeeded} of {done} succeeded", refresh=False)
            bar.update()
    return lost


def told_lost(lost: Mapping[EpisodeJob, str]) -> str:
    """A sentence on the episodes that failed to run."""
    job, reason = next(iter(lost.items()))
    return (
        f"{len(lost)} of the episodes failed to run, such as {job}: {reason}. Finished ones are "
        "kept; the same command tries these again, perhaps with fewer --workers"
    )


def comparable_jobs(jobs: Sequence[EpisodeJob], lost: Mapping[EpisodeJob, str]) -> list[EpisodeJob]:
    """The episodes that no policy failed to run; without one as usual its controls say nothing.

    Raises EpisodeError if a task under a control is left without any."""
    gone = {(job.task, job.seed, job.control) for job in lost}
    kept = [
        job
        for job in jobs
        if not gone & {(job.task, job.seed, control) for control in ("none", job.control)}
    ]
    if {(j.task, j.control) for j in kept} != {(j.task, j.control) for j in jobs}:
        raise EpisodeError(told_lost(lost))
    return kept


def _result_of(future: Any, job: EpisodeJob) -> EpisodeResult:
    try:
        return future.result()
    except WorkerLostError:
        raise
    except Exception as error:
        raise EpisodeError(f"{job} failed: {type(error).__name__}: {error}") from error


_runner: Runner | None = None


def _run(assignment: Assignment) -> EpisodeResult:
    """In a worker: run an episode with the policy of the last one, or load another."""
    from e0_maniskill.collection import spare_garbage_collector

    global _runner
    if _runner is None or _runner.settings != assignment.settings:
        _runner = None  # two large policies may not fit
        gc.collect()  # compiled blocks hold on to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _runner = Runner(assignment.settings)
        if assignment.settings.environment.type == "maniskill":
            spare_garbage_collector()
    return _runner.run(assignment)


def clip_path(directory: Path, job: EpisodeJob) -> Path:
    """Where the clip of an episode is kept."""
    control = "" if job.control == "none" else f"-{job.control}"
    return directory / (file_name(f"{job.task}-{job.seed}{control}", "the clip") + ".webp")


def _save_clip(frames: list[np.ndarray], path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    content = io.BytesIO()
    images[0].save(
        content, "WEBP", save_all=True, append_images=images[1:], duration=100, loop=0, quality=70
    )
    write_bytes(path, content.getvalue())
