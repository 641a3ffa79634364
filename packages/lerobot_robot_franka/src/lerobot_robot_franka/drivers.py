"""The arm and the gripper as the control threads see them, and how franky drives the real ones.

`franky` (franky-control 2) is the library; a simulator that speaks Franka's protocol, as
franky-sim, is driven by the same code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, Protocol

import numpy as np

from lerobot_robot_franka.errors import (
    ConnectError,
    ControlLostError,
    FrankaError,
    GripperCommandError,
)
from lerobot_robot_franka.limits import JOINTS

STIFFNESS = np.array([600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0])
"""Nm/rad, less towards the hand."""
MAXIMUM_TORQUE_CHANGE = 2.0
"""Nm from the torque of last millisecond that may be asked for. libfranka's low-pass filter of
100 Hz (gain 2π·0.1 / (1 + 2π·0.1) = 0.39) lets 0.77 Nm of it through, and the arm allows 1. At
franky's 1 the torque changes by 0.39 Nm/ms, too slowly for this stiffness: jumping targets make the
arm swing ever wider."""
GUIDED_DAMPING = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5])
"""Nms/rad, of an arm that is moved by hand, so that it does not go on by itself when let go."""
MAXIMUM_WIDTH = 0.08  # metres, of the Franka Hand
CONNECT_SECONDS = 10.0
NO_CONTROL = "the arm cannot be controlled"


class ArmState(NamedTuple):
    """positions (7,) in rad, velocities (7,) in rad/s. pose (4, 4): the hand's frame in that of the
    arm's base, metres. wrench (6,): force in N and torque in Nm between hand and surroundings,
    estimated from the joints' torques, in the hand's frame; positive is what the arm does to
    them."""

    positions: np.ndarray
    velocities: np.ndarray
    pose: np.ndarray
    wrench: np.ndarray


class ArmModel(NamedTuple):
    """An arm as it describes itself. urdf: its links, as text. hand (4, 4): the hand's frame, which
    is between the finger tips, in that of its flange, metres."""

    urdf: str
    hand: np.ndarray


class ArmDriver(Protocol):
    """An arm that follows joint targets. One thread calls all but `model`, `recover` and `close`.
    Every method raises ControlLostError where the arm does not answer."""

    def begin(self) -> None:
        """Take control, and hold the present joints. Raises ConnectError."""
        ...

    def in_control(self) -> bool:
        """Whether the arm still does what it is told."""
        ...

    def follow(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """Be at these joints (7,), moving at these velocities (7,), now."""
        ...

    def state(self) -> ArmState: ...

    def guide(self, guided: bool) -> None:
        """Let itself be moved by hand: carry its own weight and follow nothing. Or follow again."""
        ...

    def model(self) -> ArmModel: ...

    def stop(self) -> None:
        """Come to rest and give control back. Raises ControlLostError for what went wrong."""
        ...

    def recover(self) -> bool:
        """Clear what stopped the arm, if it can be cleared; nothing moves."""
        ...

    def close(self) -> None:
        """Let others connect."""
        ...


class GripperDriver(Protocol):
    """A gripper; all methods may block as long as a motion takes, and raise ControlLostError where
    it does not answer. Widths in metres."""

    def width(self) -> float: ...

    def move(self, width: float) -> None:
        """Open or close without force. Raises GripperCommandError."""
        ...

    def grasp(self, width: float) -> None:
        """Close to a width, or upon what is in the way, and keep pressing it. Raises
        GripperCommandError."""
        ...

    def close(self) -> None:
        """Let others connect."""
        ...


def _translated[**P, T](method: Callable[P, T]) -> Callable[P, T]:
    """A method of an arm or a hand, with franky's errors as ours. (A context manager would do, but
    contextlib's ties error and frames together in a cycle, and the connection with them.)"""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        import franky

        try:
            return method(*args, **kwargs)
        except (franky.Exception, franky.GripperException) as error:
            device: Any = args[0]
            raise device.translate(error) from None

    return call


