"""What plans of experts are made of: the simulator's true state, and motions that many share."""

from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from e0_experts.poses import Pose, gripper_down, nearest_angle
from e0_experts.waypoints import ANY_ROTATION, Plan, Waypoint
from e0_maniskill.env import ManiSkillEnv

OPEN, CLOSED = 1.0, -1.0

APPROACH_HEIGHT = 0.06  # metres above an object before descending on it
LIFT_HEIGHT = 0.10
_LOW = 0.04  # metres above an object, below which the hand may hit it on its way
_AROUND = 0.015  # metres from an object's axis, within which open fingers go down on both its sides
_OPEN_WIDTH = 0.06  # metres between the fingers; 0.08 at most
_EASY_REACH = 0.70  # metres from the base's axis, up to which the gripper can point straight down
_TILT_PER_METRE = 4.0  # radians of tilt per metre beyond that
_LARGEST_TILT = 0.6


class Scene:
    """The simulator's true state, as poses, and which way the expert is to go (see `Task.ways`)."""

    def __init__(self, env: ManiSkillEnv, way: int = 0) -> None:
        self.simulator: Any = env.simulator
        self.way = way

    def tool(self) -> Pose:
        """The tool centre point, between the fingertips."""
        return Pose.from_wxyz(self.simulator.agent.tcp.pose.raw_pose[0].numpy())

    def pose(self, name: str) -> Pose:
        """The simulator's actor or pose of this name."""
        return _pose(getattr(self.simulator, name))

    def poses(self, name: str) -> list[Pose]:
        """Those in the simulator's list of this name."""
        return [_pose(thing) for thing in getattr(self.simulator, name)]

    def holds(self, name: str) -> bool:
        """Whether the fingers hold the actor of this name."""
        return bool(self.simulator.agent.is_grasping(getattr(self.simulator, name))[0])

    def is_open(self) -> bool:
        """Whether the fingers are far enough apart to go down on something."""
        return float(self.simulator.agent.robot.get_qpos()[0, -2:].sum()) > _OPEN_WIDTH

    def tool_yaw(self) -> float:
        """The yaw for which `gripper_down` gives the tool's present orientation."""
        upright = self.tool().rotation * Rotation.from_euler("x", np.pi).inv()
        return Pose(np.zeros(3), upright).yaw()

    def grasp_rotation(self, yaw: float, period: float) -> Rotation:
        """Gripper down at `yaw`, or at the equal angle modulo `period` that is least turning."""
        return gripper_down(nearest_angle(yaw, self.tool_yaw(), period))

    def outward(self, position: np.ndarray) -> np.ndarray:
        """The horizontal vector (2, metres) from the robot's base to a position."""
        return position[:2] - self.simulator.agent.robot.pose.p[0, :2].numpy()

    def reaching(self, rotation: Rotation, position: np.ndarray) -> Rotation:
        """The gripper tilted, around the axis of its fingers' motion, to reach a distant position.

        Pointing down, the arm reaches 0.75 m from its base; a step to an unreachable pose does
        nothing at all, because ManiSkill's inverse kinematics then finds no solution.
        """
        outward = self.outward(position)
        distance = float(np.linalg.norm(outward))
        # Only the part of the tilt that leans outwards helps; that part is the axes' cosine.
        cosine = float(rotation.apply([1.0, 0.0, 0.0])[:2] @ outward) / distance
        needed = _TILT_PER_METRE * max(0.0, distance - _EASY_REACH)
        tilt = np.sign(cosine) * min(needed / max(abs(cosine), 0.5), _LARGEST_TILT)
        return rotation * Rotation.from_euler("y", tilt)

    def carry(self, name: str, destination: np.ndarray, rotation: Rotation) -> Pose:
        """Where the tool must be so that the held object comes to `destination` (3, metres)."""
        held = self.pose(name).position
        return Pose(self.tool().position + destination - held, rotation)

    def align(self, name: str, destination: Pose) -> Pose:
        """Where the tool must be so that the held object comes to the pose `destination`."""
        return destination * self.pose(name).inverse() * self.tool()


def _pose(thing: Any) -> Pose:
    """Of an actor, or of a pose itself."""
    return Pose.from_wxyz(getattr(thing, "pose", thing).raw_pose[0].numpy())


