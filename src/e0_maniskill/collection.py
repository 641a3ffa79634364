"""Collecting demonstrations with several processes, so that a kill at any moment costs little.

Each finished episode is a file of its own: a success `<task>/<seed>.npz`, a failure the small
`<task>/<seed>.failed.json`. Which episodes are selected follows from the seeds alone: the first N
successful ones in the order of seeds, however the work was divided or interrupted.
"""

import gc
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from e0_maniskill.cameras import Camera, CameraShift, default_cameras
from e0_maniskill.env import ManiSkillEnv, Proprioception
from e0_maniskill.episodes import run_expert, save_episode
from e0_maniskill.files import read_json, write_text
from e0_maniskill.processes import WorkerLostError, WorkerPool
from e0_maniskill.rendering import assume_render_backend, render_backend
from e0_maniskill.selection import (
    Collected,
    Outcome,
    Progress,
    episode_path,
    failure_path,
    selected_in_order,
)
from e0_maniskill.tasks import find_task

SETTINGS_FILE = "settings.json"
EPISODE_SECONDS = 1800.0  # far beyond any episode: a driver that hangs does so for ever


class SettingsMismatchError(ValueError):
    """A directory holds episodes that were collected with other settings."""


def _camera_record(camera: Camera) -> dict[str, Any]:
    """A camera as data; earlier records know no roll, so none is told where there is none."""
    data = asdict(camera)
    if camera.roll == 0:
        del data["roll"]
    return data


class WorkerError(RuntimeError):
    """A worker process raised an error, or died or hung twice at the same episode."""


@dataclass(frozen=True)
class CollectionSettings:
    """How episodes are made; the arguments of `ManiSkillEnv` and `run_expert`.

    `cameras` holds for all tasks; None means each task's own.
    """

    cameras: Mapping[str, Camera] | None = None
    camera_shift: CameraShift | None = None
    depth: bool = False
    hand_camera: bool = False
    image_size: int | None = None
    proprioception: Proprioception = "full"
    state_only: bool = False
    episode_length: int | None = None
    action_noise: float = 0.0
    noise_probability: float = 0.4
    hold_steps: int = 0

    def make_env(self, task: str) -> ManiSkillEnv:
        """An environment of this task with these settings."""
        return ManiSkillEnv(
            task,
            cameras=self.cameras,
            camera_shift=self.camera_shift,
            depth=self.depth,
            hand_camera=self.hand_camera,
            image_size=self.image_size,
            proprioception=self.proprioception,
            state_only=self.state_only,
            episode_length=self.episode_length,
        )

    def record(self, task: str) -> dict[str, Any]:
        """These settings for one task, as JSON data."""
        cameras = default_cameras(find_task(task)) if self.cameras is None else self.cameras
        if self.camera_shift is not None:
            cameras = {name: camera.moved(self.camera_shift) for name, camera in cameras.items()}
        own = ("cameras", "camera_shift", "depth")
        data = {name: value for name, value in vars(self).items() if name not in own}
        data |= {"depth": True} if self.depth else {}  # earlier records do not tell
        data["cameras"] = {name: _camera_record(camera) for name, camera in cameras.items()}
        return json.loads(json.dumps(data))


def collect_episodes(
    tasks: Sequence[str],
    episodes_per_task: int | Sequence[int],
    seed: int,
    directory: Path,
    *,
    workers: int = 2,
    settings: CollectionSettings | None = None,
    on_episode: Callable[[Outcome], None] | None = None,
    on_selected: Callable[[Path], None] | None = None,
) -> dict[str, Collected]:
    """Collect expert episodes: for every task the first N successes of seeds seed, seed + 1, ...

    Episodes that the directory already holds are kept, so a stopped collection is resumed, and a
    finished one enlarged, by calling this again.

    Args:
        tasks: names.
        episodes_per_task: N, the same for all tasks or one for each.
        seed: the first seed, of every task.
        directory: is made if needed; holds `settings.json` and one folder per task.
        workers: number of processes.
        settings: how episodes are made.
        on_episode: called in this process after every new episode, failures included.
        on_selected: called in this process with the file of every selected episode, task after
            task in the order of seeds, as soon as it is certain; meanwhile the workers go on.

    Returns:
        By task: what was selected. The same for the same arguments, always.

    Raises:
        ValueError: unknown task, or a count below 1.
        SettingsMismatchError: the directory was begun with other tasks, seed or settings.
        RuntimeError: an expert succeeds in fewer than half of at least 20 tries.
        WorkerError: a worker raised (its traceback is the cause), or died or hung twice.
    """
    tasks = [find_task(task).name for task in tasks]
    counts = numbers_per_task(episodes_per_task, tasks)
    settings = settings or CollectionSettings()
    directory = Path(directory)
    _check_settings(
        directory,
        {
            "tasks": tasks,
            "seed": seed,
            "settings": {task: settings.record(task) for task in tasks},
        },
    )
    progress = {task: Progress(task, seed, counts[task], directory) for task in tasks}
    selected = selected_in_order(list(progress.values()), directory)

    def pass_on_selected() -> None:
        for path in selected:
            if path is None:
                return
            if on_selected:
                on_selected(path)

    def finished(outcome: Outcome) -> None:
        if on_episode:
            on_episode(outcome)
        pass_on_selected()

    pass_on_selected()
    _collect_missing(progress, directory, workers, settings, finished)
    return {task: progress[task].selection(directory) for task in tasks}


