"""VLABench's demonstrations as a LeRobotDataset: whole or not there, and what was recorded."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from lerobot_policy_e0.vlabench import importing
from lerobot_policy_e0.vlabench.converted import read_data_file
from lerobot_policy_e0.vlabench.demonstration import Demonstration, DemonstrationError
from lerobot_policy_e0.vlabench.hdf5 import read_file
from lerobot_policy_e0.vlabench.importing import import_demonstrations
from lerobot_policy_e0.whole_dataset import OutputInUseError
from vlabench_recordings import blind, recording, write_converted, write_recording

STEPS = 6
FRUIT, TOY = "Put the banana into the plate", "Put the bear into the basket"


@pytest.fixture(scope="module")
def contents() -> list[dict[str, Any]]:
    """Three episodes, of which the last is of another task."""
    made = [recording(seed, steps=STEPS) for seed in range(3)]
    made[2]["instruction"] = np.array([TOY.encode()])
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, contents: list[dict[str, Any]]) -> Path:
    """Directories as VLABench makes them, one of each task."""
    root = tmp_path_factory.mktemp("vlabench")
    names = ("select_fruit/data_2.hdf5", "select_fruit/data_10.hdf5", "select_toy/data_0.hdf5")
    for name, content in zip(names, contents, strict=True):
        write_recording(root / name, content)
    return root


def frames(root: Path) -> list[dict[str, Any]]:
    dataset = LeRobotDataset("local/dataset", root=root)
    return [dataset[index] for index in range(len(dataset))]


def assert_holds(root: Path, contents: list[dict[str, Any]], source: list[Demonstration]) -> None:
    """The pictures bit by bit, numbers, and instructions, episode after episode."""
    found = frames(root)
    assert len(found) == STEPS * len(contents)
    for episode, (content, read) in enumerate(zip(contents, source, strict=True)):
        for step, frame in enumerate(found[STEPS * episode : STEPS * (episode + 1)]):
            assert frame["episode_index"] == episode and frame["task"] == read.instruction
            assert float(frame["timestamp"]) == pytest.approx(step / 10)
            assert np.array_equal(frame["observation.state"], read.states[step])
            action, sent = frame["action"].numpy(), read.actions[step]
            assert np.array_equal(np.delete(action, 3), np.delete(sent, 3))
            assert action[3] == pytest.approx(sent[3] % (2 * np.pi), abs=1e-6)
            for camera, name in ((2, "image"), (3, "wrist_image")):
                picture = (frame[f"observation.images.{name}"] * 255).round().byte()
                expected = content["observation/rgb"][step, camera]
                assert np.array_equal(picture.permute(1, 2, 0), expected)


def test_a_stopped_import_is_not_there_and_goes_on(
    tmp_path: Path,
    source: Path,
    contents: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every episode is a part here; a stop comes in the second, after a part was finished."""
    monkeypatch.setattr(importing, "EPISODES_OF_A_PART", 1)
    loaded: list[str] = []
    stop = True

    def read(file: Path) -> list[Demonstration]:
        return [replace(found, load=partial(load, found)) for found in read_file(file)]

    def load(demonstration: Demonstration) -> np.ndarray:
        if stop and loaded:
            raise KeyboardInterrupt
        loaded.append(Path(demonstration.place.partition(",")[0]).name)
        return demonstration.load()

    monkeypatch.setattr(importing, "read_file", read)
    output = tmp_path / "dataset"
    with pytest.raises(KeyboardInterrupt):
        import_demonstrations([source], output)
    assert not output.exists()
    stop = False
    record = import_demonstrations([source], output)
    assert loaded == ["data_2.hdf5", "data_10.hdf5", "data_0.hdf5"]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert_holds(output, contents, [d for name in loaded for d in found_in(source, name)])
    assert record["actions_counted_from_0_to_2pi"] == ["roll"]
    assert [Path(place.partition(",")[0]).name for place in record["from"]] == loaded

    import_demonstrations([source / "select_fruit", source / "select_toy", source], output)
    assert len(loaded) == 3
    with pytest.raises(OutputInUseError, match="collected with another episodes"):
        import_demonstrations([source / "select_fruit"], output)


