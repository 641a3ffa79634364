"""PassPost-v1: carry a cube past a post, on its left or on its right.

Both ways lead to the target, and nothing in the scene tells which one a demonstration goes; the
mean of both leads into the post. Importing this module loads ManiSkill, and makes the task known to
it.
"""

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.utils.building.actors import build_box, build_cube, build_red_white_target
from mani_skill.utils.registration import register_env
from mani_skill.utils.structs import Actor, Pose
from transforms3d.euler import euler2quat

from e0_maniskill.table_task import LARGEST_REWARD, TableTaskEnv

_HALF_SIZE = 0.02  # of the cube, metres
_POST_HALF_SIZE = (0.015, 0.015, 0.09)
_TARGET_RADIUS = 0.04
_REACHED = 0.03  # metres from the target's centre
_HIGHEST = 0.12  # metres: the post is 0.18 high, and over it is no way
_SHIFTED, _UPRIGHT = 0.01, float(np.cos(np.deg2rad(10)))
_DEAD_BAND = 0.025  # metres to the side of the post
_PASSED = 0.08  # metres beyond the post
# Joints 2, 4 and 6 as ManiSkill has them, and with the tool farther back, before the post.
_USUAL_POSTURE = (np.pi / 8, -np.pi * 5 / 8, np.pi * 3 / 4)
_POSTURE = (-0.15, -2.65, 2.5)


@register_env("PassPost-v1", max_episode_steps=80)
class PassPostEnv(TableTaskEnv):
    """Carry the cube round the post to the target, without touching the post.

    Seen from the robot, cube, post and target lie one behind the other: the post loose on the table
    some 12 cm beyond the cube, the target 14 cm beyond the post. Randomized by the episode's seed:
    all three places by 1 to 2 cm either way, and the arm's joints.

    Success is the cube's centre within 3 cm of the target's, seen from above. Failure, which ends
    the episode, is a post that tilts by 10 degrees or is shifted by 1 cm, and a cube that is lifted
    to 12 cm: the post is higher, but the arm could reach over it.

    Attributes:
        cube: of 4 cm. post: 18 cm high. target: a disc on the table.
    """

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        start = [sapien.Pose(p=[x, 0, 0.1]) for x in (0.0, 1.0, 2.0)]
        self.cube: Actor = build_cube(
            self.scene, _HALF_SIZE, [0, 1, 0, 1], "cube", initial_pose=start[0]
        )
        self.post: Actor = build_box(
            self.scene, _POST_HALF_SIZE, [0, 0, 1, 1], "post", initial_pose=start[1]
        )
        self.target: Actor = build_red_white_target(
            self.scene,
            _TARGET_RADIUS,
            1e-5,
            "target",
            body_type="kinematic",
            add_collision=False,
            initial_pose=start[2],
        )
        self._post_start = torch.zeros((self.num_envs, 2), device=self.device)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        count = len(env_idx)

        def near(x: float, y: float, x_range: float, y_range: float) -> torch.Tensor:
            """Places (count, 2) up to the ranges around (x, y)."""
            ranges = torch.tensor([x_range, y_range])
            return torch.tensor([x, y]) + ranges * (2 * torch.rand((count, 2)) - 1)

        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            self._step_back()
            post = near(-0.06, 0, 0.01, 0.02)
            places = {
                self.post: (post, _POST_HALF_SIZE[2], (1, 0, 0, 0)),
                self.cube: (post + near(-0.12, 0, 0.01, 0.015), _HALF_SIZE, (1, 0, 0, 0)),
                self.target: (post + near(0.14, 0, 0.01, 0.015), 1e-3, euler2quat(0, np.pi / 2, 0)),
            }
            for actor, (place, height, rotation) in places.items():
                position = torch.cat([place, torch.full((count, 1), height)], dim=1)
                actor.set_pose(Pose.create_from_pq(position, torch.tensor(rotation).float()))
            self._post_start[env_idx] = post

    def _step_back(self) -> None:
        """Move the tool before the post, the joints' noise kept."""
        joints = self.agent.robot.get_qpos().clone()
        joints[:, [1, 3, 5]] += torch.tensor(_POSTURE) - torch.tensor(_USUAL_POSTURE)
        self.agent.reset(joints)

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style, and the way, int64 (scenes,).

        way: 0 while the cube is to the left of the post, 1 to its right, -1 before that and once it
        has passed. between: whether the post was knocked.
        """
        knocked = self._knocked()
        failed = knocked | (self.cube.pose.p[:, 2] > _HIGHEST)
        return {
            "success": (torch.linalg.norm(self._to_target(), dim=1) < _REACHED) & ~failed,
            "fail": failed,
            "is_grasped": self.agent.is_grasping(self.cube),
            "way": self._way(),
            "between": knocked,
        }

    def _way(self) -> torch.Tensor:
        ahead, aside = (self.cube.pose.p[:, :2] - self._post_start).unbind(dim=1)
        undecided = (aside.abs() < _DEAD_BAND) | (ahead > _PASSED)
        return torch.where(undecided, -1, (aside < 0).long())

    def _knocked(self) -> torch.Tensor:
        shift = torch.linalg.norm(self.post.pose.p[:, :2] - self._post_start, dim=1)
        upright = self.post.pose.to_transformation_matrix()[:, 2, 2]
        return (shift > _SHIFTED) | (upright < _UPRIGHT)

    def _to_target(self) -> torch.Tensor:
        """From the cube to the target, seen from above, (scenes, 2), in metres."""
        return (self.target.pose.p - self.cube.pose.p)[:, :2]

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the cube (up to 1), grasp it (1), bring it to the target (up to 1); 4 on success,
        0 on failure."""
        offset = self.cube.pose.p - self.agent.tcp_pose.p
        reached = 1 - torch.tanh(5 * torch.linalg.norm(offset, dim=1))
        brought = 1 - torch.tanh(5 * torch.linalg.norm(self._to_target(), dim=1))
        reward = reached + info["is_grasped"] * (1 + brought)
        reward[info["success"]] = LARGEST_REWARD
        reward[info["fail"]] = 0
        return reward
