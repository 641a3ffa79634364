"""A simulated arm is pulled by its hand, as a person does."""

import logging
import time

import numpy as np
import pytest
from lerobot_robot_franka.errors import ControlLostError
from simulated_arm import push, simulated_arm

from lerobot_robot_franka import Franka, FrankaConfig, FrankaGuiding, FrankaGuidingConfig


def watch(robot: Franka, seconds: float, teleop: FrankaGuiding | None = None) -> np.ndarray:
    """The hand's positions at 20 Hz, (steps, 3), m, while the teleoperator's actions, if there is
    one, are what is observed."""
    places = []
    for _ in range(int(20 * seconds)):
        observation = robot.get_observation()
        if teleop is not None:
            action = teleop.get_action()
            assert action.keys() == robot.action_features.keys()
            for name, value in action.items():
                assert value == pytest.approx(observation[name], abs=0.15)
            robot.send_action(action)
        places.append([observation[name] for name in ("ee.x.pos", "ee.y.pos", "ee.z.pos")])
        time.sleep(0.05)
    return np.array(places)


def test_a_guided_arm_goes_where_it_is_pulled_and_then_holds() -> None:
    teleop = FrankaGuiding(FrankaGuidingConfig())
    with (
        simulated_arm() as (host, process),
        Franka(FrankaConfig(host=host, realtime=False, pose=True)) as robot,
    ):
        teleop.connect()
        push(process, 0.0, 10.0, 0.0)
        stiff = watch(robot, 0.5)
        assert abs(stiff[-1, 1] - stiff[0, 1]) < 0.01
        push(process, 0.0, 0.0, 0.0)
        watch(robot, 0.3)
        still = watch(robot, 0.6, teleop)
        assert np.abs(still[-1] - still[0]).max() < 0.01, "it sinks, or the change moves it"
        push(process, 0.0, 10.0, 0.0)
        end, pulled = time.monotonic() + 10, [watch(robot, 0.1, teleop)]
        while pulled[-1][-1, 1] - pulled[0][0, 1] < 0.1:
            assert time.monotonic() < end, "it does not yield"
            pulled.append(watch(robot, 0.1, teleop))
        push(process, 0.0, 0.0, 0.0)
        watch(robot, 1.0, teleop)
        teleop.disconnect()
        push(process, 0.0, 10.0, 0.0)
        held = watch(robot, 0.5)
        assert np.abs(held[-1] - held[0]).max() < 0.01
        action = {name: robot.get_observation()[name] for name in robot.action_features}
        robot.send_action(action)  # led on from where it was let go, without a refusal


def test_an_arm_that_does_not_follow_is_let_go() -> None:
    with (
        simulated_arm() as (host, process),
        pytest.raises(ControlLostError, match=r"joint_\d is .* where it is told to be"),
        Franka(FrankaConfig(host=host, realtime=False)) as robot,
    ):
        push(process, 0.0, 300.0, 0.0)
        for _ in range(200):
            robot.get_observation()
            time.sleep(0.05)


def test_where_an_arm_would_not_be_sent_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    teleop = FrankaGuiding(FrankaGuidingConfig())
    with (
        simulated_arm() as (host, _),
        Franka(FrankaConfig(host=host, realtime=False)) as robot,
        caplog.at_level(logging.WARNING),
    ):
        assert robot.arm is not None
        robot.arm.allowed.upper[5] = 1.0  # less than where joint 6 is
        for _ in range(3):
            robot.send_action(teleop.get_action())
    told = [record.message for record in caplog.records if "would not be sent" in record.message]
    assert len(told) == 1 and "joint_6.pos" in told[0]
