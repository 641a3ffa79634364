"""PassPost-v1: round the post on either side, but not through it and not over it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from e0_experts.episodes import run_expert
from e0_maniskill import ManiSkillEnv, plans
from e0_maniskill.demonstrations import demonstrated_way
from e0_maniskill.experts import Expert

TASK = "PassPost-v1"
TARGET, CUBE, POST = slice(0, 3), slice(3, 6), slice(10, 13)  # within the environment's state


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True)
    yield env
    env.close()


def test_demonstrations_go_left_in_three_of_ten() -> None:
    ways = [demonstrated_way(TASK, seed) for seed in range(2000)]
    assert np.mean(ways) == pytest.approx(0.7, abs=0.03)


def test_cube_post_and_target_lie_in_a_row_before_the_tool_moves(blind: ManiSkillEnv) -> None:
    seen = [blind.reset(seed=seed)[0] for seed in (*range(5), 0)]
    for observation in seen:
        state, tool = observation["environment_state"], observation["agent_pos"][9:12]
        cube, post, target = state[CUBE], state[POST], state[TARGET]
        assert 0.10 < post[0] - cube[0] < 0.13 < target[0] - post[0] < 0.16
        assert np.ptp([cube[1], post[1], target[1]]) < 0.03
        assert tool[0] < post[0] - 0.08, "the tool starts before the post"
    states = [observation["environment_state"] for observation in seen]
    assert len({state.tobytes() for state in states}) == 5
    np.testing.assert_array_equal(states[0], states[-1])


def test_with_cameras_the_target_is_for_them_to_see(blind: ManiSkillEnv) -> None:
    state_only = blind.reset(seed=0)[0]["environment_state"]
    blind._state_only, blind._state_size = False, 3
    try:
        assert not blind._environment_state().any()
    finally:
        blind._state_only, blind._state_size = True, 17
    np.testing.assert_array_equal(blind._environment_state(), state_only)


def test_the_scene_tells_nothing_of_the_way(
    blind: ManiSkillEnv,
) -> None:
    seen = []
    for way in (0, 1):
        episode = run_expert(
            blind, lambda env, _, way=way: Expert(env, way), 4, action_noise=0.1, hold_steps=2
        )
        assert episode.success
        seen.append(episode.environment_state)
        aside = episode.environment_state[:, CUBE.start + 1] - seen[0][0, POST.start + 1]
        assert max(aside, key=abs) * (1 - 2 * way) > 0.13
    np.testing.assert_array_equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize("way", [0, 1])
def test_both_ways_lead_to_the_target(blind: ManiSkillEnv, way: int) -> None:
    state = blind.reset(seed=3)[0]["environment_state"]
    expert, infos, rewards, terminated = Expert(blind, way), [], [], False
    while not terminated:
        observation, reward, terminated, _, info = blind.step(expert.act())
        infos.append(info)
        rewards.append(reward)
    last = observation["environment_state"]
    assert infos[-1]["is_success"]
    assert np.linalg.norm((last[CUBE] - last[TARGET])[:2]) < 0.03
    np.testing.assert_allclose(last[POST], state[POST], atol=1e-3)
    told = [info["way"] for info in infos]
    kept = [*dict.fromkeys(told)]
    assert kept == [-1, way] and told[-1] == -1, "open before the post and beyond it"
    assert np.count_nonzero(np.diff(told)) == 2
    assert not any(info["between"] for info in infos)
    assert rewards[-1] == 1 and max(rewards[:-1]) < 0.75


@pytest.mark.parametrize("aside", [0.0, 0.4 * plans._POST_CLEARANCE])
def test_straight_on_and_the_mean_of_the_ways_knock_the_post_over(
    blind: ManiSkillEnv, monkeypatch: pytest.MonkeyPatch, aside: float
) -> None:
    monkeypatch.setattr(plans, "_POST_CLEARANCE", aside)
    blind.reset(seed=3)
    expert, infos, terminated = Expert(blind, 1), [], False
    while not terminated:
        _, reward, terminated, truncated, info = blind.step(expert.act())
        infos.append(info)
    assert not truncated and reward == 0
    assert [info["between"] for info in infos] == [False] * (len(infos) - 1) + [True]
    assert not info["is_success"] and not info["wrong_object"]


@pytest.mark.parametrize(
    ("name", "offset", "tilt", "fail", "between"),
    [
        ("post", [0.009, 0, 0], 0, False, False),
        ("post", [0, -0.011, 0], 0, True, True),
        ("post", [0, 0, 0.01], 9, False, False),
        ("post", [0, 0, 0.01], 11, True, True),
        ("cube", [0, 0, 0.09], 0, False, False),
        ("cube", [0, 0, 0.11], 0, True, False),
    ],
)
def test_a_moved_post_and_a_cube_over_it_are_failure(
    blind: ManiSkillEnv, name: str, offset: list[float], tilt: float, fail: bool, between: bool
) -> None:
    from mani_skill.utils.structs import Pose

    blind.reset(seed=3)
    actor, half = getattr(blind.simulator, name), np.deg2rad(tilt) / 2
    rotation = torch.tensor([[np.cos(half), np.sin(half), 0, 0]], dtype=torch.float32)
    actor.set_pose(Pose.create_from_pq(actor.pose.p + torch.tensor([offset]), rotation))
    found = blind.simulator.evaluate()
    assert (bool(found["fail"]), bool(found["between"])) == (fail, between)
    assert not found["success"]


@pytest.mark.parametrize(
    ("distance", "knocked", "success"),
    [(0.029, False, True), (0.031, False, False), (0.0, True, False)],
)
def test_success_is_the_cube_at_the_target_and_the_post_untouched(
    blind: ManiSkillEnv, distance: float, knocked: bool, success: bool
) -> None:
    from mani_skill.utils.structs import Pose

    blind.reset(seed=3)
    simulator = blind.simulator
    place = simulator.target.pose.p + torch.tensor([[0, distance, 0.04]])
    simulator.cube.set_pose(Pose.create_from_pq(place))
    if knocked:
        simulator.post.set_pose(Pose.create_from_pq(simulator.post.pose.p + 0.02))
    assert bool(simulator.evaluate()["success"]) == success
