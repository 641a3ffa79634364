"""Episodes of scripted experts -> a LeRobotDataset v3.

Episodes are collected as single files beside the output. It is a whole dataset or it is not there,
and a stopped collection goes on where it was.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from datasets import disable_progress_bars
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE
from tqdm import tqdm

from e0_experts.collection import CollectionSettings, collect_episodes, numbers_per_task
from e0_experts.episodes import Episode, load_episode
from e0_experts.selection import Collected, Outcome, task_directory
from e0_system.files import place_directory, read_json, write_text
from e0_system.processes import end_with_parent, wait_for_all
from e0_system.workers import Processes
from lerobot_policy_e0.viewpoint import depth_feature
from lerobot_policy_e0.whole_dataset import RECORD, join_datasets, write_whole

WORKERS_OF_A_WRITER = 2  # so many processes that simulate keep one that writes pictures busy
ACTION_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]


@dataclass(frozen=True)
class CollectionRequest:
    """For every task the first `episodes` successes of the seeds seed, seed + 1, ...; one number
    for all tasks or one for each."""

    tasks: tuple[str, ...]
    episodes: int | tuple[int, ...]
    seed: int
    settings: CollectionSettings[Any]

    def record(self) -> dict[str, Any]:
        """This request as JSON data, with the settings as they are for each task."""
        data = {"tasks": self.tasks, "episodes": self.episodes, "seed": self.seed}
        data["settings"] = {task: self.settings.record(task) for task in self.tasks}
        return json.loads(json.dumps(data))


def collect_dataset(
    request: CollectionRequest,
    output: Path,
    *,
    processes: Processes = Processes(),
    use_videos: bool = False,
) -> dict[str, Any]:
    """Collect `request` into a LeRobotDataset at `output` and return its record (seeds, success
    rate of the expert, settings), which is also kept in the dataset's `meta/collection.json`.

    With two workers or more for each of several tasks every task is written by a process of its
    own, and the parts are joined: one that writes is slower than many that simulate. What was begun
    so goes on so, with a worker for each task where fewer are given.

    A dataset that is already there with the same request is left alone. Raises OutputInUseError if
    the directory holds anything else, DirectoryInUseError if another process collects into it,
    OSError with what to do if the disk is full.
    """
    output = Path(output)
    wanted = request.record() | {"videos": use_videos}

    def write(partial: Path) -> None:
        wanted_workers = WORKERS_OF_A_WRITER * len(request.tasks)
        enough = processes.workers >= wanted_workers > WORKERS_OF_A_WRITER
        begun_whole = (partial / "episodes").exists()
        apart = (partial / "parts").exists() or (enough and not begun_whole)
        collect = _collect_parts if apart else _collect_into
        collect(partial, output, request, wanted, processes, use_videos)

    return write_whole(output, wanted, write)


def _collect_into(
    partial: Path,
    output: Path,
    request: CollectionRequest,
    wanted: dict[str, Any],
    processes: Processes,
    use_videos: bool,
) -> None:
    """Collect what is missing in `partial` and write all of it as `output`."""
    draft = partial / "dataset"
    shutil.rmtree(draft, ignore_errors=True)
    writer = _Writer(draft, output.name, request.settings.frame_rate, use_videos)
    collected = _collect(request, partial / "episodes", processes, writer)
    writer.finish()
    record = wanted | {"collected": _summary(collected)}
    write_text(draft / RECORD, json.dumps(record, indent=1))
    place_directory(draft, output)


def _collect_parts(
    partial: Path,
    output: Path,
    request: CollectionRequest,
    wanted: dict[str, Any],
    processes: Processes,
    use_videos: bool,
) -> None:
    """Collect every task as a dataset of its own, all at the same time, and join them as `output`.

    Raises RuntimeError if one of these processes fails, OSError if it found the disk full; the
    others are ended then, and what is finished is kept.
    """
    counts = numbers_per_task(request.episodes, request.tasks)
    setup = request.settings.worker_setup()
    children, roots = {}, {}
    for place, (task, count) in enumerate(counts.items()):
        workers, more = divmod(processes.workers, len(counts))
        own = replace(processes, workers=max(1, workers + (place < more)))
        roots[task] = task_directory(partial / "parts", task)
        part = replace(request, tasks=(task,), episodes=count)
        given = (os.getpid(), setup, part, roots[task], own, use_videos)
        children[task] = get_context("spawn").Process(target=_collect_part, args=given)
    for child in children.values():
        child.start()
    failed = wait_for_all(children)
    if errno.ENOSPC in failed.values():
        raise OSError(errno.ENOSPC, f"no space left for {', '.join(failed)}")
    if failed:
        raise RuntimeError(f"collecting {', '.join(failed)} failed; what is finished is kept")
    draft = partial / "dataset"
    join_datasets(list(roots.values()), draft, output.name, partial / "cache")
    collected = {t: read_json(root / RECORD)["collected"][t] for t, root in roots.items()}
    write_text(draft / RECORD, json.dumps(wanted | {"collected": collected}, indent=1))
    place_directory(draft, output)


def _collect_part(
    parent: int,
    setup: Callable[[], None],
    request: CollectionRequest,
    output: Path,
    processes: Processes,
    use_videos: bool,
) -> None:
    """In a process of its own, whose exit code says whether it was the disk."""
    end_with_parent(parent)
    setup()
    try:
        collect_dataset(request, output, processes=processes, use_videos=use_videos)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(errno.ENOSPC)


def _collect(
    request: CollectionRequest, directory: Path, processes: Processes, writer: _Writer
) -> dict[str, Collected]:
    total = sum(numbers_per_task(request.episodes, request.tasks).values())
    done = len(list(directory.glob("*/*.npz")))
    with tqdm(total=total, initial=min(done, total), desc="Collecting", unit="episode") as bar:

        def count(outcome: Outcome) -> None:
            bar.update(outcome.success)

        return collect_episodes(
            request.tasks,
            request.episodes,
            request.seed,
            directory,
            processes=processes,
            settings=request.settings,
            on_episode=count,
            on_selected=writer.add,
        )


def _summary(collected: dict[str, Collected]) -> dict[str, Any]:
    return {
        task: {"seeds": list(part.seeds), "tries": part.tries, "success_rate": part.success_rate}
        for task, part in collected.items()
    }


class _Writer:
    """Writes episodes into a new LeRobotDataset while others are still being collected."""

    def __init__(self, root: Path, name: str, frame_rate: int, use_videos: bool) -> None:
        self._root, self._name = root, name
        self._frame_rate, self._use_videos = frame_rate, use_videos
        self._dataset: LeRobotDataset | None = None

    def add(self, path: Path) -> None:
        """Add the episode in this file; the first one settles the dataset's features."""
        episode = load_episode(path)
        if self._dataset is None:
            disable_progress_bars()  # LeRobot's own, one for every episode
            self._dataset = LeRobotDataset.create(
                f"local/{self._name}",
                self._frame_rate,
                _features(episode, self._use_videos),
                root=self._root,
                robot_type="panda",
                use_videos=self._use_videos,
            )
        _add_episode(self._dataset, episode)

    def finish(self) -> None:
        """Close the dataset's files."""
        assert self._dataset is not None, "a request has at least one episode"
        self._dataset.finalize()


