"""PickNamedCube-v1: two cubes that differ in colour only, and an instruction that names one.

Nothing in the scene tells which cube is named, so a policy that does not read its instruction
succeeds in half of the episodes at best. Importing this module loads ManiSkill, and makes the task
known to it.
"""

from typing import Any

import sapien
import torch
from mani_skill.utils.building.actors import build_cube
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Actor

from e0_maniskill.cubes import HALF_SIZE, LIFTED, pick_reward, place_two
from e0_maniskill.table_task import LARGEST_REWARD, TableTaskEnv


@register_env("PickNamedCube-v1", max_episode_steps=50)
class PickNamedCubeEnv(TableTaskEnv):
    """Lift the named one of a red and a green cube, and leave the other one.

    Randomized by the episode's seed: both cubes' positions (in a square of 0.2 m, at least 0.1 m
    apart) and yaws, the arm's joints, and, independently of all these, which cube is named.

    Success is the named cube's centre 6 cm above where it rests; the other cube there is failure.

    Attributes:
        red_cube, green_cube: the cubes, of 4 cm.
        named: which one is named, int64 (scenes,): 0 red, 1 green. No observation holds it.
    """

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        self.red_cube = self._build_cube("red_cube", [1, 0, 0, 1], x=0.0)
        self.green_cube = self._build_cube("green_cube", [0, 1, 0, 1], x=1.0)
        self.named = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)

    def _build_cube(self, name: str, color: list[float], x: float) -> Actor:
        apart = sapien.Pose(p=[x, 0, 0.1])
        return build_cube(self.scene, HALF_SIZE, color, name, initial_pose=apart)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        count = len(env_idx)
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            for cube, pose in zip(
                (self.red_cube, self.green_cube), place_two(count, self.device), strict=True
            ):
                cube.set_pose(pose)
            # Drawn last: the scene is the same whichever cube is named.
            self.named[env_idx] = self._draw_named(count)

    def _draw_named(self, count: int) -> torch.Tensor:
        return torch.randint(2, (count,))

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style."""
        lifted = self._heights() > LIFTED
        wrong = self._of_cube(1 - self.named, lifted)
        grasped = [self.agent.is_grasping(cube) for cube in (self.red_cube, self.green_cube)]
        return {
            "success": self._of_cube(self.named, lifted) & ~wrong,
            "fail": wrong,
            "is_grasped": self._of_cube(self.named, torch.stack(grasped, dim=1)),
        }

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the named cube (up to 1), grasp it (1), lift it (up to 1); 4 on success."""
        positions = torch.stack([self.red_cube.pose.p, self.green_cube.pose.p], dim=1)
        offset = self._of_cube(self.named, positions) - self.agent.tcp_pose.p
        height = self._of_cube(self.named, self._heights())
        reward = pick_reward(offset, height, info, LARGEST_REWARD)
        reward[info["fail"]] = 0
        return reward

    def _heights(self) -> torch.Tensor:
        """How far above its resting place each cube is, (scenes, 2), in metres."""
        heights = torch.stack([self.red_cube.pose.p[:, 2], self.green_cube.pose.p[:, 2]], dim=1)
        return heights - HALF_SIZE

    def _of_cube(self, cube: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Of `values` (scenes, 2, ...), those of the cube (scenes,) of each scene."""
        return values[torch.arange(self.num_envs, device=self.device), cube]
