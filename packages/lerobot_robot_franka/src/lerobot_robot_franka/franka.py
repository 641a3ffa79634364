"""A Franka arm as LeRobot sees robots: absolute joints and the gripper's opening, both ways."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Any
from weakref import WeakSet

import numpy as np
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.robots.robot import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from lerobot_robot_franka.arm import Arm
from lerobot_robot_franka.config_franka import FrankaConfig
from lerobot_robot_franka.drivers import FrankyArm, FrankyHand
from lerobot_robot_franka.errors import UnsafeActionError
from lerobot_robot_franka.gripper import Gripper
from lerobot_robot_franka.limits import ARMS, JOINT_NAMES, Allowed
from lerobot_robot_franka.observations import VECTORS

GRIPPER = "gripper.pos"
SLACK = 0.1  # a policy that has learned "closed" may say -0.02

_ROBOTS: WeakSet[Franka] = WeakSet()  # that are connected in this process


class Franka(Robot):
    """A Franka arm, its hand and cameras.

    Observations and actions: `joint_1.pos` to `joint_7.pos` in rad, `gripper.pos` from 0, closed,
    to 1, open. Neither `get_observation` nor `send_action` waits for the arm or the gripper:
    threads own them. Without new actions the arm rests at the last one.
    """

    config_class = FrankaConfig
    name = "franka"

    def __init__(self, config: FrankaConfig) -> None:
        super().__init__(config)
        self.config = config
        self.cameras = make_cameras_from_configs(config.cameras)
        self.arm: Arm | None = None
        self.gripper: Gripper | None = None
        self._vectors = [v for setting, v in VECTORS.items() if getattr(config, setting)]
        self._open = ExitStack()  # of what disconnect closes

    @cached_property
    def action_features(self) -> dict[str, type]:
        """See `Robot`."""
        names = [f"{name}.pos" for name in JOINT_NAMES]
        return dict.fromkeys([*names, GRIPPER] if self.config.gripper else names, float)

    @cached_property
    def observation_features(self) -> dict[str, type | tuple]:
        """See `Robot`."""
        features: dict[str, type | tuple] = dict(self.action_features)
        for vector in self._vectors:
            features |= dict.fromkeys(vector.names, float)
        for name, camera in self.cameras.items():
            features[name] = (camera.height, camera.width, 3)
        return features

    @property
    def is_connected(self) -> bool:
        """From `connect` to `disconnect`. An arm that has stopped by itself is still connected, so
        that LeRobot's programs release it."""
        return self.arm is not None

    @property
    def is_calibrated(self) -> bool:
        """The arm knows its joints by itself."""
        return True

    def calibrate(self) -> None:
        """There is nothing to calibrate."""

    def configure(self) -> None:
        """There is nothing to configure."""

    def connect(self, calibrate: bool = True) -> None:
        """Connect cameras, gripper and arm, in this order, and go slowly to the start position, if
        there is one. Raises ConnectError before anything has moved."""
        if self.arm is not None:
            raise DeviceAlreadyConnectedError(f"{self} is connected already")
        config, limits = self.config, ARMS[self.config.arm]
        try:
            for camera in self.cameras.values():
                camera.connect()
                self._open.callback(camera.disconnect)
            if config.gripper:
                hand = FrankyHand(config.host, config.gripper_speed, config.gripper_force)
                self._open.callback(hand.close)
                self.gripper = Gripper(hand, config.gripper_dead_band)
                self.gripper.start()
                self._open.callback(self.gripper.stop)
            driver = FrankyArm(config.host, config.realtime)
            self._open.callback(driver.close)
            self.arm = Arm(
                driver,
                limits,
                Allowed.of(limits, config.margin, config.max_step),
                rate=config.control_rate,
                velocity_share=config.velocity_share,
                acceleration_share=config.acceleration_share,
                limit=config.unsafe_actions == "limit",
            )
            self._open.callback(self.arm.stop)
            self.arm.start()
            if config.start_position is not None:
                self.arm.go_slowly(np.array(config.start_position, dtype=float))
            _ROBOTS.add(self)
        except BaseException:
            with suppress(Exception):  # the first error is the one that tells
                self._release()
            raise

    def get_observation(self) -> dict[str, Any]:
        """The newest state and pictures. Raises ControlLostError once the arm has stopped."""
        state = self._connected().state()
        positions = zip(JOINT_NAMES, state.positions, strict=True)
        observation: dict[str, Any] = {f"{name}.pos": float(value) for name, value in positions}
        if self.gripper is not None:
            observation[GRIPPER] = self.gripper.opening()
        for vector in self._vectors:
            numbers = zip(vector.names, vector.read(state), strict=True)
            observation |= {name: float(number) for name, number in numbers}
        return observation | {name: camera.read_latest() for name, camera in self.cameras.items()}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Aim at an action; returns what was aimed at. Raises UnsafeActionError, before anything of
        the action was sent, and ControlLostError."""
        arm = self._connected()
        if missing := [name for name in self.action_features if name not in action]:
            raise UnsafeActionError(
                f"the action lacks {', '.join(missing)}; it has {', '.join(action) or 'nothing'}"
            )
        values = {name: _number(name, action[name]) for name in self.action_features}
        if self.gripper is not None:
            self.gripper.opening()  # raises, where it failed, before the arm moves
            opening = values[GRIPPER]
            if not -SLACK <= opening <= 1 + SLACK:
                raise UnsafeActionError(
                    f"{GRIPPER} must lie between 0, closed, and 1, open; got {opening}"
                )
            values[GRIPPER] = min(1.0, max(0.0, opening))
        names = [f"{name}.pos" for name in JOINT_NAMES]
        sent = arm.aim(np.array([values[name] for name in names]))
        if self.gripper is not None:
            self.gripper.aim(values[GRIPPER])
        return values | {name: float(value) for name, value in zip(names, sent, strict=True)}

    def guide(self, guided: bool) -> None:
        """Let the arm be moved by hand, or hold it where it then is. While it is guided, actions
        move the gripper alone. Raises ControlLostError."""
        self._connected().guide(guided)

    def recover(self) -> None:
        """After ControlLostError: clear what stopped the arm and hold where it is. Raises
        ControlLostError where only a new connection helps."""
        arm = self._connected()
        if self.gripper is not None and not self.gripper.running:
            self.gripper.stop()
            self.gripper.start()
        arm.recover()

    def disconnect(self) -> None:
        """Come to rest, give control back, close cameras. Raises ControlLostError, once all is
        released, if the arm had stopped by itself."""
        self._connected()
        self._release()

    def _connected(self) -> Arm:
        if self.arm is None:
            raise DeviceNotConnectedError(f"{self} is not connected: call connect()")
        return self.arm

    def _release(self) -> None:
        _ROBOTS.discard(self)
        opened, self._open = self._open, ExitStack()
        self.arm = self.gripper = None
        opened.close()  # goes on after an error, which it raises at the end


def the_connected() -> tuple[Franka, Arm]:
    """The one robot that is connected in this process, and its arm, for teleoperators: LeRobot
    gives them no observation. Raises DeviceNotConnectedError for none, and for several."""
    robots = [(robot, robot.arm) for robot in _ROBOTS if robot.arm is not None]
    if len(robots) != 1:
        raise DeviceNotConnectedError(
            f"teleoperation needs one connected --robot.type=franka in this process, "
            f"found {len(robots)}"
        )
    return robots[0]


def _number(name: str, value: Any) -> float:
    """A number, or an array or tensor of one. UnsafeActionError for anything else."""
    if hasattr(value, "item") and getattr(value, "size", 1) != 0:
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsafeActionError(f"{name} must be one number, got {type(value).__name__}")
    return float(value)
