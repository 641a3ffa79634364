"""Demonstrations as a LeRobotDataset: whole or not there, through kills and full disks."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features

from e0_experts.episodes import Episode, load_episode, run_expert, save_episode
from e0_maniskill import find_task
from e0_maniskill.demonstrations import ManiSkillSettings, demonstrator
from e0_system import locks
from e0_system.workers import Processes
from lerobot_policy_e0 import E0Config
from lerobot_policy_e0.collection import CollectionRequest, collect_dataset
from lerobot_policy_e0.dataset import FramesInMemory
from lerobot_policy_e0.whole_dataset import MARKER, OutputInUseError

TASK = "PushCube-v1"
SEED = 5000
COUNT = 4
# With 18 steps the expert is too slow for some seeds, so that failures are among the tries.
SETTINGS = ManiSkillSettings(
    state_only=True, proprioception="compact", episode_length=18, action_noise=0.1
)
REQUEST = CollectionRequest((TASK,), COUNT, SEED, SETTINGS)
ADVICE = "the disk is full; finished episodes are kept in .*Free some space and run the same"


@dataclass(frozen=True)
class Collected:
    """A dataset of episodes that were made in this process, one after the other; its record."""

    root: Path
    record: dict[str, Any]
    tried: list[Episode]

    @property
    def successes(self) -> list[Episode]:
        return [episode for episode in self.tried if episode.success]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Collected:
    env = SETTINGS.make_env(TASK)
    tried: list[Episode] = []
    while sum(episode.success for episode in tried) < COUNT:
        tried.append(
            run_expert(env, demonstrator, SEED + len(tried), action_noise=SETTINGS.action_noise)
        )
    env.close()
    assert not all(episode.success for episode in tried), "these tests need a failure"
    root = tmp_path_factory.mktemp("collected") / "dataset"
    prepare_episodes(root, REQUEST, tried)
    return Collected(root, collect_dataset(REQUEST, root, processes=Processes(1)), tried)


def open_dataset(root: Path) -> LeRobotDataset:
    return LeRobotDataset("local/dataset", root=root)


def table(root: Path) -> dict[str, Any]:
    """Every column of every frame."""
    rows = open_dataset(root).hf_dataset.with_format("numpy")
    return {name: np.stack(list(rows[name])) for name in rows.column_names}


def assert_equal_datasets(root: Path, expected: Path) -> None:
    assert (root / "meta/collection.json").read_text() == (
        expected / "meta/collection.json"
    ).read_text()
    ours, theirs = table(root), table(expected)
    assert ours.keys() == theirs.keys()
    for name, column in ours.items():
        np.testing.assert_array_equal(column, theirs[name], err_msg=name)


def prepare_episodes(output: Path, request: CollectionRequest, episodes: list[Episode]) -> None:
    """What a stopped collection into `output` left: these episodes beside it, no dataset."""
    directory = output.with_name(output.name + ".partial") / "episodes"
    (directory / TASK).mkdir(parents=True)
    (directory.parent / MARKER).touch()
    settings = {
        "tasks": [TASK],
        "seed": request.seed,
        "settings": {TASK: request.settings.record(TASK)},
    }
    (directory / "settings.json").write_text(json.dumps(settings))
    for episode in episodes:
        if episode.success:
            save_episode(episode, directory / TASK / f"{episode.seed:08d}.npz")
        else:
            (directory / TASK / f"{episode.seed:08d}.failed.json").write_text("{}")


def test_dataset_holds_the_successful_episodes(collected: Collected) -> None:
    dataset = open_dataset(collected.root)
    assert dataset.fps == 20
    assert dataset.num_episodes == COUNT
    shapes = {name: tuple(feature["shape"]) for name, feature in dataset.features.items()}
    assert shapes[ACTION] == (7,)
    assert shapes[OBS_STATE] == (4,)
    assert shapes[OBS_ENV_STATE] == (17,)
    assert not dataset.meta.camera_keys
    frames = iter(range(dataset.num_frames))
    for number, episode in enumerate(collected.successes):
        for step in range(episode.length):
            frame: Any = dataset[next(frames)]
            assert frame["episode_index"] == number
            assert frame["task"] == episode.instruction == find_task(TASK).instruction
            assert float(frame["timestamp"]) == pytest.approx(step / 20)
            for name, expected in (
                (ACTION, episode.actions),
                (OBS_STATE, episode.proprioception),
                (OBS_ENV_STATE, episode.environment_state),
            ):
                np.testing.assert_array_equal(frame[name].numpy(), expected[step])
    assert next(frames, None) is None, "the dataset holds more than the successful episodes"


def test_record_names_seeds_success_rate_and_settings(collected: Collected) -> None:
    record = collected.record
    assert json.loads((collected.root / "meta/collection.json").read_text()) == record
    part = record["collected"][TASK]
    assert part["seeds"] == [episode.seed for episode in collected.successes]
    assert part["tries"] == len(collected.tried)
    assert part["success_rate"] == COUNT / len(collected.tried)
    assert record["tasks"] == [TASK]
    assert (record["episodes"], record["seed"]) == (COUNT, SEED)
    assert record["settings"][TASK]["action_noise"] == 0.1
    assert not collected.root.with_name("dataset.partial").exists()


def test_same_request_does_no_work(collected: Collected) -> None:
    files = sorted(path for path in collected.root.rglob("*") if path.is_file())
    before = [(path, path.stat().st_mtime_ns) for path in files]
    began = time.monotonic()
    assert collect_dataset(REQUEST, collected.root, processes=Processes(1)) == collected.record
    assert time.monotonic() - began < 2, "no simulator starts that fast"
    after = sorted(path for path in collected.root.rglob("*") if path.is_file())
    assert [(path, path.stat().st_mtime_ns) for path in after] == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"episodes": COUNT + 1}, "episodes"),
        ({"seed": SEED + 1}, "seed"),
        ({"tasks": ("PickCube-v1",)}, "tasks, settings"),
        ({"settings": replace(SETTINGS, action_noise=0.2)}, "settings"),
    ],
)
def test_another_request_is_refused(
    collected: Collected, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(OutputInUseError, match=f"collected with another {named}; choose"):
        collect_dataset(replace(REQUEST, **change), collected.root)
    assert_equal_datasets(collected.root, collected.root)


def test_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputInUseError, match="is not a collected dataset"):
        collect_dataset(REQUEST, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_foreign_directory_of_the_drafts_name_is_left_alone(tmp_path: Path) -> None:
    for path in ("dataset.partial/thesis.txt", "dataset.partial/dataset/data.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputInUseError, match=r"dataset\.partial holds something else than"):
        collect_dataset(REQUEST, tmp_path / "dataset")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_collection_into_the_same_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    output = tmp_path / "dataset"
    prepare_episodes(output, REQUEST, [])
    with (
        locks.own_directory(tmp_path / "dataset.partial"),
        pytest.raises(locks.DirectoryInUseError, match=rf"process {os.getpid()} on .* writing"),
    ):
        collect_dataset(REQUEST, output)


def test_a_kill_after_the_renaming_leaves_nothing_to_do_but_to_clean_up(
    tmp_path: Path, collected: Collected
) -> None:
    output, partial = tmp_path / "dataset", tmp_path / "dataset.partial"
    shutil.copytree(collected.root, output)
    prepare_episodes(output, REQUEST, collected.tried[:1])
    assert collect_dataset(REQUEST, output) == collected.record
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    for name in (".lock", f".{MARKER}.7"):  # nearly all was removed, or the mark not yet made
        partial.mkdir(exist_ok=True)
        (partial / name).touch()
    assert collect_dataset(REQUEST, output) == collected.record
    assert not (partial / MARKER).exists() and not (partial / ".lock").exists()


def test_unknown_task_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'PushCube-v1'\?"):
        collect_dataset(replace(REQUEST, tasks=("PushCub-v1",)), tmp_path / "new" / "dataset")
    assert not list(tmp_path.iterdir())


def with_pictures(episodes: list[Episode]) -> list[Episode]:
    """The same episodes as if a camera had seen noise, which no compression makes smaller."""
    rng = np.random.default_rng(0)
    return [
        replace(e, images={"base_camera": rng.integers(0, 256, (e.length, 32, 32, 3), np.uint8)})
        for e in episodes
    ]


PICTURES = replace(REQUEST, settings=replace(SETTINGS, state_only=False, image_size=32))


OTHER = "PickNamedCube-v1"


def prepare_tasks(output: Path, request: CollectionRequest, successes: list[Episode]) -> None:
    """What a stopped collection into `output` left: the same episodes of each task, with the task's
    instructions in turn."""
    directory = output.with_name(output.name + ".partial") / "episodes"
    directory.mkdir(parents=True)
    (directory.parent / MARKER).touch()
    for task in request.tasks:
        (directory / task).mkdir(parents=True)
        instructions = find_task(task).instructions[::-1]
        for number, episode in enumerate(successes):
            instruction, seed = instructions[number % len(instructions)], SEED + number
            renamed = replace(episode, task=task, instruction=instruction, seed=seed)
            save_episode(renamed, directory / task / f"{seed:08d}.npz")
    settings = {task: request.settings.record(task) for task in request.tasks}
    (directory / "settings.json").write_text(
        json.dumps({"tasks": list(request.tasks), "seed": SEED, "settings": settings})
    )


@dataclass
class InThisProcess:
    """A process that is none, which imports nothing anew; benchmarks/gpu rehearses real ones."""

    target: Callable[..., None]
    args: tuple[Any, ...]
    exitcode: int | None = None

    def start(self) -> None:
        try:
            self.target(*self.args)
            self.exitcode = 0
        except SystemExit as end:
            self.exitcode = int(str(end.code))
        except Exception:
            self.exitcode = 1


def failed(processes: dict[str, InThisProcess]) -> dict[str, int | None]:
    return {name: process.exitcode for name, process in processes.items() if process.exitcode}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are written here, one after the other, and nothing is rendered."""
    for name, replacement in {
        "get_context": lambda _: SimpleNamespace(Process=InThisProcess),
        "end_with_parent": lambda _: None,
        "wait_for_all": failed,
    }.items():
        monkeypatch.setattr(f"lerobot_policy_e0.collection.{name}", replacement)
    monkeypatch.setattr(ManiSkillSettings, "worker_setup", lambda _: lambda: None)


