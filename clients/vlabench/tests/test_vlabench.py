"""The client against VLABench's own code, with stand-ins for its assets.

Run it in VLABench's environment, see docs/vlabench.md; elsewhere it is skipped.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from picking import Picking
from stand_ins import build_stand_ins

from e0_vlabench.command import main
from e0_vlabench.errors import AssetsError, EpisodeError
from e0_vlabench.installation import import_vlabench, require_assets, vlabench_root
from e0_vlabench.policy import FRONT, WRIST, ServedPolicy
from e0_vlabench.poses import Pose
from e0_vlabench.tasks import Episode, asked_episodes, track_files
from running_server import serving

VLABENCH = importlib.util.find_spec("VLABench")
pytestmark = pytest.mark.skipif(VLABENCH is None, reason="VLABench is not installed here")
NAME = "track_1_in_distribution/select_fruit"


@pytest.fixture(scope="module")
def vlabench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """VLABench with stand-ins: its module `envs`, directory `root`, and the names of its tasks."""
    assert VLABENCH is not None and VLABENCH.origin is not None
    assert "VLABench" not in sys.modules, "its place is fixed once it is imported"
    out = tmp_path_factory.mktemp("stand_ins")
    build_stand_ins(Path(VLABENCH.origin).parents[1], out)
    sys.path.insert(0, str(out))
    root = vlabench_root()
    assert root == out / "VLABench"
    require_assets(root)
    envs, tasks = import_vlabench()
    yield SimpleNamespace(envs=envs, root=root, tasks=tasks)
    sys.path.remove(str(out))


@pytest.fixture
def episode(vlabench: SimpleNamespace) -> Episode:
    return asked_episodes([NAME], track_files(vlabench.root), vlabench.tasks, 0, 1)[NAME][0]


def scene(vlabench: SimpleNamespace, episode: Episode) -> SimpleNamespace:
    """How an episode begins: what is seen, and where things are."""
    from e0_vlabench.simulation import opened

    with opened(vlabench.envs, episode) as simulation:
        view = simulation.look()
        task, physics = simulation._env.task, simulation._env.physics
        places = {name: np.array(e.get_xpos(physics)) for name, e in task.entities.items()}
        return SimpleNamespace(view=view, places=places, instruction=simulation.instruction)


def picking(begin: SimpleNamespace) -> Picking:
    return Picking(begin.view.ee_state[:3], begin.places["banana"], begin.places["plate_seen"])


def test_the_command_solves_a_task_logs_it_and_does_not_run_it_again(
    vlabench: SimpleNamespace, episode: Episode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = picking(scene(vlabench, episode))
    with serving(policy) as (url, _):
        command = [url, "--tasks", NAME, "--episodes", "1", "--out", str(tmp_path / "out")]
        main(command)
        row = json.loads((tmp_path / "out/episodes.jsonl").read_text())
        asked = len(policy.asked)
        assert row["success"] is True and row["task"] == NAME and row["seed"] == 0
        assert row["intention_score"] == row["progress_score"] == 1
        assert row["released_progress_score"] == 1
        assert 40 < row["steps"] < 110 and row["chunks"] == asked
        assert row["instruction"] == "Put the banana into the plate_seen"
        assert row["clipped_steps"] == 0
        main(command)
        assert len(policy.asked) == asked
    assert len((tmp_path / "out/episodes.jsonl").read_text().splitlines()) == 1
    assert "1/1 (100 %" in capsys.readouterr().out
    assert {request["prompt"] for request in policy.asked} == {row["instruction"]}


def test_touching_alone_is_a_fifth_of_the_way_by_the_paper_and_half_by_the_code(
    vlabench: SimpleNamespace, episode: Episode
) -> None:
    from e0_vlabench.simulation import opened

    with serving(picking(scene(vlabench, episode))) as (url, _):
        policy = ServedPolicy(url)
        with opened(vlabench.envs, episode) as simulation:
            assert simulation.scores.progress is None
            for step in range(36):  # until the thing is gripped
                view = simulation.look()
                pose = policy.act(view.front, view.wrist, view.ee_state, simulation.instruction)
                solved, out_of_reach = simulation.move(pose)
                assert not solved, "one step whose pose is reached is not a solved task"
                assert not out_of_reach
                if step == 0:
                    assert simulation.scores.progress == simulation.scores.intention == 0
            scores = simulation.scores
            assert (scores.intention, scores.released_progress) == (1, 0.5)
            assert scores.progress == pytest.approx(0.2)
            far = pose._replace(position=np.array([5.0, 0, 1]))
            assert simulation.move(far)[1]
        policy.close()


def test_an_episode_begins_the_same_by_its_seed_and_leaves_no_settings_behind(
    vlabench: SimpleNamespace,
) -> None:
    before = copy.deepcopy((vlabench.envs.TASK_CONFIG, vlabench.envs.ROBOT_CONFIG))
    drawn = [scene(vlabench, Episode("select_fruit", "select_fruit", k)) for k in (3, 3, 4)]
    assert before == (vlabench.envs.TASK_CONFIG, vlabench.envs.ROBOT_CONFIG)
    first, again, other = drawn
    assert first.places.keys() == again.places.keys()
    assert all(np.array_equal(first.places[name], again.places[name]) for name in first.places)
    assert np.array_equal(first.view.front, again.view.front)
    assert first.instruction == again.instruction
    assert not np.array_equal(first.view.front, other.view.front)


def test_a_thing_that_is_absent_is_named_and_a_task_that_cannot_be_set_up(
    vlabench: SimpleNamespace, episode: Episode
) -> None:
    assert episode.setup is not None
    setup = copy.deepcopy(dict(episode.setup))
    setup["task"]["components"][1]["xml_path"] = "obj/meshes/nothing.xml"
    with pytest.raises(AssetsError, match=r"select_fruit, episode 0, needs .*meshes/nothing\.xml"):
        scene(vlabench, Episode(NAME, "select_fruit", 0, setup))
    setup = copy.deepcopy(dict(episode.setup))
    setup["task"]["conditions"] = {"juggled": {}}
    with pytest.raises(EpisodeError, match=r"cannot set up .*select_fruit, episode 0: KeyError"):
        scene(vlabench, Episode(NAME, "select_fruit", 0, setup))


def test_a_simulation_that_diverges_under_the_policys_actions_is_a_failure(
    vlabench: SimpleNamespace, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dm_control.rl.control import PhysicsError

    from e0_vlabench.episodes import run_episode
    from e0_vlabench.simulation import Simulation

    moved, move = [], Simulation.move

    def diverging(simulation: Simulation, pose: Pose) -> tuple[bool, bool]:
        moved.append(pose)
        if len(moved) == 3:
            raise PhysicsError("mjWARN_BADQACC")
        return move(simulation, pose)

    monkeypatch.setattr(Simulation, "move", diverging)
    with serving(picking(scene(vlabench, episode))) as (url, _):
        policy = ServedPolicy(url)
        result = run_episode(policy, vlabench.envs, vlabench.root, "picking", episode)
        policy.close()
    assert (result.success, result.steps, result.progress_score) == (False, 3, 0)
    assert (result.task, result.policy, result.chunks) == (NAME, "picking", 1)


def evaluator(vlabench: SimpleNamespace) -> Any:
    """VLABench's Evaluator, by itself: its package imports PyTorch and the policies it knows."""
    path = vlabench.root / "evaluation/evaluator/base.py"
    spec = importlib.util.spec_from_file_location("vlabench_evaluator", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Evaluator


def test_vlabenchs_own_evaluator_drives_the_policy(
    vlabench: SimpleNamespace, episode: Episode
) -> None:
    begin = scene(vlabench, episode)
    scripted = picking(begin)
    with serving(scripted) as (url, _):
        policy = ServedPolicy(url)
        random.seed(episode.seed)  # where the room is, which the Evaluator leaves to chance
        told = evaluator(vlabench)(["select_fruit"], 1).evaluate_single_episode(
            policy, "select_fruit", 0, copy.deepcopy(episode.setup), max_episode_length=2
        )
        policy.close()
    assert told["task"] == "select_fruit" and "progress_score" in told
    (asked,) = scripted.asked
    assert asked["prompt"] == begin.instruction
    np.testing.assert_allclose(
        asked["observation/state"][:3], begin.view.ee_state[:3] - begin.view.base, atol=1e-3
    )
    for key, ours, index in (
        ("observation/image", begin.view.front, FRONT),
        ("observation/wrist_image", begin.view.wrist, WRIST),
    ):
        difference = np.abs(asked[key].astype(int) - ours.astype(int)).mean()
        assert difference < 3, f"picture {index} of VLABench is not the camera that we name {key}"
