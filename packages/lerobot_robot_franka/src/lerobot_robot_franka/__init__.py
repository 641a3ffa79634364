"""Franka's arms for LeRobot: `--robot.type=franka`, and `--teleop.type=franka_end_effector` and
`franka_guiding` to move them."""

from lerobot_robot_franka.config_franka import FrankaConfig
from lerobot_robot_franka.config_franka_end_effector import FrankaEndEffectorConfig
from lerobot_robot_franka.config_franka_guiding import FrankaGuidingConfig
from lerobot_robot_franka.franka import Franka
from lerobot_robot_franka.franka_end_effector import FrankaEndEffector
from lerobot_robot_franka.franka_guiding import FrankaGuiding

__all__ = [
    "Franka",
    "FrankaConfig",
    "FrankaEndEffector",
    "FrankaEndEffectorConfig",
    "FrankaGuiding",
    "FrankaGuidingConfig",
]
