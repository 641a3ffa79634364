"""The whole doctor: a healthy dataset, a dozen broken ones, and the command."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.scripts.lerobot_edit_dataset import (
    ModifyTasksConfig,
    RecomputeStatsConfig,
    RemoveFeatureConfig,
)
from recordings import (
    CAMERA,
    EPISODES,
    STEPS,
    copy_of,
    edit_column,
    edit_json,
    edit_pictures,
    edit_tasks,
)

from e0_bench import cli, doctor
from e0_bench.doctor.command import read_config, split_flags
from e0_bench.doctor.doctor import diagnose
from e0_bench.doctor.findings import ERROR, LEVELS, NOTE, WARNING
from lerobot_policy_e0 import E0Config

ACTION, STATE = "action", "observation.state"
BROKEN: dict[str, tuple[Callable[[Path], None], tuple]] = {}


def broken(level: str, check: str, feature: str, dimensions: str = "", episodes: tuple = ()):
    """Registers a way to break a dataset, with the finding that must come of it."""

    def register(breaker: Callable[[Path], None]) -> Callable[[Path], None]:
        names = tuple(dimensions.split())
        BROKEN[breaker.__name__] = (breaker, (level, check, feature, names, episodes))
        return breaker

    return register


@broken(ERROR, "NaN or infinity", STATE, "y", (2,))
def nan_in_a_state(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.flatnonzero(episode == 2)[5], 1] = np.nan

    edit_column(root, STATE, edit)


@broken(WARNING, "outliers", ACTION, "z", (4,))
def one_wild_action(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.flatnonzero(episode == 4)[7], 2] = 80.0

    edit_column(root, ACTION, edit)


@broken(ERROR, "constant", ACTION)
def actions_were_not_recorded(root: Path) -> None:
    edit_column(root, ACTION, lambda values, _: np.zeros_like(values))


@broken(WARNING, "gripper polarity", ACTION, "gripper", (1, 3))
def gripper_turned_round(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.isin(episode, (1, 3)), 3] *= -1

    edit_column(root, ACTION, edit)


@broken(WARNING, "reversed", ACTION, "x", (5,))
def axis_turned_round(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[episode == 5, 0] *= -1

    edit_column(root, ACTION, edit)


@broken(WARNING, "copied state", ACTION, "x y z")
def action_is_the_present_state(root: Path) -> None:
    state: list[np.ndarray] = []
    edit_column(root, STATE, lambda values, _: state.append(values))
    edit_column(root, ACTION, lambda values, _: np.c_[state[0][:, :3], values[:, 3]])


@broken(WARNING, "quaternion sign", STATE, "qx qy qz qw", (0,))
def quaternion_flips(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.flatnonzero(episode == 0)[10:20], 3:7] *= -1

    edit_column(root, STATE, edit)


@broken(WARNING, "timestamps", "timestamps", "", (3,))
def frames_were_dropped(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.flatnonzero(episode == 3)[20:]] += 0.4

    edit_column(root, "timestamp", edit)


@broken(WARNING, "timestamps", "timestamps")
def fps_is_wrong(root: Path) -> None:
    edit_column(root, "timestamp", lambda values, _: values * 2)


@broken(ERROR, "NaN or infinity", "timestamps", "seconds", (1,))
def a_timestamp_is_missing(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[np.flatnonzero(episode == 1)[3]] = np.nan

    edit_column(root, "timestamp", edit)


@broken(ERROR, "unreadable feature", STATE)
def state_is_of_another_size(root: Path) -> None:
    edit_json(root / "meta/info.json", lambda i: i["features"][STATE].update(shape=[7]))


@broken(NOTE, "idle", "episodes", "", (2,))
def nothing_moves(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        rows = np.flatnonzero(episode == 2)[:23]
        values[rows] = values[rows[0]]

    edit_column(root, STATE, edit)
    edit_column(root, ACTION, edit)


@broken(WARNING, "unlike the others", STATE, "x y z", (1,))
def one_episode_in_millimetres(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[episode == 1, :3] *= 1000

    edit_column(root, STATE, edit)


@broken(WARNING, "placeholder", "instructions", "", (1, 3, 5))
def instruction_is_a_placeholder(root: Path) -> None:
    edit_tasks(root, ["push the cube", "TODO"])


@broken(ERROR, "long instruction", "instructions", "", (0, 2, 4))
def instruction_is_a_novel(root: Path) -> None:
    edit_tasks(root, ["push the cube " * 30, "pick up the cube"])


@broken(ERROR, "missing instruction", "instructions", "", (4,))
def task_is_unknown(root: Path) -> None:
    def edit(values: np.ndarray, episode: np.ndarray) -> None:
        values[episode == 4] = 7

    edit_column(root, "task_index", edit)


@broken(ERROR, "statistics", "meta/stats.json")
def statistics_are_missing(root: Path) -> None:
    (root / "meta/stats.json").unlink()


@broken(WARNING, "stale statistics", STATE, "y")
def statistics_are_of_other_data(root: Path) -> None:
    edit_json(root / "meta/stats.json", lambda stats: stats[STATE]["max"].__setitem__(1, 9.0))


@broken(ERROR, "metadata", "episodes")
def recording_was_cut_short(root: Path) -> None:
    edit_json(root / "meta/info.json", lambda info: info.update(total_frames=EPISODES * STEPS + 3))


@broken(ERROR, "features", "meta/info.json")
def action_is_a_matrix(root: Path) -> None:
    edit_json(root / "meta/info.json", lambda i: i["features"][ACTION].update(shape=[2, 2]))


@broken(WARNING, "black pictures", CAMERA, "", (3,))
def camera_was_covered(root: Path) -> None:
    edit_pictures(root, lambda image, episode: image * (episode != 3))


@broken(WARNING, "frozen pictures", CAMERA, "", (1,))
def camera_froze(root: Path) -> None:
    first: list[np.ndarray] = []

    def edit(image: np.ndarray, episode: int) -> np.ndarray:
        first.extend([image] * (episode == 1))
        return first[0] if episode == 1 else image

    edit_pictures(root, edit)


@broken(WARNING, "turned pictures", CAMERA, "", (0, 5))
def camera_was_mounted_upside_down(root: Path) -> None:
    edit_pictures(root, lambda image, episode: image[::-1, ::-1] if episode in (0, 5) else image)


@broken(ERROR, "undecodable", CAMERA, "", (2,))
def pictures_are_damaged(root: Path) -> None:
    edit_pictures(root, lambda image, episode: None if episode == 2 else image)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dataset_is_found(name: str, healthy: Path, tmp_path: Path) -> None:
    breaker, expected = BROKEN[name]
    root = copy_of(healthy, tmp_path / name)
    breaker(root)
    found = [
        (f.level, f.check, f.feature, f.dimensions, f.episodes)
        for f in diagnose(root, read_config([])).findings
    ]
    assert expected in found, found


def test_healthy_dataset_has_no_error_and_little_else(healthy: Path) -> None:
    diagnosis = diagnose(healthy, read_config(["--codebook=uniform"]))
    found = [(finding.level, finding.check) for finding in diagnosis.findings]
    assert diagnosis.healthy
    # What is told of it is true: two components of the quaternion are 0, LeRobot's quantiles are
    # averages, and the meaning of the actions is as it was made.
    assert sorted(found) == [
        (NOTE, check) for check in ("constant", "convention", "frame", "gripper", "quantiles")
    ]
    told = {finding.check: finding.told for finding in diagnosis.findings}
    assert "looks delta" in told["convention"] and "x→x, y→y, z→z" in told["convention"]
    assert "the base's frame" in told["frame"]
    assert "observation.state[finger] rises after 1" in told["gripper"]


def test_one_fault_hides_no_other(healthy: Path, tmp_path: Path) -> None:
    root = copy_of(healthy, tmp_path / "broken")
    breakers = (nan_in_a_state, one_wild_action, quaternion_flips, gripper_turned_round)
    for breaker in breakers:
        breaker(root)
    found = {finding.check for finding in diagnose(root, read_config([])).findings}
    assert {BROKEN[breaker.__name__][1][1] for breaker in breakers} <= found
    assert "unlike the others" not in found and {"convention", "gripper"} <= found


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["e0", "doctor", *arguments])
    code, message = 0, ""
    try:
        cli.main()
    except SystemExit as stop:
        code = 1 if isinstance(stop.code, str) else int(stop.code or 0)
        message = stop.code if isinstance(stop.code, str) else ""
    captured = capsys.readouterr()
    return code, captured.out, captured.err + message


def test_command_prints_errors_first_and_ends_with_1(
    healthy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run([str(healthy), "--repo-id=me/cubes"], monkeypatch, capsys)
    assert code == 0 and out.startswith("me/cubes: 6 episodes, 240 frames, 12 s at 20 fps\n")
    root = copy_of(healthy, tmp_path / "broken")
    nan_in_a_state(root)
    code, out, err = run([str(root)], monkeypatch, capsys)
    levels = re.findall(r"^(ERROR|WARNING|NOTE)", out, re.MULTILINE)
    assert code == 1 and "Looking at pictures" in err
    assert levels == sorted(levels, key=lambda level: LEVELS.index(level.lower()))
    assert "ERROR   observation.state[y]: NaN or infinite in 1 frame of episode 2\n" in out
    assert "--dataset.episodes=[0,1,3,4,5]" in out
    assert max(map(len, out.splitlines()[5:])) <= 100


def test_policy_flags_are_looked_with(
    healthy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--policy.type=e0", "--policy.horizon", "50", "--policy.n_action_steps=20"]
    code, out, _ = run([*flags, str(healthy)], monkeypatch, capsys)
    assert code == 0 and "all (100 %) shorter than a chunk of 50 steps" in out
    assert "--policy.horizon=40" in out
    assert split_flags(["a", "--policy.x", "1", "--html=b"]) == (["a", "--html=b"], ["--x=1"])


def _no_directory(root: Path) -> str:
    return "no such directory: "


def _no_dataset(root: Path) -> str:
    root.mkdir()
    return "is no LeRobotDataset: it has no meta/info.json; give the directory that holds meta/"


def _older_version(root: Path) -> str:
    (root / "meta").mkdir(parents=True)
    info = '{"codebase_version": "v2.1", "fps": 20, "features": {}}'
    (root / "meta/info.json").write_text(info)
    return "is a LeRobotDataset v2.1, and v3 is read: convert it with"


def _damaged(root: Path) -> str:
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text("{")
    return "info.json is damaged: "


def _without_rate(root: Path) -> str:
    (root / "meta").mkdir(parents=True)
    info = '{"codebase_version": "v3.0", "fps": null, "features": {}}'
    (root / "meta/info.json").write_text(info)
    return "info.json says fps None: it must be a positive number"


@pytest.mark.parametrize(
    "make", [_no_directory, _no_dataset, _older_version, _damaged, _without_rate]
)
def test_what_is_no_dataset_is_one_line(
    make: Callable[[Path], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = make(tmp_path / "data")
    code, out, err = run([str(tmp_path / "data")], monkeypatch, capsys)
    assert code == 1 and not out
    assert told in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--policy.horizn=9", "unknown setting --policy.horizn; did you mean --policy.horizon?"),
        ("--policy.horizon=0", "horizon must be at least 1, got 0"),
        ("--policy.type=act", "policy type e0, not 'act'"),
    ],
)
def test_wrong_policy_flags_are_one_line(
    flag: str,
    told: str,
    healthy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = run([str(healthy), flag], monkeypatch, capsys)
    assert code == 1 and told in err.splitlines()[-1]


def test_every_flag_that_is_named_exists() -> None:
    source = "".join(file.read_text() for file in Path(doctor.__file__).parent.glob("*.py"))
    edits = (ModifyTasksConfig, RecomputeStatsConfig, RemoveFeatureConfig)
    known = {
        "policy": {field.name for field in fields(E0Config)} | {"image_size"},
        "dataset": {field.name for field in fields(DatasetConfig)},
        "operation": {"type"} | {field.name for kind in edits for field in fields(kind)},
    }
    named = re.findall(r"--(policy|dataset|operation)\.([a-z_]+)", source)
    assert len(named) > 20
    assert [pair for pair in named if pair[1] not in known[pair[0]]] == []
    assert "tolerance_s" in {field.name for field in fields(TrainPipelineConfig)}


def test_damaged_data_file_is_named(healthy: Path, tmp_path: Path) -> None:
    root = copy_of(healthy, tmp_path / "damaged")
    next((root / "data").glob("*/*.parquet")).write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"file-000\.parquet is damaged or missing"):
        diagnose(root, read_config([]))


def test_page_holds_findings_pictures_and_histograms(healthy: Path, tmp_path: Path) -> None:
    from e0_bench.doctor.page import write_page

    root = copy_of(healthy, tmp_path / "broken")
    camera_was_covered(root)
    write_page(tmp_path / "page.html", diagnose(root, read_config([])))
    page = (tmp_path / "page.html").read_text()
    assert "black in episode 3" in page and 'class="suspicious"' in page
    assert page.count("data:image/png;base64,") == EPISODES
    assert page.count("<svg") == 4 and "Histogram of gripper" in page
    assert "<script" not in page and "http" not in re.sub(r"http://www\.w3\.org\S*", "", page)
