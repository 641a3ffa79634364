"""Set points between targets: within the arm's limits, and at rest at the last one."""

import numpy as np
import pytest
from lerobot_robot_franka.errors import ConnectError, UnsafeActionError
from lerobot_robot_franka.limits import ARMS, FR3, JOINTS, Allowed, require_within
from lerobot_robot_franka.trajectory import Bounds, Line, Trajectory

RATE = 100.0
START = np.array([0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785])
BOUNDS = Bounds(
    np.array(FR3.lower) + 0.05,
    np.array(FR3.upper) - 0.05,
    0.3 * np.array(FR3.velocity),
    0.8 * np.array(FR3.acceleration),
)


def run(targets: dict[float, np.ndarray], seconds: float, duration: float) -> np.ndarray:
    """The set points (T, 7) of targets that come at times and are gone to in a duration."""
    trajectory, points = Trajectory(BOUNDS, 1 / RATE, START), []
    waiting = sorted(targets.items(), key=lambda pair: pair[0])
    for tick in range(int(seconds * RATE)):
        now = tick / RATE
        while waiting and waiting[0][0] <= now + 1e-9:
            trajectory.aim(waiting.pop(0)[1], now, duration)
        points.append(trajectory.step(now)[0])
    return np.stack(points)


def within_limits(points: np.ndarray) -> np.ndarray:
    """The velocities of set points, which keep to all bounds."""
    velocity = np.diff(points, axis=0) * RATE
    acceleration = np.diff(velocity, axis=0) * RATE
    assert (np.abs(velocity).max(0) <= BOUNDS.velocity * 1.001).all()
    assert (np.abs(acceleration).max(0) <= BOUNDS.acceleration * 1.001).all()
    assert (points >= BOUNDS.lower).all() and (points <= BOUNDS.upper).all()
    return velocity


def test_targets_that_jump_are_approached_within_the_limits() -> None:
    away = START + np.array([1.0, 0.5, -1.0, 0.5, 1.0, -0.8, 1.0])
    points = run({0.0: away, 0.5: START, 0.6: away}, 5.0, 0.06)
    velocity = within_limits(points)
    assert np.abs(velocity).max() > 0.5
    np.testing.assert_allclose(points[-1], away, atol=1e-6)
    beyond = (points - away) * np.sign(away - START)
    assert beyond.max() < 1e-3  # it brakes in time
    assert np.abs(velocity[-50:]).max() < 1e-6


def test_a_slow_stream_is_followed_without_stopping_at_each_target() -> None:
    """Targets ten times a second along a ramp: the speed between them hardly changes."""
    speed = np.full(JOINTS, 0.2)
    points = run({0.1 * n: START + speed * 0.1 * (n + 1) for n in range(20)}, 2.0, 0.125)
    velocity = within_limits(points)[50:190]
    np.testing.assert_allclose(velocity, np.broadcast_to(speed, velocity.shape), rtol=0.1)


@pytest.mark.parametrize("joint", range(JOINTS))
@pytest.mark.parametrize("end", [-1, 1])
def test_a_fast_stream_that_ends_at_the_range_stays_within_it(joint: int, end: int) -> None:
    last = (BOUNDS.lower, BOUNDS.upper)[end > 0][joint]
    targets, place = {}, START[joint]
    while place != last:
        place = end * min(end * (place + end * 0.075), end * last)
        target = START.copy()
        target[joint] = place
        targets[0.05 * len(targets)] = target
    points = run(targets, 0.05 * len(targets) + 2.0, 0.0625)
    within_limits(points)
    assert points[-1, joint] == pytest.approx(last, abs=1e-3)


def test_where_a_fast_stream_ends_the_arm_stops_shortly_after_and_comes_back() -> None:
    speed = np.zeros(JOINTS)
    speed[0] = 0.75
    targets = {0.05 * n: START + speed * 0.05 * (n + 1) for n in range(20)}
    points = run(targets, 3.0, 0.0625)
    within_limits(points)
    last = START + speed
    assert 0 <= points[:, 0].max() - last[0] < 0.045
    assert points[-1] == pytest.approx(last, abs=1e-4)


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


def test_a_joint_beyond_the_margin_may_stay_or_come_back() -> None:
    allowed = Allowed.of(FR3, 0.05, 0.3)
    present = START.copy()
    present[6] = 3.0  # the margin begins at 2.966
    allowed.check(present, present)
    back = present.copy()
    back[6] = 2.9
    allowed.check(back, present)
    further = present.copy()
    further[6] = 3.01
    with pytest.raises(UnsafeActionError, match=r"joint_7.*outside"):
        allowed.check(further, present)
    far = present.copy()
    far[6] = 4.0
    assert allowed.limited(far, present)[6] == pytest.approx(2.9659)
    far_out = present.copy()
    far_out[5] = 0.0  # a Panda's joint where an FR3's range has ended
    assert abs(allowed.limited(far_out, far_out)[5]) <= 0.3
    with pytest.raises(ConnectError, match=r"joint_6 is at 0.000 rad.*--robot.arm"):
        require_within(FR3, far_out)
