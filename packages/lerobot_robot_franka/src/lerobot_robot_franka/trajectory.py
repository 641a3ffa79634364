"""From targets that come ten to thirty times a second to set points a hundred times a second.

The aim moves to the newest target in a straight line. Set points follow it within limits of
velocity and acceleration, and are never so fast that they could not stop within the joints' range.
Where targets cease while the arm is fast, it goes as far beyond the last one as it takes to stop,
and comes back.

All vectors (7,), radians and seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lerobot_robot_franka.limits import JOINTS

RESPONSE = 15.0  # 1/s: how fast what is left to the aim is made up for
BRAKING = 0.8  # share of the acceleration that braking counts on, as time comes in steps


class Line(NamedTuple):
    """The way to a target: from where and when, how long it takes."""

    start: np.ndarray
    target: np.ndarray
    began: float
    duration: float

    def at(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """The aim and its velocity at a time; after the end the target, at rest."""
        done = (now - self.began) / self.duration
        if done >= 1:
            return self.target, np.zeros(JOINTS)
        way = self.target - self.start
        return self.start + max(done, 0.0) * way, way / self.duration


class Bounds(NamedTuple):
    """What set points keep to, each (7,): the range of positions, velocity and acceleration."""

    lower: np.ndarray
    upper: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray


class Trajectory:
    """Set points that begin at rest at `start` and follow the aim, one each `cycle` seconds."""

    def __init__(self, bounds: Bounds, cycle: float, start: np.ndarray) -> None:
        self._bounds, self._cycle = bounds, cycle
        self._lower = np.minimum(bounds.lower, start)
        self._upper = np.maximum(bounds.upper, start)
        self._position, self._velocity = start.copy(), np.zeros(JOINTS)
        self._line = Line(start, start, 0.0, 1.0)

    def aim(self, target: np.ndarray, now: float, duration: float) -> None:
        """Go to a target in so many seconds."""
        self._line = Line(self._line.at(now)[0], target, now, duration)

    def step(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """The set point of the next cycle, and its velocity."""
        aim, speed = self._line.at(now)
        left = aim - self._position
        wanted = speed + np.clip(RESPONSE * left, -self._stopping(left), self._stopping(left))
        fastest = self._bounds.velocity
        down = np.minimum(fastest, self._stopping(self._position - self._lower))
        up = np.minimum(fastest, self._stopping(self._upper - self._position))
        wanted = np.clip(wanted, -down, up)
        change = self._bounds.acceleration * self._cycle
        self._velocity = self._velocity + np.clip(wanted - self._velocity, -change, change)
        reached = self._position + self._velocity * self._cycle
        self._position = np.clip(reached, self._lower, self._upper)
        return self._position, self._velocity

    def _stopping(self, distance: np.ndarray) -> np.ndarray:
        """The velocity from which the arm can stop within a distance."""
        return np.sqrt(2 * BRAKING * self._bounds.acceleration * np.abs(distance))
