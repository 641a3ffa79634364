"""PickCubeTwoStyles-v1: a cube is lifted as one or the other of two demonstrators does.

One is fast and keeps its gripper's yaw; the other is slow and turns it by 90 degrees, which takes
most of its time. Nothing in the scene tells which of them a demonstration is of; the mean of both
may succeed too. Importing this module loads ManiSkill, and makes the task known to it.
"""

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.building.actors import build_cube
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Actor, Pose

from e0_maniskill.cubes import HALF_SIZE, LIFTED, pick_reward
from e0_maniskill.table_task import LARGEST_REWARD, TableTaskEnv, put_on_table

_DOWN = 0.055  # metres: higher up the gripper may still turn
_AS_IT_WAS, _TURNED = np.deg2rad(15), np.deg2rad(75)


@register_env("PickCubeTwoStyles-v1", max_episode_steps=80)
class PickCubeTwoStylesEnv(TableTaskEnv):
    """Lift the cube.

    Randomized by the episode's seed: the cube's position (in a square of 0.2 m) and the arm's
    joints. Success is the cube's centre 6 cm above where it rests.

    Attributes:
        cube: of 4 cm.
    """

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        start = sapien.Pose(p=[0, 0, 0.1])
        self.cube: Actor = build_cube(
            self.scene, HALF_SIZE, [1, 0, 0, 1], "cube", initial_pose=start
        )

    @property
    def tool(self) -> Pose:
        """The tool centre point: what proprioception may leave out of it tells the style."""
        return self.agent.tcp_pose

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            put_on_table(self.cube, 0.2 * torch.rand((len(env_idx), 2)) - 0.1, HALF_SIZE)

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style, and the way, int64 (scenes,).

        way: while the tool is down, 0 if the gripper is turned by less than 15 degrees, 1 by more
        than 75; -1 else. between: whether it is down and turned by an angle between these.
        """
        turn, down = self._turn(), self.agent.tcp_pose.p[:, 2] < _DOWN
        askew = (turn > _AS_IT_WAS) & (turn < _TURNED)
        return {
            "success": self._height() > LIFTED,
            "is_grasped": self.agent.is_grasping(self.cube),
            "way": torch.where(down & ~askew, (turn >= _TURNED).long(), -1),
            "between": down & askew,
        }

    def _turn(self) -> torch.Tensor:
        """By how much the fingers' motion is turned from the y axis, (scenes,), 0 to pi / 2."""
        along_x, along_y = self.agent.tcp_pose.to_transformation_matrix()[:, :2, 1].unbind(dim=1)
        return torch.atan2(along_x.abs(), along_y.abs())

    def _height(self) -> torch.Tensor:
        """Of the cube above where it rests, (scenes,), in metres."""
        return self.cube.pose.p[:, 2] - HALF_SIZE

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the cube (up to 1), grasp it (1), lift it (up to 1); 4 on success."""
        offset = self.cube.pose.p - self.agent.tcp_pose.p
        return pick_reward(offset, self._height(), info, LARGEST_REWARD)
