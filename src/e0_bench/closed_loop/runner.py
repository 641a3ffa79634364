"""A policy in closed loop with its environment, in several processes.

Every episode has its own seed for the simulator and for the policy's noise, so a result does not
depend on the order, the number of processes or an interruption.
"""

from __future__ import annotations

import io
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from e0_bench.closed_loop.decodings import Decoding
from e0_bench.closed_loop.delays import Delay, LateChunks
from e0_bench.closed_loop.environments import (
    Environment,
    EnvironmentSettings,
    Step,
    open_environment,
)
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeResult, changed_options
from e0_bench.closed_loop.guided import can_be_guided, guided_chunk
from e0_bench.closed_loop.ways import changes_of_mind
from e0_system.files import file_name, write_bytes


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
    stage: int = 0

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
        self.stage = max(self.stage, step.stage)


class Runner:
    """A loaded policy with its processors; any type that LeRobot knows."""

    def __init__(self, settings: RunnerSettings) -> None:
        from lerobot_policy_e0.loading import load_with_processors, read_config

        self.settings = settings
        config: Any = read_config(settings.checkpoint)
        if settings.decoding is not None:
            config = settings.decoding.of(config)
        loaded = load_with_processors(settings.checkpoint, config)
        self.policy, self.device = loaded.policy, loaded.device
        self.preprocess, self.postprocess = loaded.preprocess, loaded.postprocess
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
        if not blackout:
            return self.preprocess(batch)
        return _with_middle_state(self.preprocess(_without_light(batch)))

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
        late = self._late_chunks(job)
        while not ended:
            batch = self.batch(
                environment,
                observation,
                told or environment.instruction,
                blackout=job.blackout,
            )
            if late is None:
                action = self._act(environment, batch, progress)
                look = clip is not None or self._looks_next(job)
            else:
                action = self._act_late(environment, batch, progress, late)
                look = clip is not None or late.asks_next
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
            smoothness=None if late is None else late.smoothness(self._deviation()),
            variant=environment.variant,
            stages=list(environment.stages[: progress.stage]) if environment.stages else None,
        )

    def _late_chunks(self, job: EpisodeJob) -> LateChunks | None:
        """What executes the chunks of an episode in which they come late."""
        delay = Delay.parse(job.control)
        if delay is None:
            return None
        config = self.policy.config
        own = getattr(config, "n_action_steps", None) or 1
        horizon = getattr(config, "horizon", None) or getattr(config, "chunk_size", own)
        return LateChunks(delay, delay.execution_horizon or own, horizon)

    def _act_late(
        self,
        environment: Environment,
        batch: dict[str, Any],
        progress: _Progress,
        late: LateChunks,
    ) -> np.ndarray:
        """The next action (1, D) of chunks that come late."""
        from lerobot.utils.constants import ACTION

        def predict(told: Tensor | None) -> Tensor:
            start = self._now()
            with torch.inference_mode(), self._autocast():
                chunk = self._late_chunk(batch, told, late.delay)
            progress.milliseconds.append(1e3 * (self._now() - start))
            return chunk

        action = late.act(predict)[None]
        _, finish = self._processors_of(environment)
        return finish({ACTION: self.postprocess(action)})[ACTION].to("cpu").numpy()

    def _late_chunk(self, batch: dict[str, Any], told: Tensor | None, delay: Delay) -> Tensor:
        """A chunk (H, D) by a policy that is told something of the last one, see `LateChunks`."""
        if told is None:
            return self.policy.predict_action_chunk(batch)[0]
        if delay.chunking != "guided":
            return self.policy.predict_action_chunk(batch, **self._given(told))[0]
        if can_be_guided(self.policy):
            return guided_chunk(self.policy, batch, told, delay.steps)[0]
        return self.policy.predict_action_chunk(batch)[0]

    def _given(self, meanwhile: Tensor) -> dict[str, Any]:
        """How a policy is given the steps (d, D) that are executed meanwhile: E0's exactly, others
        as LeRobot's engine does it, those that cannot continue them not at all."""
        if not getattr(self.policy, "supports_rtc", bool)():
            return {}
        if (longest := getattr(self.policy, "longest_delay", None)) is not None:
            from e0.prefix import Prefix

            return {
                "prefix": Prefix.of_steps(meanwhile[None, :longest], self.policy.config.horizon)
            }
        return {"inference_delay": len(meanwhile), "prev_chunk_left_over": meanwhile}

    def _deviation(self) -> Tensor:
        """Deviations (D,) of the data's actions, from policies of E0; of others 1."""
        tokenizer = getattr(getattr(self.policy, "model", None), "tokenizer", None)
        scale = getattr(tokenizer, "scale", None)
        return torch.ones(()) if scale is None else scale.cpu()

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
        return not job.blackout and getattr(self.policy, "actions_left", 0) == 0

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


def _with_middle_state(batch: dict[str, Any]) -> dict[str, Any]:
    """The preprocessed batch, if there are no images in it, with zeros in place of the
    environment's state, the middle of the data for policies that normalize it: nothing tells where
    things are."""
    from lerobot.utils.constants import OBS_ENV_STATE, OBS_IMAGE

    if OBS_ENV_STATE not in batch or any(name.startswith(OBS_IMAGE) for name in batch):
        return batch
    return batch | {OBS_ENV_STATE: torch.zeros_like(batch[OBS_ENV_STATE])}


def _told(assignment: Assignment, right: str) -> str | None:
    """The wrong instruction of an episode, drawn by its seed; None for the right one."""
    if not assignment.job.wrong_instruction:
        return None
    others = sorted(set(assignment.instructions) - {right})
    if not others:
        raise ValueError(
            f"the control 'instruction' needs an instruction other than {right!r}; the environment "
            "and the other tasks offer none"
        )
    return others[int(np.random.default_rng(assignment.job.seed).integers(len(others)))]


def clip_path(directory: Path, job: EpisodeJob) -> Path:
    """Where the clip of an episode is kept."""
    control = "" if job.control == "none" else f"-{job.control}"
    task = job.task.replace("/", "-")  # libero_10/3
    return directory / (file_name(f"{task}-{job.seed}{control}", "the clip") + ".webp")


def _save_clip(frames: list[np.ndarray], path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in frames]
    content = io.BytesIO()
    images[0].save(
        content, "WEBP", save_all=True, append_images=images[1:], duration=100, loop=0, quality=70
    )
    write_bytes(path, content.getvalue())
