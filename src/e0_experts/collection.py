"""Collecting demonstrations with several processes, so that a kill at any moment costs little.

Each finished episode is a file of its own: a success `<task>/<seed>.npz`, a failure the small
`<task>/<seed>.failed.json`. Which episodes are selected follows from the seeds alone: the first N
successful ones in the order of seeds, however the work was divided or interrupted.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import parent_process
from pathlib import Path
from socket import gethostname
from typing import Any, ClassVar, Protocol

from e0_experts.episodes import Expert, LeadIn, TaskEnv, run_expert, save_episode
from e0_experts.selection import (
    LOWEST_AFTER_A_POLICY,
    LOWEST_SUCCESS_RATE,
    Collected,
    Outcome,
    Progress,
    episode_path,
    failure_path,
    selected_in_order,
    task_directory,
)
from e0_system.files import read_json, write_text
from e0_system.workers import Processes, WorkerLostError, WorkerPool

SETTINGS_FILE = "settings.json"
EPISODE_SECONDS = 1800.0  # far beyond any episode: a driver that hangs does so for ever
ARRIVAL_SECONDS = 60.0  # until a file of another machine is seen: network file systems keep lists


SHARED = "the machines of a cluster must share the directory that is collected into"


class SettingsMismatchError(ValueError):
    """A directory holds episodes that were collected with other settings."""


class WorkerError(RuntimeError):
    """A worker process raised an error, or died or hung twice at the same episode."""


class CollectionSettings[Env: TaskEnv](Protocol):
    """In which simulator episodes are made, and how. Picklable, for workers.

    frame_rate: steps a second. action_noise, noise_probability, hold_steps, lead_in: see
    `run_expert`.
    """

    frame_rate: ClassVar[int]

    @property
    def action_noise(self) -> float: ...

    @property
    def noise_probability(self) -> float: ...

    @property
    def hold_steps(self) -> int: ...

    @property
    def lead_in(self) -> LeadIn | None: ...

    def task_names(self, tasks: Sequence[str]) -> list[str]:
        """The tasks that these names stand for. Raises ValueError for unknown ones."""
        ...

    def record(self, task: str) -> dict[str, Any]:
        """These settings for one task, as JSON data."""
        ...

    def worker_setup(self) -> Callable[[], None]:
        """What a worker does before its first episode; picklable."""
        ...

    def make_env(self, task: str) -> Env:
        """An environment of this task with these settings."""
        ...

    def demonstrator(self, env: Env, seed: int) -> Expert:
        """The expert of an environment that was reset with this seed."""
        ...


def collect_episodes(
    tasks: Sequence[str],
    episodes_per_task: int | Sequence[int],
    seed: int,
    directory: Path,
    *,
    processes: Processes = Processes(),
    settings: CollectionSettings[Any],
    on_episode: Callable[[Outcome], object] | None = None,
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
        processes: how many, and where; all machines of a cluster must share the directory.
        settings: where and how episodes are made.
        on_episode: called in this process after every new episode, failures included.
        on_selected: called in this process with the file of every selected episode, task after
            task in the order of seeds, as soon as it is certain; meanwhile the workers go on.

    Returns:
        By task: what was selected. The same for the same arguments, always.

    Raises:
        ValueError: unknown task, or a count below 1.
        SettingsMismatchError: the directory was begun with other tasks, seed or settings.
        RuntimeError: an expert succeeds in fewer than half of at least 20 tries, or in fewer than a
            tenth where it takes over.
        WorkerError: a worker raised (its traceback is the cause), or died or hung twice.
        ClusterError: there is no such cluster, or no room in it.
    """
    tasks = settings.task_names(tasks)
    counts = numbers_per_task(episodes_per_task, tasks)
    directory = Path(directory)
    _check_settings(
        directory,
        {
            "tasks": tasks,
            "seed": seed,
            "settings": {task: settings.record(task) for task in tasks},
        },
    )
    lowest = LOWEST_SUCCESS_RATE if settings.lead_in is None else LOWEST_AFTER_A_POLICY
    progress = {task: Progress(task, seed, counts[task], directory, lowest) for task in tasks}
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
    _collect_missing(progress, directory, processes, settings, finished)
    return {task: progress[task].selection(directory) for task in tasks}


def numbers_per_task(episodes: int | Sequence[int], tasks: Sequence[str]) -> dict[str, int]:
    """Number of episodes of each task, from one number for all or one for each.

    Raises ValueError for a number below 1, as many numbers as neither one nor the tasks, or a task
    that is named twice.
    """
    numbers = [episodes] if isinstance(episodes, int) else list(episodes)
    if len(numbers) == 1:
        numbers *= len(tasks)
    if len(numbers) != len(tasks) or min(numbers) < 1:
        raise ValueError(
            f"episodes_per_task must be one number of at least 1, or one for each of the "
            f"{len(tasks)} tasks, got {episodes}"
        )
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"a task is named twice: {', '.join(tasks)}")
    return dict(zip(tasks, numbers, strict=True))


