"""LIBERO-Plus's camera axis: its list of tasks, where it moves the camera, and its episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from e0_bench.closed_loop.environments import (
    EnvironmentSettings,
    UnknownEnvironmentError,
    environment_names,
    open_environment,
)
from e0_experts.cameras import CameraShift
from e0_libero import plus
from e0_libero.camera_suite import CameraSuiteEnv
from e0_libero.env import LiberoEnv
from e0_libero.plus import CameraSuiteError, CameraTask, camera_tasks, evenly
from e0_libero.tasks import find_task
from e0_libero.viewpoints import Viewpoint

CAMERA = EnvironmentSettings("libero_camera", ("image_size=64",))
SOUP = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
CENTER = "pick_up_the_black_bowl_from_table_center_and_place_it_on_the_plate"
NAMES = [f"{SOUP}_view_317_0_100_0_0_initstate_0", f"{SOUP}_view_0_0_200_0_0_initstate_0"]
OTHERS = [
    f"{SOUP}_view_0_0_100_0_0_initstate_7",  # another pose of the robot
    f"{SOUP}_view_0_0_100_0_0_initstate_0_noise_31",
    f"{SOUP}_language_3_view_0_0_100_0_0_initstate_0",
    f"{SOUP}_view_317_0_100_0_0_initstate_7",
    f"{SOUP}_table_12",
]
SIZES = {
    "libero_spatial_camera": 376,
    "libero_object_camera": 396,
    "libero_goal_camera": 408,
    "libero_10_camera": 419,
}
# What LIBERO-Plus's own code gives, rounded as it does: place in metres, quaternion (w, x, y, z).
TABLE = ([0.6586, 0, 1.6104], [0.6380, 0.3048, 0.3048, 0.6380])
FLOOR = ([0.8966, 0, 0.65], [0.6182, 0.3432, 0.3432, 0.6182])
STUDY = ([0.4586, 0, 1.6104], [0.6380, 0.3048, 0.3048, 0.6380])
MOVED = [
    (TABLE, "304_15_100_0_0", [0.2384, -0.3535, 1.7532], [-0.9093, -0.2962, -0.0905, -0.2780]),
    (TABLE, "0_0_100_10_352", [0.6586, 0, 1.6104], [-0.5556, -0.3246, -0.3699, -0.6702]),
    (TABLE, "0_0_150_0_0", [0.9879, 0, 2.0156], [0.6380, 0.3048, 0.3048, 0.6380]),
    (FLOOR, "75_15_100_0_0", [0.2342, 0.8741, 0.8872], [0.1214, 0.0479, 0.3640, 0.9222]),
    (FLOOR, "317_0_100_0_0", [0.6557, -0.6115, 0.65], [-0.8018, -0.4451, -0.1936, -0.3486]),
    (FLOOR, "0_0_200_0_0", [1.7932, 0, 0.5], [0.6182, 0.3432, 0.3432, 0.6182]),
    (STUDY, "296_0_100_0_0", [0.2010, -0.4122, 1.6104], [-0.8792, -0.4201, -0.0970, -0.2030]),
]
installed = pytest.mark.skipif(not plus.PLACE.exists(), reason="its list of tasks: `make libero`")


def axes(quaternion: Sequence[float]) -> np.ndarray:
    return Rotation.from_quat(quaternion, scalar_first=True).as_matrix()


def package(directory: Path, content: str) -> Path:
    """A package with this list."""
    path = directory / plus.LIST
    path.parent.mkdir(parents=True)
    path.write_text(content)
    return directory


@pytest.fixture
def two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list in which `libero_object_camera` has NAMES."""
    monkeypatch.setattr(plus, "PLACE", tmp_path / "taken")
    known = dict.fromkeys(plus.BASES, NAMES[:1]) | {"libero_object": [*OTHERS, *NAMES]}
    plus.take(package(tmp_path / "package", f"libero_task_map = {known}\n"))


@pytest.mark.parametrize(("usual", "name", "eye", "quaternion"), MOVED)
def test_the_camera_goes_where_libero_plus_moves_it(
    usual: tuple[list[float], list[float]], name: str, eye: list[float], quaternion: list[float]
) -> None:
    place, quat = usual
    rotation = Rotation.from_quat(quat, scalar_first=True)
    moved, turned = Viewpoint.parse(name).moved(np.array(place), rotation)
    np.testing.assert_allclose(moved, eye, atol=2e-4)
    np.testing.assert_allclose(turned.as_matrix(), axes(quaternion), atol=5e-4)


@pytest.mark.parametrize("text", ["", "1_2_3_4", "1_2_100_4_5_6", "-15_0_100_0_0", "1,0,100,0,0"])
def test_what_is_no_viewpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="azimuth_elevation_distance_yaw_pitch in whole degrees"):
        Viewpoint.parse(text)
    with pytest.raises(ValueError, match="distance must be above 0 per cent: 0"):
        Viewpoint.parse("0_0_0_0_0")


def test_viewpoints_are_told_by_how_they_are_moved() -> None:
    bands = {
        "1_0_100_0_0": "azimuth 1–25°",
        "335_0_100_0_0": "azimuth 1–25°",
        "334_0_100_0_0": "azimuth 26–50°",
        "75_15_100_0_0": "azimuth 51–75°, elevation 15°",
        "0_0_115_0_0": "distance ×1.01–1.50",
        "0_0_150_0_0": "distance ×1.01–1.50",
        "0_0_200_0_0": "distance ×1.51–2.00",
        "0_0_90_0_0": "distance ×0.51–1.00",
        "0_0_100_0_0": "home",
        "0_0_100_2_352": "turned in place",
    }
    assert {name: Viewpoint.parse(name).band for name in bands} == bands


