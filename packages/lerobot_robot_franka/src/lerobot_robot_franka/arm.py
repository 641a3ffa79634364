"""The thread that owns the arm: it follows the newest target, and nobody waits for it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from lerobot_robot_franka.drivers import ArmDriver, ArmModel, ArmState
from lerobot_robot_franka.errors import (
    ControlLostError,
    FrankaError,
    UnsafeActionError,
    without_frames,
)
from lerobot_robot_franka.limits import JOINT_NAMES, Allowed, ArmLimits, require_within
from lerobot_robot_franka.trajectory import Bounds, Trajectory

logger = logging.getLogger(__name__)

SLOW = 0.25  # rad/s, of motions to a starting position
STRETCH = 1.25  # of the time between targets, so that one which comes late finds the arm moving
LONGEST_INTERVAL = 0.2  # seconds; targets that come later are gone to as if they had come so
READY_SECONDS, STOP_SECONDS = 10.0, 5.0
STIFFEN_SECONDS = 0.2  # until an arm that was guided holds by itself
STALE_SECONDS = 1.0  # without a new state
ASTRAY = 0.5  # rad from where it is told to be: it is pushed, stuck, or out of control


class Goal(NamedTuple):
    """Where to be, since when, and in how many seconds."""

    target: np.ndarray
    asked: float
    duration: float


class Arm:
    """An arm under control from `start` to `stop`.

    rate: cycles a second. velocity_share, acceleration_share: of the arm's limits that motions may
    use. limit: whether unsafe targets are brought to the next safe one, and counted (`limited`),
    instead of refused.
    """

    def __init__(
        self,
        driver: ArmDriver,
        limits: ArmLimits,
        allowed: Allowed,
        *,
        rate: float,
        velocity_share: float,
        acceleration_share: float,
        limit: bool,
    ) -> None:
        self._driver, self._limits, self.allowed = driver, limits, allowed
        self._cycle, self._limit = 1.0 / rate, limit
        self.bounds = Bounds(
            allowed.lower,
            allowed.upper,
            velocity_share * np.array(limits.velocity),
            acceleration_share * np.array(limits.acceleration),
        )
        self.limited = 0
        self.cycles: Counter[int] = Counter()  # all so far, by whole milliseconds
        self._thread: threading.Thread | None = None
        self._ready, self._stopping = threading.Event(), threading.Event()
        self._fault: FrankaError | None = None
        self._goal: Goal | None = None
        self._set_point = np.zeros(0)
        self._state, self._state_came = ArmState(*[np.zeros(0)] * len(ArmState._fields)), 0.0
        self._guided = False

    def start(self) -> None:
        """Take control and hold the present joints. Raises what the driver raises, ConnectError for
        joints where this arm's cannot be, and ControlLostError if nothing comes of it in time."""
        self._fault = self._goal = None
        self._guided = False
        self._ready.clear()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="franka arm", daemon=True)
        self._thread.start()
        if not self._ready.wait(READY_SECONDS):
            raise ControlLostError(
                f"the arm did not let itself be controlled in {READY_SECONDS:.0f} s"
            )
        self._raise_fault()

    def stop(self) -> None:
        """Come to rest, holding by itself if it was guided, give control back, and log what
        cycles there were. FrankaError if the arm had stopped by itself or does not answer."""
        if self.running and self._guided:
            with suppress(FrankaError):
                self.guide(False)
            time.sleep(STIFFEN_SECONDS)
        try:
            self._end_thread()
        finally:
            if self.cycles:
                logger.info(
                    "control cycles by their milliseconds: %s; %d unsafe targets were limited",
                    json.dumps(dict(sorted(self.cycles.items()))),
                    self.limited,
                )
        self._raise_fault()

    @property
    def running(self) -> bool:
        """Whether the arm is under control."""
        return self._thread is not None and self._thread.is_alive() and self._fault is None

    def state(self) -> ArmState:
        """Of the last cycle. Raises ControlLostError once the arm has stopped by itself, or tells
        its state no more."""
        self._raise_fault()
        if (age := time.perf_counter() - self._state_came) > STALE_SECONDS:
            raise ControlLostError(
                f"no state came from the arm for {age:.1f} s; it is not answering"
            )
        return self._state

    def told(self) -> np.ndarray:
        """The joints (7,), rad, where the arm is told to be now. Raises ControlLostError."""
        self.state()
        return self._set_point

    def aimed(self) -> np.ndarray | None:
        """The target (7,), rad, of the last `aim` since control was taken; None without one."""
        return None if self._goal is None else self._goal.target

    @property
    def guided(self) -> bool:
        """Whether it lets itself be moved by hand."""
        return self._guided

    def model(self) -> ArmModel:
        """The arm as it describes itself. Raises ControlLostError."""
        return self._driver.model()

    def guide(self, guided: bool) -> None:
        """Let the arm be moved by hand, or hold it where it then is. While it is guided it is told
        to be where it is, and does not go to targets. Raises ControlLostError."""
        self.state()
        self._goal, self._guided = None, guided

    def aim(self, target: np.ndarray) -> np.ndarray:
        """Go to a target (7,), rad, in about the time until the next one is due; returns what was
        aimed at. Raises UnsafeActionError and ControlLostError."""
        self.state()
        if self._guided:
            return target
        here = self._set_point
        if self._limit:
            safe = self.allowed.limited(target, here)
            self.limited += not np.array_equal(safe, target)
            target = safe
        else:
            self.allowed.check(target, here)
        now, last = time.perf_counter(), self._goal
        interval = LONGEST_INTERVAL if last is None else now - last.asked
        interval = float(np.clip(interval, self._cycle, LONGEST_INTERVAL))
        self._goal = Goal(target, now, STRETCH * interval)
        return target

    def go_slowly(self, target: np.ndarray) -> None:
        """Go to a target (7,) that may be far, and return when the arm is told to be there. Raises
        UnsafeActionError for one out of range and for an arm that is guided, and
        ControlLostError."""
        self.state()
        if self._guided:
            raise UnsafeActionError("the arm is guided by hand, and goes nowhere by itself")
        self.allowed.check_range(target)
        seconds = float(np.abs(target - self._set_point).max()) / SLOW + self._cycle
        began = time.perf_counter()
        self._goal = Goal(target, began, seconds)
        while np.abs(target - self._set_point).max() > 1e-3:
            self.state()
            if time.perf_counter() - began > 2 * seconds + STOP_SECONDS:
                raise ControlLostError(f"the arm did not reach {target} in time")
            time.sleep(self._cycle)

    def recover(self) -> None:
        """Clear what stopped the arm and take control again, holding the present joints. Raises
        ControlLostError if it cannot be cleared."""
        self._end_thread()
        if not self._driver.recover():
            raise ControlLostError("the arm did not recover: look at Desk")
        self.start()

    def _end_thread(self) -> None:
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            raise ControlLostError(
                f"the arm does not answer: it did not come to rest in {STOP_SECONDS:.0f} s as told"
            )

    def _require_followed(self) -> None:
        away = np.abs(self._state.positions - self._set_point)
        worst = int(away.argmax())
        if away[worst] > ASTRAY:
            raise ControlLostError(
                f"{JOINT_NAMES[worst]} is {away[worst]:.2f} rad from where it is told to be: the "
                "arm is pushed, stuck, or out of control"
            )

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise without_frames(self._fault)

    def _run(self) -> None:
        fault: FrankaError | None = None
        try:
            self._driver.begin()
            self._follow()
        except FrankaError as error:
            fault = without_frames(error)
        except Exception as error:
            fault = ControlLostError(f"the control thread failed: {type(error).__name__}: {error}")
        try:
            self._driver.stop()
        except FrankaError as error:
            # The reason, where the loop only saw that control was lost.
            fault = without_frames(error)
        self._fault = fault
        self._ready.set()

    def _follow(self) -> None:
        start = self._driver.state()
        require_within(self._limits, start.positions)
        trajectory = Trajectory(self.bounds, self._cycle, start.positions)
        self._set_point = start.positions
        going: Goal | None = None
        guided = False
        before = due = time.perf_counter()
        while not self._stopping.is_set():
            # Cycles that were lost are not made up for: set points would jump.
            due = max(due + self._cycle, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
            now, goal = time.perf_counter(), self._goal
            if not self._driver.in_control():
                raise ControlLostError("the arm stopped by itself")
            if goal is not None and goal is not going:
                trajectory.aim(goal.target, now, goal.duration)
                going = goal
            if guided != self._guided:
                guided = not guided
                self._driver.guide(guided)
            if guided:
                here = self._driver.state().positions
                trajectory = Trajectory(self.bounds, self._cycle, here)
            position, velocity = trajectory.step(now)
            self._driver.follow(position, velocity)
            self._state, self._set_point = self._driver.state(), position
            self._state_came = time.perf_counter()
            self._require_followed()
            self.cycles[round(1000 * (now - before))] += 1
            before = now
            self._ready.set()