def try_experts(
    seeds: Mapping[str, Sequence[int]],
    *,
    processes: Processes = Processes(),
    settings: CollectionSettings[Any],
    on_episode: Callable[[Outcome], object] | None = None,
) -> Iterator[list[Outcome]]:
    """How the experts do in the episodes of these seeds, by task; nothing is written. Task after
    task, its outcomes in the order of its seeds.

    Raises:
        ClusterError: there is no such cluster, or no room in it.
        WorkerError: a worker raised (its traceback is the cause), or died or hung twice.
    """
    with worker_pool(processes, settings.worker_setup()) as pool:
        jobs = {
            task: {seed: pool.submit(_run_seed, settings, task, seed, None) for seed in own}
            for task, own in seeds.items()
        }
        for task, own in jobs.items():
            outcomes = []
            for seed, job in own.items():
                outcomes.append(_outcome(job, task, seed))
                if on_episode:
                    on_episode(outcomes[-1])
            yield outcomes


def _collect_missing(
    progress: Mapping[str, "Progress"],
    directory: Path,
    processes: Processes,
    settings: CollectionSettings[Any],
    on_episode: Callable[[Outcome], object],
) -> None:
    """Run the seeds that are wanted and not yet there, task after task."""
    if not any(task.wants_seed() is not None for task in progress.values()):
        return
    with worker_pool(processes, settings.worker_setup()) as pool:
        jobs: dict[Future[Outcome], tuple[str, int]] = {}
        while True:
            for task in progress.values():
                # Twice as many as workers, so that none waits while this process is busy.
                while len(jobs) < 2 * processes.workers and (seed := task.wants_seed()) is not None:
                    task.running.add(seed)
                    job = pool.submit(_run_seed, settings, task.name, seed, directory)
                    jobs[job] = (task.name, seed)
            if not jobs:
                return
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                name, seed = jobs.pop(job)
                outcome = _outcome(job, name, seed)
                _wait_for_file(_path_of(outcome, directory))
                progress[name].finish(outcome)
                on_episode(outcome)


def _check_settings(directory: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a directory without episodes; compare them with those of others."""
    path = directory / SETTINGS_FILE
    if not path.exists() or not _has_episodes(directory):
        for task in settings["tasks"]:
            task_directory(directory, task).mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(settings, indent=2))
        return
    recorded = read_json(path)
    if recorded != settings:
        raise SettingsMismatchError(
            f"{directory} holds episodes collected with other settings: "
            f"{'; '.join(_differences(recorded, settings))}. Use the same settings to resume, or "
            "another directory."
        )


def _has_episodes(directory: Path) -> bool:
    return any(next(directory.glob(name), None) for name in ("*/*.npz", "*/*.failed.json"))


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            label = f"{name}.{key}" if name else key
            yield from _differences(old.get(key), new.get(key), label)
    elif old != new:
        yield f"{name} was {old!r}, now {new!r}"


# Worker processes: each keeps one environment, which is expensive to make.

_worker_env: TaskEnv | None = None


@contextmanager
def worker_pool(
    processes: Processes, setup: Callable[[], None], time_limit: float = EPISODE_SECONDS
) -> Iterator[WorkerPool]:
    """Processes that simulate, ended with the block. setup: what each does first. time_limit: of a
    call, in seconds. Raises ClusterError where there is no such cluster, or no room in it."""
    pool = WorkerPool(processes, time_limit, _start_worker, (setup,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(setup: Callable[[], None]) -> None:
    setup()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _env_of(settings: CollectionSettings[Any], task: str) -> TaskEnv:
    global _worker_env
    if _worker_env is not None and _worker_env.task == task:
        return _worker_env
    if _worker_env is not None:
        _worker_env.close()
    env = _worker_env = settings.make_env(task)
    return env


def _run_seed(
    settings: CollectionSettings[Any], task: str, seed: int, directory: Path | None
) -> Outcome:
    """In a worker: run one episode and write its file, if a directory is given."""
    env = _env_of(settings, task)
    episode = run_expert(
        env,
        settings.demonstrator,
        seed,
        action_noise=settings.action_noise,
        noise_probability=settings.noise_probability,
        hold_steps=settings.hold_steps,
        lead_in=settings.lead_in,
    )
    outcome = Outcome(task, seed, episode.success, episode.length)
    if directory is not None:
        path = _path_of(outcome, directory)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} is not on {gethostname()}; {SHARED}")
        if episode.success:
            save_episode(episode, path)
        else:
            write_text(path, json.dumps(asdict(outcome), indent=2))
    return outcome


def _path_of(outcome: Outcome, directory: Path) -> Path:
    of = episode_path if outcome.success else failure_path
    return of(directory, outcome.task, outcome.seed)


def _wait_for_file(path: Path) -> None:
    """Until what a worker wrote is here. Raises WorkerError if it does not come."""
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while not path.exists():
        os.listdir(path.parent)  # or a network file system goes on saying that it is not there
        if time.monotonic() > deadline:
            raise WorkerError(f"a worker wrote {path}, and it is not here; {SHARED}")
        time.sleep(0.1)


def _outcome(job: "Future[Outcome]", task: str, seed: int) -> Outcome:
    try:
        return job.result()
    except WorkerLostError as error:
        raise WorkerError(f"{task} seed {seed}: {error}; finished episodes are kept") from error
    except Exception as error:
        raise WorkerError(f"the worker running {task} seed {seed} raised: {error!r}") from error
