"""Teleoperation of a Franka arm by a person who moves it by hand."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from lerobot_robot_franka.config_franka_guiding import FrankaGuidingConfig
from lerobot_robot_franka.errors import ControlLostError, UnsafeActionError
from lerobot_robot_franka.franka import GRIPPER, Franka, the_connected
from lerobot_robot_franka.limits import JOINT_NAMES
from lerobot_robot_franka.teleoperator import PlainTeleoperator

logger = logging.getLogger(__name__)


class FrankaGuiding(PlainTeleoperator):
    """A person moves the one Franka arm that is connected in this process by hand.

    Actions: `joint_1.pos` to `joint_7.pos` in rad, as measured, and `gripper.pos` as it was at
    first, if the arm has a gripper. From the first action on the arm carries its own weight alone;
    `disconnect` has it hold again.
    """

    config_class = FrankaGuidingConfig
    name = "franka_guiding"

    def __init__(self, config: FrankaGuidingConfig) -> None:
        super().__init__(config)
        self.config = config
        self._connected = self._outside = False
        self._robot: Franka | None = None
        self._opening: dict[str, float] = {}

    @property
    def action_features(self) -> dict[str, type]:
        """See `Teleoperator`."""
        return dict.fromkeys([*(f"{name}.pos" for name in JOINT_NAMES), GRIPPER], float)

    @property
    def is_connected(self) -> bool:
        """From `connect` to `disconnect`."""
        return self._connected

    def connect(self, calibrate: bool = True) -> None:
        """The arm may be connected later, before the first action."""
        self._connected = True

    def get_action(self) -> dict[str, Any]:
        """Where the arm is. Raises DeviceNotConnectedError without a connected arm, and
        ControlLostError."""
        robot, arm = the_connected()
        if robot is not self._robot:
            gripper = robot.gripper
            self._opening = {} if gripper is None else {GRIPPER: gripper.told()}
            self._robot = robot
        if not arm.guided:  # at first, and after the arm had stopped by itself and was recovered
            robot.guide(True)
        positions = arm.state().positions
        try:
            arm.allowed.check_range(positions)
            self._outside = False
        except UnsafeActionError as error:
            if not self._outside:
                logger.warning("the arm would not be sent where it now is: %s", error)
            self._outside = True
        names = (f"{name}.pos" for name in JOINT_NAMES)
        return dict(zip(names, positions.tolist(), strict=True)) | self._opening

    def disconnect(self) -> None:
        """Have the arm hold where it is. One that has stopped by itself says so when it is
        disconnected."""
        robot, self._robot, self._connected = self._robot, None, False
        if robot is not None and robot.is_connected:
            with suppress(ControlLostError):
                robot.guide(False)