def found_in(source: Path, name: str) -> list[Demonstration]:
    return read_file(next(source.rglob(name)))


def test_parts_of_other_demonstrations_are_written_anew(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording that is moved away after a stop is not in the dataset."""
    output = tmp_path / "dataset"

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(importing, "join_datasets", stop)
        with pytest.raises(KeyboardInterrupt):
            import_demonstrations([source], output)
    import_demonstrations([source / "select_toy"], output)
    assert {frame["task"] for frame in frames(output)} == {TOY}


def test_what_vlabench_converted_gives_the_same_dataset(
    tmp_path: Path, source: Path, contents: list[dict[str, Any]]
) -> None:
    root = write_converted(tmp_path / "converted", contents[:2])
    reads = [read for file in sorted(root.rglob("*.parquet")) for read in read_data_file(file)]
    for read, file in zip(reads, ("data_2.hdf5", "data_10.hdf5"), strict=True):
        (expected,) = found_in(source, file)
        np.testing.assert_allclose(read.states, expected.states, atol=1e-6)
        assert np.array_equal(read.actions, expected.actions)
        assert read.instruction == expected.instruction == FRUIT
    import_demonstrations([root], tmp_path / "dataset")
    assert_holds(tmp_path / "dataset", contents[:2], reads)


def test_a_damaged_picture_leaves_nothing_and_is_named(tmp_path: Path, source: Path) -> None:
    file = tmp_path / "data_2.hdf5"
    content = bytearray((source / "select_fruit/data_2.hdf5").read_bytes())
    with h5py.File(source / "select_fruit/data_2.hdf5") as opened:
        (name,) = opened["data"]  # pyright: ignore[reportGeneralTypeIssues]
        pictures: Any = opened[f"data/{name}/observation/rgb"]
        chunk = next(
            info
            for info in map(pictures.id.get_chunk_info, range(pictures.id.get_num_chunks()))
            if info.chunk_offset[1] == 2
        )
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    file.write_bytes(content)
    with pytest.raises(DemonstrationError, match=r"data_2.hdf5.*observation/rgb is damaged: "):
        import_demonstrations([file], tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_all_that_is_wrong_is_told_before_anything_is_written(tmp_path: Path) -> None:
    for number in range(3):
        content = blind(number)
        if number:
            content["instruction"] = np.array([b""])
        write_recording(tmp_path / f"data_{number}.hdf5", content)
    output = tmp_path / "dataset"
    message = r"2 of 3 files cannot be imported, and nothing was:\n.*data_1.hdf5.*\n.*data_2.hdf5"
    with pytest.raises(DemonstrationError, match=message):
        import_demonstrations([tmp_path], output)
    assert not list(tmp_path.glob("dataset*"))
    with pytest.raises(DemonstrationError, match="nothing holds no demonstrations of VLABench"):
        import_demonstrations([tmp_path / "nothing"], output)


def change_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_datasets_are_refused(tmp_path: Path, contents: list[dict[str, Any]]) -> None:
    root = write_converted(tmp_path / "converted", [contents[0]])
    features = json.loads((root / "meta/info.json").read_text())["features"]
    output = tmp_path / "dataset"

    def refused(message: str) -> None:
        with pytest.raises(DemonstrationError, match=message):
            import_demonstrations([root], output)
        assert not output.exists()

    change_info(root, features=features | {"image": {"dtype": "video"}})
    refused("image is stored as video, and images alone are read; import the HDF5 files")
    change_info(root, features={"observation.state": {"dtype": "float32"}})
    refused("has no state, actions, image, wrist_image; there are observation.state. Expected what")
    change_info(root, features=features, fps=20)
    refused("20 frames a second; expected 10")
    change_info(root, fps=10)
    (root / "meta/tasks.jsonl").write_text("")
    refused("episode 0: meta/tasks has no instruction for task 0")
    next(root.rglob("*.parquet")).write_bytes(b"PAR1")
    refused("episode_000000.parquet cannot be read")
