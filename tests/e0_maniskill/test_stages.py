"""Stages on the way to success: an expert passes all of them in their order, idleness none."""

import numpy as np
import pytest

from e0_maniskill import ManiSkillEnv
from e0_maniskill.demonstrations import demonstrator
from e0_maniskill.stages import STAGES
from e0_maniskill.tasks import TASKS

SOLVED = [
    "PickCube-v1",
    "StackCube-v1",
    "PlaceSphere-v1",
    "PegInsertionSide-v1",
    "PlugCharger-v1",
    "PickEitherCube-v1",
]
STILL = np.array([0, 0, 0, 0, 0, 0, -1.0], np.float32)  # and the gripper closes


@pytest.mark.parametrize("task", SOLVED)
def test_an_expert_passes_them_in_their_order(task: str) -> None:
    env = ManiSkillEnv(task, state_only=True)
    assert env.stages == tuple(STAGES[task])
    env.reset(seed=3)
    for _ in range(3):
        assert env.step(STILL)[-1]["stage"] == 0
    env.reset(seed=3)
    expert = demonstrator(env, 3)
    seen, info = [], {"is_success": False}
    while not info["is_success"]:
        *_, ended, truncated, info = env.step(expert.act())
        assert info["is_success"] or not (ended or truncated), "the expert failed"
        seen.append(info["stage"])
    env.close()
    first = [seen.index(stage) for stage in range(1, len(STAGES[task]) + 1)]
    assert first == sorted(first) and first[0] > 3
    assert len(seen) > first[-1] >= len(seen) / 4


def test_they_are_of_known_tasks_and_a_task_without_any_tells_of_none() -> None:
    assert STAGES.keys() < TASKS.keys()
    env = ManiSkillEnv("PushCube-v1", state_only=True)
    env.reset(seed=0)
    assert env.stages == () and env.step(STILL)[-1]["stage"] == 0
    env.close()
