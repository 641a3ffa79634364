"""PassPost-v1 and PassTwoPosts-v1: carry a cube past posts, on the left or on the right of each.

All ways lead to the target, and nothing in the scene tells which one a demonstration goes; the mean
of two leads into a post. Importing this module loads ManiSkill, and makes the tasks known to it.
"""

from typing import Any, ClassVar

import numpy as np
import sapien
import torch
from mani_skill.utils.building.actors import build_box, build_cube
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

_POST_HALF_SIZE = (0.015, 0.015, 0.09)
_TARGET_RADIUS = 0.04
_REACHED = 0.03  # metres from the target's centre
_HIGHEST = 0.12  # metres: the post is 0.18 high, and over it is no way
_SHIFTED, _UPRIGHT = 0.01, float(np.cos(np.deg2rad(10)))
_DEAD_BAND = 0.025  # metres to the side of the post
_PASSED = 0.08  # metres beyond the last post
_BESIDE = 0.05  # metres: between posts the side may change, farther than this from both
# Joints 2, 4 and 6 as ManiSkill has them.
_USUAL_POSTURE = (np.pi / 8, -np.pi * 5 / 8, np.pi * 3 / 4)


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
        cube: of 4 cm. posts: 18 cm high, the nearest first. post: the nearest. target: a disc on
            the table. sides (scenes, posts): on which side of each the cube was last, 0 for left, 1
            for right, -1 if it was beside it never.
    """

    POSTS_AT: ClassVar[tuple[float, ...]] = (-0.06,)  # x of each, metres
    # Joints 2, 4 and 6 with the tool farther back than usual, before the posts.
    POSTURE: ClassVar[tuple[float, float, float]] = (-0.15, -2.65, 2.5)

    def _load_scene(self, options: dict) -> None:
        super()._load_scene(options)
        start = [sapien.Pose(p=[x, 0, 0.1]) for x in range(2 + len(self.POSTS_AT))]
        self.cube: Actor = build_cube(
            self.scene, HALF_SIZE, [0, 1, 0, 1], "cube", initial_pose=start[0]
        )
        self.posts: list[Actor] = [
            build_box(self.scene, _POST_HALF_SIZE, [0, 0, 1, 1], f"post_{index}", initial_pose=pose)
            for index, pose in enumerate(start[1:-1])
        ]
        self.post = self.posts[0]
        self.target: Actor = build_target(self.scene, _TARGET_RADIUS, start[-1])
        scenes_and_posts = (self.num_envs, len(self.posts))
        self._starts = torch.zeros((*scenes_and_posts, 2), device=self.device)
        self.sides = torch.full(scenes_and_posts, -1, device=self.device)

    def _initialize_episode(self, env_idx: torch.Tensor, options: dict) -> None:
        count = len(env_idx)

        def near(x: float, y: float, x_range: float, y_range: float) -> torch.Tensor:
            """Places (count, 2) up to the ranges around (x, y)."""
            ranges = torch.tensor([x_range, y_range])
            return torch.tensor([x, y]) + ranges * (2 * torch.rand((count, 2)) - 1)

        with torch.device(self.device):
            self.table_scene.initialize(env_idx)
            self._step_back()
            first = near(self.POSTS_AT[0], 0, 0.01, 0.02)
            row = [first + torch.tensor([x - self.POSTS_AT[0], 0.0]) for x in self.POSTS_AT]
            for post, place in zip(self.posts, row, strict=True):
                put_on_table(post, place, _POST_HALF_SIZE[2])
            put_on_table(self.cube, first + near(-0.12, 0, 0.01, 0.015), HALF_SIZE)
            lay_target(self.target, row[-1] + near(0.14, 0, 0.01, 0.015))
            self._starts[env_idx] = torch.stack(row, dim=1)
            self.sides[env_idx] = -1

    def _step_back(self) -> None:
        """Move the tool before the posts, the joints' noise kept."""
        joints = self.agent.robot.get_qpos().clone()
        joints[:, [1, 3, 5]] += torch.tensor(self.POSTURE) - torch.tensor(_USUAL_POSTURE)
        self.agent.reset(joints)

    def evaluate(self) -> dict[str, torch.Tensor]:
        """Bool tensors (scenes,), in ManiSkill's style, and the way, int64 (scenes,).

        way: 0 while the cube is to the left of the post, 1 to its right, -1 before that and once it
        has passed; of several posts while it is so beside the last one, counted like the numbers of
        the binary system, with a digit for each post: 0 left of both, 1 left and right, 2 right and
        left, 3 right of both. between: whether a post was knocked.
        """
        knocked = self._knocked()
        failed = knocked | (self.cube.pose.p[:, 2] > _HIGHEST)
        return {
            "success": (torch.linalg.norm(to_target(self.cube, self.target), dim=1) < _REACHED)
            & ~failed,
            "fail": failed,
            "is_grasped": self.agent.is_grasping(self.cube),
            "way": self._way(),
            "between": knocked,
        }

    def _way(self) -> torch.Tensor:
        """Keeps on which side of each post the cube was last."""
        sides = self._sides_now()
        self.sides = torch.where(sides < 0, self.sides, sides)
        chosen = (sides[:, -1] >= 0) & (self.sides >= 0).all(dim=1)
        digits = 2 ** torch.arange(len(self.posts), device=self.device).flip(0)
        return torch.where(chosen, (self.sides * digits).sum(dim=1), -1)

    def _sides_now(self) -> torch.Tensor:
        """On which side of each post the cube is, int64 (scenes, posts): 0 left, 1 right, -1 where
        it is neither, or not beside this post."""
        offsets = self.cube.pose.p[:, None, :2] - self._starts
        ahead, aside = offsets.unbind(dim=2)
        undecided = aside.abs() < _DEAD_BAND
        undecided[:, 1:] |= ahead[:, 1:] < -_BESIDE
        undecided[:, :-1] |= ahead[:, :-1] > _BESIDE
        undecided[:, -1] |= ahead[:, -1] > _PASSED
        return torch.where(undecided, -1, (aside < 0).long())

    def _knocked(self) -> torch.Tensor:
        """Whether any post was shifted or tilted, (scenes,)."""
        places = torch.stack([post.pose.p[:, :2] for post in self.posts], dim=1)
        frames = torch.stack([post.pose.to_transformation_matrix() for post in self.posts], dim=1)
        shift = torch.linalg.norm(places - self._starts, dim=2)
        return ((shift > _SHIFTED) | (frames[:, :, 2, 2] < _UPRIGHT)).any(dim=1)

    def compute_dense_reward(
        self, obs: Any, action: torch.Tensor, info: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Reach the cube (up to 1), grasp it (1), bring it to the target (up to 1); 4 on success,
        0 on failure."""
        offset = self.cube.pose.p - self.agent.tcp_pose.p
        reached = 1 - torch.tanh(5 * torch.linalg.norm(offset, dim=1))
        brought = 1 - torch.tanh(5 * torch.linalg.norm(to_target(self.cube, self.target), dim=1))
        reward = reached + info["is_grasped"] * (1 + brought)
        reward[info["success"]] = LARGEST_REWARD
        reward[info["fail"]] = 0
        return reward


@register_env("PassTwoPosts-v1", max_episode_steps=110)
class PassTwoPostsEnv(PassPostEnv):
    """The same with a second post, 17 cm beyond the first: whoever sees one knows both.

    The second post may be passed on the other side than the first: there is room for the hand
    between them. The way is open until the cube is beside the second post, so that who changes from
    one side of the first to the other has not left a way.
    """

    POSTS_AT = (-0.17, 0.0)
    POSTURE = (-0.5, -2.9, 2.4)
