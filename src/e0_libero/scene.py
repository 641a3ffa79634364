"""What is where in a LIBERO task, by the simulator's true state.

Lengths in metres, angles in radians, in the frame of the world.
"""

# mujoco does not tell pyright what it holds.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from e0_experts.poses import Pose

COLLIDING = 0  # MuJoCo's group of geoms that touch; those of group 1 are seen
GRID = 0.004  # of height maps
WIDE, FLAT = 0.09, 0.04
ROBOT = ("robot0", "gripper0", "mount0")  # how the names of its bodies begin
TOOL = "gripper0_grip_site"  # between the finger tips; z points out, fingers move along x
_TO_FINGERS_ALONG_Y = Rotation.from_euler("z", np.pi / 2)


class Joint(NamedTuple):
    """A part of a fixture that slides or turns.

    body: in MuJoCo's model. value: metres or radians. axis (3,): along which it slides, or about
    which it turns, for growing values, through anchor (3,). ranges: values at which LIBERO calls it
    open, closed, turned on or off, as "default_open_ranges".
    """

    body: int
    value: float
    axis: np.ndarray
    anchor: np.ndarray
    slides: bool
    ranges: dict[str, list[float]]

    def towards(self, state: str) -> float:
        """How far it has to move, in its own sign, to be in the middle of a state: open, close,
        turnon, turnoff."""
        return float(np.mean(self.ranges[f"default_{state}_ranges"])) - self.value


