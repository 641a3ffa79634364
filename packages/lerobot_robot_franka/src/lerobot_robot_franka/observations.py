"""What can be observed beside the joints' positions, by the setting that asks for it.

All names end as positions or velocities do, whatever they are: `lerobot-record` keeps every number
of an observation, but `lerobot-rollout` (LeRobot 0.6) gives a policy those with these ends alone,
and to those in ".pos" it also takes the arm back in the end, as far as they can be sent to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lerobot_robot_franka.drivers import ArmState
from lerobot_robot_franka.limits import JOINT_NAMES


class Vector(NamedTuple):
    """A vector of a state: the names of its numbers, and how it is read."""

    names: tuple[str, ...]
    read: Callable[[ArmState], np.ndarray]


VECTORS = {
    "velocities": Vector(
        tuple(f"{name}.vel" for name in JOINT_NAMES), lambda state: state.velocities
    ),
    "pose": Vector(
        tuple(f"ee.{name}.pos" for name in ("x", "y", "z", "xx", "xy", "xz", "yx", "yy", "yz")),
        # The position, then the directions of the hand's x- and y-axis.
        lambda state: state.pose[:3, [3, 0, 1]].T.reshape(-1),
    ),
    "wrench": Vector(
        tuple(f"wrench.{kind}{axis}.vel" for kind in "ft" for axis in "xyz"),
        lambda state: state.wrench,
    ),
}
"""A rotation by its first two columns, since these never jump (Zhou et al. 2019, arXiv:1812.07035);
a rotation vector does where the hand points down, which is where hands work."""
