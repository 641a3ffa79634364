"""Reading what VLABench recorded: as its client tells it, or refused with what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from e0_vlabench.poses import BASE as CLIENT_BASE
from e0_vlabench.poses import target_pose, told_state
from lerobot_policy_e0.vlabench.demonstration import (
    DemonstrationError,
    check_together,
    count_angles_without_jumps,
)
from lerobot_policy_e0.vlabench.hdf5 import BASE, read_file
from vlabench_recordings import INSTRUCTION, SAVED, STEPS, blind, write_recording

ELSEWHERE = (-0.2, -0.4, 0.4)
PLACE = rf"data_0.hdf5, data/{SAVED}: "


@pytest.mark.parametrize("base", [BASE, ELSEWHERE])
def test_states_and_actions_are_those_of_the_client(
    tmp_path: Path, base: tuple[float, ...]
) -> None:
    content = blind(base=base)
    (read,) = read_file(write_recording(tmp_path / "data_0.hdf5", content))
    assert read.instruction == INSTRUCTION
    seen = content["observation/ee_state"].astype(float)
    told = [told_state(state, np.array(base)) for state in seen]
    np.testing.assert_allclose(read.states, told, atol=1e-6)
    changed, from_zero = count_angles_without_jumps([read])
    assert from_zero == ["roll"]
    assert (
        np.abs(np.diff(read.actions[:, 3])).max() > 6 > 1 > np.diff(changed[0].actions[:, 3]).max()
    )
    for action, sent in zip(changed[0].actions, content["trajectory"].astype(float), strict=True):
        pose = target_pose(action, np.array(base))
        np.testing.assert_allclose(pose.position, sent[:3] + base, atol=1e-6)
        turn = Rotation.from_euler("xyz", pose.euler).inv() * Rotation.from_euler("xyz", sent[3:6])
        assert turn.magnitude() < 1e-5
        assert pose.fingers[0] == (0.04 if sent[7] > 0.03 else 0)
    assert {*read.states[:, 6]} == {*read.actions[:, 6]} == {0, 1}


def test_the_robot_stands_where_the_client_takes_it_to_be_if_an_older_file_does_not_say(
    tmp_path: Path,
) -> None:
    assert np.array_equal(BASE, CLIENT_BASE)
    content = blind()
    del content["meta_info/episode_config"]
    (read,) = read_file(write_recording(tmp_path / "data_0.hdf5", content))
    np.testing.assert_allclose(
        read.states[0, :3] + BASE, content["observation/ee_state"][0, :3], atol=1e-6
    )
    content = blind(base=ELSEWHERE)
    del content["meta_info/episode_config"]
    file = write_recording(tmp_path / "other.hdf5", content)
    with pytest.raises(DemonstrationError, match=r"\(-0.2\d\d, .*\) beside them; .*record these"):
        read_file(file)


def test_a_file_may_hold_several_episodes(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "data_0.hdf5", blind(0), "2025-06-01 12:00:00")
    write_recording(file, blind(1), "2025-06-01 12:10:00")
    places = [read.place for read in read_file(file)]
    assert places == [f"{file}, data/2025-06-01 12:{minute}:00" for minute in ("00", "10")]


def without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


def put(key: str, place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content[key][place] = value

    return change


def replaced(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.update({key: value})


def deltas(content: dict[str, Any]) -> None:
    """Actions as changes of the position."""
    content["trajectory"][1:, :3] = np.diff(content["trajectory"][:, :3], axis=0)


def world(content: dict[str, Any]) -> None:
    content["trajectory"][:, :3] += BASE


def degrees(content: dict[str, Any]) -> None:
    content["trajectory"][:, 3:6] *= 180 / np.pi


def other_order(content: dict[str, Any]) -> None:
    turns = Rotation.from_euler("xyz", content["trajectory"][:, 3:6])
    content["trajectory"][:, 3:6] = turns.as_euler("zyx")


def last_first(content: dict[str, Any]) -> None:
    """Quaternions with w last."""
    state = content["observation/ee_state"]
    state[:, 3:7] = np.roll(state[:, 3:7], -1, axis=1)


WRONG = {
    "no trajectory": (without("trajectory"), "no 'trajectory'; there are instruction, meta_info"),
    "no state": (without("observation/ee_state"), r"no 'observation/ee_state'; .*record it again"),
    "no pictures": (without("observation/rgb"), r"no 'observation/rgb'; there are "),
    "no instruction": (without("instruction"), r"no 'instruction'; there are meta_info"),
    "empty instruction": (replaced("instruction", np.array([b" "])), r"instruction is empty, so"),
    "no steps": (replaced("trajectory", np.zeros((0, 8))), "trajectory has no steps"),
    "short state": (
        replaced("observation/ee_state", np.zeros((5, 8))),
        rf"observation/ee_state of shape \(5, 8\); expected \({STEPS}, 8\)",
    ),
    "three cameras": (
        replaced("observation/rgb", (STEPS, 3, 480, 480, 3)),
        rf"rgb of shape \({STEPS}, 3, 480, 480, 3\); expected \({STEPS}, 4, 480, 480, 3\)",
    ),
    "small pictures": (replaced("observation/rgb", (STEPS, 4, 256, 256, 3)), "256, 3.; expected"),
    "float pictures": (
        replaced("observation/rgb", np.zeros((STEPS, 4, 480, 480, 3), "f2")),
        "rgb of float16; expected uint8",
    ),
    "NaN action": (put("trajectory", (3, 1), np.nan), "actions that are no numbers from step 3"),
    "NaN state": (put("observation/ee_state", (4, 0), np.nan), "states .* no numbers from step 4"),
    "no rotation": (put("observation/ee_state", (2, slice(3, 7)), 0), "norm 0 in step 2; expected"),
    "wide fingers": (
        put("trajectory", (5, slice(6, 8)), 1.0),
        r"fingers to \[1. 1.\] in step 5; expected 0 to 0.04 m",
    ),
    "half closed": (put("observation/ee_state", (1, 7), 0.5), "gripper of the states from 0 to 1"),
    "degrees": (degrees, r"Euler angles of the actions reach 17\d.*expected radians within ±pi"),
    "deltas": (deltas, r"the next states are 0\.\d+ m from the actions .* are the next pose"),
    "world's frame": (world, r"\(-?0.0\d\d, 0.4\d\d, -0.7\d\d\) beside them"),
    "other order": (other_order, "turned by .* rad from the actions"),
    "w last": (last_first, "turned by .* rad from the actions"),
    "robot's place": (replaced("meta_info/episode_config", b"{}"), "does not say where the robot"),
    "no JSON": (replaced("meta_info/episode_config", b"{"), "does not say where .*expected JSON"),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_demonstration_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = blind()
    change(content)
    file = write_recording(tmp_path / "data_0.hdf5", content)
    with pytest.raises(DemonstrationError, match=PLACE + ".*" + message):
        read_file(file)


def test_a_file_that_was_cut_short_or_is_empty_is_named(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "data_0.hdf5", blind())
    cut = tmp_path / "cut.hdf5"
    cut.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(DemonstrationError, match=r"cut.hdf5 is no whole HDF5 file: .*truncated"):
        read_file(cut)
    empty = tmp_path / "empty.hdf5"
    h5py.File(empty, "w").close()
    with pytest.raises(DemonstrationError, match=r"empty.hdf5: no episode in it"):
        read_file(empty)


def test_an_episode_that_its_video_says_has_failed_is_refused(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "data_7.hdf5", blind())
    (tmp_path / "demo_7_success_False.mp4").touch()
    with pytest.raises(DemonstrationError, match=r"demo_7_success_False.mp4 beside it"):
        read_file(file)
    (tmp_path / "demo_7_success_True.mp4").touch()  # of a later try
    assert len(read_file(file)) == 1


def test_the_same_episode_twice_is_refused(tmp_path: Path) -> None:
    files = [write_recording(tmp_path / name, blind(), name) for name in ("a.hdf5", "b.hdf5")]
    both = [read for file in files for read in read_file(file)]
    with pytest.raises(DemonstrationError, match=r"b.hdf5.* and .*a.hdf5.* hold the same numbers"):
        check_together(both)
    check_together(both[:1])


def test_grippers_that_say_the_same_are_refused(tmp_path: Path) -> None:
    content = blind()
    state = content["observation/ee_state"]
    state[:, 7] = 1 - state[:, 7]
    demonstrations = read_file(write_recording(tmp_path / "data_0.hdf5", content))
    with pytest.raises(DemonstrationError, match=r"in 0 % of the steps.*turned round"):
        check_together(demonstrations)


def test_angles_that_do_not_jump_stay_as_they_are(tmp_path: Path) -> None:
    content = blind()
    content["trajectory"][:, 3] = content["trajectory"][0, 3]
    demonstrations = read_file(write_recording(tmp_path / "data_0.hdf5", content))
    changed, from_zero = count_angles_without_jumps(demonstrations)
    assert from_zero == []
    assert np.array_equal(changed[0].actions, demonstrations[0].actions)