class FrankyArm:
    """An arm by franky's joint impedance tracker.

    realtime: whether the machine's kernel must be a real-time one, as it must for a real arm.
    Raises ConnectError.
    """

    def __init__(self, host: str, realtime: bool) -> None:
        import franky

        config = franky.RealtimeConfig.Enforce if realtime else franky.RealtimeConfig.Ignore
        self._franky = franky
        self._robot: Any = connected(host, lambda: franky.Robot(host, realtime_config=config))
        self._tracker: Any = None

    def begin(self) -> None:
        """See `ArmDriver`."""
        try:
            self._tracker = self._franky.JointImpedanceTracker(
                self._robot, stiffness=STIFFNESS, max_delta_tau=MAXIMUM_TORQUE_CHANGE
            )
        except self._franky.Exception as error:
            raise ConnectError(f"{_why(error, HINTS, NO_CONTROL)}: {error}") from None

    @_translated
    def in_control(self) -> bool:
        """See `ArmDriver`."""
        return bool(self._robot.is_in_control)

    @_translated
    def follow(self, positions: np.ndarray, velocities: np.ndarray) -> None:
        """See `ArmDriver`."""
        self._tracker.set_target(positions, velocities)

    @_translated
    def state(self) -> ArmState:
        """See `ArmDriver`."""
        state = self._robot.state
        return ArmState(
            np.array(state.q),
            np.array(state.dq),
            np.array(state.O_T_EE.matrix),
            np.array(state.K_F_ext_hat_K),
        )

    @_translated
    def guide(self, guided: bool) -> None:
        """See `ArmDriver`. libfranka adds what carries the arm to all torques."""
        if guided:
            self._tracker.set_gains(stiffness=np.zeros(JOINTS), damping=GUIDED_DAMPING)
        else:
            self._tracker.set_gains(stiffness=STIFFNESS)

    @_translated
    def model(self) -> ArmModel:
        """See `ArmDriver`."""
        return ArmModel(self._robot.model_urdf, np.array(self._robot.state.F_T_EE.matrix))

    @_translated
    def stop(self) -> None:
        """See `ArmDriver`."""
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            tracker.stop()

    @_translated
    def recover(self) -> bool:
        """See `ArmDriver`."""
        return bool(self._robot.recover_from_errors())

    def close(self) -> None:
        """See `ArmDriver`."""
        self._tracker = self._robot = None

    def translate(self, error: Exception) -> FrankaError:
        """What an error of franky's means. The tracker's thread is told, and tells later, that the
        arm does not take commands."""
        return ControlLostError(f"{_why(error, MODES, 'the arm stopped by itself')}: {error}")


class FrankyHand:
    """The Franka Hand. speed in m/s, force in N. Raises ConnectError."""

    def __init__(self, host: str, speed: float, force: float) -> None:
        import franky

        self._franky = franky
        self._gripper: Any = connected(host, lambda: franky.Gripper(host))
        self._speed, self._force = speed, force
        if not self.homed():
            raise ConnectError(
                "the gripper has not been homed since it was switched on: home it in Desk, or with "
                f"franky.Gripper({host!r}).homing()"
            )

    @_translated
    def homed(self) -> bool:
        """Whether it knows how far it opens."""
        return self._gripper.max_width > 0.01

    @_translated
    def width(self) -> float:
        """See `GripperDriver`."""
        return float(self._gripper.width)

    @_translated
    def move(self, width: float) -> None:
        """See `GripperDriver`."""
        if not self._gripper.move(width, self._speed):
            raise GripperCommandError(f"the gripper did not open or close to {width:.3f} m")

    @_translated
    def grasp(self, width: float) -> None:
        """See `GripperDriver`. Whatever width it ends at counts as grasped."""
        self._gripper.grasp(
            width, self._speed, self._force,
            epsilon_inner=MAXIMUM_WIDTH, epsilon_outer=MAXIMUM_WIDTH,
        )  # fmt: skip

    def close(self) -> None:
        """See `GripperDriver`."""
        self._gripper = None

    def translate(self, error: Exception) -> FrankaError:
        """What an error of franky's means."""
        if isinstance(error, self._franky.CommandException):
            return GripperCommandError(f"the gripper refused a command: {error}")
        return ControlLostError(
            f"the gripper's connection failed: {error}; disconnect and connect again"
        )


def connected[T](host: str, connect: Callable[[], T]) -> T:
    """What `connect` gives, where it gives it in time: libfranka waits for ever for an arm that
    another program controls. Raises ConnectError."""
    done: list[T | BaseException] = []

    def run() -> None:
        try:
            done.append(connect())
        except BaseException as error:
            done.append(error.with_traceback(None))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not done:
        raise ConnectError(
            f"{host} did not answer in {CONNECT_SECONDS:.0f} s: is another program connected to it?"
        )
    if isinstance(done[0], BaseException):
        raise ConnectError(f"{_why(done[0], HINTS, NO_CONTROL)} ({host}): {done[0]}")
    return done[0]


MODES = {
    '"Reflex"': "a reflex has stopped the arm; once you know why, "
    "`python -m lerobot_robot_franka.recover HOST`",
    "current mode": "the arm does not take commands: in Desk release the user stop, unlock the "
    "joints and choose Execution",
}
HINTS = MODES | {
    "FCI": "the arm does not accept control: activate FCI in Desk",
    "realtime": "this machine has no real-time kernel (--robot.realtime=false is for simulators)",
    "version": "the arm's firmware speaks another protocol than this franky-control: install the "
    "wheel for its robot server version",
}
"""What to do, by words of libfranka's messages."""


def _why(error: BaseException, hints: Mapping[str, str], otherwise: str) -> str:
    text = f"{type(error).__name__} {error}".lower()
    return next((hint for words, hint in hints.items() if words.lower() in text), otherwise)
