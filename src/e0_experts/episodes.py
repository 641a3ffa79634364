"""Demonstrations: one expert episode, and its file."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from e0_system.files import write_bytes

_TRANSLATION = slice(0, 3)
_NOISE_STREAM = 0xE0  # keeps the noise apart from anything else drawn from the same seed
_IMAGE_PREFIX, _DEPTH_PREFIX = "images.", "depth."


class TaskEnv(Protocol):
    """A task in a simulator, with Gymnasium's `reset` and `step`; `info["is_success"]` tells
    whether it is done. Observations: `agent_pos`, `environment_state` where there is one, `pixels`
    and `depth` by camera where there are any."""

    task: str
    task_description: str
    _max_episode_steps: int

    def reset(self, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]: ...

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]: ...

    def close(self) -> None: ...


class Expert(Protocol):
    """Solves an episode of a task that has been reset; `act` is called before every step."""

    @property
    def delicate(self) -> bool:
        """Whether the action given last must be executed undisturbed."""
        ...

    def act(self) -> np.ndarray:
        """The next action, float32 (7,) within [-1, 1]: translation, rotation vector, gripper."""
        ...


class LeadIn(Protocol):
    """What comes before an expert takes over. Picklable, for workers."""

    def __call__(self, env: Any, seed: int) -> dict[str, Any]:
        """Reset the environment to the episode of this seed and bring it to where the expert takes
        over; what is seen there."""
        ...

    def record(self) -> dict[str, Any]:
        """All that the way there depends on, as JSON data."""
        ...


@dataclass(frozen=True)
class Episode:
    """What was seen before each of T steps, and what the expert would do then.

    Attributes:
        task: the task's name.
        instruction: what this episode asks for.
        seed: the environment's seed.
        success: whether the expert succeeded.
        images: camera name -> uint8 (T, height, width, 3); empty without cameras.
        proprioception: float32 (T, numbers), as the simulator's environment gives it.
        environment_state: float32 (T, numbers), of no numbers where the simulator gives none.
        actions: float32 (T, 7): the expert's clean actions, without the noise that was executed.
        depth: camera name -> uint16 (T, height, width) millimetres; empty unless asked for.
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


def run_expert[Env: TaskEnv](
    env: Env,
    demonstrator: Callable[[Env, int], Expert],
    seed: int,
    *,
    action_noise: float = 0.0,
    noise_probability: float = 0.4,
    hold_steps: int = 0,
    lead_in: LeadIn | None = None,
) -> Episode:
    """Let an expert solve the episode of this seed, until success or the step limit.
    demonstrator: gives the expert of an environment that was reset with a seed. lead_in: what comes
    before the expert takes over, and is not recorded; None: it acts from the start.

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
    observation = env.reset(seed=seed)[0] if lead_in is None else lead_in(env, seed)
    expert = demonstrator(env, seed)
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
        environment_state=np.stack(
            [seen.get("environment_state", np.zeros(0, np.float32)) for seen in observations]
        ),
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
            instruction=str(arrays["instruction"]),
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
