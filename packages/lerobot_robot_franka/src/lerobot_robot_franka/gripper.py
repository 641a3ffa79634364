"""The thread that owns the gripper: commands block as long as a motion takes, so only the newest
one waits, and widths are read between them."""

from __future__ import annotations

import threading

from lerobot_robot_franka.drivers import MAXIMUM_WIDTH, GripperDriver
from lerobot_robot_franka.errors import ControlLostError, UnsafeActionError

READ_SECONDS = 0.1  # between two readings of a gripper at rest


class Gripper:
    """A gripper from `start` to `stop`. Openings are 0, closed, to 1, open.

    dead_band: changes of the opening that are not worth a command, which the hand takes half a
    second for. Narrower openings are grasped, with force; wider ones are moved to.
    """

    def __init__(self, driver: GripperDriver, dead_band: float) -> None:
        self._driver, self._dead_band = driver, dead_band
        self._change = threading.Condition()
        self._wanted: float | None = None
        self._stopping = False
        self._fault: Exception | None = None
        self._thread: threading.Thread | None = None
        self._opening = self._commanded = 0.0

    def start(self) -> None:
        """Read the width and begin to take commands."""
        self._opening = self._commanded = self._driver.width() / MAXIMUM_WIDTH
        self._stopping, self._fault, self._wanted = False, None, None
        self._thread = threading.Thread(target=self._run, name="franka gripper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the running command and take no more."""
        with self._change:
            self._stopping = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def opening(self) -> float:
        """As last read. Raises ControlLostError if the gripper's connection failed."""
        if self._fault is not None:
            raise ControlLostError(
                f"the gripper's connection failed: {self._fault}; disconnect and connect again"
            )
        return self._opening

    def aim(self, opening: float) -> None:
        """Have the gripper open or close. Raises UnsafeActionError outside 0 to 1."""
        self.opening()
        if not 0.0 <= opening <= 1.0:
            raise UnsafeActionError(f"gripper.pos must lie between 0 and 1, got {opening}")
        with self._change:
            self._wanted = opening
            self._change.notify()

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self._change:
                    self._change.wait_for(lambda: self._stopping or self._is_news(), READ_SECONDS)
                    wanted = self._wanted if self._is_news() else None
                if wanted is not None and not self._stopping:
                    self._command(wanted, closing=wanted < self._commanded)
                    self._commanded = wanted
                self._opening = min(1.0, max(0.0, self._driver.width() / MAXIMUM_WIDTH))
        except Exception as error:
            self._fault = error

    def _is_news(self) -> bool:
        wanted, last = self._wanted, self._commanded
        if wanted is None or wanted == last:
            return False
        # The ends are worth a command from however near: what is almost closed holds nothing.
        return abs(wanted - last) >= self._dead_band or wanted in (0.0, 1.0)

    def _command(self, opening: float, closing: bool) -> None:
        width = opening * MAXIMUM_WIDTH
        if closing:
            self._driver.grasp(width)
        else:
            self._driver.move(width)
