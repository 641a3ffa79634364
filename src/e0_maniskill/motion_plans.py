"""Plans of tasks whose ways are different kinds of motion."""

from dataclasses import replace

import numpy as np

from e0_experts.poses import UP, Pose, gripper_down
from e0_experts.waypoints import Plan, Waypoint
from e0_maniskill.waypoints import (
    APPROACH_HEIGHT,
    CLOSED,
    Scene,
    come_behind,
    grasp_at,
    lift,
    rise_from,
)

_CARRYING_HEIGHT = 0.05
_SLOW = 0.5  # share of the usual speed


def push_or_pick_cube(scene: Scene) -> Plan:
    """Push the cube to the target (way 0), or pick it up and carry it there (way 1)."""
    return (_push, _pick)[scene.way](scene)


def _push(scene: Scene) -> Plan:
    target = scene.pose("target").position
    rotation = scene.grasp_rotation(0.0, np.pi)

    def pushed() -> Pose:
        """Behind the middle of the cube, wherever it has slid to, as far as the target."""
        return Pose(np.array([target[0] - 0.03, scene.pose("cube").position[1], 0.017]), rotation)

    yield from come_behind(scene, "cube", rotation)
    yield Waypoint(pushed, CLOSED, position_tolerance=0, max_steps=60, speed=0.5)


def _pick(scene: Scene) -> Plan:
    over = scene.pose("target").position + _CARRYING_HEIGHT * UP
    yield from rise_from(scene, "cube")
    grasp = Pose(scene.pose("cube").position, scene.grasp_rotation(0.0, np.pi))
    yield from grasp_at(scene, "cube", grasp, grasp.raised(APPROACH_HEIGHT))
    yield Waypoint(
        lambda: scene.carry("cube", over, grasp.rotation),
        CLOSED,
        position_tolerance=0,
        max_steps=60,
    )


def pick_cube_in_style(scene: Scene) -> Plan:
    """Lift the cube as fast as usual (way 0), or slowly and with the gripper turned by 90 degrees,
    always to the same side (way 1)."""
    yaw, pace = ((0.0, 1.0), (np.pi / 2, _SLOW))[scene.way]
    for waypoint in rise_from(scene, "cube"):
        yield replace(waypoint, speed=pace * waypoint.speed)
    grasp = Pose(scene.pose("cube").position, gripper_down(yaw))
    for waypoint in lift(scene, "cube", grasp):
        yield replace(waypoint, speed=pace * waypoint.speed)