def rise_from(scene: Scene, name: str, half_length: float = 0.0) -> Plan:
    """Open and rise, where an expert that takes over finds the hand low beside what it is to grasp,
    so that the way to it does not lead through it. half_length: metres, of something long along its
    x axis."""
    thing, tool = scene.pose(name), scene.tool()
    offset = tool.position - thing.position
    axis = thing.rotation.apply([1.0, 0.0, 0.0])[:2]
    along = np.clip(offset[:2] @ axis, -half_length, half_length)
    beside, height = np.linalg.norm(offset[:2] - along * axis), offset[2]
    # Fingers that are not open, and are so near, are closing on it.
    around = beside < _AROUND and (scene.is_open() or abs(height) < _AROUND)
    if height < _LOW and not around and not scene.holds(name):
        up = tool.raised(APPROACH_HEIGHT - height)
        yield Waypoint(up, OPEN, position_tolerance=0.02, rotation_tolerance=ANY_ROTATION)


def grasp_at(
    scene: Scene,
    name: str,
    grasp: Pose,
    approach: Pose,
    *,
    tolerance: float = 0.006,
    angle: float = 0.06,
    closing_steps: int = 3,
) -> Plan:
    """Come from `approach` to `grasp` (to within `tolerance` metres, `angle` rad) and close on the
    actor of this name; for an expert that takes over, what of this is not done yet."""
    if scene.holds(name):
        return
    if not _goes_down_on(scene, grasp):
        yield Waypoint(approach, OPEN, position_tolerance=0.02, rotation_tolerance=0.15)
    yield Waypoint(grasp, OPEN, position_tolerance=tolerance, rotation_tolerance=angle)
    yield Waypoint(grasp, CLOSED, min_steps=closing_steps, max_steps=closing_steps, delicate=True)


def _goes_down_on(scene: Scene, grasp: Pose) -> bool:
    """Whether the hand is already on its way down to the grasp, or closing there."""
    tool = scene.tool()
    offset = tool.position - grasp.position
    angle = (tool.rotation * grasp.rotation.inv()).magnitude()
    above = np.hypot(*offset[:2]) < _AROUND and offset[2] < _LOW
    return bool(above and angle < 0.15 and (scene.is_open() or abs(offset[2]) < _AROUND))


def lift_cube(scene: Scene, name: str) -> Plan:
    """Grasp the cube of this name and hold it up. The gripper keeps its own yaw: it opens wider
    than the cube's diagonal and squares the cube up as it closes, and a yaw that can hardly be seen
    is hard to imitate."""
    yield from rise_from(scene, name)
    yield from lift(scene, name, Pose(scene.pose(name).position, scene.grasp_rotation(0.0, np.pi)))


def lift(scene: Scene, name: str, grasp: Pose) -> Plan:
    """Grasp the actor of this name from above, and hold it up."""
    yield from grasp_at(scene, name, grasp, grasp.raised(APPROACH_HEIGHT))
    yield Waypoint(grasp.raised(LIFT_HEIGHT), CLOSED, position_tolerance=0, max_steps=60)


def come_behind(scene: Scene, name: str, rotation: Rotation) -> Plan:
    """Come down with closed fingers between the robot and the cube of this name, 6 cm from its
    centre, to push it away from the robot; nothing where an expert that takes over is there."""
    cube = scene.pose(name).position
    place = scene.tool().position - cube
    low, behind_it = place[2] < 0.03, -0.10 < place[0] < -0.025 and abs(place[1]) < _AROUND
    if low and behind_it:
        return
    if low:  # the way there might lead through the cube
        up = scene.tool().raised(APPROACH_HEIGHT - place[2])
        yield Waypoint(up, CLOSED, position_tolerance=0.02, rotation_tolerance=ANY_ROTATION)
    above, behind = cube + np.array([-0.08, 0, 0.06]), cube + np.array([-0.06, 0, -0.003])
    yield Waypoint(Pose(above, rotation), CLOSED, position_tolerance=0.025, rotation_tolerance=0.2)
    yield Waypoint(Pose(behind, rotation), CLOSED, rotation_tolerance=0.1)
