"""What an expert can do: pick, put, open, close, turn on, push. Each is a plan of waypoints.

They read the simulator's state when they are asked for the next waypoint, so a slip is corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from e0_experts.poses import UP, Pose, gripper_down, nearest_angle, translation
from e0_experts.waypoints import ANY_ROTATION, Plan, Waypoint
from e0_libero.grasps import find_grasp
from e0_libero.scene import Joint, Scene

Target = Pose | Callable[[], Pose]

OPEN, CLOSED = -1.0, 1.0
METRES, RADIANS = 0.05, 0.5  # that an action of 1 asks for: robosuite's OSC_POSE
GAIN = 1.5
HOVER = 0.12  # above a grasp, where the hand moves sideways
CLEAR = 0.08  # of a carried object above its place
LEAN = np.deg2rad(50)  # farther the arm does not reach
DOOR_RADIUS = 0.2  # from its hinge, where a door is pushed
SIDE_BY_SIDE = 0.8  # of the half size of a place
LIFTED = 0.04  # by so much something rises that is held
CLOSING_STEPS, OPENING_STEPS = 14, 8


def move(target: Target, gripper: float, tolerance: float, most: int) -> Waypoint:
    """Go somewhere with any turn of the hand on the way."""
    return Waypoint(
        target, gripper, position_tolerance=tolerance, rotation_tolerance=0.06, max_steps=most,
        speed=1.0, gain=GAIN,
    )  # fmt: skip


def slowly(target: Target, gripper: float, tolerance: float, most: int) -> Waypoint:
    """Go somewhere near."""
    return Waypoint(
        target, gripper, position_tolerance=tolerance, rotation_tolerance=ANY_ROTATION,
        max_steps=most, speed=0.5, gain=GAIN,
    )  # fmt: skip


def hold(scene: Scene, gripper: float, steps: int) -> Waypoint:
    """Stay, while the gripper opens or closes."""
    here = scene.tool()
    return Waypoint(here, gripper, min_steps=steps, max_steps=steps, gain=GAIN, delicate=True)


def pointing_down(scene: Scene, yaw: float) -> Rotation:
    """The hand pointing down, turned by `yaw` or half a turn more, whichever is less of a turn from
    how it began."""
    home = Pose(np.zeros(3), scene.home.rotation * Rotation.from_euler("x", np.pi).inv()).yaw()
    return gripper_down(nearest_angle(yaw, home, np.pi))


def leaning(scene: Scene, direction: np.ndarray, angle: float) -> Rotation:
    """The hand pointing down and by an angle to a horizontal direction (3,), its fingers closing
    across."""
    upright = pointing_down(scene, float(np.arctan2(direction[1], direction[0])))
    return Rotation.from_rotvec(angle * np.cross(-UP, direction)) * upright


def pick(scene: Scene, name: str, safe: float) -> Plan:
    """Grasp an object from above and lift it, to `safe` metres above the ground at least. Ends
    early where there is no grasp."""
    grasp = find_grasp(scene, name)
    if grasp is None:
        return
    rotation = pointing_down(scene, grasp.yaw)
    at = Pose(grasp.position, rotation)
    hover = at.raised(max(HOVER, safe - at.position[2]))
    yield move(hover, OPEN, 0.015, 90)
    yield move(at.raised(0.05), OPEN, 0.008, 50)
    yield slowly(at, OPEN, 0.005, 40)
    yield hold(scene, CLOSED, CLOSING_STEPS)
    yield move(hover, CLOSED, 0.02, 60)


def put(scene: Scene, name: str, place: np.ndarray, drop: float, safe: float) -> Plan:
    """Carry what is held so that its origin comes to `place` (3,), let it go `drop` metres above,
    and move up."""
    rotation = scene.tool().rotation

    def carried(height: float) -> Pose:
        """Of the hand, for the object to be `height` metres above its place."""
        offset = place + height * UP - scene.pose(name).position
        return Pose(scene.tool().position + offset, rotation)

    def over() -> Pose:
        pose = carried(0.0)
        return Pose(np.array([*pose.position[:2], high]), rotation)

    high = max(scene.tool().position[2], safe, carried(CLEAR).position[2])
    yield move(scene.tool().raised(high - scene.tool().position[2]), CLOSED, 0.02, 40)
    yield move(over, CLOSED, 0.008, 90)
    yield slowly(lambda: carried(drop), CLOSED, 0.006, 60)
    yield hold(scene, OPEN, OPENING_STEPS)
    yield move(scene.tool().raised(0.10), OPEN, 0.02, 40)


def place_on(scene: Scene, name: str, target: str) -> tuple[np.ndarray, float]:
    """Where the origin of an object has to be (3,) to stand on something, or on a place of the
    table, and from how high to let it go. Several that shall stand on one place stand side by
    side."""
    bottom = scene.height_above_ground(name)
    if scene.is_region(target):
        middle, half = scene.region(target)
        guests = [goal[1] for goal in scene.goals if goal[0] == "on" and goal[2] == target]
        side = np.linspace(-1, 1, len(guests))[guests.index(name)] if len(guests) > 1 else 0.0
        return middle + np.array([0, side * SIDE_BY_SIDE * half[1], half[2] + bottom]), 0.02
    x, y, z = scene.pose(target).position
    _, heights, _ = scene.height_map(np.array([x, y]), 0.02, z + 0.3)
    return np.array([x, y, float(np.median(heights)) + bottom]), 0.012


def place_in(scene: Scene, name: str, region: str) -> tuple[np.ndarray, float]:
    """Where the origin of an object has to be (3,) to be dropped into a place with a rim, and from
    how high."""
    middle, half = scene.region(region)
    return middle + np.array([0, 0, half[2] + scene.height_above_ground(name)]), 0.0


def pull(scene: Scene, name: str) -> Plan:
    """Open a drawer by its handle: come from the front, the fingers above and below the bar."""
    joint = scene.joint(name)
    outward = joint.axis * np.sign(joint.towards("open"))
    bar = _farthest(scene, scene.geoms_below(joint.body), outward)
    rotation = _facing(scene, -outward)
    before = Pose(bar + 0.10 * outward, rotation)
    yield move(before.raised(HOVER), OPEN, 0.03, 90)
    yield move(before, OPEN, 0.01, 60)
    yield slowly(Pose(bar - 0.005 * outward, rotation), OPEN, 0.006, 40)
    yield hold(scene, CLOSED, CLOSING_STEPS)
    grasp = scene.tool()
    far = abs(joint.towards("open")) + 0.01
    yield slowly(Pose(grasp.position + far * outward, grasp.rotation), CLOSED, 0.006, 80)
    yield hold(scene, OPEN, OPENING_STEPS)
    back = scene.tool()
    yield slowly(Pose(back.position + 0.06 * outward, back.rotation), OPEN, 0.01, 30)
    yield move(Pose(scene.tool().position + 0.15 * UP, scene.home.rotation), OPEN, 0.03, 40)


def shut(scene: Scene, name: str) -> Plan:
    """Push a drawer or a door to."""
    joint = scene.joint(name)
    return _shut_drawer(scene, joint) if joint.slides else _shut_door(scene, joint)


def _shut_drawer(scene: Scene, joint: Joint) -> Plan:
    """Push a drawer in with the fist, at its handle. The hand leans back from what is above."""
    inward = joint.axis * np.sign(joint.towards("close"))
    bar = _farthest(scene, scene.geoms_below(joint.body), -inward)
    rotation = leaning(scene, inward, LEAN)
    before = Pose(bar - 0.06 * inward, rotation)
    yield move(before.raised(HOVER), CLOSED, 0.03, 90)
    yield move(before, CLOSED, 0.015, 60)
    far = abs(joint.towards("close")) + 0.03
    yield slowly(Pose(bar + far * inward, rotation), CLOSED, 0.005, 90)
    yield move(before, CLOSED, 0.03, 30)
    yield move(scene.tool().raised(HOVER), CLOSED, 0.03, 40)


def _shut_door(scene: Scene, joint: Joint) -> Plan:
    """Push a door to with the fist, along its way, from outside."""
    geoms = scene.geoms_below(joint.body)
    middle = np.mean([scene.data.geom_xpos[geom] for geom in geoms], axis=0)
    along = (middle - joint.anchor) * [1, 1, 0]
    along /= np.linalg.norm(along)
    angle = joint.towards("close") * np.sign(joint.axis[2])
    way = np.cross(np.sign(angle) * UP, along)

    def beside(share: float, distance: float) -> Pose:
        """The fist at the door's outside, so far from it, where a share of its way is done."""
        turned = Rotation.from_rotvec(share * angle * UP)
        point = joint.anchor + turned.apply(DOOR_RADIUS * along - distance * way)
        return Pose(point, scene.home.rotation)

    yield move(beside(0.0, 0.12).raised(2 * HOVER), CLOSED, 0.03, 90)
    yield move(beside(0.0, 0.12), CLOSED, 0.02, 60)
    for share in np.linspace(0.0, 1.1, 12):
        yield slowly(beside(share, 0.03), CLOSED, 0.02, 20)
    yield move(scene.tool().raised(2 * HOVER), CLOSED, 0.03, 40)