class Scene:
    """A task that has been reset; make a new one after every reset. task: LIBERO's `ControlEnv`.

    home: where the hand began, pointing down.
    """

    def __init__(self, task: Any) -> None:
        self.task: Any = task.env
        self.model: Any = self.task.sim.model._model
        self.data: Any = self.task.sim.data._data
        self.home = self.tool()

    @property
    def goals(self) -> list[list[str]]:
        """What must be true in the end: ["on", object, place], ["turnon", object]."""
        return self.task.parsed_problem["goal_state"]

    def fulfilled(self, goal: Sequence[str]) -> bool:
        """Whether it is true now."""
        return bool(self.task._eval_predicate(goal))

    def tool(self) -> Pose:
        """The point between the finger tips; z points out of the hand, fingers close along y."""
        site = self.data.site(TOOL)
        rotation = Rotation.from_matrix(site.xmat.reshape(3, 3)) * _TO_FINGERS_ALONG_Y
        return Pose(site.xpos.copy(), rotation)

    def pose(self, name: str) -> Pose:
        """Of an object or a fixture."""
        body = self._body(name)
        rotation = Rotation.from_matrix(self.data.xmat[body].reshape(3, 3))
        return Pose(self.data.xpos[body].copy(), rotation)

    def region(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A place of the task: its middle (3,), and its half sizes (3,) along the world's axes."""
        site = self.data.site(name)
        half = np.abs(site.xmat.reshape(3, 3)) @ self.model.site(name).size
        return site.xpos.copy(), half

    def is_region(self, name: str) -> bool:
        """Whether a name of the task's is a place, not an object."""
        return name in self.task.object_sites_dict

    def is_drawer(self, name: str) -> bool:
        """Whether a region moves with a part of its fixture."""
        return self.is_region(name) and bool(self.task.object_sites_dict[name].joints)

    def cupboard(self, name: str) -> str | None:
        """The fixture with a door whose region this is; None for other regions."""
        if not self.is_region(name) or self.is_drawer(name):
            return None
        parent = self.task.object_sites_dict[name].parent_name
        joints = getattr(self._object(parent), "joints", None) or []
        types = [int(self.model.joint(joint).type[0]) for joint in joints]
        return parent if types == [mujoco.mjtJoint.mjJNT_HINGE] else None

    def is_flat(self, name: str) -> bool:
        """Whether an object is too wide and too flat to be grasped from above, such as a plate."""
        low, high = self.extent(self.geoms(name))
        return bool((high - low)[:2].min() > WIDE and (high - low)[2] < FLAT)

    def inward(self, fixture: str) -> np.ndarray:
        """The horizontal direction (3,) in which one looks at a fixture: they all face their own
        -y."""
        ahead = self.pose(fixture).rotation.apply([0.0, 1.0, 0.0])
        return np.array([*(ahead[:2] / np.linalg.norm(ahead[:2])), 0.0])

    def joint(self, name: str) -> Joint:
        """What moves of a fixture, or of the part of it that a region belongs to. Raises ValueError
        if that is nothing, or several things."""
        thing = self._object(name)
        if self.is_region(name):
            names, fixture = self.task.object_sites_dict[name].joints, thing.parent_name
        else:
            names, fixture = thing.joints, name
        if len(names or ()) != 1:
            raise ValueError(f"{name} has {len(names or ())} joints, a skill moves one")
        number = self.model.joint(names[0]).id
        body = int(self.model.jnt_bodyid[number])
        return Joint(
            body=body,
            value=float(self.data.qpos[self.model.jnt_qposadr[number]]),
            axis=self.data.xaxis[number].copy(),
            anchor=self.data.xanchor[number].copy(),
            slides=int(self.model.jnt_type[number]) == mujoco.mjtJoint.mjJNT_SLIDE,
            ranges=self._object(fixture).object_properties["articulation"],
        )

    def geoms(self, name: str) -> list[int]:
        """What of an object or a fixture touches others."""
        return self.geoms_below(self._body(name))

    def geoms_below(self, body: int) -> list[int]:
        """What of a body and those that hang on it touches others."""
        bodies = {body}
        for other in range(body + 1, self.model.nbody):  # parents come first
            if self.model.body_parentid[other] in bodies:
                bodies.add(other)
        return [
            geom
            for geom in range(self.model.ngeom)
            if self.model.geom_bodyid[geom] in bodies and self.model.geom_group[geom] == COLLIDING
        ]

    def extent(self, geoms: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The corners (3,) of the box along the world's axes that holds these geoms."""
        lows, highs = [], []
        for geom in geoms:
            box, matrix = self.model.geom_aabb[geom], self.data.geom_xmat[geom].reshape(3, 3)
            middle = self.data.geom_xpos[geom] + matrix @ box[:3]
            half = np.abs(matrix) @ box[3:]
            lows.append(middle - half)
            highs.append(middle + half)
        return np.min(lows, axis=0), np.max(highs, axis=0)

    def height_above_ground(self, name: str) -> float:
        """Of an object's origin above its lowest point."""
        return float(self.pose(name).position[2] - self.extent(self.geoms(name))[0][2])

    def mass_centre(self, name: str) -> np.ndarray:
        """Of an object, (3,)."""
        return self.data.xipos[self._body(name)].copy()

    def height_map(
        self, middle: np.ndarray, half_width: float, top: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is seen from straight above, without the robot, about `middle` (2 or more) from the
        height `top` down: coordinates (n,) relative to the middle, heights (n, n), x first, and the
        geom that is seen (n, n)."""
        coordinates = np.arange(-half_width, half_width + GRID / 2, GRID)
        shape = (len(coordinates), len(coordinates))
        heights, seen = np.full(shape, -np.inf), np.full(shape, -1)
        groups, alphas = self.model.geom_group.copy(), self.model.geom_rgba[:, 3].copy()
        self.model.geom_rgba[:, 3] = 1.0  # rays pass what cannot be seen
        self.model.geom_group[self._robot_geoms()] = 5
        try:
            only = np.array([1, 0, 0, 0, 0, 0], np.uint8)
            geom, down = np.zeros(1, np.int32), np.array([0.0, 0.0, -1.0])
            for i, x in enumerate(coordinates):
                for j, y in enumerate(coordinates):
                    start = np.array([middle[0] + x, middle[1] + y, top])
                    far = mujoco.mj_ray(self.model, self.data, start, down, only, 1, -1, geom)
                    if far >= 0:
                        heights[i, j], seen[i, j] = top - far, geom[0]
        finally:
            self.model.geom_group[:] = groups
            self.model.geom_rgba[:, 3] = alphas
        return coordinates, heights, seen

    def _robot_geoms(self) -> list[int]:
        return [
            geom
            for geom in range(self.model.ngeom)
            if self.model.body(self.model.geom_bodyid[geom]).name.startswith(ROBOT)
        ]

    def _object(self, name: str) -> Any:
        return self.task.get_object(name)

    def _body(self, name: str) -> int:
        return self.task.obj_body_id[name]
