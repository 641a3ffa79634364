"""Tasks and cameras as data, and that importing the package stays light."""

import math
import subprocess
import sys
from typing import Any

import pytest

from e0_maniskill import TASKS, Camera, CameraShift, default_cameras, find_task

CAMERA = Camera(eye=(0.5, 0.0, 0.45), target=(0.03, 0.0, 0.05), field_of_view=0.7)


def test_limits_and_goals() -> None:
    limits = {name: task.episode_length for name, task in TASKS.items()}
    assert limits == {
        "PickCube-v1": 50,
        "PushCube-v1": 50,
        "StackCube-v1": 50,
        "PlaceSphere-v1": 50,
        "PegInsertionSide-v1": 100,
        "PlugCharger-v1": 200,
        "PickNamedCube-v1": 50,
        "PickEitherCube-v1": 50,
        "PassPost-v1": 80,
        "PassTwoPosts-v1": 110,
        "PushOrPickCube-v1": 60,
        "PickCubeTwoStyles-v1": 80,
    }
    assert [name for name, task in TASKS.items() if task.has_goal] == ["PickCube-v1"]


def test_limits_are_the_simulators() -> None:
    import mani_skill.envs  # noqa: F401
    from mani_skill.utils.registration import REGISTERED_ENVS

    import e0_maniskill.either_cube
    import e0_maniskill.named_cube
    import e0_maniskill.pass_post
    import e0_maniskill.push_or_pick
    import e0_maniskill.two_styles  # noqa: F401

    for name, task in TASKS.items():
        assert REGISTERED_ENVS[name].max_episode_steps == task.episode_length


def test_a_task_may_give_several_instructions() -> None:
    several = {name for name, task in TASKS.items() if len(task.instructions) > 1}
    assert several == {"PickNamedCube-v1"}
    for name, task in TASKS.items():
        assert task.instruction == task.instructions[0]
        assert (task.chosen_instruction is not None) == (name in several)


def test_shares_of_ways_add_up() -> None:
    several = {name: task.ways for name, task in TASKS.items() if task.ways}
    assert several == {
        "PickEitherCube-v1": (0.5, 0.5),
        "PassPost-v1": (0.3, 0.7),
        "PassTwoPosts-v1": (0.1, 0.2, 0.3, 0.4),
        "PushOrPickCube-v1": (0.4, 0.6),
        "PickCubeTwoStyles-v1": (0.6, 0.4),
    }
    assert all(math.isclose(sum(ways), 1) for ways in several.values())


def test_misspelt_task_names_the_closest_and_lists_all() -> None:
    with pytest.raises(ValueError, match="Did you mean 'PickCube-v1'") as error:
        find_task("PickCubes")
    assert all(name in str(error.value) for name in TASKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eye": (0.0, 0.0)}, "eye must be three"),
        ({"target": (0.0, math.nan, 0.0)}, "target must be three finite"),
        ({"eye": (0.03, 0.0, 0.9)}, "straight up or down"),
        ({"field_of_view": 0.0}, "field_of_view"),
        ({"field_of_view": 3.2}, "field_of_view"),
        ({"width": 0}, "width must be"),
        ({"height": 12.5}, "height must be"),
    ],
)
def test_impossible_cameras_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"eye": CAMERA.eye, "target": CAMERA.target, "field_of_view": 0.7}
    with pytest.raises(ValueError, match=message):
        Camera(**(arguments | change))


def test_every_task_has_a_base_camera() -> None:
    for task in TASKS.values():
        assert list(default_cameras(task)) == ["base_camera"]


def test_moved_camera_stays_on_its_sphere() -> None:
    moved = CAMERA.moved(CameraShift(azimuth=90))
    assert moved.eye == pytest.approx((0.03, 0.47, 0.45))
    assert CAMERA.moved(CameraShift()).eye == pytest.approx(CAMERA.eye)
    farther = CAMERA.moved(CameraShift(azimuth=20, elevation=-12, radius=1.1, roll=7))
    assert math.dist(farther.eye, farther.target) == pytest.approx(
        math.dist(CAMERA.eye, CAMERA.target) * 1.1
    )
    assert farther.roll == 7
    lifted = CAMERA.moved(CameraShift(elevation=15))
    assert lifted.eye[2] > CAMERA.eye[2] and lifted.target == CAMERA.target


@pytest.mark.parametrize(
    "shift", [CameraShift(elevation=70), CameraShift(elevation=-140), CameraShift(radius=0)]
)
def test_camera_cannot_pass_a_pole_or_its_target(shift: CameraShift) -> None:
    with pytest.raises(ValueError, match="over a pole or into its target"):
        CAMERA.moved(shift)


def test_shifts_are_read_from_text() -> None:
    assert CameraShift.parse("15, -5,1.1,0") == CameraShift(15, -5, 1.1, 0)


@pytest.mark.parametrize(
    "text", ["15", "15,5,1", "a,b,c,d", "1,2,nan,0", "1,2,0,0", "1,2,-1,0", ""]
)
def test_what_is_no_shift_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"azimuth,elevation,radius,roll.*15,5,1\.1,0; got"):
        CameraShift.parse(text)


def test_import_loads_no_simulator() -> None:
    program = (
        "import sys, e0_maniskill; "
        "print(sorted({'mani_skill', 'sapien', 'torch', 'e0', 'lerobot'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    )
    assert result.stdout.strip() == "[]"


def test_package_imports_neither_e0_nor_lerobot() -> None:
    import re
    from pathlib import Path

    import e0_maniskill

    pattern = re.compile(r"^\s*(from|import)\s+(e0|lerobot|lerobot_policy_e0)\b", re.MULTILINE)
    for file in Path(str(e0_maniskill.__file__)).parent.glob("*.py"):
        assert not pattern.search(file.read_text()), file.name
