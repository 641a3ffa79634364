"""Cubes of our own tasks that are to be lifted. Importing this module loads ManiSkill."""

import torch
from mani_skill.envs.utils.randomization import UniformPlacementSampler, random_quaternions
from mani_skill.utils.structs import Pose

HALF_SIZE = 0.02
LIFTED = 0.06  # metres above the table; a cube on top of another one is at 0.04
_REGION = ([-0.1, -0.1], [0.1, 0.1])  # metres: lowest x and y, largest x and y
# Then the open gripper, at its own yaw, comes down around one cube without touching the other.
_SMALLEST_DISTANCE = 0.10
_PLACEMENT_TRIALS = 100


def place_two(count: int, device: torch.device) -> list[Pose]:
    """Where two cubes lie in each of `count` scenes: in a square of 0.2 m, at least 0.1 m apart, at
    any yaw. Drawn from PyTorch's generator."""
    sampler = UniformPlacementSampler(_REGION, count, device)
    poses = []
    for _ in range(2):
        position = torch.full((count, 3), HALF_SIZE)
        position[:, :2] = sampler.sample(_SMALLEST_DISTANCE / 2, _PLACEMENT_TRIALS)
        yaw = random_quaternions(count, lock_x=True, lock_y=True)
        poses.append(Pose.create_from_pq(position, yaw))
    return poses


def pick_reward(
    offset: torch.Tensor, height: torch.Tensor, info: dict[str, torch.Tensor], largest: float
) -> torch.Tensor:
    """Reach the cube (up to 1), grasp it (1), lift it (up to 1); `largest` on success.

    Args:
        offset: from the tool to the cube (scenes, 3), metres.
        height: of the cube above its resting place (scenes,), metres.
        info: what `evaluate` gives; "is_grasped" and "success" (scenes,).
        largest: the reward of success.
    """
    reached = 1 - torch.tanh(5 * torch.linalg.norm(offset, dim=1))
    reward = reached + info["is_grasped"] * (1 + (height / LIFTED).clamp(0, 1))
    reward[info["success"]] = largest
    return reward
