"""PushOrPickCube-v1: a cube is pushed to the target, or picked up and carried there."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch

from e0_maniskill import TASKS, ManiSkillEnv
from e0_maniskill.demonstrations import demonstrated_way
from e0_maniskill.experts import Expert

TASK = "PushOrPickCube-v1"
CUBE, TARGET = slice(3, 6), slice(10, 13)  # within the environment's state
PUSH, PICK = 0, 1


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True)
    yield env
    env.close()


def put_cube(env: ManiSkillEnv, place: torch.Tensor) -> None:
    """Put the cube at a place (3, metres)."""
    from mani_skill.utils.structs import Pose

    env.simulator.cube.set_pose(Pose.create_from_pq(place[None].float()))


def test_demonstrations_push_in_two_of_five() -> None:
    ways = [demonstrated_way(TASK, seed) for seed in range(2000)]
    assert np.mean(ways) == pytest.approx(0.6, abs=0.03)


def test_the_target_lies_straight_behind_the_cube(blind: ManiSkillEnv) -> None:
    states = [blind.reset(seed=seed)[0]["environment_state"] for seed in range(4)]
    for state in states:
        cube, target = state[CUBE], state[TARGET]
        assert -0.16 <= cube[0] <= -0.06 and abs(cube[1]) <= 0.1
        assert 0.15 <= target[0] - cube[0] <= 0.19
        assert target[1] == pytest.approx(cube[1], abs=1e-6)
    assert len({state.tobytes() for state in states}) == 4


@pytest.mark.parametrize("way", [PUSH, PICK])
def test_both_ways_lead_to_the_target(blind: ManiSkillEnv, way: int) -> None:
    target = blind.reset(seed=3)[0]["environment_state"][TARGET]
    expert, cubes, infos, rewards, terminated = Expert(blind, way), [], [], [], False
    while not terminated:
        observation, reward, terminated, _, info = blind.step(expert.act())
        cubes.append(observation["environment_state"][CUBE])
        infos.append(info)
        rewards.append(reward)
    assert infos[-1]["is_success"]
    assert np.linalg.norm((cubes[-1] - target)[:2]) < 0.04
    heights = [cube[2] for cube in cubes]
    assert max(heights) > 0.03 if way == PICK else max(heights) < 0.022
    told = [info["way"] for info in infos]
    assert told == sorted(told, key=[-1, way].index) and told[0] == -1 and told[-1] == way
    assert not any(info["between"] for info in infos)
    assert rewards[-1] == 1 and max(rewards[:-1]) < 0.75


def test_the_mean_of_both_ways_comes_down_with_open_fingers_and_fails(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    both, between, truncated = (Expert(blind, PUSH), Expert(blind, PICK)), False, False
    while not truncated:
        action = np.average([expert.act() for expert in both], axis=0, weights=TASKS[TASK].ways)
        _, _, terminated, truncated, info = blind.step(action.astype(np.float32))
        between |= info["between"]
        assert not terminated
    assert between and not info["is_success"]


@pytest.mark.parametrize("held", [False, True])
def test_the_way_is_whether_the_cube_that_moves_lies_on_the_table(
    blind: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    blind.reset(seed=3)
    place = blind.simulator.cube.pose.p[0].clone()
    monkeypatch.setattr(blind.simulator.agent, "is_grasping", lambda _: torch.tensor([held]))
    dragged = -1 if held else PUSH
    for moved, way in (
        ([0, 0, 0.009], -1),
        ([0, 0, 0.011], PICK),
        ([0.019, 0, 0], -1),
        ([0.021, 0, 0], dragged),
        ([0, -0.021, 0.009], dragged),
        ([0.1, 0, 0.05], PICK),
    ):
        put_cube(blind, place + torch.tensor(moved))
        assert int(blind.simulator.evaluate()["way"]) == way, moved


def test_success_is_the_cube_at_the_target_seen_from_above(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    target = blind.simulator.target.pose.p[0]
    for distance, height in product((0.039, 0.041), (0.02, 0.1)):
        put_cube(blind, target + torch.tensor([0, distance, height]))
        assert bool(blind.simulator.evaluate()["success"]) == (distance < 0.04)


@pytest.mark.parametrize("gripper", [1.0, -1.0])
def test_between_is_down_beside_the_cube_with_open_fingers(
    blind: ManiSkillEnv, gripper: float
) -> None:
    blind.reset(seed=3)
    put_cube(blind, torch.tensor([0.5, 0.5, 0.02]))
    descend = np.array([0, 0, -0.5, 0, 0, 0, gripper], np.float32)
    told = [(blind.step(descend)[4]["between"], _height(blind)) for _ in range(12)]
    assert told[-1][1] < 0.04
    assert [between for between, _ in told] == [gripper > 0 and z < 0.045 for _, z in told]
    put_cube(blind, blind.simulator.agent.tcp_pose.p[0] + torch.tensor([0.029, 0, 0]))
    assert not blind.simulator.evaluate()["between"]


def _height(env: ManiSkillEnv) -> float:
    return float(env.simulator.agent.tcp_pose.p[0, 2])
