"""PushOrPickCube-v1: a cube is brought to a target by pushing it, or by picking it up.

Both ways lead to the target, and nothing in the scene tells which one a demonstration goes; the
mean of both comes down on the cube's edge with the fingers half open. Importing this module loads
ManiSkill, and makes the task known to it.
"""

from typing import Any

import sapien
import torch
from mani_skill.utils.building.actors import build_cube
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Actor

from e0_maniskill.cubes import HALF_SIZE
from e0_maniskill.table_task import (
    LARGEST_REWARD,
    TableTaskEnv,
    build_target,
    lay_target,
    put_on_table,
    to_target,
)

_TARGET_RADIUS = 0.05
_REACHED = 0.04  # metres from the target's centre
_LIFTED, _PUSHED = 0.01, 0.02  # metres
_DOWN, _BESIDE = 0.045, 0.03  # metres
_OPEN = 0.02  # metres between the fingers


@register_env("PushOrPickCube-v1", max_episode_steps=60)
class PushOrPickCubeEnv(TableTaskEnv):
    """Bring the cube to the target, over the table or through the air.

    Seen from the robot, the target lies straight behind the cube. Randomized by the episode's seed:
    the cube's position (10 cm by 20 cm), the distance of the target (15 to 19 cm), and the arm's
    joints. Success is the cube's centre within 4 cm of the target's, seen from above.

    Attributes:
        cube: of 4 cm. target: a disc on the table.
    """

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        start = [sapien.Pose(p=[x, 0, 0.1]) for x in (0.0, 1.0)]
        self.cube: Actor = build_cube(
            self.scene, HALF_SIZE, [0, 1, 0, 1], "cube", initial_pose=start[0]
        )
        self.target: Actor = build_target(self.scene, _TARGET_RADIUS, start[1])
        self._start = torch.zeros((self.num_envs, 2), device=self.device)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        count = len(env_idx)
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            cube = torch.tensor([-0.16, -0.1]) + torch.rand((count, 2)) * torch.tensor([0.1, 0.2])
            distance = 0.15 + 0.04 * torch.rand(count)
            put_on_table(self.cube, cube, HALF_SIZE)
            lay_target(self.target, cube + torch.stack([distance, 0 * distance], dim=1))
            self._start[env_idx] = cube

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style, and the way, int64 (scenes,).

        way: 0 while the cube lies on the table, 2 cm or more from where it was, and is not held; 1
        while it is 1 cm or more above the table; -1 else. between: whether the tool is down beside
        the cube with open fingers: who pushes closes them, and who picks comes down around it.
        """
        grasped = self.agent.is_grasping(self.cube)
        return {
            "success": torch.linalg.norm(to_target(self.cube, self.target), dim=1) < _REACHED,
            "is_grasped": grasped,
            "way": self._way(grasped),
            "between": self._between(),
        }

    def _way(self, grasped: torch.Tensor) -> torch.Tensor:
        lifted = self.cube.pose.p[:, 2] > HALF_SIZE + _LIFTED
        moved = torch.linalg.norm(self.cube.pose.p[:, :2] - self._start, dim=1) > _PUSHED
        return torch.where(lifted | (moved & ~grasped), lifted.long(), -1)

    def _between(self) -> torch.Tensor:
        offset = self.cube.pose.p - self.agent.tcp_pose.p
        beside = torch.linalg.norm(offset[:, :2], dim=1) > _BESIDE
        opening = self.agent.robot.get_qpos()[:, -2:].sum(dim=1)
        return beside & (self.agent.tcp_pose.p[:, 2] < _DOWN) & (opening > _OPEN)

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the cube (up to 1), bring it to the target (up to 2); 4 on success."""
        offset = self.cube.pose.p - self.agent.tcp_pose.p
        reached = 1 - torch.tanh(5 * torch.linalg.norm(offset, dim=1))
        brought = 1 - torch.tanh(5 * torch.linalg.norm(to_target(self.cube, self.target), dim=1))
        reward = reached + 2 * brought
        reward[info["success"]] = LARGEST_REWARD
        return reward
