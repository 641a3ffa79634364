"""The thread that owns the arm: it follows the newest target, and nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

import numpy as np

from lerobot_robot_franka.drivers import ArmDriver, ArmState
from lerobot_robot_franka.errors import ControlLostError, FrankaError
from lerobot_robot_franka.limits import Allowed, ArmLimits
from lerobot_robot_franka.trajectory import Trajectory

SLOW = 0.25  # rad/s, of motions to a starting position
LONGEST_INTERVAL = 0.2  # seconds; targets that come later are gone to as if they had come so
READY_SECONDS = 10.0


class Goal(NamedTuple):
    """Where to be, since when, and after how many seconds others may follow."""

    target: np.ndarray
    asked: float
    interval: float


class Arm:
    """An arm under control from `start` to `stop`.

    rate: cycles a second. share: of the arm's limits that motions may use. limit: whether unsafe
    targets are brought to the next safe one, and counted (`limited`), instead of refused.
    """

    def __init__(
        self,
        driver: ArmDriver,
        limits: ArmLimits,
        allowed: Allowed,
        *,
        rate: float,
        share: float,
        limit: bool,
    ) -> None:
        self._driver, self._limits, self._allowed = driver, limits, allowed
        self._rate, self._share, self._limit = rate, share, limit
        self.limited = 0
        self.cycle_seconds: deque[float] = deque(maxlen=1000)  # measured, of the last cycles
        self._thread: threading.Thread | None = None
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._fault: FrankaError | None = None
        self._goal: Goal | None = None
        self._set_point = np.zeros(0)
        self._state = ArmState(np.zeros(0), np.zeros(0))

    def start(self) -> None:
        """Take control and hold the present joints. Raises what the driver raises."""
        self._fault = self._goal = None
        self._ready.clear()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="franka arm", daemon=True)
        self._thread.start()
        if not self._ready.wait(READY_SECONDS):
            raise ControlLostError(f"the arm did not let itself be controlled in {READY_SECONDS} s")
        self._raise_fault()

    def stop(self) -> None:
        """Come to rest and give control back; FrankaError if the arm had stopped by itself."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._raise_fault()

    @property
    def running(self) -> bool:
        """Whether the arm is under control."""
        return self._thread is not None and self._thread.is_alive() and self._fault is None

    def state(self) -> ArmState:
        """Of the last cycle. Raises ControlLostError once the arm has stopped by itself."""
        self._raise_fault()
        return self._state

    def aim(self, target: np.ndarray) -> np.ndarray:
        """Go to a target (7,), rad, in about the time until the next one is due; returns what was
        aimed at. Raises UnsafeActionError and ControlLostError."""
        self._raise_fault()
        here = self._set_point
        if self._limit:
            safe = self._allowed.limited(target, here)
            self.limited += not np.array_equal(safe, target)
            target = safe
        else:
            self._allowed.check(target, here)
        now, last = time.perf_counter(), self._goal
        interval = LONGEST_INTERVAL if last is None else now - last.asked
        self._goal = Goal(target, now, float(np.clip(interval, 1 / self._rate, LONGEST_INTERVAL)))
        return target

    def go_slowly(self, target: np.ndarray) -> None:
        """Go to a target (7,) that may be far, and return when the arm is told to be there. Raises
        UnsafeActionError for one out of range, and ControlLostError."""
        self._raise_fault()
        self._allowed.check(target, target)
        seconds = float(np.abs(target - self._set_point).max()) / SLOW + 1 / self._rate
        self._goal = Goal(target, time.perf_counter(), seconds)
        while np.abs(target - self._set_point).max() > 1e-3:
            self._raise_fault()
            time.sleep(1 / self._rate)

    def recover(self) -> None:
        """Clear what stopped the arm and take control again, holding the present joints. Raises
        ControlLostError if it cannot be cleared."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
        if not self._driver.recover():
            raise ControlLostError("the arm did not recover: look at Desk") from self._fault
        self.start()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise type(self._fault)(str(self._fault)) from self._fault

    def _run(self) -> None:
        try:
            self._driver.begin()
            self._follow()
        except FrankaError as error:
            self._fault = error
        except Exception as error:
            self._fault = ControlLostError(
                f"the arm's connection failed: {error}; disconnect and connect again"
            )
        try:
            self._driver.stop()
        except FrankaError as error:
            self._fault = error  # the reason, where the loop only saw that control was lost
        except Exception as error:
            self._fault = self._fault or ControlLostError(f"the arm did not stop as told: {error}")
        self._ready.set()

    def _follow(self) -> None:
        self._state = self._driver.state()
        self._set_point = self._state.positions
        trajectory = Trajectory(self._limits, self._share, self._rate, self._set_point)
        self._ready.set()
        going: Goal | None = None
        before = time.perf_counter()
        while not self._stopping.is_set():
            if not self._driver.tick():
                raise ControlLostError("the arm stopped by itself")
            now, goal = time.perf_counter(), self._goal
            if goal is not None and goal is not going:
                trajectory.aim(goal.target, now, goal.interval)
                going = goal
            position, velocity = trajectory.step(now)
            self._driver.follow(position, velocity)
            self._set_point, self._state = position, self._driver.state()
            self.cycle_seconds.append(now - before)
            before = now
