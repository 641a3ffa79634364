"""What the scripted experts do in each task: plans, generators of waypoints.

Plans read the simulator's live state when they are asked, so that slips of the grasp are corrected;
and they begin with what is not done yet, so that an expert can take over in the middle of an
episode.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from e0_experts.poses import UP, Pose, gripper_down, nearest_angle, translation
from e0_experts.waypoints import ANY_ROTATION, Plan, Waypoint
from e0_maniskill.waypoints import (
    APPROACH_HEIGHT,
    CLOSED,
    OPEN,
    Scene,
    come_behind,
    grasp_at,
    lift,
    lift_cube,
    rise_from,
)

_CUBE_SIZE = 0.04
_POST_CLEARANCE = 0.17  # metres from the post to the cube that is carried past it
_CARRYING_HEIGHT = 0.05
_SLOW = 0.5  # share of the usual speed


def _pick_cube(scene: Scene) -> Plan:
    return _bring_cube(scene, scene.pose("goal_site").position)


def _bring_cube(scene: Scene, place: np.ndarray) -> Plan:
    """Grasp the cube and carry it to a place (3,)."""
    yield from rise_from(scene, "cube")
    # The gripper keeps its own yaw: it opens wider than the cube's diagonal and squares the cube up
    # as it closes, and a yaw that can hardly be seen is hard to imitate.
    grasp = Pose(scene.pose("cube").position, scene.grasp_rotation(0.0, np.pi))
    yield from grasp_at(scene, "cube", grasp, grasp.raised(APPROACH_HEIGHT))
    yield Waypoint(
        lambda: scene.carry("cube", place, grasp.rotation),
        CLOSED,
        position_tolerance=0,
        max_steps=60,
    )


def _pick_named_cube(scene: Scene) -> Plan:
    return lift_cube(scene, ("red_cube", "green_cube")[int(scene.simulator.named[0])])


def _pick_either_cube(scene: Scene) -> Plan:
    return lift_cube(scene, ("left_cube", "right_cube")[scene.way])


def _pass_posts(scene: Scene) -> Plan:
    posts, target = scene.poses("posts"), scene.pose("target").position
    yield from rise_from(scene, "cube")
    grasp = Pose(scene.pose("cube").position, scene.grasp_rotation(0.0, np.pi))
    yield from grasp_at(scene, "cube", grasp, grasp.raised(APPROACH_HEIGHT))
    # The hand is 20 cm wide and comes 10 cm to the side of what it holds.
    sides = (_POST_CLEARANCE, -_POST_CLEARANCE)
    places = [post.position[0] for post in posts]
    between = [(near + far) / 2 for near, far in pairwise(places)]
    # It changes sides midway between two posts, where it is farthest from both.
    turns = [places[0] - 0.07, *between, places[-1] + 0.07]
    begun = scene.simulator.sides[0].tolist()
    for index, (start, end) in enumerate(pairwise(turns)):
        wanted = scene.way >> (len(posts) - 1 - index) & 1
        aside = posts[index].position[1] + sides[wanted if begun[index] < 0 else begun[index]]
        for ahead in (start, end):
            if scene.pose("cube").position[0] > ahead + 0.03:
                continue  # it is past that already
            beside = np.array([ahead, aside, _CARRYING_HEIGHT])
            yield Waypoint(
                lambda beside=beside: scene.carry("cube", beside, grasp.rotation),
                CLOSED,
                position_tolerance=0.03,
                rotation_tolerance=ANY_ROTATION,
            )
    over = np.array([target[0], target[1], _CARRYING_HEIGHT])
    yield Waypoint(
        lambda: scene.carry("cube", over, grasp.rotation),
        CLOSED,
        position_tolerance=0,
        max_steps=60,
    )


def _push_cube(scene: Scene) -> Plan:
    cube, goal = scene.pose("obj").position, scene.pose("goal_region").position
    enough = goal - np.array([0.13, 0, 0])  # the cube is well within the target's rim
    rotation = scene.reaching(scene.grasp_rotation(0.0, np.pi), enough)
    pushed = Pose(np.array([goal[0] - 0.04, cube[1], 0.017]), rotation)
    yield from come_behind(scene, "obj", rotation)
    yield Waypoint(pushed, CLOSED, position_tolerance=0, max_steps=60, speed=0.5)


def _stack_cube(scene: Scene) -> Plan:
    yield from rise_from(scene, "cubeA")
    cube, base = scene.pose("cubeA"), scene.pose("cubeB").position
    farther = max(cube.position, base, key=lambda p: np.linalg.norm(scene.outward(p)))
    yaw = _free_yaw(scene, cube, base)
    grasp = Pose(cube.position, scene.reaching(gripper_down(yaw), farther))
    top = base + _CUBE_SIZE * UP

    yield from grasp_at(scene, "cubeA", grasp, grasp.raised(APPROACH_HEIGHT), tolerance=0.005)
    if scene.pose("cubeA").position[2] < top[2] - 0.005:
        yield Waypoint(
            grasp.raised(0.07), CLOSED, position_tolerance=0.035, rotation_tolerance=ANY_ROTATION
        )
    yield from _put_down(
        scene, "cubeA", top, grasp.rotation, heights=(0.03, 0.002), tolerances=(0.006, 0.004)
    )


def _free_yaw(scene: Scene, cube: Pose, neighbour: np.ndarray) -> float:
    """The yaw at which to grasp a cube: the least turning at which no finger meets the other cube.

    Fingers come down 3 to 6 cm to both sides of the cube's centre; a cube's corners lie 2.8 cm from
    its own.
    """
    offset = (neighbour - cube.position)[:2]

    def obstructed(yaw: float) -> bool:
        along = abs(-np.sin(yaw) * offset[0] + np.cos(yaw) * offset[1])
        across = abs(np.cos(yaw) * offset[0] + np.sin(yaw) * offset[1])
        return bool(along < 0.088 and across < 0.040)

    nearest = nearest_angle(cube.yaw(), scene.tool_yaw(), np.pi / 2)
    other = nearest_angle(nearest + np.pi / 2, scene.tool_yaw(), np.pi)
    return other if obstructed(nearest) and not obstructed(other) else nearest


def _place_sphere(scene: Scene) -> Plan:
    yield from rise_from(scene, "obj")
    ball, socket = scene.pose("obj"), scene.pose("bin").position
    simulator = scene.simulator
    inside = socket + (simulator.radius + simulator.block_half_size[0]) * UP
    # The ball looks the same from all sides, so the gripper keeps its own yaw.
    rotation = scene.grasp_rotation(0.0, np.pi)
    grasp = Pose(ball.position, rotation)

    yield from grasp_at(scene, "obj", grasp, grasp.raised(APPROACH_HEIGHT), tolerance=0.004)
    if scene.pose("obj").position[2] < inside[2]:
        yield Waypoint(
            grasp.raised(0.05), CLOSED, position_tolerance=0.03, rotation_tolerance=ANY_ROTATION
        )
    yield from _put_down(
        scene, "obj", inside, rotation, heights=(0.025, 0.001), tolerances=(0.004, 0.003)
    )


def _insert_peg(scene: Scene) -> Plan:
    half_length = float(scene.simulator.peg_half_sizes[0, 0])
    yield from rise_from(scene, "peg", half_length)
    peg, goal = scene.pose("peg"), scene.pose("goal_pose")

    def before_goal(distance: float) -> Pose:
        return scene.align("peg", goal * translation(-distance, 0, 0))

    # Hold it behind the middle, so that the fingers stay out of the hole.
    handle = peg * translation(-max(0.05, half_length / 2 + 0.01), 0, 0)
    grasp = Pose(handle.position, scene.grasp_rotation(peg.yaw(), np.pi))
    yield from grasp_at(
        scene,
        "peg",
        grasp,
        grasp.raised(APPROACH_HEIGHT),
        tolerance=0.005,
        angle=0.03,
        closing_steps=4,
    )
    lift = max(APPROACH_HEIGHT, goal.position[2] - peg.position[2])
    place = (goal.inverse() * scene.pose("peg")).position
    if place[2] < -0.03:
        yield Waypoint(
            lambda: Pose(grasp.raised(lift).position, before_goal(0).rotation),
            CLOSED,
            position_tolerance=0.03,
            rotation_tolerance=ANY_ROTATION,
            max_steps=15,
        )
    # The peg's head meets the box at half_length before the goal.
    if place[0] < -half_length - 0.06 or np.abs(place[1:]).max() > 0.02:
        yield Waypoint(
            lambda: before_goal(half_length + 0.06),
            CLOSED,
            position_tolerance=0.006,
            rotation_tolerance=0.03,
        )

    def advance() -> Pose:
        """Go on only while aligned: a head that meets the rim backs off and is aligned again."""
        relative = (goal.inverse() * scene.pose("peg")).position
        outside = relative[0] < -half_length + 0.002
        if outside and np.abs(relative[1:]).max() > 0.0025:
            return before_goal(half_length + 0.010)
        return before_goal(-min(relative[0] + 0.05, 0.005))

    yield Waypoint(
        advance, CLOSED, position_tolerance=0, max_steps=80, speed=0.35, gain=2.0, delicate=True
    )


def _plug_charger(scene: Scene) -> Plan:
    yield from rise_from(scene, "charger")
    charger, goal = scene.pose("charger_base_pose"), scene.pose("goal_pose")
    tilt = Rotation.from_euler("y", np.deg2rad(15))
    grasp = Pose(charger.position, scene.grasp_rotation(charger.yaw(), np.pi) * tilt)

    def before_goal(distance: float) -> Pose:
        return scene.align("charger", goal * translation(-distance, 0, 0))

    def advance() -> Pose:
        """Go on only while aligned: the pins reach the holes 16 mm before the end, and a pin that
        meets the rim backs off and is aligned again."""
        relative = (goal.inverse() * scene.pose("charger")).position
        if relative[0] < -0.0155 and np.abs(relative[1:]).max() > 0.0004:
            return before_goal(0.020)
        return before_goal(-min(relative[0] + 0.010, 0.002))

    yield from grasp_at(
        scene,
        "charger",
        grasp,
        grasp * translation(0, 0, -APPROACH_HEIGHT),
        tolerance=0.003,
        angle=0.03,
        closing_steps=4,
    )
    place = (goal.inverse() * scene.pose("charger")).position
    if place[2] < -0.03:
        yield Waypoint(
            grasp.raised(0.09),
            CLOSED,
            position_tolerance=0.02,
            rotation_tolerance=ANY_ROTATION,
            max_steps=15,
        )
    if place[0] < -0.06 or np.abs(place[1:]).max() > 0.02:
        yield Waypoint(
            lambda: before_goal(0.06), CLOSED, position_tolerance=0.006, rotation_tolerance=0.03
        )
    yield Waypoint(
        lambda: before_goal(0.020),
        CLOSED,
        position_tolerance=0.0004,
        rotation_tolerance=0.006,
        speed=0.2,
        delicate=True,
    )
    yield Waypoint(advance, CLOSED, position_tolerance=0, max_steps=150, speed=0.3, delicate=True)


def _put_down(
    scene: Scene,
    name: str,
    place: np.ndarray,
    rotation: Rotation,
    *,
    heights: tuple[float, float],
    tolerances: tuple[float, float],
) -> Plan:
    """Carry the held object to `heights` metres above its place (3,), one after the other, each to
    within its tolerance, let it go and move away."""

    def over(height: float) -> Callable[[], Pose]:
        return lambda: scene.carry(name, place + height * UP, rotation)

    missing = scene.pose(name).position - place
    if missing[2] > heights[0] or np.hypot(*missing[:2]) > tolerances[0]:
        yield Waypoint(
            over(heights[0]),
            CLOSED,
            position_tolerance=tolerances[0],
            rotation_tolerance=ANY_ROTATION,
        )
    yield Waypoint(
        over(heights[1]),
        CLOSED,
        position_tolerance=tolerances[1],
        rotation_tolerance=ANY_ROTATION,
        max_steps=12,
        speed=0.3,
    )
    yield Waypoint(over(0.001), OPEN, min_steps=3, max_steps=3, speed=0.01, delicate=True)
    yield Waypoint(
        lambda: scene.tool().raised(APPROACH_HEIGHT), OPEN, position_tolerance=0, max_steps=30
    )


def _push_or_pick_cube(scene: Scene) -> Plan:
    """Push the cube to the target (way 0), or pick it up and carry it there (way 1); a cube that is
    held is carried."""
    if scene.way == 0 and not scene.holds("cube"):
        return _push(scene)
    return _bring_cube(scene, scene.pose("target").position + _CARRYING_HEIGHT * UP)


def _push(scene: Scene) -> Plan:
    target = scene.pose("target").position
    rotation = scene.grasp_rotation(0.0, np.pi)

    def pushed() -> Pose:
        """Behind the middle of the cube, wherever it has slid to, as far as the target."""
        return Pose(np.array([target[0] - 0.03, scene.pose("cube").position[1], 0.017]), rotation)

    yield from come_behind(scene, "cube", rotation)
    yield Waypoint(pushed, CLOSED, position_tolerance=0, max_steps=60, speed=0.5)


def _pick_cube_in_style(scene: Scene) -> Plan:
    """Lift the cube as fast as usual (way 0), or slowly and with the gripper turned by 90 degrees,
    always to the same side (way 1); a cube that is held as it is."""
    turned = abs(scene.tool_yaw()) > np.pi / 4
    way = int(turned) if turned or scene.holds("cube") else scene.way
    yaw, pace = ((0.0, 1.0), (np.pi / 2, _SLOW))[way]
    for waypoint in rise_from(scene, "cube"):
        yield replace(waypoint, speed=pace * waypoint.speed)
    grasp = Pose(scene.pose("cube").position, gripper_down(yaw))
    for waypoint in lift(scene, "cube", grasp):
        yield replace(waypoint, speed=pace * waypoint.speed)


PLANS: dict[str, Callable[[Scene], Plan]] = {
    "PickCube-v1": _pick_cube,
    "PushCube-v1": _push_cube,
    "StackCube-v1": _stack_cube,
    "PlaceSphere-v1": _place_sphere,
    "PegInsertionSide-v1": _insert_peg,
    "PlugCharger-v1": _plug_charger,
    "PickNamedCube-v1": _pick_named_cube,
    "PickEitherCube-v1": _pick_either_cube,
    "PassPost-v1": _pass_posts,
    "PassTwoPosts-v1": _pass_posts,
    "PushOrPickCube-v1": _push_or_pick_cube,
    "PickCubeTwoStyles-v1": _pick_cube_in_style,
}
