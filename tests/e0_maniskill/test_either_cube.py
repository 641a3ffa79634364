"""PickEitherCube-v1: either cube may be lifted, and the episode tells which one was chosen."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from e0_experts.episodes import run_expert
from e0_maniskill import ManiSkillEnv
from e0_maniskill.demonstrations import demonstrated_way, demonstrator
from e0_maniskill.experts import Expert

TASK = "PickEitherCube-v1"
LEFT, RIGHT = slice(3, 6), slice(10, 13)  # positions within the environment's state


@pytest.fixture(scope="module")
def blind() -> Iterator[ManiSkillEnv]:
    env = ManiSkillEnv(TASK, state_only=True)
    yield env
    env.close()


def test_ways_are_drawn_by_the_seed_in_their_shares() -> None:
    seeds = range(2000)
    ways = [demonstrated_way(TASK, seed) for seed in seeds]
    assert np.mean(ways) == pytest.approx(0.5, abs=0.03)
    assert ways == [demonstrated_way(TASK, seed) for seed in seeds]
    assert {demonstrated_way("PickCube-v1", seed) for seed in range(20)} == {0}


def test_cubes_lie_apart_and_are_told_from_left_to_right(blind: ManiSkillEnv) -> None:
    for seed in range(6):
        state = blind.reset(seed=seed)[0]["environment_state"]
        left, right = state[LEFT], state[RIGHT]
        assert left[1] > right[1]
        assert np.linalg.norm(left - right) > 0.1
        assert np.abs([left[:2], right[:2]]).max() <= 0.1


def test_the_expert_lifts_the_cube_of_its_way_alone_and_the_scene_does_not_tell_which(
    blind: ManiSkillEnv,
) -> None:
    first_seen = []
    demonstrated = demonstrated_way(TASK, 4)
    demonstrators = {
        demonstrated: demonstrator,
        1 - demonstrated: lambda env, _: Expert(env, 1 - demonstrated),
    }
    for way, goes in demonstrators.items():
        episode = run_expert(blind, goes, 4, action_noise=0.1, hold_steps=2)
        assert episode.success
        first_seen.append(episode.environment_state[0])
        moved = episode.environment_state[-1] - episode.environment_state[0]
        lifted, left = (moved[place] for place in ([LEFT, RIGHT], [RIGHT, LEFT])[way])
        assert lifted[2] > 0.06
        assert np.linalg.norm(left) < 0.001, "the other cube was touched"
    np.testing.assert_array_equal(*first_seen)


@pytest.mark.parametrize("way", [0, 1])
def test_both_ways_lead_to_success_and_are_told(blind: ManiSkillEnv, way: int) -> None:
    blind.reset(seed=3)
    expert, infos, rewards, terminated = Expert(blind, way), [], [], False
    while not terminated:
        _, reward, terminated, _, info = blind.step(expert.act())
        infos.append(info)
        rewards.append(reward)
    assert infos[-1]["is_success"] and not infos[-1]["wrong_object"]
    told = [info["way"] for info in infos]
    assert told[0] == -1 and set(told) == {-1, way}
    assert told == sorted(told, key=[-1, way].index), "the way was given up"
    assert not any(info["between"] for info in infos)
    assert rewards[-1] == 1 and max(rewards[:-1]) < 0.75
    assert (np.diff(rewards) > -0.02).all()


def test_a_way_that_does_not_exist_is_refused(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    with pytest.raises(ValueError, match=r"has 2 way\(s\), counted from 0; got way 2"):
        Expert(blind, 2)


def put_cubes(env: ManiSkillEnv, left: list[float], right: list[float]) -> None:
    """Cubes at these offsets (metres) from the place on the table under the tool."""
    from mani_skill.utils.structs import Pose

    under = env.simulator.agent.tcp_pose.p * torch.tensor([1, 1, 0])
    for cube, offset in ((env.simulator.left_cube, left), (env.simulator.right_cube, right)):
        cube.set_pose(Pose.create_from_pq(under + torch.tensor([offset])))


@pytest.mark.parametrize(
    ("left", "right", "success"),
    [(0.059, 0.0, False), (0.061, 0.0, True), (0.0, 0.061, True), (0.061, 0.061, True)],
)
def test_success_is_any_cube_6_cm_up(
    blind: ManiSkillEnv, left: float, right: float, success: bool
) -> None:
    blind.reset(seed=3)
    put_cubes(blind, [0, 0.1, 0.02 + left], [0, -0.1, 0.02 + right])
    assert bool(blind.simulator.evaluate()["success"]) == success


@pytest.fixture(scope="module")
def lowered(blind: ManiSkillEnv) -> ManiSkillEnv:
    """The tool down on the table."""
    blind.reset(seed=3)
    down = np.array([0, 0, -0.5, 0, 0, 0, 1], np.float32)
    while blind.simulator.agent.tcp_pose.p[0, 2] > 0.04:
        blind.step(down)
    return blind


@pytest.mark.parametrize(
    ("left", "right", "way", "between"),
    [
        ([0, 0.06], [0, -0.06], -1, True),
        ([0, 0.06], [0.01, -0.08], -1, True),
        ([0, 0.045], [0, -0.075], 0, True),
        ([0, 0.035], [0, -0.075], 0, False),
        ([0, 0.09], [0, -0.035], 1, False),
        ([0.10, 0.06], [0.10, -0.06], -1, False),
        ([0, 0.15], [0, 0.05], 1, False),
    ],
)
def test_between_is_down_between_the_cubes(
    lowered: ManiSkillEnv, left: list[float], right: list[float], way: int, between: bool
) -> None:
    put_cubes(lowered, [*left, 0.02], [*right, 0.02])
    found = lowered.simulator.evaluate()
    assert (int(found["way"]), bool(found["between"])) == (way, between)


def test_high_up_no_way_is_chosen_yet(blind: ManiSkillEnv) -> None:
    blind.reset(seed=3)
    put_cubes(blind, [0, 0.02, 0.02], [0, -0.1, 0.02])
    found = blind.simulator.evaluate()
    assert (int(found["way"]), bool(found["between"])) == (-1, False)
