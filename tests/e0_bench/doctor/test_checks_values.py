"""Checks of values, rotations and tokens on columns made here."""

from __future__ import annotations

import numpy as np
import pytest
from recordings import make_column
from scipy.spatial.transform import Rotation

from e0_bench.doctor.checks_features import check_column_statistics, check_quantiles
from e0_bench.doctor.checks_rotations import check_angles, check_quaternions, find_quaternions
from e0_bench.doctor.checks_tokens import check_tokens
from e0_bench.doctor.checks_values import (
    check_constant,
    check_episodes_alike,
    check_finite,
    check_outliers,
)
from e0_bench.doctor.findings import NOTE, WARNING

random = np.random.default_rng(0)


def test_nan_and_infinity_are_counted_by_frame_and_named() -> None:
    values = random.normal(size=(40, 3))
    values[3, 1], values[3, 2], values[25, 1] = np.nan, np.inf, -np.inf
    (finding,) = check_finite(make_column(values, ["x", "y", "z"], episodes=4))
    assert finding.dimensions == ("y", "z") and finding.episodes == (0, 2)
    assert "2 frames of episodes 0, 2" in finding.told
    assert "--dataset.episodes=[1,3]" in finding.remedy
    assert not check_finite(make_column(random.normal(size=(40, 3))))


def test_constant_and_near_constant_dimensions_are_told_apart() -> None:
    values = random.normal(size=(1000, 4))
    values[:, 0] = 1234.5
    values[:, 1] = 0.0
    values[[10, 11], 1] = 1.0
    values[:, 2] = 1.57 + 1e-5 * random.normal(size=1000)
    found = check_constant(make_column(values, ["lock", "rare", "noise", "free"], episodes=2))
    assert [(f.level, f.check, f.dimensions, f.episodes) for f in found] == [
        (NOTE, "constant", ("lock",), ()),
        (WARNING, "near-constant", ("rare",), (0,)),
        (WARNING, "near-constant", ("noise",), ()),
    ]
    assert "0 in all but 2 frames" in found[1].told


def test_small_units_beside_large_ones_are_no_noise() -> None:
    degrees_and_metres = np.c_[80 * random.normal(size=500), 0.6 + 0.01 * random.normal(size=500)]
    assert not check_constant(make_column(degrees_and_metres))


def test_one_wild_value_among_20000_is_an_outlier() -> None:
    values = 0.01 * random.normal(size=(20_000, 2))
    values[12_345, 1] = 3.0
    (finding,) = check_outliers(make_column(values, ["x", "y"], episodes=10, feature="action"))
    assert finding.dimensions == ("y",) and finding.episodes == (6,)
    assert "up to 3 where the median is" in finding.told and "1 frame" in finding.told


@pytest.mark.parametrize(
    "values",
    [
        random.normal(size=5000),
        random.standard_t(3, size=5000),  # heavy tails
        np.where(random.random(5000) < 0.9, 0, random.uniform(-1, 1, 5000)),  # mostly at rest
        np.where(random.random(5000) < 0.985, -1.0, 1.0),  # a gripper that is rarely open
        np.clip(4 * random.normal(size=5000), -1, 1),
    ],
)
def test_ordinary_values_are_no_outliers(values: np.ndarray) -> None:
    column = make_column(values)
    assert not check_outliers(column) and not check_constant(column)


def test_an_episode_in_other_units_is_named() -> None:
    joints = np.sin(np.arange(400) / 7)[:, None] * [1.0, 0.5] + [0.3, -0.8]
    column = make_column(joints, ["shoulder", "elbow"], episodes=8)
    assert not check_episodes_alike(column)
    joints[100:150] *= 180 / np.pi
    (finding,) = check_episodes_alike(make_column(joints, ["shoulder", "elbow"], episodes=8))
    assert finding.episodes == (2,)


def test_another_goal_in_each_episode_is_no_mistake() -> None:
    goals = np.repeat([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.9], 50)
    moving = np.sin(np.arange(400) / 7)
    assert not check_episodes_alike(make_column(np.c_[goals, moving], episodes=8))


def test_a_tool_that_tilts_in_one_episode_only_is_no_mistake() -> None:
    tilt = 1e-4 * np.sin(np.arange(400) / 5)
    tilt[150:200] = 0.2
    pose = np.c_[np.sin(np.arange(400) / 7), np.sin(tilt / 2), np.cos(tilt / 2)]
    assert not check_episodes_alike(make_column(pose, ["x", "qx", "qw"], episodes=8))


def smooth_quaternions(count: int) -> np.ndarray:
    angles = np.c_[np.linspace(0, 3, count), np.linspace(0, 1, count), np.zeros(count)]
    quaternions = Rotation.from_euler("xyz", angles).as_quat()
    steps = np.sign((quaternions[1:] * quaternions[:-1]).sum(1))
    return quaternions * np.r_[1, np.cumprod(steps)][:, None]


def test_quaternions_are_found_where_they_are() -> None:
    pose = np.c_[random.normal(size=(60, 3)), smooth_quaternions(60), random.normal(size=60)]
    assert find_quaternions(make_column(pose)) == [3]
    one_hot = np.eye(4)[random.integers(0, 4, 60)]
    assert find_quaternions(make_column(one_hot)) == []


