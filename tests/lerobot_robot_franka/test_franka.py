"""The robot against a simulated arm that speaks Franka's own protocol, by way of libfranka."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lerobot.robots import RobotConfig, make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot_robot_franka.errors import ConnectError, ControlLostError, UnsafeActionError
from simulated_arm import START_POSITION, simulated_arm

from lerobot_robot_franka import Franka, FrankaConfig, recover

HOLD = {f"joint_{n}.pos": x for n, x in enumerate(START_POSITION, 1)} | {"gripper.pos": 0.5}


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with simulated_arm() as (address, _):
        yield address


def make(host: str, **settings: Any) -> Franka:
    return Franka(FrankaConfig(host=host, realtime=False, **settings))


def follow(robot: Franka, seconds: float, **moved: Any) -> list[dict[str, Any]]:
    """Send HOLD with some joints changed, functions of time, at 20 Hz; what was observed."""
    began, seen = time.perf_counter(), []
    for step in range(int(20 * seconds)):
        seen.append(robot.get_observation())
        now = step / 20
        robot.send_action(HOLD | {f"{name}.pos": move(now) for name, move in moved.items()})
        time.sleep(max(0.0, began + (step + 1) / 20 - time.perf_counter()))
    return seen


def test_lerobot_finds_the_robot(host: str) -> None:
    register_third_party_plugins()
    assert RobotConfig.get_known_choices()["franka"] is FrankaConfig
    robot = make_robot_from_config(FrankaConfig(host=host, velocities=True))
    assert isinstance(robot, Franka) and not robot.is_connected
    assert list(robot.action_features) == list(HOLD)
    assert [n for n in robot.observation_features if n not in HOLD] == [
        f"joint_{n}.vel" for n in range(1, 8)
    ]


def test_the_arm_follows_and_rests_at_the_last_action(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    robot = make(host, velocities=True)
    with caplog.at_level(logging.INFO, "lerobot_robot_franka"), robot:
        assert robot.is_connected
        start = robot.get_observation()
        assert start["joint_2.pos"] == pytest.approx(-0.785, abs=0.02)

        def wave(now: float) -> float:
            return 1.571 + 0.15 * math.sin(2 * math.pi * now / 2)

        seen = follow(robot, 2.0, joint_6=wave)
        errors = [abs(o["joint_6.pos"] - wave(step / 20)) for step, o in enumerate(seen)]
        assert np.mean(errors) < 0.07 and max(o["joint_6.pos"] for o in seen) > 1.65
        follow(robot, 0.3, joint_6=lambda _: 1.471)
        time.sleep(1.0)  # nothing comes any more
        first = robot.get_observation()
        time.sleep(0.3)
        second = robot.get_observation()
        assert abs(first["joint_6.vel"]) < 0.02
        assert first["joint_6.pos"] == pytest.approx(second["joint_6.pos"], abs=2e-3)
        assert first["joint_6.pos"] == pytest.approx(1.471, abs=0.03)
    assert not robot.is_connected
    told = re.search(r"cycles by their milliseconds: (\{.*\}); 0 unsafe", caplog.text)
    assert told is not None
    cycles = json.loads(told[1])
    assert 200 < sum(cycles.values()) < 500  # 100 a second


def test_more_is_observed_on_request(host: str) -> None:
    with make(host, pose=True, wrench=True, start_position=list(START_POSITION)) as robot:
        seen = robot.get_observation()
    assert list(seen) == list(robot.observation_features)
    more = [name for name in seen if name not in HOLD]
    assert more == [
        *(f"ee.{name}.pos" for name in ("x", "y", "z", "xx", "xy", "xz", "yx", "yy", "yz")),
        *(f"wrench.{name}.vel" for name in ("fx", "fy", "fz", "tx", "ty", "tz")),
    ]
    # The hand points down, 0.3 m before the arm; the simulated arm estimates no forces.
    expected = [0.307, 0.0, 0.487, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0, *[0.0] * 6]
    np.testing.assert_allclose([seen[name] for name in more], expected, atol=0.02)


def test_nothing_waits_for_the_arm_or_the_gripper(host: str) -> None:
    with make(host) as robot:
        costs = []
        for step in range(40):
            began = time.perf_counter()
            robot.get_observation()
            robot.send_action(HOLD | {"gripper.pos": float(step % 2)})
            costs.append(time.perf_counter() - began)
            time.sleep(0.01)
        assert np.median(costs) < 0.005


def test_the_gripper_closes_and_opens(host: str) -> None:
    with make(host) as robot:
        for opening in (0.0, 1.0, 0.4):
            follow(robot, 1.5, gripper=lambda _, opening=opening: opening)
            assert robot.get_observation()["gripper.pos"] == pytest.approx(opening, abs=0.06)
        follow(robot, 0.5, gripper=lambda _: 0.45)  # within the dead band
        assert robot.get_observation()["gripper.pos"] == pytest.approx(0.4, abs=0.06)


def test_unsafe_actions_are_refused_before_anything_moves(host: str) -> None:
    with make(host) as robot:
        before = robot.get_observation()
        for changes, message in (
            ({"joint_1.pos": 9.0}, r"joint_1.pos = 9.000 rad is outside -2.694 to 2.694"),
            ({"joint_4.pos": math.nan}, "joint_4.pos is nan"),
            ({"joint_2.pos": 0.0}, "joint_2.pos = 0.000 rad is 0.785 away from -0.785"),
            ({"gripper.pos": 1.5}, "gripper.pos must lie between 0, closed, and 1, open; got 1.5"),
            ({"gripper.pos": math.inf}, "gripper.pos must lie between"),
        ):
            with pytest.raises(UnsafeActionError, match=message):
                robot.send_action(HOLD | {"joint_7.pos": 0.9} | changes)
        for value, kind in ((None, "NoneType"), (True, "bool"), ("0.7", "str"), ([0.7], "list")):
            with pytest.raises(
                UnsafeActionError, match=rf"joint_7\.pos must be one number.*{kind}"
            ):
                robot.send_action(HOLD | {"joint_7.pos": value})
        short = {name: value for name, value in HOLD.items() if name != "joint_3.pos"}
        with pytest.raises(UnsafeActionError, match=r"lacks joint_3\.pos"):
            robot.send_action(short)
        time.sleep(0.3)
        assert robot.get_observation()["joint_7.pos"] == pytest.approx(
            before["joint_7.pos"], abs=5e-3
        )


def test_unsafe_actions_can_be_limited_and_are_counted(host: str) -> None:
    with make(host, unsafe_actions="limit") as robot:
        sent = robot.send_action(HOLD | {"joint_7.pos": 9.0})
        assert robot.arm is not None and robot.arm.limited == 1
        assert sent["joint_7.pos"] == pytest.approx(0.785 + 0.3, abs=0.02)
        assert sent["joint_1.pos"] == pytest.approx(0.0, abs=1e-6)
        with pytest.raises(UnsafeActionError, match="nan"):
            robot.send_action(HOLD | {"joint_7.pos": math.nan})
        follow(robot, 0.5)


def test_the_arm_goes_slowly_to_where_it_starts(host: str) -> None:
    away = list(START_POSITION)
    away[0] = 0.4  # further than one action may be
    with make(host, start_position=away) as robot:
        time.sleep(0.5)
        assert robot.get_observation()["joint_1.pos"] == pytest.approx(0.4, abs=0.03)
    began = time.monotonic()
    with make(host, start_position=list(START_POSITION)):
        assert time.monotonic() - began > 0.35 / 0.25
    with pytest.raises(UnsafeActionError, match="outside"):
        make(host, start_position=[9.0] * 7).connect()
    with make(host) as robot:  # what failed has given the arm back
        assert robot.is_connected


def test_who_cannot_take_control_is_told_why(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lerobot_robot_franka.drivers.CONNECT_SECONDS", 2.0)
    with pytest.raises(ConnectError, match="no real-time kernel"):
        Franka(FrankaConfig(host=host)).connect()
    with pytest.raises(ConnectError, match="activate FCI"):
        make("127.9.9.9").connect()
    with make(host), pytest.raises(ConnectError, match="another program connected"):
        make(host).connect()


@pytest.mark.parametrize(
    ("mode", "hint"), [("Reflex", r"lerobot_robot_franka\.recover"), ("User stopped", "user stop")]
)
def test_an_arm_that_takes_no_commands_says_what_to_do(
    host: str, mode: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import franky

    def refused(_: Any) -> None:  # libfranka's words; the simulated arm knows no modes
        raise franky.ControlException(
            "libfranka: Move command rejected: command not possible in the current mode "
            f'("{mode}")!'
        )

    # franky's thread asks for control, and the tracker tells of it when it is stopped.
    monkeypatch.setattr(franky.JointImpedanceTracker, "stop", refused)
    robot = make(host)
    robot.connect()
    with pytest.raises(ControlLostError, match=rf'{hint}.*"{mode}"'):
        robot.disconnect()


def test_an_arm_is_recovered_by_a_command(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recover", host])
    recover.main()
    assert "can be controlled again" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["recover", "127.9.9.9"])
    with pytest.raises(SystemExit, match="activate FCI"):
        recover.main()


def test_a_short_stall_is_survived_and_a_dead_arm_is_told() -> None:
    with simulated_arm() as (address, process):
        robot = make(address)
        robot.connect()
        _stall(process, 0.1)
        follow(robot, 0.5)
        assert robot.is_connected
        process.kill()
        began = time.monotonic()
        with pytest.raises(ControlLostError, match=r"connect again|stopped by itself"):
            while time.monotonic() - began < 10:
                robot.get_observation()
                robot.send_action(HOLD)
                time.sleep(0.05)
        assert time.monotonic() - began < 5
        assert robot.is_connected  # so that LeRobot's programs disconnect it
        with pytest.raises(ControlLostError):
            robot.disconnect()
        assert not robot.is_connected


def test_an_arm_that_does_not_answer_is_told_and_let_go() -> None:
    with simulated_arm() as (address, process):
        robot = make(address)
        robot.connect()
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ControlLostError):
            while time.monotonic() - began < 10:
                robot.send_action(HOLD)
                time.sleep(0.05)
        assert time.monotonic() - began < 4
        with pytest.raises(ControlLostError):
            robot.disconnect()
        assert time.monotonic() - began < 20
        os.kill(process.pid, signal.SIGCONT)


def test_after_a_fault_one_can_connect_again(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    robot = make(host)
    robot.connect()
    assert robot.arm is not None
    monkeypatch.setattr(robot.arm._driver, "in_control", lambda: False)
    with pytest.raises(ControlLostError, match="stopped by itself") as told:
        while True:
            robot.get_observation()
            time.sleep(0.01)
    with pytest.raises(ControlLostError, match="stopped by itself") as again:
        robot.disconnect()
    robot.connect()  # although both errors are kept
    assert robot.get_observation() and told.value is not again.value
    robot.disconnect()


def test_a_camera_that_fails_keeps_nothing_else_open(host: str) -> None:
    closed: list[str] = []

    class Camera:
        height, width = 4, 4

        def __init__(self, name: str, fails: bool = False) -> None:
            self.name, self.fails = name, fails

        def connect(self) -> None: ...

        def disconnect(self) -> None:
            closed.append(self.name)
            if self.fails:
                raise OSError("unplugged")

    robot = make(host)
    robot.cameras = {"first": Camera("first"), "second": Camera("second", fails=True)}  # pyright: ignore[reportAttributeAccessIssue]
    robot.connect()
    with pytest.raises(OSError, match="unplugged"):
        robot.disconnect()
    assert closed == ["second", "first"]
    with make(host):
        pass  # the arm was given back


def _stall(process: subprocess.Popen[str], seconds: float) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": ""}, "--robot.host"),
        ({"arm": "iiwa"}, "unknown arm 'iiwa'; known: fr3, panda"),
        ({"unsafe_actions": "clip"}, "'refuse' or 'limit', got 'clip'"),
        ({"velocity_share": 0.0}, "velocity_share must be from 0.01 to 1.0, got 0.0"),
        ({"margin": -0.1}, "margin must be"),
        ({"max_step": math.nan}, "max_step must be from"),
        ({"control_rate": 5.0}, "control_rate must be from 50.0"),
        ({"gripper_dead_band": 1.0}, "gripper_dead_band"),
        ({"start_position": [0.0] * 6}, "must be 7 joints, got 6"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrankaConfig(**{"host": "172.16.0.2"} | settings)
