"""What actions mean, read off data whose meaning is known."""

from __future__ import annotations

import re

import numpy as np
import pytest
from recordings import make_column
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from e0_bench.doctor.checks_actions import check_convention, check_gripper, two_sided
from e0_bench.doctor.findings import NOTE, WARNING
from e0_bench.doctor.reading import Column

JOINTS = ["shoulder", "elbow", "wrist"]


def motion(count: int = 600, seed: int = 0) -> np.ndarray:
    """Smooth joint positions (count, 3)."""
    noise = np.random.default_rng(seed).normal(size=(count, 3))
    return 8 * gaussian_filter1d(noise, 6, axis=0)


def columns(actions: np.ndarray, states: np.ndarray, episodes: int = 6) -> tuple[Column, Column]:
    action = make_column(actions, JOINTS[: actions.shape[1]], episodes=episodes, feature="action")
    return action, make_column(states, JOINTS[: states.shape[1]], episodes=episodes)


def checks(action: Column, state: Column) -> dict[str, str]:
    return {finding.check: finding.told for finding in check_convention(action, state)}


def test_absolute_targets_are_recognized() -> None:
    states = motion()
    told = checks(*columns(np.roll(states, -2, axis=0), states))
    assert set(told) == {"convention"}
    assert "looks absolute" in told["convention"]
    assert "shoulder→shoulder, elbow→elbow, wrist→wrist" in told["convention"]


def test_degrees_against_radians_are_told() -> None:
    states = motion()
    told = checks(*columns(np.degrees(np.roll(states, -1, axis=0)), states))
    assert "in degrees and radians" in told["convention"]


def test_deltas_are_recognized() -> None:
    states = motion()
    deltas = np.diff(states, axis=0, append=states[-1:]) / 0.05
    told = checks(*columns(deltas, states))
    assert set(told) == {"convention"} and "looks delta" in told["convention"]


def test_what_has_nothing_to_do_with_the_state_is_not_matched() -> None:
    assert checks(*columns(motion(seed=1), motion(seed=2))) == {}
    assert checks(*columns(np.random.default_rng(0).normal(size=(600, 3)), motion())) == {}


def test_actions_that_copy_or_trail_the_state_are_named() -> None:
    states = motion()
    action, state = columns(states, states)
    copied = next(f for f in check_convention(action, state) if f.check == "copied state")
    assert copied.level == WARNING and copied.dimensions == tuple(JOINTS)
    assert (
        "trails observation.state by 3 steps"
        in checks(*columns(np.roll(states, 3, axis=0), states))["late actions"]
    )


def test_an_episode_with_a_reversed_joint_is_named() -> None:
    states = motion()
    actions = np.diff(states, axis=0, append=states[-1:])
    actions[200:300, 1] *= -1
    found = [f for f in check_convention(*columns(actions, states)) if f.check == "reversed"]
    assert [(f.dimensions, f.episodes) for f in found] == [(("elbow",), (2,))]


@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_the_frame_of_deltas_is_recognized(frame: str, order: str) -> None:
    positions = motion()
    moved = np.diff(positions, axis=0, append=positions[-1:])
    turns = Rotation.from_rotvec(motion(seed=3) + np.array([2.0, 0.0, 0.0]))
    quaternions = turns.as_quat()[:, [0, 1, 2, 3] if order == "xyzw" else [3, 0, 1, 2]]
    actions = moved if frame == "base" else turns.inv().apply(moved)
    action = make_column(actions, ["x", "y", "z"], episodes=6, feature="action")
    state = make_column(np.c_[positions, quaternions], episodes=6)
    told = checks(action, state)["frame"]
    expected = (
        "the base's" if frame == "base" else f"the tool's (if the state's quaternion is {order})"
    )
    assert f"in {expected} frame" in told


def grasps(opens: float, width: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A command of ±1 that switches twice in each of six episodes, and a state that follows."""
    command = np.tile(np.r_[np.full(30, opens), np.full(40, -opens), np.full(30, opens)], 6)
    target = np.where(command == opens, 0.04, 0.0)
    finger = np.convolve(np.r_[[0.04] * 4, target], np.ones(5) / 5, "valid")
    other = motion(600, seed=4)[:, :1]
    return command[:, None], np.c_[other, finger] if width else other


@pytest.mark.parametrize("opens", [1.0, -1.0])
def test_polarity_of_the_gripper_is_told_by_the_fingers(opens: float) -> None:
    command, state = grasps(opens)
    action = make_column(command, ["gripper"], episodes=6, feature="action")
    (finding,) = check_gripper(action, make_column(state, ["x", "finger"], episodes=6))
    assert finding.level == NOTE and f"{opens:g} opens" in finding.told
    assert "% near -1, the others near 1" in finding.told


def test_a_state_that_says_closed_tells_the_polarity_as_well() -> None:
    command, state = grasps(1.0)
    action = make_column(command, ["gripper"], episodes=6, feature="action")
    closed = np.c_[state[:, 0], state[:, 1] < 0.02]
    (finding,) = check_gripper(action, make_column(closed, ["x", "gripper_closed"], episodes=6))
    assert re.search(r"falls after 1 \(r = -\S+, so 1 opens", finding.told)


def test_what_rises_after_a_grasp_is_not_taken_for_fingers() -> None:
    command, state = grasps(1.0)
    height = np.where(command[:, 0] < 0, np.random.default_rng(0).uniform(0, 0.3, 600), 0.02)
    action = make_column(command, ["gripper"], episodes=6, feature="action")
    state = make_column(np.c_[height, state[:, 1]], episodes=6)  # no names that would tell
    (finding,) = check_gripper(action, state)
    assert "observation.state[1] rises after 1 (r = " in finding.told


def test_without_fingers_the_polarity_is_left_open() -> None:
    command, _ = grasps(1.0)
    action = make_column(command, ["gripper"], episodes=6, feature="action")
    (finding,) = check_gripper(action, None)
    assert "which one opens is not known" in finding.told


def test_what_is_spread_out_is_no_gripper() -> None:
    uniform = np.random.default_rng(0).uniform(-1, 1, size=(500, 1))
    assert two_sided(make_column(uniform)) == []
    noisy = np.where(uniform > 0, 1.0, -1.0) + 0.02 * uniform
    assert two_sided(make_column(noisy)) == [0]
