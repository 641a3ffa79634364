"""Adroit's door for LeRobot: what is seen, when it is open, and people's demonstrations of it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip(
    "lerobot_env_adroit", reason="make .venv/.adroit installs it", exc_type=ImportError
)

from lerobot_env_adroit.demonstrations import (
    DemonstrationsError,
    read_demonstrations,
    replay,
    write_dataset,
)
from lerobot_env_adroit.door import ACTION_SIZE, AdroitDoor

from e0_bench.closed_loop.environments import EnvironmentSettings, open_environment

SHUT = {"qpos": np.zeros(30), "qvel": np.zeros(30), "door_body_pos": np.array([-0.25, 0.3, 0.3])}
HINGE = 28
"""Of qpos, 28 joints before it."""


@pytest.fixture
def door() -> AdroitDoor:
    return AdroitDoor()


def opened_by(angle: float) -> dict[str, np.ndarray]:
    qpos = np.zeros(30)
    qpos[HINGE] = angle
    return SHUT | {"qpos": qpos}


def test_the_seed_says_where_the_door_stands(door: AdroitDoor) -> None:
    first, again, other = (door.reset(seed=seed)[0] for seed in (3, 3, 4))
    for name, size in (("agent_pos", 30), ("environment_state", 9)):
        assert first[name].shape == (size,) and first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], again[name])
    handle = slice(2, 5)
    assert (
        np.abs(first["environment_state"][handle] - other["environment_state"][handle]).max() > 0.01
    )


def test_parts_of_the_observation_are_what_they_are_called(door: AdroitDoor) -> None:
    door.reset(seed=0)
    seen = door.start_from(opened_by(1.2))
    door_state, palm = seen["environment_state"], seen["agent_pos"][27:]
    assert door_state[1] == pytest.approx(1.2) and door_state[8] == 1.0
    np.testing.assert_allclose(door_state[5:8], palm - door_state[2:5], atol=1e-6)
    arm = np.zeros(30)
    arm[1] = 0.1
    assert door.start_from(SHUT | {"qpos": arm})["agent_pos"][0] == pytest.approx(0.1)


def test_it_is_open_at_135_hundredths(door: AdroitDoor) -> None:
    rest = np.zeros(ACTION_SIZE)
    for angle, stage, success in (
        (0.0, 0, False),
        (0.5, 1, False),
        (1.1, 2, False),
        (1.5, 2, True),
    ):
        door.reset(seed=0)
        door.start_from(opened_by(angle))
        _, _, terminated, truncated, info = door.step(rest)
        assert (info["stage"], info["is_success"], terminated) == (stage, success, success)
        assert not truncated


@pytest.mark.parametrize("action", [np.zeros(27), np.full(ACTION_SIZE, np.nan)])
def test_a_wrong_action_is_refused(door: AdroitDoor, action: np.ndarray) -> None:
    door.reset(seed=0)
    with pytest.raises(ValueError, match="28 finite numbers"):
        door.step(action)


def test_lerobot_finds_it_by_its_name() -> None:
    settings = EnvironmentSettings("adroit", ("episode_length=7",))
    environment = open_environment(settings, "AdroitHandDoor-v1")
    assert (environment.step_limit, environment.instruction) == (7, "open the door")
    assert environment.stages == ("ajar (.2 rad)", "open (1 rad)")
    environment.reset(seed=1)
    steps = [environment.step(np.zeros((1, ACTION_SIZE))) for _ in range(7)]
    assert [step.ended for step in steps] == [False] * 6 + [True]
    assert steps[0].observation["agent_pos"].shape == (1, 30)


def demonstration(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    actions = generator.uniform(-1.2, 1.2, (6, ACTION_SIZE))
    return {"actions": actions, "init_state_dict": SHUT} | changes


def test_demonstrations_are_replayed_into_a_dataset(tmp_path: Path) -> None:
    from lerobot.datasets import LeRobotDataset

    source, output = tmp_path / "people.pickle", tmp_path / "dataset"
    lying_open = demonstration(init_state_dict=opened_by(1.5))
    source.write_bytes(pickle.dumps([demonstration(), lying_open], protocol=3))
    written = write_dataset(read_demonstrations(source), output)
    assert [(len(one.actions), one.success) for one in written] == [(6, False), (1, True)]
    assert [one.clipped for one in written] == [6, 1], "28 numbers between -1.2 and 1.2 each"
    assert {path.name for path in tmp_path.iterdir()} == {"people.pickle", "dataset"}
    dataset = LeRobotDataset("local/dataset", root=output)
    assert (dataset.num_episodes, dataset.num_frames) == (2, 7)
    shown = replay(AdroitDoor(), demonstration())
    for place, frame in enumerate(dataset[n] for n in range(6)):
        np.testing.assert_array_equal(
            frame["action"], demonstration()["actions"][place].clip(-1, 1).astype("f4")
        )
        np.testing.assert_array_equal(frame["observation.state"], shown.states[place]["agent_pos"])
    with pytest.raises(FileExistsError, match="exists already"):
        write_dataset([demonstration()], output)


class Attack:
    def __reduce__(self) -> Any:
        return (print, ("attacked",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([Attack()], r"wants to run builtins\.print; demonstrations hold arrays alone"),
        ([], "holds no list of demonstrations"),
        (
            [demonstration(actions=np.zeros((4, 27)))],
            r"demonstration 0 has no finite actions of shape",
        ),
        ([demonstration(actions=np.full((4, 28), np.nan))], "no finite actions"),
        (
            [demonstration(init_state_dict=SHUT | {"qpos": np.zeros(3)})],
            "does not say where it begins",
        ),
        ([demonstration(actions=np.zeros((0, 28)))], "no finite actions"),
        ([demonstration(actions=np.array(1.0))], "no finite actions"),
        ([3], "demonstration 0 has no finite actions"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, content: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "other.pickle"
    source.write_bytes(pickle.dumps(content, protocol=3))
    with pytest.raises(DemonstrationsError, match=message):
        read_demonstrations(source)
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "text.pickle"
    for content in (b"hello", b"", pickle.dumps([demonstration()], protocol=3)[:-9]):
        source.write_bytes(content)
        with pytest.raises(DemonstrationsError, match="is no file of demonstrations"):
            read_demonstrations(source)