def test_sign_flips_of_quaternions_are_counted() -> None:
    quaternions = smooth_quaternions(60)
    names = ["qx", "qy", "qz", "qw"]
    assert not check_quaternions(make_column(quaternions, names, episodes=3))
    quaternions[25:32] *= -1
    (finding,) = check_quaternions(make_column(quaternions, names, episodes=3))
    assert finding.episodes == (1,) and "2 times within episode 1" in finding.told


def test_an_episode_with_the_other_sign_is_named() -> None:
    quaternions = np.tile(smooth_quaternions(20), (4, 1))
    quaternions[40:60] *= -1
    (finding,) = check_quaternions(make_column(quaternions, episodes=4))
    assert finding.episodes == (2,) and "the other sign" in finding.told


@pytest.mark.parametrize(("turn", "told"), [(2 * np.pi, "2π"), (360.0, "360°")])
def test_angles_that_wrap_are_found(turn: float, told: str) -> None:
    time = np.arange(300)
    whole = np.c_[time * turn / 90, 0.1 * turn * np.sin(time / 20), time * turn / 70]
    wrapped = (whole + turn / 2) % turn - turn / 2
    (finding,) = check_angles(make_column(wrapped, ["roll", "pitch", "yaw"]))
    assert finding.dimensions == ("roll", "yaw")
    assert (
        f"jumps by {told} 7 times" in finding.told and "Euler angles in this order" in finding.told
    )
    assert not check_angles(make_column(whole)) and not check_angles(make_column(wrapped / 3))


def test_a_random_angle_is_no_wrap() -> None:
    assert not check_angles(make_column(random.uniform(-np.pi, np.pi, size=(500, 2))))


def test_tokens_that_are_coarse_for_joints_in_degrees_are_named() -> None:
    time = np.arange(4000)
    joints = np.c_[60 * np.sin(time / 50), 40 + 30 * np.cos(time / 30)]
    column = make_column(joints, ["shoulder", "elbow"], episodes=20, feature="action")
    (finding,) = check_tokens(column, "mu_law", 256)
    assert "shoulder" in finding.dimensions and "--policy.codebook=" in finding.remedy
    assert "mu_law" not in finding.remedy.split(",")[0]
    assert not check_tokens(column, "uniform", 256)


def test_held_out_actions_beyond_the_codes_are_told() -> None:
    values = random.uniform(-1, 1, size=(2000, 1))
    values[1800:] += 3  # the last of ten episodes, which is held out
    column = make_column(values, ["x"], episodes=10, feature="action")
    found = [finding for finding in check_tokens(column, "uniform", 256)]
    assert [finding.dimensions for finding in found] == [("x",)]
    assert "beyond the outermost codes: x 100 %" in found[0].told


def test_actions_that_no_codebook_fits_are_an_error() -> None:
    values = np.r_[np.zeros(5000), np.linspace(0, 1, 20)][:, None]
    column = make_column(values, feature="action")
    (finding,) = check_tokens(column, "uniform_quantile", 64)
    assert finding.level == "error" and "--policy.codebook" in finding.remedy


def true_statistics(values: np.ndarray) -> dict[str, list[float]]:
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return {
        "min": values.min(0).tolist(),
        "max": values.max(0).tolist(),
        "mean": values.mean(0).tolist(),
        "std": values.std(0).tolist(),
        "q01": low.tolist(),
        "q99": high.tolist(),
    }


def test_statistics_are_held_against_the_values() -> None:
    values = np.c_[random.normal(size=(500, 2)), np.full(500, 1234.5)]
    column = make_column(values, ["x", "y", "locked"])
    stored = true_statistics(values)
    stored["std"][2] = 0.79  # LeRobot's running one of this constant
    told = {"quantiles": False, "required": True}
    assert not check_column_statistics(column, stored, **told)
    for name, value in (("max", 9.0), ("mean", 0.3), ("std", 2.0)):
        wrong = {**stored, name: [value, *stored[name][1:]]}
        (finding,) = check_column_statistics(column, wrong, **told)
        assert finding.check == "stale statistics" and finding.dimensions == ("x",)
    (finding,) = check_column_statistics(column, {**stored, "mean": [np.nan, 0, 0]}, **told)
    assert finding.level == "error" and finding.told == "mean not finite"
    (finding,) = check_column_statistics(column, {**stored, "std": [1.0]}, **told)
    assert finding.level == "error" and "another size" in finding.told
    without = {name: stored[name] for name in ("mean", "std")}
    assert not check_column_statistics(column, without, **told)
    (finding,) = check_column_statistics(column, without, quantiles=True, required=True)
    assert finding.level == "error" and finding.told == "no q01 and q99"


def test_share_outside_the_stored_quantiles_is_told() -> None:
    values = random.normal(size=(1000, 2))
    column, stored = make_column(values, ["x", "y"], feature="s"), true_statistics(values)
    assert not check_quantiles([column], {"s": stored}, used=True)
    stored["q99"][1] = 0.0
    (finding,) = check_quantiles([column], {"s": stored}, used=True)
    assert finding.level == WARNING and "of s[y] lie outside" in finding.told
    (finding,) = check_quantiles([column], {"s": stored}, used=False)
    assert finding.level == NOTE
