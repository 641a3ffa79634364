"""PickEitherCube-v1: two equal cubes, and any of them may be lifted.

Nothing in the scene tells which cube a demonstration takes, so a policy must choose, and one that
gives the mean of what was demonstrated goes between the cubes. Importing this module loads
ManiSkill, and makes the task known to it.
"""

from typing import Any

import sapien
import torch
from mani_skill.utils.building.actors import build_cube
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Actor

from e0_maniskill.cubes import HALF_SIZE, LIFTED, pick_reward, place_two
from e0_maniskill.table_task import LARGEST_REWARD, TableTaskEnv

_RED = [1, 0, 0, 1]
_CHOSEN_BELOW = 0.12  # metres: higher up the tool may still go to either cube
_DEAD_BAND = 0.025  # metres: how much nearer one cube must be than the other
_DOWN, _FAR = 0.06, 0.04  # metres


@register_env("PickEitherCube-v1", max_episode_steps=50)
class PickEitherCubeEnv(TableTaskEnv):
    """Lift one of two equal red cubes.

    Randomized by the episode's seed: both cubes' positions (in a square of 0.2 m, at least 0.1 m
    apart) and yaws, and the arm's joints. Success is a cube's centre 6 cm above where it rests.

    Attributes:
        left_cube, right_cube: the cubes, of 4 cm; the left one has the larger y at the start.
    """

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        self.left_cube = self._build_cube("left_cube", x=0.0)
        self.right_cube = self._build_cube("right_cube", x=1.0)

    def _build_cube(self, name: str, x: float) -> Actor:
        apart = sapien.Pose(p=[x, 0, 0.1])
        return build_cube(self.scene, HALF_SIZE, _RED, name, initial_pose=apart)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            poses = [pose.raw_pose for pose in place_two(len(env_idx), self.device)]
            first_is_left = (poses[0][:, 1] > poses[1][:, 1])[:, None]
            self.left_cube.set_pose(torch.where(first_is_left, *poses))
            self.right_cube.set_pose(torch.where(first_is_left, *poses[::-1]))

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style, and the way, int64 (scenes,).

        way: 0 while the tool is down at the left cube, 1 at the right one, -1 elsewhere. between:
        whether it is down between the cubes, and far from both.
        """
        cubes = (self.left_cube, self.right_cube)
        grasped = [self.agent.is_grasping(cube) for cube in cubes]
        return {
            "success": (self._heights() > LIFTED).any(dim=1),
            "is_grasped": torch.stack(grasped, dim=1).any(dim=1),
        } | self._way()

    def _way(self) -> dict[str, torch.Tensor]:
        offsets, height = self._offsets()[..., :2], self.agent.tcp_pose.p[:, 2]
        left, right = torch.linalg.norm(offsets, dim=2).unbind(dim=1)
        undecided = ((left - right).abs() < _DEAD_BAND) | (height > _CHOSEN_BELOW)
        # Seen from the tool, cubes on opposite sides.
        inside = (offsets[:, 0] * offsets[:, 1]).sum(dim=1) < 0
        return {
            "way": torch.where(undecided, -1, (right < left).long()),
            "between": inside & (torch.minimum(left, right) > _FAR) & (height < _DOWN),
        }

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the nearer cube (up to 1), grasp it (1), lift it (up to 1); 4 on success."""
        offsets, scene = self._offsets(), torch.arange(self.num_envs, device=self.device)
        nearer = torch.linalg.norm(offsets, dim=2).argmin(dim=1)
        height = self._heights()[scene, nearer]
        return pick_reward(offsets[scene, nearer], height, info, LARGEST_REWARD)

    def _positions(self) -> torch.Tensor:
        """Of both cubes, (scenes, 2, 3), in metres."""
        return torch.stack([self.left_cube.pose.p, self.right_cube.pose.p], dim=1)

    def _offsets(self) -> torch.Tensor:
        """From the tool to both cubes, (scenes, 2, 3), in metres."""
        return self._positions() - self.agent.tcp_pose.p[:, None]

    def _heights(self) -> torch.Tensor:
        """How far above its resting place each cube is, (scenes, 2), in metres."""
        return self._positions()[..., 2] - HALF_SIZE