def insert(scene: Scene, name: str, region: str, fixture: str) -> Plan:
    """Put an object into a cupboard from the front, held by what of it is in front, such as a mug's
    handle; the hand leans, and stays outside."""
    inward = scene.inward(fixture)
    handle = _farthest(scene, scene.geoms(name), -inward)
    rotation = leaning(scene, inward, LEAN)
    at = Pose(handle, rotation)
    before = at * translation(0, 0, -0.10)
    yield move(before.raised(HOVER), OPEN, 0.02, 90)
    yield move(before, OPEN, 0.01, 60)
    yield slowly(at, OPEN, 0.005, 60)
    yield hold(scene, CLOSED, CLOSING_STEPS)
    middle, half = scene.region(region)
    depth = float(np.abs(inward) @ half)
    floor = middle[2] - half[2] + scene.height_above_ground(name) + 0.015

    def carried(ahead: float) -> Pose:
        """Of the hand, for the object to be this far ahead of the middle of the place."""
        place = np.array([*(middle + ahead * inward)[:2], floor])
        return Pose(scene.tool().position + place - scene.pose(name).position, rotation)

    before_lift = scene.pose(name).position[2]
    yield move(scene.tool().raised(0.08), CLOSED, 0.02, 40)
    if scene.pose(name).position[2] - before_lift < LIFTED:
        return
    yield move(lambda: carried(-depth - 0.15), CLOSED, 0.01, 90)
    yield slowly(lambda: carried(-0.02), CLOSED, 0.01, 80)
    yield hold(scene, OPEN, OPENING_STEPS)
    yield slowly(Pose(scene.tool().position - 0.20 * inward, rotation), OPEN, 0.02, 40)
    yield move(Pose(scene.tool().position + HOVER * UP, scene.home.rotation), OPEN, 0.03, 60)


