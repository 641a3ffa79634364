"""Poses as VLABench's simulation has them, and as its published data and `e0 serve` tell them.

In the simulation positions are in the world's frame and rotations quaternions, w first. In the data
positions are counted from the robot's base along the world's axes (the base's own are turned by 90
degrees), and rotations are Euler angles xyz about fixed axes, within ±pi.

Source: scripts/convert_to_lerobot.py and VLABench/evaluation/evaluator/base.py of
OpenMOSS/VLABench 47b04bf5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

BASE = np.array([0.0, -0.4, 0.78])
"""Where the robot stands in all tasks of the tracks, in metres."""
FINGER_OPEN = 0.04  # metres, of each finger
OPEN_FROM = 0.5  # the data's gripper is 0 or 1


class Pose(NamedTuple):
    """A target of the end effector in the world's frame: position (3,) in metres, Euler angles xyz
    (3,) in radians, and the positions of both fingers (2,) in metres."""

    position: np.ndarray
    euler: np.ndarray
    fingers: np.ndarray


def told_state(ee_state: np.ndarray, base: np.ndarray = BASE) -> np.ndarray:
    """The state that a policy is told, float32 (7,): position, Euler angles, gripper.

    ee_state (8,): VLABench's position, quaternion, and a flag that it calls open and that is 1
    where both fingers are closed by more than 5 mm. So it is in the published data, too.
    """
    position, quaternion, closed = ee_state[:3], ee_state[3:7], ee_state[7:8]
    euler = Rotation.from_quat(np.roll(quaternion, -1)).as_euler("xyz")
    return np.concatenate([position - base, euler, closed]).astype(np.float32)


def target_pose(action: np.ndarray, base: np.ndarray = BASE) -> Pose:
    """The pose that an action (7,) asks for: position, Euler angles, gripper (1 open, 0 closed)."""
    action = np.asarray(action, np.float64)
    finger = FINGER_OPEN if action[6] >= OPEN_FROM else 0.0
    return Pose(action[:3] + base, action[3:6], np.full(2, finger))


def quaternion_of(euler: np.ndarray) -> np.ndarray:
    """The quaternion (4,), w first, of Euler angles xyz (3,) in radians."""
    return np.roll(Rotation.from_euler("xyz", euler).as_quat(), 1)
