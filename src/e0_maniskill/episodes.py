"""Demonstrations: one expert episode, and its file."""

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from e0_maniskill.env import ManiSkillEnv
from e0_maniskill.experts import Expert
from e0_maniskill.files import write_bytes
from e0_maniskill.tasks import find_task

_TRANSLATION = slice(0, 3)
# Keep the noise and the choice of a way apart from anything else drawn from the same seed.
_NOISE_STREAM, _WAY_STREAM = 0xE0, 0x3A7
_IMAGE_PREFIX, _DEPTH_PREFIX = "images.", "depth."


@dataclass(frozen=True)
class Episode:
    """What was seen before each of T steps, and what the expert would do then.

    Attributes:
        task: the task's name.
        instruction: what this episode asks for.
        seed: the environment's seed.
        success: whether the expert succeeded.
        images: camera name -> uint8 (T, height, width, 3); empty without cameras.
        proprioception: float32 (T, 16 or 4), see `ManiSkillEnv`.
        environment_state: float32 (T, 3 or 17).
        actions: float32 (T, 7): the expert's clean actions, without the noise that was executed.
        depth: camera name -> uint16 (T, height, width) millimetres, see `ManiSkillEnv`; empty
            unless asked for.
    """

    task: str
    instruction: str
    seed: int
    success: bool
    images: dict[str, np.ndarray]
    proprioception: np.ndarray
    environment_state: np.ndarray
    actions: np.ndarray
    depth: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of steps T."""
        return len(self.actions)


def demonstrated_way(task: str, seed: int) -> int:
    """Which way the expert goes in the demonstration of this seed, counted as in `Task.ways`; 0 for
    a task with one. The scene, also drawn from the seed, tells nothing of it.

    Raises:
        ValueError: unknown task.
    """
    ways = find_task(task).ways
    rng = np.random.default_rng([seed, _WAY_STREAM])
    return int(rng.choice(len(ways), p=ways)) if ways else 0


def run_expert(
    env: ManiSkillEnv,
    seed: int,
    *,
    action_noise: float = 0.0,
    noise_probability: float = 0.4,
    hold_steps: int = 0,
) -> Episode:
    """Let the expert solve the episode of this seed, until success or the step limit. Where a task
    can be done in several ways, it goes that of `demonstrated_way`.

    After a success it keeps steering to its target for `hold_steps` more steps: an episode that
    ends on success hardly shows how to correct a small error near the goal.

    Noise shows a policy what to do where the expert alone would never be (DART: Laskey et al.,
    2017, arXiv:1703.09327): each step, with probability `noise_probability`, the translation which
    is executed is disturbed by N(0, action_noise) per axis, in units of the action range, and kept
    within it. The recorded action stays clean. Where a disturbance would spoil the episode (while
    the gripper closes or releases, while a peg or plug is inserted) there is none. Noise depends on
    the seed only.

    Raises:
        ValueError: negative noise or steps, or a probability outside [0, 1].
    """
    if hold_steps < 0:
        raise ValueError(f"hold_steps must be at least 0, got {hold_steps}")
    if not action_noise >= 0:
        raise ValueError(f"action_noise must be at least 0, got {action_noise}")
    if not 0 <= noise_probability <= 1:
        raise ValueError(f"noise_probability must lie within [0, 1], got {noise_probability}")
    rng = np.random.default_rng([seed, _NOISE_STREAM])
    observation, _ = env.reset(seed=seed)
    expert = Expert(env, demonstrated_way(env.task, seed))
    observations, actions = [], []
    success, remaining = False, env._max_episode_steps
    while remaining > 0:
        action = expert.act()
        observations.append(observation)
        actions.append(action)
        executed = action.copy()
        if not expert.delicate and rng.random() < noise_probability:
            executed[_TRANSLATION] += rng.normal(0.0, action_noise, 3)
        observation, _, _, _, info = env.step(executed.clip(-1.0, 1.0))
        remaining -= 1
        if info["is_success"] and not success:
            success, remaining = True, hold_steps
    return Episode(
        task=env.task,
        instruction=env.task_description,
        seed=seed,
        success=success,
        images=_by_camera(observations, "pixels"),
        proprioception=np.stack([seen["agent_pos"] for seen in observations]),
        environment_state=np.stack([seen["environment_state"] for seen in observations]),
        actions=np.stack(actions),
        depth=_by_camera(observations, "depth"),
    )


def _by_camera(observations: list[dict[str, Any]], kind: str) -> dict[str, np.ndarray]:
    """Camera name -> its pictures (T, ...); empty if there are none of this kind."""
    names = observations[0].get(kind, {})
    return {name: np.stack([seen[kind][name] for seen in observations]) for name in names}


def save_episode(episode: Episode, path: Path) -> None:
    """Write an episode as a compressed npz file.

    The file appears under its name complete or not at all, also if the process or the machine
    stops meanwhile.
    """
    arrays = {
        "task": np.array(episode.task),
        "instruction": np.array(episode.instruction),
        "seed": np.array(episode.seed),
        "success": np.array(episode.success),
        "proprioception": episode.proprioception,
        "environment_state": episode.environment_state,
        "actions": episode.actions,
    }
    arrays |= {_IMAGE_PREFIX + name: images for name, images in episode.images.items()}
    arrays |= {_DEPTH_PREFIX + name: depth for name, depth in episode.depth.items()}
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def load_episode(path: Path) -> Episode:
    """Read a file of `save_episode`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not an episode.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        episode = Episode(
            task=str(arrays["task"]),
            instruction=_instruction(arrays),
            seed=int(arrays["seed"]),
            success=bool(arrays["success"]),
            images=_with_prefix(arrays, _IMAGE_PREFIX),
            proprioception=arrays["proprioception"],
            environment_state=arrays["environment_state"],
            actions=arrays["actions"],
            depth=_with_prefix(arrays, _DEPTH_PREFIX),
        )
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a whole episode file ({error}); delete it and collect again"
        ) from error
    return episode


def _with_prefix(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    found = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array for name, array in found.items()}


def _instruction(arrays: dict[str, np.ndarray]) -> str:
    """The episode's instruction; files from before it was kept are of tasks that have only one."""
    if "instruction" in arrays:
        return str(arrays["instruction"])
    (only,) = find_task(str(arrays["task"])).instructions
    return only