def prepare_parts(output: Path, request: CollectionRequest, episodes: list[Episode]) -> Path:
    """What a stopped collection in parts left: the same episodes of every task."""
    partial = output.with_name(output.name + ".partial")
    for task in request.tasks:
        prepare_tasks(partial / "parts" / task, replace(request, tasks=(task,)), episodes)
    (partial / MARKER).touch()
    return partial


BOTH = replace(PICTURES, tasks=(TASK, OTHER), episodes=2)


@pytest.mark.usefixtures("in_this_process")
def test_tasks_follow_each_other(
    tmp_path: Path, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes stand task after task, in the order of seeds, each with its own instruction, also
    where every task is written by a process of its own; nothing stays in the user's cache."""
    output, joined, cache = (tmp_path / name for name in ("dataset", "joined", "cache"))
    episodes = with_pictures(collected.successes[:2])
    prepare_tasks(output, BOTH, episodes)
    collect_dataset(BOTH, output, processes=Processes(1))
    dataset = open_dataset(output)
    order = [row["tasks"] for row in dataset.meta.episodes]  # pyright: ignore
    push, (red, green) = (find_task(task).instructions for task in BOTH.tasks)
    assert order == [[*push], [*push], [green], [red]]
    prepare_parts(joined, BOTH, episodes)
    with monkeypatch.context() as patched:
        patched.setattr("datasets.config.HF_DATASETS_CACHE", cache)
        collect_dataset(BOTH, joined, processes=Processes(4))
    assert not cache.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "joined"]
    assert_equal_datasets(joined, output)
    ours, theirs = (open_dataset(root).meta.stats or {} for root in (joined, output))
    assert ours.keys() == theirs.keys()
    for feature in (ACTION, OBS_STATE, "observation.images.base_camera"):
        assert ours[feature].keys() == theirs[feature].keys() >= {"mean", "std", "q01", "count"}
        for name, values in theirs[feature].items():
            np.testing.assert_allclose(
                ours[feature][name], values, rtol=1e-5, atol=1e-7, err_msg=f"{feature} {name}"
            )


