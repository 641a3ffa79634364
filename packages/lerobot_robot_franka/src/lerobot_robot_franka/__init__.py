"""Franka's arms for LeRobot: `--robot.type=franka`."""

from lerobot_robot_franka.config_franka import FrankaConfig
from lerobot_robot_franka.franka import Franka

__all__ = ["Franka", "FrankaConfig"]
