"""Experts for LIBERO's tasks, and demonstrations of them."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from e0_experts.collection import try_experts
from e0_experts.poses import UP
from e0_libero.demonstrations import LiberoSettings, demonstrator
from e0_libero.env import LiberoEnv
from e0_libero.experts import DOINGS, ORDER, Expert
from e0_libero.grasps import find_grasp
from e0_libero.scene import Scene
from e0_libero.tasks import STEP_LIMITS, UnknownTaskError, find_task, task_names
from e0_system.workers import Processes
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset


def solves(task: str, seed: int = 0) -> bool:
    settings = LiberoSettings(image_size=None, official_states=True)
    ((outcome,),) = try_experts({task: [seed]}, processes=Processes(1), settings=settings)
    return outcome.success


def test_an_expert_turns_the_stove_on() -> None:
    assert solves("libero_goal/7")


@pytest.mark.slow
@pytest.mark.parametrize("task", task_names(list(STEP_LIMITS)))
def test_every_task_has_an_expert(task: str) -> None:
    assert any(solves(task, seed) for seed in (0, 1))


@pytest.mark.slow
def test_demonstrations_become_a_dataset(tmp_path: Path) -> None:
    settings = LiberoSettings(image_size=32, action_noise=0.1, hold_steps=2)
    request = CollectionRequest(("libero_object/0",), 1, 7, settings)
    record = collect_dataset(request, tmp_path / "data", processes=Processes(1))
    collected = record["collected"]["libero_object/0"]
    assert collected["seeds"] == [7 + collected["tries"] - 1]
    dataset = LeRobotDataset("local/data", root=tmp_path / "data")
    assert dataset.fps == 20 and set(dataset.meta.camera_keys) == {
        "observation.images.image",
        "observation.images.image2",
    }
    frame = dataset[0]
    assert frame["task"] == find_task("libero_object/0").instruction
    assert frame["observation.state"].shape == (8,) and frame["action"].shape == (7,)
    assert "observation.environment_state" not in frame
    assert frame["observation.images.image"].shape == (3, 32, 32)


def test_demonstrators_differ_in_pace_and_in_the_order_of_what_may_come_in_any() -> None:
    with closing(LiberoEnv("libero_10/0")) as env:
        actions, first = [], set()
        env.reset(seed=0)
        for seed in range(8):
            actions.append(demonstrator(env, seed).act())
            first.add(float(np.sign(actions[-1][1])))
        again = demonstrator(env, 7).act()
    np.testing.assert_array_equal(actions[7], again)
    speeds = [np.abs(action[:3]).max() for action in actions]
    assert 0.7 <= min(speeds) < 0.8 and 0.9 < max(speeds) <= 1
    assert len(first) == 2, "what goes first into the basket lies to the left or to the right"


@pytest.mark.parametrize("name", ["libero_5", "libero_10/10", "libero_10/", "libero_10/0/1", ""])
def test_unknown_tasks_are_named(name: str) -> None:
    with pytest.raises(UnknownTaskError, match=f"no task {name}; known: libero_spatial"):
        task_names([name])


def test_a_suite_stands_for_its_tasks() -> None:
    assert task_names(["libero_goal/3"]) == ["libero_goal/3"]
    assert task_names(["libero_10", "libero_goal/0"])[8:] == [
        "libero_10/8",
        "libero_10/9",
        "libero_goal/0",
    ]


def test_a_task_is_collected_once(tmp_path: Path) -> None:
    settings = LiberoSettings(image_size=None)
    names = tuple(task_names(["libero_goal", "libero_goal/3"]))
    with pytest.raises(ValueError, match="a task is named twice"):
        collect_dataset(
            CollectionRequest(names, 1, 7, settings), tmp_path / "data", processes=Processes(1)
        )


def test_a_picture_needs_a_size() -> None:
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel, got 0"):
        LiberoEnv("libero_object/0", image_size=0)
    with pytest.raises(ValueError, match="image_size must be a whole number"):
        LiberoSettings(image_size=0)


def test_what_experts_can_do_has_a_place_in_their_order() -> None:
    assert DOINGS.keys() == ORDER.keys()


def test_a_scene_is_read_as_it_is() -> None:
    with closing(LiberoEnv("libero_goal/3", official_states=True)) as env:
        env.reset(seed=0)
        scene = Scene(env.simulator)
        action = Expert(env.simulator).act()
        assert action.dtype == np.float32 and action.shape == (7,) and np.abs(action).max() <= 1
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
