"""The cameras of ManiSkill's tasks.

World frame: metres, x away from the robot's base (which stands at x = -0.615), y to the robot's
left, z up, the table's surface at z = 0.
"""

from e0_experts.cameras import Camera
from e0_maniskill.tasks import Task

HAND_CAMERA = "hand_camera"

_BASE_CAMERAS = {
    "PickCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7),
    "PushCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7),
    "StackCube-v1": Camera(eye=(0.5, 0.0, 0.65), target=(0.02, 0.0, 0.03), field_of_view=0.9),
    "PlaceSphere-v1": Camera(eye=(0.45, 0.0, 0.45), target=(-0.02, 0.0, 0.05), field_of_view=0.6),
    "PegInsertionSide-v1": Camera(
        eye=(0.65, -0.45, 0.55), target=(0.0, -0.03, 0.06), field_of_view=0.9
    ),
    "PickNamedCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.01, 0.0, 0.06), field_of_view=0.62),
    "PickEitherCube-v1": Camera(eye=(0.5, 0.0, 0.45), target=(0.01, 0.0, 0.06), field_of_view=0.62),
    "PassPost-v1": Camera(eye=(0.45, 0.45, 0.6), target=(-0.03, 0.0, 0.05), field_of_view=0.64),
    "PassTwoPosts-v1": Camera(eye=(0.45, 0.45, 0.6), target=(-0.1, 0.0, 0.07), field_of_view=0.76),
    "PushOrPickCube-v1": Camera(eye=(0.5, 0.0, 0.5), target=(-0.05, 0.0, 0.07), field_of_view=0.64),
    "PickCubeTwoStyles-v1": Camera(
        eye=(0.35, 0.4, 0.5), target=(0.0, 0.0, 0.07), field_of_view=0.62
    ),
    "PlugCharger-v1": Camera(eye=(-0.3, 0.45, 0.4), target=(-0.02, 0.03, 0.04), field_of_view=0.74),
}


def default_cameras(task: Task) -> dict[str, Camera]:
    """One fixed camera, `base_camera`, filled by the objects in play, the gripper and the hole."""
    return {"base_camera": _BASE_CAMERAS[task.name]}