def _features(episode: Episode, use_videos: bool) -> dict[str, Any]:
    def vector(size: int, names: list[str] | None = None) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (size,), "names": names}

    features = {
        ACTION: vector(episode.actions.shape[1], ACTION_NAMES),
        OBS_STATE: vector(episode.proprioception.shape[1]),
    }
    if _tells_state(episode):
        features[OBS_ENV_STATE] = vector(episode.environment_state.shape[1])
    for camera, images in episode.images.items():
        features[f"{OBS_IMAGES}.{camera}"] = {
            "dtype": "video" if use_videos else "image",
            "shape": images.shape[1:],
            "names": ["height", "width", "channels"],
        }
    for camera, depth in episode.depth.items():
        features[depth_feature(camera)] = {
            "dtype": "image",  # video would round it
            "shape": (*depth.shape[1:], 1),
            "names": ["height", "width", "channels"],
            "info": {"is_depth_map": True, "depth_unit": "mm"},
        }
    return features


def observed_features(observation: dict[str, Any]) -> dict[str, np.ndarray]:
    """What a simulator's environment shows, by the names that it has in a dataset; without depth.
    Pictures uint8 (height, width, 3), numbers float32."""
    features = {OBS_STATE: observation["agent_pos"]}
    state = observation.get("environment_state")
    if state is not None and state.size:
        features[OBS_ENV_STATE] = state
    pictures = observation.get("pixels", {})
    return features | {f"{OBS_IMAGES}.{camera}": image for camera, image in pictures.items()}


def _add_episode(dataset: LeRobotDataset, episode: Episode) -> None:
    for step in range(episode.length):
        seen = {
            "agent_pos": episode.proprioception[step],
            "environment_state": episode.environment_state[step],
            "pixels": {camera: images[step] for camera, images in episode.images.items()},
        }
        frame: dict[str, Any] = observed_features(seen)
        frame |= {ACTION: episode.actions[step], "task": episode.instruction}
        for camera, depth in episode.depth.items():
            frame[depth_feature(camera)] = depth[step, ..., None]
        dataset.add_frame(frame)
    dataset.save_episode()


def _tells_state(episode: Episode) -> bool:
    """Whether the simulator told something of the objects."""
    return episode.environment_state.shape[1] > 0
