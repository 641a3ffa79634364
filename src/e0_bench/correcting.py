"""Corrections: a policy begins each episode, and the expert takes over where that has led.

Demonstrations hardly show what to do where only the policy's own mistakes lead. In a simulator the
expert can be asked there (DAgger: Ross et al., 2011, arXiv:1011.0686). It takes over for the rest
of the episode (as people do in HG-DAgger: Kelly et al., 2019, arXiv:1810.02890), so that chunks of
actions are recorded as it really went on, and what the policy did is not recorded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from e0_bench.closed_loop.checkpoints import Checkpoint, check_fit, read_checkpoints

if TYPE_CHECKING:
    from e0_experts.episodes import TaskEnv
    from lerobot_policy_e0.loading import LoadedPolicy

_TAKEOVER_STREAM = 0xDA66E4  # keeps takeovers apart from anything else drawn from the same seed


class CorrectionError(ValueError):
    """A policy that cannot be corrected in these tasks."""


@dataclass(frozen=True)
class PolicyLeadIn:
    """A policy, decoded by its own settings, acts from the start of an episode to a step drawn from
    the seed, any up to the step limit alike. Where it has ended the episode before, by a success or
    a failure, one of the steps before that is drawn. The same for the same seed, checkpoint and
    kind of machine.

    instructions: those it was trained for; none if that is not known.
    """

    checkpoint: Checkpoint
    instructions: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """See `LeadIn`."""
        return {"policy": dict(self.checkpoint.files)}

    def __call__(self, env: TaskEnv, seed: int) -> dict[str, Any]:
        """See `LeadIn`. Raises BenchmarkCheckpointError for a policy of other observations,
        CorrectionError for one of other tasks, and FloatingPointError for one that gives no finite
        actions."""
        from lerobot.utils.random_utils import set_seed

        loaded = _load(self.checkpoint)
        rng = np.random.default_rng([seed, _TAKEOVER_STREAM])
        takeover = int(rng.integers(1, env._max_episode_steps + 1))
        observation, _ = env.reset(seed=seed)
        self._check(env, observation)
        set_seed(seed)  # of the policy's noise
        loaded.policy.reset()
        actions: list[np.ndarray] = []
        while len(actions) < takeover:
            actions.append(_act(loaded, observation, env))
            look = len(actions) == takeover or getattr(loaded.policy, "actions_left", 0) == 0
            observation, ended = _step(env, actions[-1], look=look)
            if ended:
                return _replay(env, seed, actions[: int(rng.integers(len(actions)))])
        return observation

    def _check(self, env: TaskEnv, observation: dict[str, Any]) -> None:
        asked, learned = env.task_description, self.instructions
        if learned and asked not in learned:
            shown = ", ".join(map(repr, learned[:3])) + (", ..." if len(learned) > 3 else "")
            raise CorrectionError(
                f"{self.checkpoint.directory} was trained for {shown}, and {env.task} asks for "
                f"{asked!r}: collect for tasks that it has learned, or correct another checkpoint"
            )
        action_size = int(env.action_space.shape[0])  # pyright: ignore[reportAttributeAccessIssue]
        check_fit(self.checkpoint, env.task, _shapes(observation), action_size)


def policy_lead_in(checkpoint: Path) -> PolicyLeadIn:
    """The policy of a checkpoint as what comes before the expert takes over.

    Raises CheckpointError for a directory that holds no checkpoint.
    """
    (read,) = read_checkpoints([checkpoint.resolve() if checkpoint.exists() else checkpoint])
    return PolicyLeadIn(read, _learned_instructions(read.directory))


def _learned_instructions(directory: Path) -> tuple[str, ...]:
    """Those of the dataset that a checkpoint was trained on; none where that is not known, or lies
    elsewhere."""
    from lerobot.datasets import LeRobotDatasetMetadata

    path = directory / "train_config.json"
    dataset = json.loads(path.read_text()).get("dataset") or {} if path.is_file() else {}
    root = Path(dataset.get("root") or "")
    if not root.is_absolute() or not (root / "meta").is_dir():
        return ()
    tasks: Any = LeRobotDatasetMetadata(dataset.get("repo_id", "local/dataset"), root=root).tasks
    return tuple(tasks.index)


_loaded: tuple[Checkpoint, LoadedPolicy] | None = None  # in a worker: the policy that it runs


def _load(checkpoint: Checkpoint) -> LoadedPolicy:
    from lerobot_policy_e0.loading import load_with_processors, read_config

    global _loaded
    if _loaded is None or _loaded[0] != checkpoint:
        directory = checkpoint.directory
        _loaded = (checkpoint, load_with_processors(directory, read_config(directory)))
    return _loaded[1]


def _act(loaded: LoadedPolicy, observation: dict[str, Any], env: TaskEnv) -> np.ndarray:
    """The policy's next action, brought within the action range as `e0 bench` does."""
    from lerobot.policies.utils import prepare_observation_for_inference

    from lerobot_policy_e0.collection import observed_features

    features = observed_features(observation)
    with torch.inference_mode():
        batch: Any = prepare_observation_for_inference(
            features, loaded.device, env.task_description
        )
        action = loaded.postprocess(loaded.policy.select_action(loaded.preprocess(batch)))
    numbers = action[0].float().cpu().numpy()
    if not np.isfinite(numbers).all():
        raise FloatingPointError(f"the policy gave actions that are not finite: {numbers}")
    return numbers.clip(-1.0, 1.0)


def _step(env: TaskEnv, action: np.ndarray, *, look: bool) -> tuple[dict[str, Any], bool]:
    """What is seen after an action, and whether the episode has ended. Without `look` the pictures
    won't be looked at: an environment that can save itself drawing them does."""
    if hasattr(env, "blind"):
        env.blind = not look  # pyright: ignore[reportAttributeAccessIssue]
    observation, _, terminated, _, info = env.step(action)
    return observation, bool(terminated or info["is_success"])


def _replay(env: TaskEnv, seed: int, actions: Sequence[np.ndarray]) -> dict[str, Any]:
    """What is seen after these actions of the episode of this seed."""
    observation, _ = env.reset(seed=seed)
    for place, action in enumerate(actions, start=1):
        observation, _ = _step(env, action, look=place == len(actions))
    return observation


def _shapes(observation: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of an observation's features, pictures as (3, height, width)."""
    from lerobot_policy_e0.collection import observed_features

    shapes = {name: array.shape for name, array in observed_features(observation).items()}
    return {
        name: (shape[2], *shape[:2]) if len(shape) == 3 else shape for name, shape in shapes.items()
    }
