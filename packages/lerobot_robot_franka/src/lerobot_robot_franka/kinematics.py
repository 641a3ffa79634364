"""Where the hand is for given joints, and which joints bring it elsewhere.

Inverse kinematics is Pink's (differential, a quadratic program, on Pinocchio), with the model that
the arm tells of itself. LeRobot's own (`lerobot.model.kinematics`, by placo) needs an older
Pinocchio than the simulated arm.

Poses (4, 4): the hand's frame in that of the arm's base, metres. Joints (7,), rad.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lerobot_robot_franka.drivers import ArmModel
from lerobot_robot_franka.errors import ConnectError
from lerobot_robot_franka.limits import JOINTS

FLANGE = "link8"  # as Franka's models name it, some with the arm's name before
INSIDE = 1e-3  # rad left to the ends of the range, for rounding
SOLVER = "daqp"


class HandKinematics:
    """Kinematics of a hand that takes, of all joints for a pose, those nearest to where `stay_near`
    says.

    lower, upper (7,): the range of the joints. velocity (7,): rad/s that they may move at. Raises
    ImportError without the libraries, and ConnectError for a model that is no arm's.
    """

    def __init__(
        self,
        model: ArmModel,
        lower: np.ndarray,
        upper: np.ndarray,
        velocity: np.ndarray,
    ) -> None:
        self._pinocchio, self._pink = libraries()
        self._model = _with_hand(self._pinocchio, model)
        self._model.velocityLimit = velocity
        self._data = self._model.createData()
        self._lower, self._upper = lower + INSIDE, upper - INSIDE
        self._hand = self._pink.tasks.FrameTask("hand", position_cost=1.0, orientation_cost=1.0)
        self._posture = self._pink.tasks.PostureTask(cost=1.0)

    def stay_near(self, joints: np.ndarray) -> None:
        """Where the joints (7,) are drawn to as far as the hand leaves it open: the elbow."""
        self._posture.set_target(joints)

    def pose(self, joints: np.ndarray) -> np.ndarray:
        """Where the hand is."""
        frame = self._model.getFrameId("hand")
        self._pinocchio.framesForwardKinematics(self._model, self._data, joints)
        return self._data.oMf[frame].homogeneous

    def moved(self, pose: np.ndarray, shift: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """A pose moved by `shift` (3,), metres, and turned by a rotation vector (3,), rad, along
        and about the axes of the arm's base."""
        result = pose.copy()
        result[:3, 3] += shift
        result[:3, :3] = self._pinocchio.exp3(turn) @ pose[:3, :3]
        return result

    def reach(self, joints: np.ndarray, pose: np.ndarray, seconds: float) -> np.ndarray | None:
        """The joints that bring the hand to a pose nearby in so many seconds; None if they would
        have to leave their range or be too fast."""
        # Where a joint is out of the range already it may stay there, or come back.
        self._model.lowerPositionLimit = np.minimum(self._lower, joints)
        self._model.upperPositionLimit = np.maximum(self._upper, joints)
        self._hand.set_target(self._pinocchio.SE3(pose))
        configuration = self._pink.Configuration(self._model, self._data, joints)
        try:
            velocity = self._pink.solve_ik(
                configuration, [self._posture], seconds, SOLVER, constraints=[self._hand]
            )
        except self._pink.exceptions.NoSolutionFound:
            return None
        return joints + velocity * seconds


def libraries() -> tuple[Any, Any]:
    """Pinocchio and Pink. They take a second to import, and only teleoperation needs them. Raises
    ImportError that says how to install them."""
    try:
        import pink
        import pinocchio  # pyright: ignore[reportMissingImports]  # it is where a .pth file says
    except ImportError as error:
        raise ImportError(
            f"moving the hand needs inverse kinematics ({error}): install the package as "
            "lerobot_robot_franka[teleoperation]"
        ) from None
    return pinocchio, pink


def _with_hand(pinocchio: Any, model: ArmModel) -> Any:
    """Pinocchio's model of an arm with a frame named "hand"."""
    arm = pinocchio.buildModelFromXML(model.urdf)
    flanges = [frame for frame in arm.frames if frame.name.endswith(FLANGE)]
    if arm.nq != JOINTS or len(flanges) != 1:
        raise ConnectError(
            f"the model that the arm tells of itself has {arm.nq} joints and {len(flanges)} frames "
            f"named {FLANGE}; expected {JOINTS} and 1"
        )
    placement = flanges[0].placement * pinocchio.SE3(model.hand)
    kind = pinocchio.FrameType.OP_FRAME
    arm.addFrame(pinocchio.Frame("hand", flanges[0].parentJoint, placement, kind))
    return arm
