"""Poses of VLABench's simulation as its data tell them, by numbers worked out by hand."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from e0_vlabench.poses import BASE, quaternion_of, target_pose, told_state

HALF = np.sqrt(0.5)


def test_a_state_is_told_from_the_base_with_angles_about_fixed_axes() -> None:
    # A quarter turn about x, then one about the fixed z: about moving axes they are others.
    turned = [0.5, 0.5, 0.5, 0.5]
    state = told_state(np.array([0.1, -0.1, 1.0, *turned, 1.0]))
    assert state.dtype == np.float32 and state.shape == (7,)
    np.testing.assert_allclose(state[:3], [0.1, 0.3, 0.22], atol=1e-6)
    np.testing.assert_allclose(state[3:6], [np.pi / 2, 0, np.pi / 2], atol=1e-6)
    assert state[6] == 1
    elsewhere = told_state(np.array([0.1, -0.1, 1.0, *turned, 0.0]), np.array([0, -0.4, 0.6]))
    np.testing.assert_allclose(elsewhere[:3], [0.1, 0.3, 0.4], atol=1e-6)


def test_what_is_told_is_not_written_into_what_was_given() -> None:
    given = np.array([0.1, -0.1, 1.0, HALF, 0, 0, HALF, 0.0])
    before = given.copy()
    told_state(given)
    assert np.array_equal(given, before) and np.array_equal(BASE, [0, -0.4, 0.78])


@pytest.mark.parametrize(
    ("euler", "quaternion"),
    [
        ([0, 0, np.pi / 2], [HALF, 0, 0, HALF]),
        ([np.pi / 2, 0, np.pi / 2], [0.5, 0.5, 0.5, 0.5]),
        ([0, np.pi / 2, 0], [HALF, 0, HALF, 0]),
    ],
)
def test_quaternions_of_angles_have_w_first(euler: list[float], quaternion: list[float]) -> None:
    np.testing.assert_allclose(quaternion_of(np.array(euler)), quaternion, atol=1e-12)


def test_an_action_that_repeats_the_state_asks_for_the_pose_where_the_hand_is() -> None:
    random = np.random.default_rng(0)
    for turn in Rotation.random(50, random_state=1):
        quaternion = np.roll(turn.as_quat(), 1)
        position = random.uniform(-1, 1, 3)
        state = told_state(np.concatenate([position, quaternion, [0]]))
        pose = target_pose(state)
        np.testing.assert_allclose(pose.position, position, atol=1e-6)
        assert abs(quaternion_of(pose.euler) @ quaternion) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("gripper", "finger"), [(1.0, 0.04), (0.5, 0.04), (0.49, 0), (-3.0, 0)])
def test_the_gripper_opens_from_the_middle(gripper: float, finger: float) -> None:
    pose = target_pose(np.array([0, 0, 0, 0, 0, 0, gripper], np.float32))
    assert pose.fingers.tolist() == [finger, finger]
