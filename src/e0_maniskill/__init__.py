"""ManiSkill tasks as Gymnasium environments, with cameras to place freely and scripted experts.

Importing this package loads neither ManiSkill nor SAPIEN; making an environment does.
"""

from e0_experts.cameras import Camera, CameraShift
from e0_maniskill.cameras import default_cameras
from e0_maniskill.env import ManiSkillEnv
from e0_maniskill.rendering import rendering_available
from e0_maniskill.tasks import TASKS, Task, find_task

__all__ = [
    "TASKS",
    "Camera",
    "CameraShift",
    "ManiSkillEnv",
    "Task",
    "default_cameras",
    "find_task",
    "rendering_available",
]
