"""Experts for LIBERO's tasks."""

import numpy as np
import pytest

from e0_experts.poses import UP
from e0_libero.experts import DOINGS, ORDER, Expert
from e0_libero.grasps import find_grasp
from e0_libero.scene import Scene
from e0_libero.tasks import STEP_LIMITS, UnknownTaskError, begin, opened, solve


@pytest.mark.parametrize(("suite", "number"), [("libero_object", 0), ("libero_goal", 7)])
def test_experts_pick_and_place_and_turn(suite: str, number: int) -> None:
    with opened(suite, number) as (env, states):
        begin(env, states[0])
        first = Expert(env).act()
        assert first.dtype == np.float32 and first.shape == (7,) and np.abs(first).max() <= 1
        assert solve(env, STEP_LIMITS[suite]) is not None


@pytest.mark.slow
@pytest.mark.parametrize("suite", STEP_LIMITS)
@pytest.mark.parametrize("number", range(10))
def test_every_task_has_an_expert(suite: str, number: int) -> None:
    with opened(suite, number) as (env, states):
        begin(env, states[0])
        assert solve(env, STEP_LIMITS[suite]) is not None


def test_unknown_tasks_are_named() -> None:
    for suite, number in (("libero_5", 0), ("libero_10", 10)):
        with pytest.raises(UnknownTaskError, match=f"no task {suite}/{number}; known: libero_sp"):
            opened(suite, number).__enter__()


def test_what_experts_can_do_has_a_place_in_their_order() -> None:
    assert DOINGS.keys() == ORDER.keys()


def test_a_scene_is_read_as_it_is() -> None:
    with opened("libero_goal", 3) as (env, states):
        begin(env, states[0])
        scene = Scene(env)
        assert scene.goals == [["in", "akita_black_bowl_1", "wooden_cabinet_1_top_region"]]
        assert not scene.fulfilled(scene.goals[0])
        assert scene.tool().rotation.apply(UP)[2] == pytest.approx(-1, abs=0.02), "it points down"
        region = "wooden_cabinet_1_top_region"
        assert scene.is_region(region) and scene.is_drawer(region)
        drawer = scene.joint(region)
        assert drawer.slides and abs(drawer.value) < 0.02
        assert drawer.towards("open") == pytest.approx(-0.15 - drawer.value)
        bowl = "akita_black_bowl_1"
        low, high = scene.extent(scene.geoms(bowl))
        height = high[2] - low[2]
        assert 0.03 < height < 0.1
        assert scene.height_above_ground(bowl) == pytest.approx(
            scene.pose(bowl).position[2] - low[2]
        )
        coordinates, heights, seen = scene.height_map(scene.pose(bowl).position, 0.02, 1.2)
        assert heights.shape == seen.shape == (len(coordinates),) * 2
        assert low[2] < heights.min() and heights.max() <= high[2] + 1e-3
        assert np.isin(seen, scene.geoms(bowl)).all()
        grasp = find_grasp(scene, bowl)
        assert grasp is not None
        assert low[2] < grasp.position[2] < high[2]
        away = np.linalg.norm((grasp.position - scene.pose(bowl).position)[:2])
        assert 0.02 < away < 0.08, "by its rim"