def test_only_tasks_that_move_the_camera_alone_are_of_the_axis() -> None:
    assert [CameraTask.parse(name) for name in OTHERS] == [None] * len(OTHERS)
    task = CameraTask.parse(f"{CENTER}_view_0_0_100_2_352_initstate_0")
    assert task and (task.base, task.viewpoint) == (CENTER, Viewpoint(yaw=2, pitch=352))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 376, 396])
def test_a_row_is_walked_through_evenly(size: int) -> None:
    order = evenly(range(size))
    assert sorted(order) == list(range(size))
    for start in range(size if size > 20 else 0):
        some = sorted((order * 2)[start : start + 20])
        gaps = np.diff([*some, some[0] + size])
        assert gaps.max() < 2 * size / 20 and gaps.min() > size / 20 / 2


@installed
def test_the_suites_are_the_official_ones_in_a_fixed_order() -> None:
    """The sizes are those of the category "Camera Viewpoints" in LIBERO-Plus's classification."""
    suites = {suite: camera_tasks(suite) for suite in plus.SUITES}
    assert {suite: len({task.name for task in tasks}) for suite, tasks in suites.items()} == SIZES
    for suite, tasks in suites.items():
        environment = CameraSuiteEnv(suite)
        assert {task.base for task in tasks} == set(environment._numbers)
        bands = Counter(task.viewpoint.band for task in tasks)
        assert len(bands) == 9
        for start in range(len(tasks)):
            few = Counter(task.viewpoint.band for task in (tasks * 2)[start : start + 30])
            for band, number in bands.items():
                assert abs(few[band] - 30 * number / len(tasks)) < 2.5
    assert [str(task.viewpoint) for task in suites["libero_goal_camera"][:3]] == [
        "17_0_100_0_0",
        "304_15_100_0_0",
        "318_0_100_0_0",
    ]


def test_episodes_are_the_tasks_of_the_list(two_tasks: None) -> None:
    """Everything is as in the first official episode of LIBERO's task, but for the camera."""
    environment = open_environment(CAMERA, "libero_object_camera")
    (whole,) = environment.vector.envs  # type: ignore[attr-defined]
    suite: CameraSuiteEnv = whole.env.env
    told = find_task("libero_object/0").instruction
    with closing(LiberoEnv("libero_object/0", official_states=True)) as usual:
        usual.reset(seed=0)
        state = usual.simulator.get_sim_state()
    for seed, name, expected in ((900_000, NAMES[0], MOVED[4]), (900_001, NAMES[1], MOVED[5])):
        environment.reset(seed)
        assert environment.variant == name and environment.instruction == told
        assert len(environment.instructions) == 10 and environment.step_limit == 280
        assert isinstance(suite.env, LiberoEnv)
        np.testing.assert_array_equal(suite.env.simulator.get_sim_state(), state)
        data = suite.env.simulator.env.sim.data
        camera = suite.env.simulator.env.sim.model.camera_name2id("agentview")
        np.testing.assert_allclose(data.cam_xpos[camera], expected[2], atol=2e-4)
        np.testing.assert_allclose(
            data.cam_xmat[camera].reshape(3, 3), axes(expected[3]), atol=5e-4
        )


def test_what_cannot_be_shown_is_refused(two_tasks: None) -> None:
    with pytest.raises(UnknownEnvironmentError, match=r"no task 'libero_object_camera/3'"):
        environment_names(CAMERA, "libero_object_camera/3")
    with pytest.raises(UnknownEnvironmentError, match="moves the camera itself: leave camera_sh"):
        CAMERA.changed(("camera_shift=5,0,1,0",)).config("libero_object_camera")
    with pytest.raises(UnknownEnvironmentError, match="libero_camera in place of libero"):
        environment_names(EnvironmentSettings("libero"), "libero_object_camera")
    with pytest.raises(CameraSuiteError, match="no suite libero_90_camera of cameras; known: lib"):
        camera_tasks("libero_90_camera")
    with pytest.raises(ValueError, match="by camera_shift or by viewpoint, not by both"):
        LiberoEnv("libero_goal/0", camera_shift=CameraShift(), viewpoint=Viewpoint(azimuth=15))


def test_a_list_that_lacks_or_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plus, "PLACE", tmp_path / "taken")
    with pytest.raises(UnknownEnvironmentError, match="not installed: `make libero`, or `pip"):
        environment_names(CAMERA, "libero_goal_camera")
    with pytest.raises(FileNotFoundError, match="libero_suite_task_map"):
        plus.main([str(tmp_path / "nothing")])
    for number, content in enumerate(("not python", "x = 3", "import os", "x = {'libero_10': []}")):
        with pytest.raises(CameraSuiteError, match="is no list of LIBERO-Plus's tasks"):
            plus.take(package(tmp_path / str(number), content))
    with pytest.raises(CameraSuiteError, match="no task that moves the camera of libero_spatial_c"):
        plus.take(package(tmp_path / "other", f"x = {dict.fromkeys(plus.BASES, OTHERS)}"))
    with pytest.raises(SystemExit, match="usage: python -m"):
        plus.main([])
    assert not plus.PLACE.exists()
