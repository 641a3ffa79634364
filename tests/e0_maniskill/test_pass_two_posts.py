"""PassTwoPosts-v1: each of two posts on either side, four ways in all."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from e0_maniskill import TASKS, ManiSkillEnv, plans
from e0_maniskill.demonstrations import demonstrated_way
from e0_maniskill.experts import Expert

TASK = "PassTwoPosts-v1"
TARGET, CUBE, POST = slice(0, 3), slice(3, 6), slice(10, 13)  # within the environment's state
LEFT, RIGHT, STRAIGHT = 0.1, -0.1, 0.0  # metres to the side of a post


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True)
    yield env
    env.close()


def put(env: ManiSkillEnv, name: str, place: np.ndarray) -> None:
    """Put the cube or a post at a place (3, metres)."""
    from mani_skill.utils.structs import Pose

    actor = env.simulator.cube if name == "cube" else env.simulator.posts[int(name)]
    actor.set_pose(Pose.create_from_pq(torch.tensor(place, dtype=torch.float32)[None]))


def posts(env: ManiSkillEnv) -> np.ndarray:
    """Where the posts are now, (2, 3), in metres."""
    return np.stack([post.pose.p[0].numpy() for post in env.simulator.posts])


def test_demonstrations_go_all_four_ways_in_their_shares() -> None:
    ways = [demonstrated_way(TASK, seed) for seed in range(2000)]
    np.testing.assert_allclose(np.bincount(ways) / 2000, TASKS[TASK].ways, atol=0.03)


def test_the_post_that_is_seen_tells_where_the_other_is(blind: ManiSkillEnv) -> None:
    states = []
    for seed in range(3):
        observation = blind.reset(seed=seed)[0]
        state, tool = observation["environment_state"], observation["agent_pos"][9:12]
        near, far = posts(blind)
        np.testing.assert_allclose(state[POST], near, atol=1e-6)
        np.testing.assert_allclose(far - near, [0.17, 0, 0], atol=1e-6)
        assert 0.10 < near[0] - state[CUBE][0] < 0.13 < state[TARGET][0] - far[0] < 0.16
        assert tool[0] < near[0] - 0.07, "the tool starts before the posts"
        states.append(state.tobytes())
    assert len(set(states)) == 3


@pytest.mark.parametrize(("way", "sides"), [(0, "LL"), (1, "LR"), (2, "RL"), (3, "RR")])
def test_all_ways_lead_to_the_target(blind: ManiSkillEnv, way: int, sides: str) -> None:
    state = blind.reset(seed=3)[0]["environment_state"]
    before = posts(blind)
    expert, cubes, infos, rewards, terminated = Expert(blind, way), [], [], [], False
    while not terminated:
        observation, reward, terminated, _, info = blind.step(expert.act())
        cubes.append(observation["environment_state"][CUBE])
        infos.append(info)
        rewards.append(reward)
    assert infos[-1]["is_success"]
    assert np.linalg.norm((cubes[-1] - state[TARGET])[:2]) < 0.03
    np.testing.assert_allclose(posts(blind), before, atol=1e-3)
    for post, side in zip(before, sides, strict=True):
        beside = min(cubes, key=lambda cube: abs(cube[0] - post[0]))
        assert beside[1] - post[1] > 0.1 if side == "L" else beside[1] - post[1] < -0.1
    told = [info["way"] for info in infos]
    assert [*dict.fromkeys(told)] == [-1, way] and told[-1] == -1
    assert np.count_nonzero(np.diff(told)) == 2
    assert not any(info["between"] for info in infos)
    assert rewards[-1] == 1 and max(rewards[:-1]) < 0.75


def test_the_mean_of_two_ways_knocks_a_post_over(
    blind: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "_POST_CLEARANCE", 0.4 * plans._POST_CLEARANCE)
    blind.reset(seed=3)
    expert, infos, terminated = Expert(blind, 1), [], False
    while not terminated:
        _, reward, terminated, truncated, info = blind.step(expert.act())
        infos.append(info)
    assert not truncated and reward == 0 and not info["is_success"]
    assert [info["between"] for info in infos] == [False] * (len(infos) - 1) + [True]


def test_the_way_is_told_beside_the_second_post(blind: ManiSkillEnv) -> None:
    """The cube is put on paths of places: beside which post, and where to its side."""
    blind.reset(seed=3)
    near, far = posts(blind)
    for path, ways in (
        ([(1, LEFT), (0, LEFT), (1, LEFT)], [-1, -1, 0]),
        ([(0, LEFT), (1, RIGHT)], [-1, 1]),
        ([(0, RIGHT), (1, LEFT)], [-1, 2]),
        ([(0, RIGHT), (1, STRAIGHT), (1, RIGHT)], [-1, -1, 3]),
        ([(0, RIGHT), (0, LEFT), (1, LEFT), (1, RIGHT)], [-1, -1, 0, 1]),
        ([(0, LEFT), (0.5, RIGHT), (1, LEFT), (1.6, RIGHT)], [-1, -1, 0, -1]),
    ):
        told = []
        for post, aside in path:
            put(blind, "cube", near + post * (far - near) + np.array([0, aside, -0.07]))
            told.append(int(blind.simulator.evaluate()["way"]))
        assert told == ways, path


def test_no_post_may_be_moved(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    put(blind, "cube", np.add(blind.simulator.target.pose.p[0], [0, 0, 0.04]))
    for name, place in zip("01", posts(blind), strict=True):
        for shift, knocked in ((0.009, False), (0.011, True), (0, False)):
            put(blind, name, np.add(place, [0, shift, 0]))
            found = blind.simulator.evaluate()
            assert bool(found["fail"]) == bool(found["between"]) == knocked
            assert bool(found["success"]) != knocked


def test_a_new_episode_forgets_the_sides_of_the_last_one(blind: ManiSkillEnv) -> None:
    for seed in (3, 4):
        blind.reset(seed=seed)
        near, far = posts(blind)
        put(blind, "cube", np.add(far, [0, LEFT, -0.07]))
        assert int(blind.simulator.evaluate()["way"]) == -1
        put(blind, "cube", np.add(near, [0, LEFT, -0.07]))
        blind.simulator.evaluate()
