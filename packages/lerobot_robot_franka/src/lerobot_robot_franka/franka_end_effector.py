"""Teleoperation of a Franka arm's hand by LeRobot's devices: motions in, joints out."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, NamedTuple

import draccus
import numpy as np
from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.errors import DeviceNotConnectedError

from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.config_franka_end_effector import FrankaEndEffectorConfig
from lerobot_robot_franka.franka import GRIPPER, Franka, the_connected
from lerobot_robot_franka.kinematics import HandKinematics, libraries
from lerobot_robot_franka.limits import JOINT_NAMES
from lerobot_robot_franka.teleoperator import PlainTeleoperator

logger = logging.getLogger(__name__)

SHIFT = ("delta_x", "delta_y", "delta_z")
TURN = ("delta_wx", "delta_wy", "delta_wz")  # a rotation vector, which few devices give
OPENINGS = {0.0: 0.0, 2.0: 1.0}  # LeRobot's devices say 0 to close, 2 to open, else stay
LONGEST_SECONDS = 0.1  # between two actions; after pauses the hand does not make up for them
SHARES = (1.0, 0.5, 0.25, 0.125)  # of a motion that are tried, as joints may be too slow for it
BEHIND = 0.5  # share of the robot's max_step that the arm may be behind


class Motion(NamedTuple):
    """shift (3,) and turn (3,): along and about the axes of the arm's base, each no longer than 1.
    opening: of the gripper, None to leave it."""

    shift: np.ndarray
    turn: np.ndarray
    opening: float | None

    @classmethod
    def of(cls, action: dict[str, Any]) -> Motion:
        """From the action of a device. Raises ValueError for one that says nothing of a hand."""
        if missing := [name for name in SHIFT if name not in action]:
            raise ValueError(
                f"the device's action lacks {', '.join(missing)}; it has {', '.join(action)}: "
                "take one that gives end-effector motions, as gamepad or keyboard_ee"
            )
        numbers = [float(action.get(name, 0.0)) for name in (*SHIFT, *TURN)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"the device's action holds {numbers}: expected numbers from -1 to 1")
        opening = OPENINGS.get(float(action.get("gripper", 1.0)))
        return cls(_at_most_one(numbers[:3]), _at_most_one(numbers[3:]), opening)


class Course(NamedTuple):
    """Where the hand is led. joints (7,), rad; pose (4, 4), m; opening of the gripper, if any."""

    joints: np.ndarray
    pose: np.ndarray
    opening: float | None
    asked: float  # when, seconds


class FrankaEndEffector(PlainTeleoperator):
    """LeRobot's device moves the hand of the one Franka arm that is connected in this process.

    Actions: `joint_1.pos` to `joint_7.pos` in rad, absolute, and `gripper.pos` from 0, closed, to
    1, open, if the arm has a gripper. The first is where the arm is told to be already; so is the
    next after an action that was not sent, or after something else has moved the arm. Where a
    motion would take the hand out of the workspace or a joint out of its range, the hand stays, and
    the log says so once. Raises ImportError without the libraries for inverse kinematics.
    """

    config_class = FrankaEndEffectorConfig
    name = "franka_end_effector"

    def __init__(self, config: FrankaEndEffectorConfig) -> None:
        super().__init__(config)
        libraries()  # now, as an arm under control should not wait for their import
        self.config = config
        self.device = make_teleoperator_from_config(
            draccus.decode(TeleoperatorConfig, config.device)
        )
        self._robot: Franka | None = None
        self._course: Course | None = None
        self._kinematics: HandKinematics | None = None
        self._complained: set[str] = set()

    @property
    def action_features(self) -> dict[str, type]:
        """See `Teleoperator`."""
        return dict.fromkeys([*(f"{name}.pos" for name in JOINT_NAMES), GRIPPER], float)

    @property
    def is_connected(self) -> bool:
        """Whether the device is."""
        return self.device.is_connected

    def connect(self, calibrate: bool = True) -> None:
        """Connect the device. The arm may be connected later, before the first action."""
        self.device.connect()
        if not self.device.is_connected:
            raise DeviceNotConnectedError(
                f"the device {self.config.device} did not connect; the log says why"
            )

    def get_action(self) -> dict[str, Any]:
        """Where the arm and the gripper shall be now. Raises DeviceNotConnectedError without a
        connected arm, ValueError for a device that gives no motions of a hand, and
        ControlLostError."""
        motion = Motion.of(self.device.get_action())
        robot, arm = the_connected()
        course, kinematics = self._course, self._kinematics
        if course is None or kinematics is None or robot is not self._robot:
            kinematics = self._kinematics = _kinematics_of(arm)
            self._robot, course = robot, self._here(robot, arm, kinematics)
        elif (aimed := arm.aimed()) is None or not np.array_equal(course.joints, aimed):
            # Nobody sent the last action, or something else moved the arm, or it had stopped.
            course = self._here(robot, arm, kinematics)
        elif np.abs(course.joints - arm.told()).max() > BEHIND * arm.allowed.max_step:
            self._complain("behind", "the arm is behind: it is led on from where it is told to be")
            course = self._here(robot, arm, kinematics)
        course = self._led(course, motion, kinematics)
        self._course = course
        names = (f"{name}.pos" for name in JOINT_NAMES)
        action: dict[str, Any] = dict(zip(names, course.joints.tolist(), strict=True))
        return action if course.opening is None else action | {GRIPPER: course.opening}

    def disconnect(self) -> None:
        """Disconnect the device; the arm rests at the last action."""
        self._robot = self._course = self._kinematics = None
        self.device.disconnect()

    def _here(self, robot: Franka, arm: Arm, kinematics: HandKinematics) -> Course:
        joints, gripper = arm.told(), robot.gripper
        opening = None if gripper is None else gripper.told()
        kinematics.stay_near(joints)
        return Course(joints, kinematics.pose(joints), opening, time.perf_counter())

    def _led(self, course: Course, motion: Motion, kinematics: HandKinematics) -> Course:
        """The course after a motion, as far as that can be made."""
        now = time.perf_counter()
        seconds = min(now - course.asked, LONGEST_SECONDS)
        opening = course.opening if motion.opening is None else motion.opening
        if course.opening is None:
            opening = None  # the arm has no gripper
        course = course._replace(opening=opening, asked=now)
        if seconds <= 0 or not (motion.shift.any() or motion.turn.any()):
            return course
        for share in SHARES:
            shift = share * seconds * self.config.speed * motion.shift
            turn = share * seconds * self.config.turn_speed * motion.turn
            pose = kinematics.moved(course.pose, shift, turn)
            inside = self._inside(course.pose[:3, 3], pose[:3, 3])
            joints = kinematics.reach(course.joints, pose, seconds) if inside else None
            if joints is not None:
                self._complained.discard("stays")
                return course._replace(joints=joints, pose=pose)
        self._complain(
            "stays",
            f"the hand stays at {course.pose[:3, 3].round(3)} m: further would be out of the "
            "workspace, or of a joint's range or speed",
        )
        return course

    def _inside(self, here: np.ndarray, there: np.ndarray) -> bool:
        """Whether a position (3,) is in the workspace, or nearer to it than the present one."""
        lower = np.minimum(self.config.workspace_lower, here)
        upper = np.maximum(self.config.workspace_upper, here)
        return bool(((lower <= there) & (there <= upper)).all())

    def _complain(self, about: str, complaint: str) -> None:
        """Say it once; of a hand that stays, until it moves again."""
        if about not in self._complained:
            logger.warning("%s", complaint)
        self._complained.add(about)


def _kinematics_of(arm: Arm) -> HandKinematics:
    allowed = arm.allowed
    # So that no step is refused, even of an arm that is almost as far behind as it may be.
    fastest = (1 - BEHIND) * allowed.max_step / LONGEST_SECONDS
    velocity = np.minimum(arm.bounds.velocity, fastest)
    return HandKinematics(arm.model(), allowed.lower, allowed.upper, velocity)


def _at_most_one(numbers: list[float]) -> np.ndarray:
    vector = np.array(numbers)
    return vector / max(1.0, float(np.linalg.norm(vector)))
