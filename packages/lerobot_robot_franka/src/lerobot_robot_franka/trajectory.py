"""From targets that come ten to thirty times a second to set points a hundred times a second.

The aim moves to the newest target in a straight line, in a quarter more time than there was
between the last two, so that one which comes a little late finds it still moving; it is behind by
that much, and rests at the last target when no more come. Set points follow the aim within limits
of velocity and acceleration: never faster than they can brake before they are there.

All vectors (7,), radians and seconds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lerobot_robot_franka.limits import JOINTS, ArmLimits

STRETCH = 1.25
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


class Trajectory:
    """Set points that begin at rest at `start` and follow the aim.

    share: of the arm's velocity and acceleration that may be used.
    """

    def __init__(self, limits: ArmLimits, share: float, rate: float, start: np.ndarray) -> None:
        self._cycle = 1.0 / rate
        self._fastest = share * np.array(limits.velocity)
        self._acceleration = share * np.array(limits.acceleration)
        self._position, self._velocity = start.copy(), np.zeros(JOINTS)
        self._line = Line(start, start, 0.0, 1.0)

    def aim(self, target: np.ndarray, now: float, interval: float) -> None:
        """Go to a target while others may follow, after such an interval each."""
        self._line = Line(self._line.at(now)[0], target, now, STRETCH * interval)

    def step(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """The set point of the next cycle, and its velocity."""
        aim, speed = self._line.at(now)
        left = aim - self._position
        stoppable = np.sqrt(2 * BRAKING * self._acceleration * np.abs(left))
        wanted = speed + np.clip(RESPONSE * left, -stoppable, stoppable)
        wanted = np.clip(wanted, -self._fastest, self._fastest)
        change = self._acceleration * self._cycle
        self._velocity = self._velocity + np.clip(wanted - self._velocity, -change, change)
        self._position = self._position + self._velocity * self._cycle
        return self._position, self._velocity
