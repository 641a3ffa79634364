"""The hand's kinematics against what a simulated arm says of itself."""

from collections.abc import Iterator

import numpy as np
import pytest
from lerobot_robot_franka.drivers import ArmModel, FrankyArm
from lerobot_robot_franka.errors import ConnectError
from lerobot_robot_franka.kinematics import HandKinematics
from lerobot_robot_franka.limits import FR3, Allowed
from simulated_arm import START_POSITION, simulated_arm

START = np.array(START_POSITION)
ALLOWED = Allowed.of(FR3, margin=0.05, max_step=0.3)
VELOCITY = 0.3 * np.array(FR3.velocity)
SECONDS = 0.03


@pytest.fixture(scope="module")
def arm() -> Iterator[FrankyArm]:
    with simulated_arm() as (host, _):
        yield FrankyArm(host, realtime=False)


def kinematics(model: ArmModel) -> HandKinematics:
    hand = HandKinematics(model, ALLOWED.lower, ALLOWED.upper, VELOCITY)
    hand.stay_near(START)
    return hand


def test_the_hand_is_where_the_arm_says(arm: FrankyArm) -> None:
    state = arm.state()
    np.testing.assert_allclose(kinematics(arm.model()).pose(state.positions), state.pose, atol=1e-5)


def test_joints_bring_the_hand_where_it_shall_be(arm: FrankyArm) -> None:
    hand, random = kinematics(arm.model()), np.random.default_rng(0)
    joints, pose = START, hand.pose(START)
    reached = 0
    for step in range(300):
        if step % 20 == 0:
            shift, turn = random.uniform(-0.1, 0.1, 3), random.uniform(-0.3, 0.3, 3)
        there = hand.moved(pose, SECONDS * shift, SECONDS * turn)
        found = hand.reach(joints, there, SECONDS)
        if found is None:
            continue
        assert (np.abs(found - joints) <= SECONDS * VELOCITY + 1e-6).all()
        ALLOWED.check_range(found)
        np.testing.assert_allclose(hand.pose(found), there, atol=1e-3)
        joints, pose, reached = found, there, reached + 1
    assert reached > 200


def test_what_cannot_be_reached_is_none_and_joints_come_back_into_range(arm: FrankyArm) -> None:
    hand = kinematics(arm.model())
    pose, still = hand.pose(START), np.zeros(3)
    assert hand.reach(START, hand.moved(pose, np.array([0.3, 0, 0]), still), SECONDS) is None
    outside = START.copy()
    outside[5] = FR3.upper[5] - 0.02  # within the margin
    found = hand.reach(outside, hand.pose(outside), SECONDS)
    assert found is not None and found[5] <= outside[5] + 1e-9


def test_a_model_of_something_else_is_refused(arm: FrankyArm) -> None:
    model = arm.model()
    with pytest.raises(ConnectError, match="7 joints and 0 frames named link8; expected 7 and 1"):
        kinematics(model._replace(urdf=model.urdf.replace("link8", "tool")))