@pytest.mark.usefixtures("in_this_process")
def test_parts_are_gone_on_with_by_fewer_workers(
    tmp_path: Path, collected: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one worker too the finished part is taken as it is, and each part gets a worker."""
    request = replace(REQUEST, tasks=(TASK, OTHER), episodes=2)
    partial = prepare_parts(tmp_path / "dataset", request, collected.successes[:2])
    part = partial / "parts" / TASK
    collect_dataset(replace(request, tasks=(TASK,)), part, processes=Processes(1))
    before = (part / "meta" / "info.json").stat().st_mtime_ns
    whole, given = collect_dataset, []

    def collect(request: CollectionRequest, output: Path, **settings: Any) -> dict[str, Any]:
        given.append((*request.tasks, settings["processes"].workers))
        record = whole(request, output, **settings)
        assert (part / "meta" / "info.json").stat().st_mtime_ns == before
        return record

    monkeypatch.setattr("lerobot_policy_e0.collection.collect_dataset", collect)
    record = whole(request, tmp_path / "dataset", processes=Processes(1))
    assert given == [(TASK, 1), (OTHER, 1)]
    assert list(record["collected"]) == [TASK, OTHER]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    "full", ["collection._Writer.add", "whole_dataset.aggregate_datasets", None]
)
def test_full_disk_while_a_part_is_written_or_parts_are_joined(
    tmp_path: Path, collected: Collected, monkeypatch: pytest.MonkeyPatch, full: str | None
) -> None:
    """It is told as such, no draft stays, episodes are kept; other failures are another error."""
    request = replace(REQUEST, tasks=(TASK, OTHER), episodes=2)
    partial = prepare_parts(tmp_path / "dataset", request, collected.successes[:2])
    drafts = ("dataset", f"parts/{TASK}.partial/dataset", f"parts/{OTHER}.partial/dataset")

    def fail(*_: Any, **settings: Any) -> None:
        if "aggr_root" in settings:
            settings["aggr_root"].mkdir()
        (partial / drafts[-1]).mkdir(parents=True, exist_ok=True)  # of a process that was ended
        raise OSError(errno.ENOSPC, "No space left") if full else ValueError("another failure")

    monkeypatch.setattr(f"lerobot_policy_e0.{full or 'collection._Writer.add'}", fail)
    with pytest.raises(OSError if full else RuntimeError, match=ADVICE if full else "is kept"):
        collect_dataset(request, tmp_path / "dataset", processes=Processes(4))
    assert not (tmp_path / "dataset").exists()
    assert not full or not any((partial / draft).exists() for draft in drafts)
    if full == "whole_dataset.aggregate_datasets":
        assert len(list(partial.glob("parts/*/meta/collection.json"))) == 2
    else:
        assert len(list(partial.glob("parts/*/episodes/*/*.npz"))) == 4


# A stop at any moment


_COLLECT = """
if __name__ == "__main__":
    import sys
    from pathlib import Path
    from test_collect_dataset import REQUEST, Processes, collect_dataset

    collect_dataset(REQUEST, Path(sys.argv[1]), processes=Processes(1))
"""


def kill_when(output: Path, wanted: str, least: int) -> None:
    """Collect in another process; kill it when that many files `wanted` are there."""
    program = output.with_name("collect.py")
    program.write_text(_COLLECT)
    path = [str(Path(__file__).parent), *(entry for entry in sys.path if entry)]
    process = subprocess.Popen(
        [sys.executable, str(program), str(output)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    partial = output.with_name(output.name + ".partial")
    while len(list(partial.glob(wanted))) < least:
        if process.poll() is not None or time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{wanted} never appeared: {process.communicate()[1].decode()[-2000:]}")
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not output.exists(), "the kill came too late to test anything"


@pytest.mark.crash
def test_killed_collection_and_killed_writing_are_resumed(
    tmp_path: Path, collected: Collected
) -> None:
    output = tmp_path / "dataset"
    kill_when(output, f"episodes/{TASK}/*[0-9].npz", 1)
    # While later episodes are collected, earlier ones are being written.
    kill_when(output, f"episodes/{TASK}/*[0-9].npz", COUNT - 1)
    assert (tmp_path / "dataset.partial" / "dataset" / "meta" / "info.json").exists()
    collect_dataset(REQUEST, output, processes=Processes(1))
    assert_equal_datasets(output, collected.root)
    assert not output.with_name("dataset.partial").exists()


# A full disk


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, one megabyte large."""

    root: Path

    def leave(self, kilobytes: int) -> None:
        """Fill the disk up to so much free space."""
        filler = self.root / "filler"
        filler.unlink(missing_ok=True)
        free = shutil.disk_usage(self.root).free
        filler.write_bytes(bytes(free - 1024 * kilobytes))
        assert shutil.disk_usage(self.root).free == 1024 * kilobytes


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(root)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        yield SmallDisk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.mark.slow
def test_full_disk_while_collecting_and_while_writing(
    small_disk: SmallDisk, collected: Collected
) -> None:
    output = small_disk.root / "dataset"
    episodes = small_disk.root / "dataset.partial" / "episodes" / TASK
    small_disk.leave(12)
    with pytest.raises(OSError, match=ADVICE):
        collect_dataset(REQUEST, output, processes=Processes(1))
    kept = list(episodes.glob("*.npz"))
    assert len(kept) < COUNT
    for path in kept:
        load_episode(path)
    small_disk.leave(20)
    with pytest.raises(OSError, match=ADVICE):
        collect_dataset(REQUEST, output, processes=Processes(1))
    assert not output.exists()
    (small_disk.root / "filler").unlink()
    collect_dataset(REQUEST, output, processes=Processes(1))
    assert_equal_datasets(output, collected.root)


def test_pictures_are_kept_bit_by_bit(tmp_path: Path, collected: Collected) -> None:
    episodes = with_pictures(collected.tried)
    prepare_episodes(tmp_path / "dataset", PICTURES, episodes)
    collect_dataset(PICTURES, tmp_path / "dataset", processes=Processes(1))
    dataset = open_dataset(tmp_path / "dataset")
    assert dataset.meta.camera_keys == ["observation.images.base_camera"]
    assert dataset.meta.features["observation.images.base_camera"]["shape"] == (32, 32, 3)
    pictures = [picture for e in episodes if e.success for picture in e.images["base_camera"]]
    for index in range(0, len(pictures), 7):
        frame: Any = dataset[index]
        restored = (frame["observation.images.base_camera"] * 255).round().to(torch.uint8)
        np.testing.assert_array_equal(restored.permute(1, 2, 0).numpy(), pictures[index])


def test_depth_is_kept_to_the_millimetre_and_is_no_input(
    tmp_path: Path, collected: Collected
) -> None:
    rng = np.random.default_rng(1)
    episodes = [
        replace(e, depth={"base_camera": rng.integers(300, 2000, (e.length, 32, 32), np.uint16)})
        for e in with_pictures(collected.tried)
    ]
    request = replace(PICTURES, settings=replace(PICTURES.settings, depth=True))
    prepare_episodes(tmp_path / "dataset", request, episodes)
    collect_dataset(request, tmp_path / "dataset", processes=Processes(1))
    dataset = LeRobotDataset("local/depth", root=tmp_path / "dataset", depth_output_unit="m")
    assert dataset.meta.depth_keys == ["observation.images.base_camera_depth"]
    whole = [depth for e in episodes if e.success for depth in e.depth["base_camera"]]
    in_memory = FramesInMemory(dataset)
    for index in range(0, len(whole), 7):
        for frame in (dataset[index], in_memory[index]):
            measured: Any = frame["observation.images.base_camera_depth"]
            np.testing.assert_array_equal((1000 * measured[0]).round(), whole[index])
    config = E0Config(device="cpu")
    features = dataset_to_policy_features(dataset.meta.features)
    config.output_features = {ACTION: features.pop(ACTION)}
    config.input_features = features
    config.validate_features()
    assert list(config.image_features) == ["observation.images.base_camera"]


def test_full_disk_while_pictures_are_written(small_disk: SmallDisk, collected: Collected) -> None:
    """LeRobot only logs that a picture could not be written; the error must name the disk."""
    output = small_disk.root / "dataset"
    prepare_episodes(output, PICTURES, with_pictures(collected.tried))
    small_disk.leave(40)
    with pytest.raises(OSError, match=ADVICE):
        collect_dataset(PICTURES, output, processes=Processes(1))
    assert not output.exists()
    assert not (small_disk.root / "dataset.partial" / "dataset").exists()
    assert len(list(small_disk.root.glob("dataset.partial/episodes/*/*.npz"))) == COUNT
