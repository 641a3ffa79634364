"""`--env.type=adroit` for LeRobot's training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from lerobot_env_adroit.door import ACTION_SIZE, DOOR_SIZE, FREQUENCY, HAND_SIZE

TASK = "AdroitHandDoor-v1"


@EnvConfig.register_subclass("adroit")
@dataclass
class AdroitEnvConfig(EnvConfig):
    """The hand and the door as states, without pictures; see `AdroitDoor`.

    episode_length: steps after which an episode ends; the people took 223 to 300. Raises ValueError
    for another task.
    """

    task: str | None = TASK
    fps: int = FREQUENCY
    episode_length: int = 400

    def __post_init__(self) -> None:
        if self.task != TASK:
            raise ValueError(f"unknown task {self.task!r}; there is {TASK}")
        self.features = {
            ACTION: PolicyFeature(FeatureType.ACTION, (ACTION_SIZE,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (HAND_SIZE,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (DOOR_SIZE,)),
        }
        self.features_map = {
            ACTION: ACTION,
            "agent_pos": OBS_STATE,
            "environment_state": OBS_ENV_STATE,
        }

    @property
    def package_name(self) -> str:
        return "lerobot_env_adroit"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"max_episode_steps": self.episode_length}


gym.register(f"lerobot_env_adroit/{TASK}", "lerobot_env_adroit.door:AdroitDoor")
