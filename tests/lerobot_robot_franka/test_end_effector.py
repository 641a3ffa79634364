"""A scripted device leads the hand of a simulated arm."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config
from lerobot.utils.errors import DeviceNotConnectedError
from lerobot.utils.import_utils import register_third_party_plugins
from scripted_device import STILL, Scripted
from simulated_arm import simulated_arm

from lerobot_robot_franka import Franka, FrankaConfig, FrankaEndEffector, FrankaEndEffectorConfig

EVERYWHERE = {"workspace_lower": [-1.0, -1.0, -1.0], "workspace_upper": [1.0, 1.0, 1.5]}
HAND = ["ee.x.pos", "ee.y.pos", "ee.z.pos"]


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with simulated_arm() as (address, _):
        yield address


@contextmanager
def leading(host: str, **settings: Any) -> Iterator[tuple[Franka, FrankaEndEffector, Scripted]]:
    config = FrankaEndEffectorConfig(device={"type": "scripted"}, **settings)
    teleop = make_teleoperator_from_config(config)
    assert isinstance(teleop, FrankaEndEffector) and isinstance(teleop.device, Scripted)
    with teleop, Franka(FrankaConfig(host=host, realtime=False, pose=True)) as robot:
        yield robot, teleop, teleop.device


def lead(
    robot: Franka, teleop: FrankaEndEffector, seconds: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Observations and actions at 20 Hz, for so many seconds."""
    seen, acted = [], []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        seen.append(robot.get_observation())
        acted.append(teleop.get_action())
        robot.send_action(acted[-1])
        time.sleep(max(0.0, began + 0.05 - time.perf_counter()))
    return seen, acted


