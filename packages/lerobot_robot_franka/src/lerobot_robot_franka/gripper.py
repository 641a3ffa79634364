"""The thread that owns the gripper: commands block as long as a motion takes, so only the newest
one waits, and widths are read between them."""

from __future__ import annotations

import logging
import threading

from lerobot_robot_franka.drivers import MAXIMUM_WIDTH, GripperDriver
from lerobot_robot_franka.errors import (
    ControlLostError,
    FrankaError,
    GripperCommandError,
    UnsafeActionError,
    without_frames,
)

logger = logging.getLogger(__name__)

READ_SECONDS = 0.1  # between two readings of a gripper at rest
STOP_SECONDS = 5.0
HELD = 0.03  # openings that the fingers stay wider than they were told, by what they hold


class Gripper:
    """A gripper from `start` to `stop`. Openings are 0, closed, to 1, open.

    dead_band: changes of the opening that are not worth a command, which the hand takes half a
    second for. What is narrower than the fingers are is grasped, with force; what is wider is moved
    to. While something is held, openings that are no wider than it change nothing. A command that
    fails is logged and counted (`failed`).
    """

    def __init__(self, driver: GripperDriver, dead_band: float) -> None:
        self._driver, self._dead_band = driver, dead_band
        self._change = threading.Condition()
        self._wanted: float | None = None
        self._stopping = False
        self._fault: FrankaError | None = None
        self._thread: threading.Thread | None = None
        self._opening = self._commanded = 0.0
        self._grasping = False
        self.failed = 0

    def start(self) -> None:
        """Read the width and begin to take commands. Raises ControlLostError."""
        self._opening = self._commanded = self._driver.width() / MAXIMUM_WIDTH
        self._stopping, self._fault, self._wanted, self._grasping = False, None, None, False
        self._thread = threading.Thread(target=self._run, name="franka gripper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Finish the running command and take no more. Raises ControlLostError for a gripper that
        does not answer."""
        with self._change:
            self._stopping = True
            self._change.notify()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_SECONDS)
            if thread.is_alive():
                raise ControlLostError(f"the gripper did not answer for {STOP_SECONDS:.0f} s")

    @property
    def running(self) -> bool:
        """Whether it takes commands."""
        return self._fault is None and self._thread is not None

    def opening(self) -> float:
        """As last read: during a motion that before it. Raises ControlLostError if the gripper's
        connection failed."""
        if self._fault is not None:
            raise without_frames(self._fault)
        return self._opening

    def told(self) -> float:
        """What it was told last, or how far it was open at the start. Raises as `opening`."""
        self.opening()
        return self._commanded if self._wanted is None else self._wanted

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
                    self._command(wanted)
                self._opening = min(1.0, max(0.0, self._driver.width() / MAXIMUM_WIDTH))
        except FrankaError as error:
            self._fault = without_frames(error)
        except Exception as error:
            self._fault = ControlLostError(f"the gripper's thread failed: {error}")

    def _is_news(self) -> bool:
        wanted, last = self._wanted, self._commanded
        if wanted is None or wanted == last:
            return False
        held = self._grasping and self._opening > last + HELD
        if held and wanted <= self._opening:
            return False
        # The ends are worth a command from however near: what is almost closed holds nothing.
        return abs(wanted - last) >= self._dead_band or wanted in (0.0, 1.0)

    def _command(self, opening: float) -> None:
        closing = opening < self._opening
        self._commanded, self._grasping = opening, closing
        try:
            (self._driver.grasp if closing else self._driver.move)(opening * MAXIMUM_WIDTH)
        except GripperCommandError as error:
            self.failed += 1
            self._grasping = False
            logger.warning("%s", error)
