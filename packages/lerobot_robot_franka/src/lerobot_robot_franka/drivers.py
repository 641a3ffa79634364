"""The arm and the gripper as the control threads see them, and how franky drives the real ones.

`franky` (franky-control 2) is the library; a simulator that speaks Franka's protocol, as
franky-sim, is driven by the same code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from lerobot_robot_franka.errors import ConnectError, ControlLostError

STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])  # Nm/rad, franky's example
MAXIMUM_WIDTH = 0.08  # metres, of the Franka Hand
CONNECT_SECONDS = 10.0


class ArmState(NamedTuple):
    """positions (7,) in rad, velocities (7,) in rad/s."""

    positions: np.ndarray
    velocities: np.ndarray


class ArmDriver(Protocol):
    """An arm that follows joint targets. Every method but `recover` is called by one thread."""

    def begin(self) -> None:
        """Take control, and hold the present joints. Raises ConnectError."""
        ...

    def tick(self) -> bool:
        """Wait for the next cycle; False once control is lost."""
        ...

    def follow(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Be at these joints (7,), moving at these velocities (7,), now."""
        ...

    def state(self) -> ArmState: ...

    def stop(self) -> None:
        """Come to rest and give control back. Raises ControlLostError for what went wrong."""
        ...

    def recover(self) -> bool:
        """Clear what stopped the arm, if it can be cleared; nothing moves."""
        ...


class GripperDriver(Protocol):
    """A gripper; all methods may block as long as a motion takes. Widths in metres."""

    def width(self) -> float: ...

    def move(self, width: float) -> None: ...

    def grasp(self, width: float) -> None:
        """Close to a width, or upon what is in the way, and keep pressing it."""
        ...


class FrankyArm:
    """An arm by franky's joint impedance tracker, `rate` cycles a second.

    realtime: whether the machine's kernel must be a real-time one, as it must for a real arm.
    Raises ConnectError.
    """

    def __init__(self, host: str, rate: float, realtime: bool) -> None:
        import franky

        config = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        self._franky, self._period = franky, 1.0 / rate
        self._robot = connected(
            host, lambda: franky.Robot(host, realtime_config=config), franky.Exception
        )
        self._tracker: Any = None

    def begin(self) -> None:
        """See `ArmDriver`."""
        try:
            self._tracker = self._franky.JointImpedanceTracker(
                self._robot, stiffness=STIFFNESS, period=self._period
            )
        except self._franky.Exception as error:
            raise ConnectError(f"{_why(error)}: {error}") from error

    def tick(self) -> bool:
        """See `ArmDriver`."""
        return self._tracker.tick() is not None

    def follow(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """See `ArmDriver`."""
        self._tracker.set_target(positions, velocities)

    def state(self) -> ArmState:
        """See `ArmDriver`."""
        state = self._robot.current_joint_state
        return ArmState(np.asarray(state.position), np.asarray(state.velocity))

    def stop(self) -> None:
        """See `ArmDriver`."""
        if self._tracker is None:
            return
        tracker, self._tracker = self._tracker, None
        try:
            tracker.stop()
        except self._franky.Exception as error:
            raise ControlLostError(f"the arm stopped by itself: {error}") from error

    def recover(self) -> bool:
        """See `ArmDriver`."""
        return bool(self._robot.recover_from_errors())


class FrankyHand:
    """The Franka Hand. speed in m/s, force in N. Raises ConnectError."""

    def __init__(self, host: str, speed: float, force: float) -> None:
        import franky

        self._gripper = connected(host, lambda: franky.Gripper(host), franky.Exception)
        self._speed, self._force = speed, force
        if self._gripper.max_width < 0.01:
            raise ConnectError(
                "the gripper has not been homed since it was switched on: home it in Desk, or with "
                f"franky.Gripper({host!r}).homing()"
            )

    def width(self) -> float:
        """See `GripperDriver`."""
        return float(self._gripper.width)

    def move(self, width: float) -> None:
        """See `GripperDriver`."""
        self._gripper.move(width, self._speed)

    def grasp(self, width: float) -> None:
        """See `GripperDriver`. Whatever width it ends at counts as grasped."""
        self._gripper.grasp(
            width, self._speed, self._force,
            epsilon_inner=MAXIMUM_WIDTH, epsilon_outer=MAXIMUM_WIDTH,
        )  # fmt: skip


def connected[T](host: str, connect: Callable[[], T], failures: type[Exception]) -> T:
    """What `connect` gives, where it gives it in time: libfranka waits for ever for an arm that
    another program controls. Raises ConnectError."""
    done: list[T | Exception] = []

    def run() -> None:
        try:
            done.append(connect())
        except failures as error:
            done.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not done:
        raise ConnectError(
            f"{host} did not answer in {CONNECT_SECONDS:.0f} s: is another program connected to it?"
        )
    if isinstance(done[0], Exception):
        raise ConnectError(f"{_why(done[0])} ({host}): {done[0]}") from done[0]
    return done[0]


HINTS = {
    "FCI": "the arm does not accept control: activate FCI in Desk",
    "realtime": "this machine has no real-time kernel (--robot.realtime=false is for simulators)",
    "version": "the arm's firmware speaks another protocol than this franky-control: install the "
    "wheel for its robot server version",
}
"""What to do, by words of libfranka's messages."""


def _why(error: Exception) -> str:
    name = type(error).__name__
    text = f"{name} {error}"
    for words, hint in HINTS.items():
        if words.lower() in text.lower():
            return hint
    return "the arm cannot be controlled"
