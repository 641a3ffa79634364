"""Set points between targets: within the arm's limits, and at rest at the last one."""

import numpy as np
import pytest
from lerobot_robot_franka.limits import ARMS, FR3, JOINTS
from lerobot_robot_franka.trajectory import Line, Trajectory

RATE, SHARE = 100.0, 0.3
START = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])


def run(targets: dict[float, np.ndarray], seconds: float, interval: float) -> np.ndarray:
    """The set points (T, 7) of targets that come at times."""
    trajectory, points = Trajectory(FR3, SHARE, RATE, START), []
    waiting = sorted(targets.items(), key=lambda pair: pair[0])
    for tick in range(int(seconds * RATE)):
        now = tick / RATE
        while waiting and waiting[0][0] <= now:
            trajectory.aim(waiting.pop(0)[1], now, interval)
        points.append(trajectory.step(now)[0])
    return np.stack(points)


def test_targets_that_jump_are_approached_within_the_limits() -> None:
    away = START + np.array([1.0, 0.5, -1.0, 0.5, 1.0, -0.8, 1.0])
    points = run({0.0: away, 0.5: START, 0.6: away}, 5.0, 0.05)
    velocity = np.diff(points, axis=0) * RATE
    acceleration = np.diff(velocity, axis=0) * RATE
    assert (np.abs(velocity).max(0) <= SHARE * np.array(FR3.velocity) * 1.001).all()
    assert (np.abs(acceleration).max(0) <= SHARE * np.array(FR3.acceleration) * 1.001).all()
    assert np.abs(velocity).max() > 0.5
    np.testing.assert_allclose(points[-1], away, atol=1e-6)
    beyond = (points - away) * np.sign(away - START)
    assert beyond.max() < 1e-3  # it brakes in time
    assert np.abs(velocity[-50:]).max() < 1e-6


def test_a_slow_stream_is_followed_without_stopping_at_each_target() -> None:
    """Targets ten times a second along a ramp: the speed between them hardly changes."""
    speed = np.full(JOINTS, 0.2)
    points = run({0.1 * n: START + speed * 0.1 * (n + 1) for n in range(20)}, 2.0, 0.1)
    velocity = np.diff(points, axis=0)[50:190] * RATE
    np.testing.assert_allclose(velocity, np.broadcast_to(speed, velocity.shape), rtol=0.1)


def test_the_aim_is_on_the_line_and_rests_at_its_end() -> None:
    line = Line(np.zeros(JOINTS), np.ones(JOINTS), 10.0, 0.5)
    for now, place, speed in ((9.9, 0.0, 2.0), (10.25, 0.5, 2.0), (10.5, 1.0, 0.0), (99.0, 1.0, 0)):
        position, velocity = line.at(now)
        assert position == pytest.approx(np.full(JOINTS, place))
        assert velocity == pytest.approx(np.full(JOINTS, speed))


def test_limits_have_a_number_for_each_joint() -> None:
    for limits in ARMS.values():
        assert all(len(values) == JOINTS for values in vars(limits).values())
        assert (np.array(limits.lower) < np.array(limits.upper)).all()
