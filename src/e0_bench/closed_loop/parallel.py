"""Several episodes at once, in processes of their own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import torch
from tqdm import tqdm

from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLog, EpisodeResult
from e0_bench.closed_loop.runner import Assignment, Runner
from e0_bench.futures import as_finished
from e0_experts.collection import worker_pool
from e0_system.workers import Processes, WorkerLostError

EPISODE_SECONDS = 1800.0  # loading the policy included; what takes longer is taken to hang


class EpisodeError(RuntimeError):
    """An episode could not be run to its end; finished ones are kept."""


@contextmanager
def episode_pool(
    environment: EnvironmentSettings,
    processes: Processes,
    episode_seconds: float = EPISODE_SECONDS,
) -> Iterator[Executor]:
    """Processes for episodes in this environment, of one thread each, that end with this one, or
    when they are still at one episode after so many seconds."""
    with worker_pool(processes, _worker_setup(environment), episode_seconds) as pool:
        yield pool


def _worker_setup(environment: EnvironmentSettings) -> Callable[[], None]:
    if environment.type != "maniskill":
        return _one_thread
    from e0_maniskill.demonstrations import ManiSkillSettings

    state_only = getattr(environment.config(), "state_only", True)
    return ManiSkillSettings(state_only=state_only).worker_setup()


def _one_thread() -> None:
    torch.set_num_threads(1)


def evaluate(
    assignments: Sequence[Assignment],
    log: EpisodeLog,
    pool: Executor,
    *,
    description: str = "Evaluating",
) -> dict[EpisodeJob, str]:
    """Run the episodes that the log does not hold yet, into the log, with a progress bar.

    Returns those that failed to run, with the reason: their processes died or hung, twice. They say
    nothing of the policy, and are not in the log. Raises EpisodeError naming an episode that ended
    in an error; finished ones are kept.
    """
    wanted = {assignment.job: assignment for assignment in assignments}
    missing = [wanted[job] for job in wanted if job not in log.results]
    done = len(wanted) - len(missing)
    succeeded = sum(log.results[job].success for job in wanted if job in log.results)
    futures = {pool.submit(_run, assignment): assignment.job for assignment in missing}
    lost: dict[EpisodeJob, str] = {}
    with tqdm(total=len(wanted), initial=done, desc=description, unit="episode") as bar:
        for future in as_finished(futures):
            job = futures[future]
            try:
                result = _result_of(future, job)
            except WorkerLostError as error:
                lost[job] = str(error)
                bar.write(f"{job} failed to run: {error}")
                continue
            log.append(result)
            done, succeeded = done + 1, succeeded + result.success
            bar.set_postfix_str(f"{succeeded} of {done} succeeded", refresh=False)
            bar.update()
    return lost


def told_lost(lost: Mapping[EpisodeJob, str]) -> str:
    """A sentence on the episodes that failed to run."""
    job, reason = next(iter(lost.items()))
    return (
        f"{len(lost)} of the episodes failed to run, such as {job}: {reason}. Finished ones are "
        "kept; the same command tries these again, perhaps with fewer --workers"
    )


def comparable_jobs(jobs: Sequence[EpisodeJob], lost: Mapping[EpisodeJob, str]) -> list[EpisodeJob]:
    """The episodes that no policy failed to run; without one as usual its controls say nothing.

    Raises EpisodeError if a task under a control is left without any."""
    gone = {(job.task, job.seed, job.control) for job in lost}
    kept = [
        job
        for job in jobs
        if not gone & {(job.task, job.seed, control) for control in ("none", job.control)}
    ]
    if {(j.task, j.control) for j in kept} != {(j.task, j.control) for j in jobs}:
        raise EpisodeError(told_lost(lost))
    return kept


def _result_of(future: Any, job: EpisodeJob) -> EpisodeResult:
    try:
        return future.result()
    except WorkerLostError:
        raise
    except Exception as error:
        raise EpisodeError(f"{job} failed: {type(error).__name__}: {error}") from error


_runner: Runner | None = None


def _run(assignment: Assignment) -> EpisodeResult:
    """In a worker: run an episode with the policy of the last one, or load another."""
    global _runner
    if _runner is None or _runner.settings != assignment.settings:
        _runner = None  # two large policies may not fit
        gc.collect()  # compiled blocks hold on to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _runner = Runner(assignment.settings)
        if assignment.settings.environment.type == "maniskill":
            from e0_maniskill.demonstrations import spare_garbage_collector

            spare_garbage_collector()
    return _runner.run(assignment)
