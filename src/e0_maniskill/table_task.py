"""What our own tasks share: a Panda at a table. Importing this module loads ManiSkill."""

from typing import Any

import numpy as np
import sapien
import torch
from mani_skill.agents.robots import Panda
from mani_skill.envs.sapien_env import BaseEnv
from mani_skill.envs.scene import ManiSkillScene
from mani_skill.utils.building.actors import build_red_white_target
from mani_skill.utils.scene_builder.table import TableSceneBuilder
from mani_skill.utils.structs import Actor, Pose
from transforms3d.euler import euler2quat

LARGEST_REWARD = 4.0
_LYING = tuple(euler2quat(0, np.pi / 2, 0))  # ManiSkill's discs stand


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


def build_target(scene: ManiSkillScene, radius: float, initial_pose: sapien.Pose) -> Actor:
    """A red and white disc that is seen, and met by nothing. radius: metres."""
    return build_red_white_target(
        scene,
        radius,
        1e-5,
        "target",
        body_type="kinematic",
        add_collision=False,
        initial_pose=initial_pose,
    )


def put_on_table(
    actor: Actor, place: torch.Tensor, height: float, rotation: tuple[float, ...] = (1, 0, 0, 0)
) -> None:
    """Put an actor at `place` (scenes, 2), its centre `height` above the table, metres; rotation:
    quaternion (wxyz)."""
    position = torch.cat([place, torch.full((len(place), 1), height)], dim=1)
    actor.set_pose(Pose.create_from_pq(position, torch.tensor(rotation).float()))


def lay_target(target: Actor, place: torch.Tensor) -> None:
    """Lay the disc down at `place` (scenes, 2), metres."""
    put_on_table(target, place, 1e-3, _LYING)


def to_target(thing: Actor, target: Actor) -> torch.Tensor:
    """From a thing to the target, seen from above, (scenes, 2), in metres."""
    return (target.pose.p - thing.pose.p)[:, :2]
