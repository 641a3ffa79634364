"""`e0 import-vlabench`: what the doctor says of the result, and a policy trained on it is served.

Its errors are those of `import_demonstrations`."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.feature_utils import dataset_to_policy_features

from e0_bench import cli
from e0_bench.doctor.checks_actions import check_convention
from e0_bench.doctor.reading import Column
from e0_bench.training_run import local_training, train
from e0_server.robots import FORMATS, Feature, layout_of
from e0_vlabench.policy import ServedPolicy
from e0_vlabench.poses import BASE
from lerobot_policy_e0.serving import ServedCheckpoint
from lerobot_policy_e0.vlabench.demonstration import ACTION_NAMES, STATE_NAMES
from lerobot_policy_e0.vlabench.hdf5 import read_file
from running_server import serving
from vlabench_recordings import blind, recording, write_recording

EPISODES = 4


def import_vlabench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any
) -> tuple[str | int | None, str]:
    """The exit code, or the message that goes with 1, and what is printed."""
    monkeypatch.setattr(sys, "argv", ["e0", "import-vlabench", *map(str, arguments)])
    code: str | int | None = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    return code, " ".join(capsys.readouterr().out.split())


def record(directory: Path, contents: Iterable[dict[str, Any]]) -> Path:
    for number, content in enumerate(contents):
        write_recording(directory / f"data_{number}.hdf5", content)
    return directory


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contents = (recording(seed, steps=14) for seed in range(EPISODES))
    return record(tmp_path_factory.mktemp("recorded"), contents)


def test_the_doctor_finds_the_conventions_and_what_is_served_fits(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "dataset"
    code, told = import_vlabench(monkeypatch, capsys, recorded, "--output", output)
    assert code == 0, told
    assert f"Dataset: {output}, {EPISODES} episodes" in told and "at 10 fps" in told
    warnings = re.findall(r"WARNING (\S+?:)", told)
    assert warnings == ["observation.state[roll]:"], told  # as the client tells it
    assert re.search(
        r"action\[x, y, z.*\]: looks absolute: follows the next state \(x→x, y→y", told
    )
    assert re.search(
        r"gripper_open\]: .* near 0, .* near 1; \S+\[gripper_closed\] falls .* so 1 opens", told
    )

    metadata = LeRobotDatasetMetadata("local/dataset", root=output)
    features = dataset_to_policy_features(metadata.features)
    action = features.pop("action")
    inputs = {name: Feature(tuple(feature.shape)) for name, feature in features.items()}
    layout = layout_of("vlabench", inputs, action.shape[0], 10)
    assert {source[0][0] for source in layout.sources.values()} == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
    }
    assert metadata.fps == FORMATS["vlabench"].rate


def test_actions_that_stay_where_the_arm_is_are_found_by_the_doctor(tmp_path: Path) -> None:
    contents = [blind(seed, steps=14) for seed in range(EPISODES)]
    for content in contents:
        trajectory, states = content["trajectory"], content["observation/ee_state"]
        trajectory[1:, :6] = trajectory[:-1, :6].copy()
        trajectory[0, :3] = states[0, :3] - BASE
    files = sorted(record(tmp_path, contents).iterdir())
    read = [demonstration for file in files for demonstration in read_file(file)]
    starts, episodes = 14 * np.arange(EPISODES), np.arange(EPISODES)
    state, action = (
        Column(name, tuple(names), np.concatenate(values), starts, episodes)
        for name, names, values in (
            ("observation.state", STATE_NAMES, [demonstration.states for demonstration in read]),
            ("action", ACTION_NAMES, [demonstration.actions for demonstration in read]),
        )
    )
    (copied,) = [f for f in check_convention(action, state) if f.check == "copied state"]
    assert {"x", "y", "z"} <= {*copied.dimensions}


def test_a_gripper_that_was_turned_round_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = blind()
    content["trajectory"][:, 6:] = 0.04 - content["trajectory"][:, 6:]
    source = record(tmp_path / "recorded", [content])
    code, _ = import_vlabench(monkeypatch, capsys, source, "--output", tmp_path / "dataset")
    assert re.match(r"e0: the gripper of the next state is the action's in \d+ % of", str(code))
    assert not (tmp_path / "dataset").exists()


@pytest.mark.slow
def test_a_policy_trained_on_them_acts_for_the_client(
    recorded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the files to poses in VLABench's world, by every program on the way; with videos."""
    output = tmp_path / "dataset"
    code, _ = import_vlabench(monkeypatch, capsys, recorded, "--output", output, "--videos")
    assert code == 0 and len(list(output.glob("videos/*/*/*.mp4"))) == 2
    policy = {"device": "cpu", "preset": "tiny", "image_size": (64, 64)}
    settings = local_training(output, policy, {"steps": 2, "batch_size": 4})
    checkpoint = train(settings, tmp_path / "run", shown=False)
    content = recording(0, steps=3)
    states = content["observation/ee_state"].astype(float)
    with serving(ServedCheckpoint(checkpoint, "vlabench")) as (url, _):
        client = ServedPolicy(url)
        client.reset(seed=0)
        poses = [
            client.act(pictures[2], pictures[3], state, "Put the banana into the plate")
            for pictures, state in zip(content["observation/rgb"], states, strict=True)
        ]
        client.close()
    for pose in poses:
        assert np.abs(pose.position - states[0, :3]).max() < 1  # metres: within the demonstrations
        assert np.isfinite(pose.euler).all() and pose.fingers[0] in (0, 0.04)
