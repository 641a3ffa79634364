"""PickCubeTwoStyles-v1: one demonstrator is fast, the other slow and with the gripper turned."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from e0_maniskill import TASKS, ManiSkillEnv
from e0_maniskill.demonstrations import demonstrated_way
from e0_maniskill.experts import Expert

TASK = "PickCubeTwoStyles-v1"
CUBE, TOOL = slice(3, 10), slice(10, 17)  # poses within the environment's state
FAST, SLOW = 0, 1


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True, proprioception="compact")
    yield env
    env.close()


def test_demonstrations_are_of_both_styles_in_their_shares() -> None:
    ways = [demonstrated_way(TASK, seed) for seed in range(2000)]
    np.testing.assert_allclose(np.bincount(ways) / 2000, TASKS[TASK].ways, atol=0.03)


def test_both_styles_lift_the_cube_and_can_be_seen(blind: ManiSkillEnv) -> None:
    lengths, fastest = [], []
    for way in (FAST, SLOW):
        state = blind.reset(seed=3)[0]["environment_state"]
        expert, tools, infos, terminated = Expert(blind, way), [state[TOOL]], [], False
        while not terminated:
            observation, reward, terminated, _, info = blind.step(expert.act())
            tools.append(observation["environment_state"][TOOL])
            infos.append(info)
        assert infos[-1]["is_success"] and reward == 1
        told = [info["way"] for info in infos]
        assert [*dict.fromkeys(told)] == [-1, way] and told[-1] == -1
        assert not any(info["between"] for info in infos)
        turn = 2 * np.arccos(min(1.0, abs(tools[0][3:] @ tools[-1][3:])))
        assert np.rad2deg(turn) == pytest.approx((0, 90)[way], abs=5)
        lengths.append(len(tools))
        fastest.append(np.abs(np.diff(tools, axis=0)[:, :3]).max())
    assert lengths[SLOW] > 2 * lengths[FAST] and fastest[SLOW] < 0.7 * fastest[FAST]


def test_the_style_is_the_turn_of_the_gripper_while_it_is_down(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    robot = blind.simulator.agent.robot
    high = robot.get_qpos().clone()
    while blind.simulator.agent.tcp_pose.p[0, 2] > 0.05:
        blind.step(np.array([0, 0, -0.5, 0, 0, 0, 1], np.float32))
    low = robot.get_qpos().clone()
    for degrees, way, between in ((10, FAST, 0), (20, -1, 1), (-70, -1, 1), (-80, SLOW, 0)):
        for joints, expected in ((high, (-1, 0)), (low, (way, between))):
            turned = joints.clone()
            turned[0, 6] += np.deg2rad(degrees)
            robot.set_qpos(turned)
            found = blind.simulator.evaluate()
            assert (int(found["way"]), int(found["between"])) == expected, degrees


def test_success_is_the_cube_6_cm_up(blind: ManiSkillEnv) -> None:
    from mani_skill.utils.structs import Pose

    blind.reset(seed=3)
    for height, success in ((0.059, False), (0.061, True)):
        place = torch.tensor([[0, 0, 0.02 + height]])
        blind.simulator.cube.set_pose(Pose.create_from_pq(place))
        assert bool(blind.simulator.evaluate()["success"]) == success