def numbers_per_task(episodes: int | Sequence[int], tasks: Sequence[str]) -> dict[str, int]:
    """Number of episodes of each task, from one number for all or one for each.

    Raises ValueError for a number below 1, or as many numbers as neither one nor the tasks.
    """
    numbers = [episodes] if isinstance(episodes, int) else list(episodes)
    if len(numbers) == 1:
        numbers *= len(tasks)
    if len(numbers) != len(tasks) or min(numbers) < 1:
        raise ValueError(
            f"episodes_per_task must be one number of at least 1, or one for each of the "
            f"{len(tasks)} tasks, got {episodes}"
        )
    return dict(zip(tasks, numbers, strict=True))


def expert_success(
    task: str, seeds: Iterable[int], *, workers: int = 2, action_noise: float = 0.0
) -> dict[int, bool]:
    """In which of these seeds' episodes the expert succeeds, found without rendering.

    Raises:
        ValueError: unknown task.
        WorkerError: a worker raised (its traceback is the cause), or died or hung twice.
    """
    name = find_task(task).name
    settings = CollectionSettings(state_only=True, action_noise=action_noise)
    with worker_pool(workers, settings) as pool:
        jobs = {pool.submit(_run_seed, settings, name, seed, None): seed for seed in seeds}
        return {seed: _outcome(job, name, seed).success for job, seed in jobs.items()}


def _collect_missing(
    progress: Mapping[str, "Progress"],
    directory: Path,
    workers: int,
    settings: CollectionSettings,
    on_episode: Callable[[Outcome], None],
) -> None:
    """Run the seeds that are wanted and not yet there, task after task."""
    if not any(task.wants_seed() is not None for task in progress.values()):
        return
    with worker_pool(workers, settings) as pool:
        jobs: dict[Future[Outcome], tuple[str, int]] = {}
        while True:
            for task in progress.values():
                # Twice as many as workers, so that none waits while this process is busy.
                while len(jobs) < 2 * workers and (seed := task.wants_seed()) is not None:
                    task.running.add(seed)
                    job = pool.submit(_run_seed, settings, task.name, seed, directory)
                    jobs[job] = (task.name, seed)
            if not jobs:
                return
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                name, seed = jobs.pop(job)
                outcome = _outcome(job, name, seed)
                progress[name].finish(outcome)
                on_episode(outcome)


def _check_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new directory; compare them with those of an old one."""
    path = directory / SETTINGS_FILE
    if not path.exists():
        for task in settings["tasks"]:
            (directory / task).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=2))
        return
    recorded = read_json(path)
    if recorded != settings:
        raise SettingsMismatchError(
            f"{directory} holds episodes collected with other settings: "
            f"{'; '.join(_differences(recorded, settings))}. Use the same settings to resume, or "
            "another directory."
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            label = f"{name}.{key}" if name else key
            yield from _differences(old.get(key), new.get(key), label)
    elif old != new:
        yield f"{name} was {old!r}, now {new!r}"


# Worker processes: each keeps one environment, which is expensive to make.

_worker_env: ManiSkillEnv | None = None


@contextmanager
def worker_pool(
    workers: int, settings: CollectionSettings, time_limit: float = EPISODE_SECONDS
) -> Iterator[WorkerPool]:
    """Processes that simulate, of one thread each, ended with the block. time_limit: of a call, in
    seconds. Raises ValueError for fewer than one worker."""
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    backend = None if settings.state_only else render_backend()
    pool = WorkerPool(workers, time_limit, _start_worker, (backend,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(backend: str | None) -> None:
    import torch

    torch.set_num_threads(1)
    if backend is not None:
        assume_render_backend(backend)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def spare_garbage_collector() -> None:
    """Keep what this process holds now out of Python's garbage collection.

    ManiSkill collects garbage in every reset. Looking at all that was imported takes four times as
    long as building the scene, and none of it is garbage.
    """
    import mani_skill.envs  # noqa: F401  (the largest part of it)

    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_seed(
    settings: CollectionSettings, task: str, seed: int, directory: Path | None
) -> Outcome:
    """In a worker: run one episode and write its file, if a directory is given."""
    global _worker_env
    if _worker_env is None or _worker_env.task != task:
        if _worker_env is not None:
            _worker_env.close()
        spare_garbage_collector()
        _worker_env = settings.make_env(task)
    episode = run_expert(
        _worker_env,
        seed,
        action_noise=settings.action_noise,
        noise_probability=settings.noise_probability,
        hold_steps=settings.hold_steps,
    )
    outcome = Outcome(task, seed, episode.success, episode.length)
    if directory is not None:
        if episode.success:
            save_episode(episode, episode_path(directory, task, seed))
        else:
            write_text(failure_path(directory, task, seed), json.dumps(asdict(outcome), indent=2))
    return outcome


def _outcome(job: "Future[Outcome]", task: str, seed: int) -> Outcome:
    try:
        return job.result()
    except WorkerLostError as error:
        raise WorkerError(f"{task} seed {seed}: {error}; finished episodes are kept") from error
    except Exception as error:
        raise WorkerError(f"the worker running {task} seed {seed} raised: {error!r}") from error
