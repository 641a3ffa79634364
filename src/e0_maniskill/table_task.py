"""What our own tasks share: a Panda at a table. Importing this module loads ManiSkill."""

from typing import Any

import sapien
import torch
from mani_skill.agents.robots import Panda
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.utils.scene_builder.table import TableSceneBuilder

LARGEST_REWARD = 4.0


class TableTaskEnv(BaseEnv):
    """A table with the arm at it, and a dense reward of at most LARGEST_REWARD."""

    SUPPORTED_ROBOTS = ["panda", "panda_wristcam"]  # noqa: RUF012
    agent: Panda

    def __init__(self, *args: Any, robot_uids: str = "panda", **kwargs: Any) -> None:
        super().__init__(*args, robot_uids=robot_uids, **kwargs)

    def _load_agent(self, options: dict) -> None:
        super()._load_agent(options, sapien.Pose(p=[-0.615, 0, 0]))

    def _load_scene(self, options: dict) -> None:
        self.table_scene = TableSceneBuilder(self)
        self.table_scene.build()

    def compute_normalized_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """The dense reward within [0, 1]."""
        return self.compute_dense_reward(obs, action, info) / LARGEST_REWARD
