"""Experts that take over in the middle of an episode do what is not done yet."""

import numpy as np
import pytest

from e0_maniskill import TASKS, ManiSkillEnv
from e0_maniskill.demonstrations import demonstrated_way, demonstrator
from e0_maniskill.experts import Expert

SEED = 5000
GRIPPER = 6


def lead(env: ManiSkillEnv, steps: int) -> bool:
    """Let an expert begin the episode; whether it has ended it."""
    env.reset(seed=SEED)
    expert = demonstrator(env, SEED)
    return any(env.step(expert.act())[4]["is_success"] for _ in range(steps))


def finish(env: ManiSkillEnv) -> list[np.ndarray]:
    """What an expert that takes over does up to the success; fails if there is none."""
    expert, actions = demonstrator(env, SEED), []
    for _ in range(env._max_episode_steps):
        actions.append(expert.act())
        if env.step(actions[-1])[4]["is_success"]:
            return actions
    pytest.fail(f"{env.task} is not solved")


@pytest.mark.parametrize("task", TASKS)
def test_it_goes_on_where_another_expert_was(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    env.reset(seed=SEED)
    whole = len(finish(env))
    half = whole // 2
    assert not lead(env, half)
    missing = len(finish(env))
    # Not from the start again: what lasts a number of steps may last that once more.
    assert missing <= whole - half + 8, f"{missing} steps after {half} of {whole}"
    env.close()


def begun(env: ManiSkillEnv, way: int, seen: list[int]) -> bool:
    """Whether a way can be told from the others, or a part of it."""
    simulator = env.simulator
    if env.task == "PushOrPickCube-v1" and way == 1:
        return bool(simulator.agent.is_grasping(simulator.cube)[0])
    if env.task == "PassTwoPosts-v1":
        return bool(simulator.sides[0, 0] >= 0)
    return way in seen


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if len(task.ways) > 1])
def test_it_goes_on_the_way_that_was_begun(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    demonstrated = demonstrated_way(task, SEED)
    for way in range(len(TASKS[task].ways)):
        env.reset(seed=SEED)
        expert, seen = Expert(env, way), []
        while not begun(env, way, seen):
            seen.append(env.step(expert.act())[4]["way"])
        expert = demonstrator(env, SEED)
        while not (info := env.step(expert.act())[4])["is_success"]:
            seen.append(info["way"])
            assert len(seen) < 3 * env._max_episode_steps
        gone = {*seen} - {-1}
        if task == "PassTwoPosts-v1":  # the second post may be passed as is demonstrated
            assert {passed >> 1 for passed in gone} == {way >> 1}, f"demonstrated: {demonstrated}"
        else:
            assert gone == {way}, f"demonstrated: {demonstrated}"
    env.close()


@pytest.mark.parametrize("task", ["PickCube-v1", "StackCube-v1", "PlaceSphere-v1"])
def test_what_is_held_is_not_let_go_to_grasp_it_again(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    env.reset(seed=SEED)
    closes = next(i for i, action in enumerate(finish(env)) if action[GRIPPER] < 0)
    lead(env, closes + 5)
    assert finish(env)[0][GRIPPER] < 0
    env.close()


@pytest.mark.parametrize("task", ["PushCube-v1", "PickCube-v1", "PegInsertionSide-v1"])
def test_a_closed_hand_low_beside_the_object_rises_first(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    env.reset(seed=SEED)
    expert = demonstrator(env, SEED)
    name = {"PushCube-v1": "obj", "PickCube-v1": "cube"}.get(task, "peg")
    thing = getattr(env.simulator, name).pose.p[0].numpy()

    def step_towards(place: np.ndarray, steps: int) -> None:
        for _ in range(steps):
            error = (place - env.simulator.agent.tcp.pose.p[0].numpy()) / 0.1
            action = np.array([*error.clip(-1, 1), 0, 0, 0, -1], np.float32)
            env.step(action)

    beside = thing + np.array([0.0, 0.15, 0.0])
    step_towards(beside + np.array([0.0, 0.0, 0.15]), 12)
    step_towards(beside, 12)
    before = getattr(env.simulator, name).pose.p[0].numpy()
    np.testing.assert_allclose(before[:2], thing[:2], atol=0.01, err_msg="it is not touched yet")
    expert = demonstrator(env, SEED)
    first = expert.act()
    assert first[2] > 0.3 and np.abs(first[:2]).max() < 0.2, f"up: {first[:3]}"
    finish(env)
    env.close()