def turn(scene: Scene, name: str, state: str) -> Plan:
    """Turn a knob by its ridge. state: turnon or turnoff."""
    joint = scene.joint(name)
    ridge, yaw = _ridge(scene, joint)
    start = pointing_down(scene, yaw)
    angle = joint.towards(state) * np.sign(joint.axis[2])
    at = Pose(ridge, start)
    yield move(at.raised(HOVER), OPEN, 0.02, 90)
    yield slowly(at, OPEN, 0.005, 60)
    yield hold(scene, CLOSED, CLOSING_STEPS)
    for share in (0.25, 0.5, 0.75, 1.0):
        turned = Pose(ridge, Rotation.from_euler("z", share * angle) * start)
        yield Waypoint(turned, CLOSED, 0.01, 0.1, max_steps=20, speed=0.5, gain=GAIN)
    yield hold(scene, OPEN, OPENING_STEPS)
    yield move(scene.tool().raised(HOVER), OPEN, 0.02, 40)


def push(scene: Scene, name: str, region: str) -> Plan:
    """Push a plate over the table to a place, with the closed fingers within its rim."""
    goal = scene.region(region)[0][:2]
    middle = scene.pose(name).position
    _, heights, _ = scene.height_map(middle, 0.01, middle[2] + 0.1)
    height = float(np.median(heights)) + 0.003
    rotation = scene.home.rotation

    def ahead(distance: float) -> Pose:
        """Of the plate's middle, towards the goal."""
        here = scene.pose(name).position[:2]
        way = (goal - here) / max(float(np.linalg.norm(goal - here)), 1e-6)
        return Pose(np.array([*(here + distance * way), height]), rotation)

    yield move(ahead(0.0).raised(HOVER), CLOSED, 0.02, 90)
    yield move(ahead(0.0), CLOSED, 0.01, 60)
    yield slowly(lambda: ahead(0.10), CLOSED, 0.0, 120)


def _farthest(scene: Scene, geoms: Sequence[int], direction: np.ndarray) -> np.ndarray:
    """The middle (3,) of the geom that is farthest in a direction (3,)."""
    places = scene.data.geom_xpos[list(geoms)]
    return places[int((places @ direction).argmax())]


def _facing(scene: Scene, direction: np.ndarray) -> Rotation:
    """The hand pointing along a horizontal direction (3,), its fingers closing up and down; of the
    two ways the one that is less of a turn."""
    now = scene.tool().rotation
    both = []
    for up in (UP, -UP):
        axes = np.stack([np.cross(up, direction), up, direction], axis=1)
        both.append(Rotation.from_matrix(axes))
    return min(both, key=lambda rotation: (rotation * now.inv()).magnitude())


def _ridge(scene: Scene, joint: Joint) -> tuple[np.ndarray, float]:
    """Of a knob: where the finger tips grasp its ridge (3,), and along which yaw it runs."""
    geoms = scene.geoms_below(joint.body)
    top = max(float(scene.extent([geom])[1][2]) for geom in geoms)
    high = [geom for geom in geoms if scene.extent([geom])[1][2] > top - 0.01]
    places = np.array([scene.data.geom_xpos[geom] for geom in high])[:, :2]
    middle = (places.max(0) + places.min(0)) / 2
    along = np.linalg.svd(places - places.mean(0))[2][0]
    return np.array([*middle, top - 0.015]), float(np.arctan2(along[1], along[0]))