def there_and_back(
    robot: Franka, teleop: FrankaEndEffector, device: Scripted, motion: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is observed before and after a second of a motion; then it is undone."""
    lead(robot, teleop, 0.2)
    start = robot.get_observation()
    device.says = STILL | {motion: 1.0}
    lead(robot, teleop, 1.0)
    device.says = STILL
    lead(robot, teleop, 0.7)
    there = robot.get_observation()
    device.says = STILL | {motion: -1.0}
    lead(robot, teleop, 1.0)
    return start, there


def numbers(values: dict[str, Any], names: list[str]) -> np.ndarray:
    return np.array([values[name] for name in names])


def test_lerobot_finds_the_teleoperators() -> None:
    register_third_party_plugins()
    for name in ("franka_end_effector", "franka_guiding"):
        config = TeleoperatorConfig.get_choice_class(name)()
        assert config.type == name
    assert isinstance(FrankaEndEffectorConfig().device, dict)
    teleop = make_teleoperator_from_config(TeleoperatorConfig.get_choice_class("franka_guiding")())
    assert teleop.name == "franka_guiding" and not teleop.is_connected
    assert list(teleop.action_features)[-2:] == ["joint_7.pos", "gripper.pos"]


def test_the_hand_moves_as_the_device_says_and_does_not_turn(host: str) -> None:
    with leading(host, speed=0.05) as (robot, teleop, device):
        start, there = there_and_back(robot, teleop, device, "delta_x")
    moved = numbers(there, HAND) - numbers(start, HAND)
    np.testing.assert_allclose(moved, [0.05, 0.0, 0.0], atol=0.01)
    axes = [name for name in start if name.startswith("ee.") and name not in HAND]
    assert len(axes) == 6
    np.testing.assert_allclose(numbers(there, axes), numbers(start, axes), atol=0.03)


@pytest.mark.slow
def test_the_hand_turns_where_a_device_says_so(host: str) -> None:
    with leading(host, turn_speed=0.4) as (robot, teleop, device):
        start, there = there_and_back(robot, teleop, device, "delta_wz")
    ends = [math.atan2(*numbers(seen, ["ee.xy.pos", "ee.xx.pos"])) for seen in (start, there)]
    assert ends[1] - ends[0] == pytest.approx(0.4, abs=0.08)
    np.testing.assert_allclose(numbers(there, HAND), numbers(start, HAND), atol=0.01)


@pytest.mark.slow
def test_the_first_action_is_where_the_arm_is_told_to_be(host: str) -> None:
    with leading(host) as (robot, teleop, device):
        assert robot.arm is not None
        told, before = robot.arm.told(), robot.get_observation()
        device.says = STILL | {"delta_x": 1.0}
        action = teleop.get_action()
        names = [name for name in action if name.startswith("joint")]
        np.testing.assert_allclose(numbers(action, names), told, atol=1e-3)
        assert action["gripper.pos"] == before["gripper.pos"]
        device.says = STILL
        seen, acted = lead(robot, teleop, 0.5)
        assert all(action == acted[0] for action in acted)
        np.testing.assert_allclose(numbers(seen[-1], HAND), numbers(before, HAND), atol=5e-3)


def test_what_else_has_moved_the_arm_is_where_it_is_led_on_from(host: str) -> None:
    with leading(host) as (robot, teleop, device):
        assert robot.arm is not None
        device.says = STILL | {"gripper": 2}
        lead(robot, teleop, 0.2)
        device.says = STILL
        elsewhere = teleop.get_action()
        elsewhere["joint_1.pos"] += 0.1
        robot.send_action(elsewhere)
        robot.gripper._opening = 0.3  # as it is read during the motion # pyright: ignore
        time.sleep(0.6)
        action = teleop.get_action()
        assert action["joint_1.pos"] == pytest.approx(elsewhere["joint_1.pos"], abs=1e-3)
        assert action["gripper.pos"] == 1.0, "it would close upon what it was told to let go"
        robot.send_action(action)
        robot.arm.stop()
        robot.arm.start()
        action = teleop.get_action()
        names = [name for name in action if name.startswith("joint")]
        np.testing.assert_allclose(numbers(action, names), robot.arm.told(), atol=1e-3)
        action["joint_1.pos"] -= 0.1
        robot.send_action(action)
        time.sleep(0.6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "motion"),
    [
        (EVERYWHERE | {"speed": 0.5}, {"delta_z": 1.0}),  # to where the arm is stretched
        ({"workspace_upper": [0.8, 0.5, 0.5]}, {"delta_z": 1.0}),
    ],
    ids=["arm", "workspace"],
)
def test_where_the_hand_cannot_go_it_stays_and_says_so_once(
    settings: dict[str, Any], motion: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    with (
        simulated_arm() as (host, _),
        leading(host, **settings) as (robot, teleop, device),
        caplog.at_level(logging.WARNING),
    ):
        device.says = STILL | motion
        _, acted = lead(robot, teleop, 3.0)
        assert acted[-1] == acted[-2] != acted[0]
        told = [record.message.split(" at ")[0] for record in caplog.records]
        assert told.count("the hand stays") == 1
        device.says = STILL | {name: -value for name, value in motion.items()}
        _, back = lead(robot, teleop, 0.5)
        assert back[-1] != acted[-1]


@pytest.mark.slow
def test_the_gripper_does_as_the_device_says(host: str) -> None:
    with leading(host) as (robot, teleop, device):
        # To close, to stay, a key of keyboard_ee that was let go, to open, to stay.
        for says, expected in ((0, 0.0), (1, 0.0), (-1, 0.0), (2, 1.0), (1, 1.0)):
            device.says = STILL | {"gripper": says}
            seen, acted = lead(robot, teleop, 0.2 if says % 2 else 1.2)
            assert acted[-1]["gripper.pos"] == expected
            assert seen[-1]["gripper.pos"] == pytest.approx(expected, abs=0.06)


def test_who_lacks_the_libraries_is_told_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pink", None)
    with pytest.raises(ImportError, match=r"lerobot_robot_franka\[teleoperation\]"):
        FrankaEndEffector(FrankaEndEffectorConfig(device={"type": "scripted"}))


def test_who_leads_no_arm_or_says_no_motion_is_told(host: str) -> None:
    teleop = FrankaEndEffector(FrankaEndEffectorConfig(device={"type": "scripted"}))
    teleop.connect()
    with pytest.raises(DeviceNotConnectedError, match=r"needs one connected .* found 0"):
        teleop.get_action()
    assert isinstance(teleop.device, Scripted)
    for says, message in (
        ({"shoulder.pos": 0.1}, "lacks delta_x, delta_y, delta_z; it has shoulder.pos"),
        (STILL | {"delta_y": math.nan}, "numbers from -1 to 1"),
    ):
        teleop.device.says = says
        with pytest.raises(ValueError, match=message):
            teleop.get_action()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": {"type": "spoon"}}, "known: .*gamepad.*keyboard_ee"),
        ({"device": {}}, "device must have a type"),
        ({"speed": 2.0}, "speed must be from 0.001 to 0.5, got 2.0"),
        ({"turn_speed": math.nan}, "turn_speed must be"),
        ({"workspace_lower": [0.0, 0.0]}, "three numbers each"),
        ({"workspace_upper": [0.1, 0.5, 0.5]}, "below those of upper"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrankaEndEffectorConfig(**settings)
