"""Waypoints, and a tool that is steered from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from e0_experts.poses import Pose

ANY_ROTATION = 9.0  # radians: more than any error


@dataclass(frozen=True)
class Waypoint:
    """Where the tool shall go, and when it is there.

    Attributes:
        target: the tool's pose, or a function that gives it anew at every step.
        gripper: what the action says to the gripper.
        position_tolerance: metres. 0 is never reached: the waypoint lasts `max_steps`.
        rotation_tolerance: radians.
        min_steps, max_steps: bounds on how long the waypoint lasts.
        speed: largest translation per axis and step, as a share of the action range.
        gain: how much of the error is commanded per step. The arm sags under a held object until
            the command balances its weight; a gain of 2 halves that sag.
        delicate: whether disturbing the action here would spoil the episode.
    """

    target: Pose | Callable[[], Pose]
    gripper: float
    position_tolerance: float = 0.01
    rotation_tolerance: float = 0.05
    min_steps: int = 0
    max_steps: int = 40
    speed: float = 0.7
    gain: float = 1.0
    delicate: bool = False

    def pose(self) -> Pose:
        """The target now."""
        return self.target() if callable(self.target) else self.target


Plan = Iterator[Waypoint]


class Follower:
    """Steers a tool along a plan; call `act` before every step of the environment. When the plan
    ends, it keeps steering to the last waypoint.

    tool: gives the tool's pose now. metres, radians: what an action of 1 moves or turns it by in a
    step; a negative number of radians where the simulator turns the other way. pace: share of the
    waypoints' speed that it moves with.
    """

    def __init__(
        self,
        plan: Plan,
        tool: Callable[[], Pose],
        *,
        metres: float,
        radians: float,
        pace: float = 1.0,
    ) -> None:
        self._plan, self._tool, self._pace = plan, tool, pace
        self._metres, self._radians = metres, radians
        self._waypoint = next(plan)
        self._steps = 0

    @property
    def delicate(self) -> bool:
        """Whether the action given last must be executed undisturbed."""
        return self._waypoint.delicate

    def act(self) -> np.ndarray:
        """The next action, float32 (7,) within [-1, 1]: translation, rotation vector, gripper."""
        while self._reached():
            following = next(self._plan, None)
            if following is None:
                break
            self._waypoint, self._steps = following, 0
        self._steps += 1
        return self._steer(self._waypoint)

    def _reached(self) -> bool:
        waypoint = self._waypoint
        if self._steps < waypoint.min_steps:
            return False
        if self._steps >= waypoint.max_steps:
            return True
        target, tool = waypoint.pose(), self._tool()
        distance = np.linalg.norm(target.position - tool.position)
        angle = (target.rotation * tool.rotation.inv()).magnitude()
        return bool(distance < waypoint.position_tolerance and angle < waypoint.rotation_tolerance)

    def _steer(self, waypoint: Waypoint) -> np.ndarray:
        target, tool = waypoint.pose(), self._tool()
        move = waypoint.gain * (target.position - tool.position) / self._metres
        move *= min(1.0, self._pace * waypoint.speed / max(np.abs(move).max(), 1e-9))
        turn = (target.rotation * tool.rotation.inv()).as_rotvec() / self._radians
        turn *= min(1.0, 1.0 / max(np.linalg.norm(turn), 1e-9))
        action = np.concatenate([move, turn, [waypoint.gripper]]).astype(np.float32)
        return action.clip(-1.0, 1.0)  # rounding may exceed the bound by one part in 10^7
