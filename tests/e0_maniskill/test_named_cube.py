"""PickNamedCube-v1: only the instruction tells which cube is meant, and only that cube counts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from e0_experts.episodes import run_expert
from e0_maniskill import ManiSkillEnv
from e0_maniskill.demonstrations import demonstrator
from e0_maniskill.experts import Expert

TASK = "PickNamedCube-v1"
INSTRUCTIONS = ("pick up the red cube", "pick up the green cube")
RED, GREEN = slice(3, 6), slice(10, 13)  # positions within the environment's state
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (3, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True)
    yield env
    env.close()


def test_the_seed_names_a_cube_whatever_its_place(blind: ManiSkillEnv) -> None:
    assert blind.instructions == INSTRUCTIONS
    named, places = {}, {}
    for seed in range(20):
        state = blind.reset(seed=seed)[0]["environment_state"]
        named[seed] = INSTRUCTIONS.index(blind.task_description)
        places[seed] = state[RED][:2], state[GREEN][:2]
        assert np.linalg.norm(places[seed][0] - places[seed][1]) > 0.1
        assert np.abs(places[seed]).max() <= 0.1
    assert 6 <= sum(named.values()) <= 14
    # Neither cube's place goes with the name: so few pairs correlate by less than 0.5.
    coordinates = np.array([np.concatenate(place) for place in places.values()])
    for coordinate in coordinates.T:
        assert abs(np.corrcoef(coordinate, list(named.values()))[0, 1]) < 0.5
    for seed in (7, 3, 5):
        blind.reset(seed=seed)
        assert INSTRUCTIONS.index(blind.task_description) == named[seed]


def test_before_the_first_reset_the_instruction_is_the_first() -> None:
    env = ManiSkillEnv(TASK, state_only=True)
    assert env.task_description == INSTRUCTIONS[0]
    env.close()


def name_the_other_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every seed's episode names the other cube, from its very beginning."""
    from e0_maniskill.named_cube import PickNamedCubeEnv

    usual = PickNamedCubeEnv._draw_named
    monkeypatch.setattr(PickNamedCubeEnv, "_draw_named", lambda *args: 1 - usual(*args))


def assert_observations_tell_nothing(env: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    """Episodes which differ in the name alone look the same, bit by bit, at every step."""
    instructions, episodes = [], []
    for change in (lambda _: None, name_the_other_cube):
        change(monkeypatch)
        observations = [env.reset(seed=3)[0]]
        instructions.append(env.task_description)
        observations += [env.step(action)[0] for action in ACTIONS]
        episodes.append(observations)
    assert sorted(instructions) == sorted(INSTRUCTIONS)
    for first, second in zip(*episodes, strict=True):
        assert first.keys() == second.keys()
        np.testing.assert_array_equal(first["agent_pos"], second["agent_pos"])
        np.testing.assert_array_equal(first["environment_state"], second["environment_state"])
        for name, picture in first.get("pixels", {}).items():
            np.testing.assert_array_equal(picture, second["pixels"][name])


def test_states_tell_nothing(blind: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_observations_tell_nothing(blind, monkeypatch)


def test_pictures_tell_nothing_and_show_both_cubes(
    rendering: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = ManiSkillEnv(TASK, image_size=64)
    assert_observations_tell_nothing(env, monkeypatch)
    picture = env.reset(seed=3)[0]["pixels"]["base_camera"].astype(int)
    for color in ([1, -1, -1], [-1, 1, -1]):
        assert (picture @ color > 60).sum() > 20
    env.close()


def test_expert_lifts_the_named_cube_and_leaves_the_other(blind: ManiSkillEnv) -> None:
    seen = set()
    for seed in range(6):
        episode = run_expert(blind, demonstrator, seed, action_noise=0.1, hold_steps=2)
        assert episode.success
        seen.add(episode.instruction)
        places = [RED, GREEN] if episode.instruction == INSTRUCTIONS[0] else [GREEN, RED]
        first, last = episode.environment_state[0], episode.environment_state[-1]
        lifted, left = (last[place] - first[place] for place in places)
        assert lifted[2] > 0.06
        assert np.linalg.norm(left) < 0.001, "the other cube was touched"
    assert seen == set(INSTRUCTIONS)


@pytest.mark.parametrize("seed", [0, 2])  # the first names the red cube, the second the green one
def test_lifting_the_wrong_cube_ends_the_episode_without_success(
    blind: ManiSkillEnv, seed: int
) -> None:
    blind.reset(seed=seed)
    simulator = blind.simulator
    simulator.named = 1 - simulator.named
    misled = Expert(blind)
    simulator.named = 1 - simulator.named
    for _ in range(50):
        _, reward, terminated, truncated, info = blind.step(misled.act())
        assert not info["is_success"]
        if terminated:
            break
    assert terminated and not truncated
    assert info == {"is_success": False, "wrong_object": True, "stage": 0}
    assert reward == 0


@pytest.mark.parametrize(
    ("named", "other", "success", "wrong"),
    [
        (0.059, 0.0, False, False),
        (0.061, 0.0, True, False),
        (0.061, 0.04, True, False),
        (0.0, 0.061, False, True),
        (0.061, 0.061, False, True),
    ],
)
def test_success_is_the_named_cube_alone_6_cm_up(
    blind: ManiSkillEnv, named: float, other: float, success: bool, wrong: bool
) -> None:
    from mani_skill.utils.structs import Pose

    for seed in (0, 2):
        blind.reset(seed=seed)
        simulator = blind.simulator
        cubes = [simulator.red_cube, simulator.green_cube]
        for cube, height in zip(
            cubes if simulator.named == 0 else cubes[::-1], (named, other), strict=True
        ):
            position = cube.pose.p + torch.tensor([0.0, 0.0, height])
            cube.set_pose(Pose.create_from_pq(position, cube.pose.q))
        outcome = simulator.evaluate()
        assert (bool(outcome["success"]), bool(outcome["fail"])) == (success, wrong)


def test_reward_grows_from_reaching_to_lifting(blind: ManiSkillEnv) -> None:
    blind.reset(seed=2)
    expert, rewards, terminated = Expert(blind), [], False
    while not terminated:
        _, reward, terminated, _, _ = blind.step(expert.act())
        rewards.append(reward)
    assert rewards[-1] == 1 and max(rewards[:-1]) < 0.75
    assert (np.diff(rewards) > -0.02).all()


def test_vectorized_environments_give_each_episodes_instruction(blind: ManiSkillEnv) -> None:
    """What LeRobot's evaluation asks for at every step, also after some episodes have ended."""
    from lerobot.envs.utils import NEW_ROLLOUT_OPTION

    from lerobot_policy_e0.environment import ManiSkillEnvConfig

    def instruction(seed: int) -> str:
        blind.reset(seed=seed)
        return blind.task_description

    config = ManiSkillEnvConfig(task=TASK, state_only=True, episode_length=1)
    vector: Any = config.create_envs(3)[TASK][0]
    for seeds in ([0, 1, 2], [5, 6, 7]):
        expected = [instruction(seed) for seed in seeds]
        assert set(expected) == set(INSTRUCTIONS)
        vector.reset(seed=seeds, options={NEW_ROLLOUT_OPTION: True})
        for _ in range(3):
            assert list(vector.call("task_description")) == expected
            vector.step(np.zeros((3, 7), np.float32))
    vector.close()
