"""What the gripper is told, by a hand that notes its commands and holds a cube."""

import time
from collections.abc import Callable

import pytest
from lerobot_robot_franka.errors import ControlLostError, GripperCommandError, UnsafeActionError
from lerobot_robot_franka.gripper import Gripper


class Hand:
    """Fingers that a cube of 4 cm keeps apart, if there is one."""

    def __init__(self, cube: float = 0.0) -> None:
        self.cube, self.fingers = cube, 0.08
        self.told: list[tuple[str, float]] = []
        self.fails: Exception | None = None

    def width(self) -> float:
        return self.fingers

    def move(self, width: float) -> None:
        self._command("move", width)

    def grasp(self, width: float) -> None:
        self._command("grasp", width)

    def close(self) -> None: ...

    def _command(self, name: str, width: float) -> None:
        if self.fails is not None:
            fails, self.fails = self.fails, None
            raise fails
        self.told.append((name, round(width, 4)))
        self.fingers = max(width, self.cube)


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tell(gripper: Gripper, *openings: float) -> None:
    for opening in openings:
        gripper.aim(opening)
        time.sleep(0.15)


def test_closing_grasps_opening_moves_and_little_is_left_out() -> None:
    gripper = Gripper(hand := Hand(), dead_band=0.1)
    gripper.start()
    tell(gripper, 1.0, 0.0, 0.05, 0.5, 0.45, 1.0)
    gripper.stop()
    assert hand.told == [("grasp", 0.0), ("move", 0.04), ("move", 0.08)]


def test_noise_does_not_let_go_of_what_is_held() -> None:
    gripper = Gripper(hand := Hand(cube=0.04), dead_band=0.1)
    gripper.start()
    tell(gripper, 0.0, 0.12, 0.0, 0.3, 0.45)
    assert hand.told == [("grasp", 0.0)]
    assert gripper.opening() == pytest.approx(0.5)
    tell(gripper, 1.0)
    gripper.stop()
    assert hand.told == [("grasp", 0.0), ("move", 0.08)]


def test_a_command_that_fails_is_counted_and_others_follow() -> None:
    gripper = Gripper(hand := Hand(), dead_band=0.1)
    gripper.start()
    hand.fails = GripperCommandError("refused")
    tell(gripper, 0.0, 0.6)
    gripper.stop()
    assert gripper.failed == 1 and hand.told[-1][1] == 0.048


def test_a_lost_connection_is_told_and_openings_outside_are_refused() -> None:
    gripper = Gripper(hand := Hand(), dead_band=0.1)
    gripper.start()
    with pytest.raises(UnsafeActionError, match=r"between 0 and 1, got 1\.2"):
        gripper.aim(1.2)
    hand.fails = ControlLostError("gone")
    gripper.aim(0.0)
    wait(lambda: not gripper.running)
    with pytest.raises(ControlLostError, match="gone"):
        gripper.opening()
    gripper.stop()
