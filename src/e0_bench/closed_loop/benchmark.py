"""Several policies on the same episodes: run them, compare them, write down what was found.

An episode is a policy, a task, a seed and a control. Every policy meets the same initial states,
so differences are judged in pairs. `DIR/benchmark.json` says what is being measured,
`DIR/episodes.jsonl` holds one line per finished episode; both survive a kill and may be extended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.camera_shifts import moved_axes
from e0_bench.closed_loop.checkpoints import Checkpoint, check_fit, read_checkpoints
from e0_bench.closed_loop.decodings import Decoding, DecodingError, read_decoding
from e0_bench.closed_loop.environments import (
    EnvironmentSettings,
    environment_names,
    open_environment,
)
from e0_bench.closed_loop.episodes import (
    EpisodeJob,
    EpisodeLog,
    EpisodeResult,
    changed_options,
    changes_input,
)
from e0_bench.closed_loop.figures import calibration_figure, success_figure
from e0_bench.closed_loop.parallel import (
    EpisodeError,
    comparable_jobs,
    episode_pool,
    evaluate,
    told_lost,
)
from e0_bench.closed_loop.record import check_log, extended_record, read_record
from e0_bench.closed_loop.runner import Assignment, RunnerSettings
from e0_bench.closed_loop.settings import BenchmarkSettings, BenchmarkSettingsError
from e0_bench.closed_loop.shift_figure import shift_figure
from e0_bench.closed_loop.summary import markdown, summarize
from e0_bench.closed_loop.ways import demonstrated_shares
from e0_bench.files import write_json, write_text
from e0_system.locks import own_directory


@dataclass(frozen=True)
class Offer:
    """What an environment gives: shapes of its observations, size of an action it takes, and the
    instructions it may give."""

    name: str
    features: Mapping[str, tuple[int, ...]]
    action_size: int
    instructions: tuple[str, ...]


def run_benchmark(settings: BenchmarkSettings) -> dict[str, Any]:
    """Run what is missing of a benchmark; return its summary, which is also kept in
    `out/summary.json` beside `table.md`, `success.png`, `camera_shift.png` (where cameras were
    moved) and `calibration.png` (where a policy has an entropy).

    An episode that fails to run, because its process dies or hangs, is left out for all policies
    and named in the summary; the next run tries it again.

    Raises UnknownEnvironmentError, CheckpointError, BenchmarkCheckpointError or
    BenchmarkSettingsError for what cannot be run, BenchmarkMismatchError or EpisodeLogError if
    `out` holds something else, DirectoryInUseError if another process works on it, and EpisodeError
    if an episode ends in an error or none of a kind can be run; finished episodes are kept in any
    case.
    """
    with own_directory(settings.out):
        record, names, episodes, lost = _measure(settings)
        labels = list(dict.fromkeys(episode.policy for episode in episodes))
        shares = demonstrated_shares(settings.env, names)
        measured = summarize(episodes, labels, names, settings.every_control, shares)
        summary = {"benchmark": record} | measured
        if lost:
            summary["failed_to_run"] = [
                asdict(job) | {"why": lost[job]} for job in sorted(lost, key=astuple)
            ]
        write_results(settings.out, summary)
    return summary


def read_episodes(
    settings: BenchmarkSettings, ways: Mapping[str, Sequence[Decoding]] | None = None
) -> list[EpisodeResult]:
    """All episodes of a benchmark that its settings ask for; those that are missing are run, and
    raise what `run_benchmark` raises, and EpisodeError if one fails to run.

    ways: how to decode each policy, by label, in place of the settings' decodings of all."""
    with own_directory(settings.out):
        _, _, episodes, lost = _measure(settings, ways)
    if lost:
        raise EpisodeError(told_lost(lost))
    return episodes


def _measure(
    settings: BenchmarkSettings, ways: Mapping[str, Sequence[Decoding]] | None = None
) -> tuple[dict[str, Any], list[str], list[EpisodeResult], dict[EpisodeJob, str]]:
    """Run what is missing; the record, the names of all tasks, the episodes asked for as far as all
    policies have them, and what failed to run."""
    for task in settings.tasks:
        for control in ("none", *settings.every_control):
            settings.environment.changed(changed_options(control)).config(task)
    recorded = read_record(settings.out)
    checkpoints = read_checkpoints(settings.checkpoints, settings.labels, recorded.get("policies"))
    if ways is None:
        every = [read_decoding(text) for text in settings.decodings]
        ways = {checkpoint.label: every for checkpoint in checkpoints}
    checkpoints = _decoded(checkpoints, ways)
    record = extended_record(settings, checkpoints, recorded)
    log = EpisodeLog(settings.out / "episodes.jsonl")
    check_log(log, recorded)
    lost: dict[EpisodeJob, str] = {}
    labels = [checkpoint.label for checkpoint in checkpoints]
    jobs = asked_episodes(settings, labels, record["tasks"])
    if jobs is None or any(job not in log.results for job in jobs):
        with episode_pool(
            settings.environment, settings.processes, settings.episode_seconds
        ) as pool:
            offers = _offers(settings, checkpoints, pool)
            record["tasks"] |= {task: [o.name for o in offers[task]] for task in offers}
            write_json(settings.out / "benchmark.json", record)
            jobs = asked_episodes(settings, labels, record["tasks"])
            assert jobs is not None
            assignments = _assignments(settings, checkpoints, jobs, offers, log)
            lost = evaluate(assignments, log, pool, description="Episodes")
    episodes = [log.results[job] for job in comparable_jobs(jobs, lost)]
    names = [name for task in settings.tasks for name in record["tasks"][task]]
    return record, names, episodes, lost


def write_results(out: Path, summary: dict[str, Any]) -> None:
    """The summary, its table and its figures."""
    write_json(out / "summary.json", summary)
    write_text(out / "table.md", markdown(summary))
    success_figure(summary, out / "success.png")
    if moved_axes([row["control"] for row in summary["rates"]]):
        shift_figure(summary, out / "camera_shift.png")
    if summary["calibration"]:
        calibration_figure(summary, out / "calibration.png")


# What is to be run.


def asked_episodes(
    settings: BenchmarkSettings, labels: Sequence[str], tasks: Mapping[str, Sequence[str]]
) -> list[EpisodeJob] | None:
    """All episodes asked for, or None while `tasks` does not tell what a task stands for. Raises
    BenchmarkSettingsError if a suite and one of its tasks are both asked for."""
    if any(task not in tasks for task in settings.tasks):
        return None
    names = [name for task in settings.tasks for name in tasks[task]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BenchmarkSettingsError(
            f"--tasks names {', '.join(twice)} twice: a suite holds all of its tasks"
        )
    few = min(settings.control_episodes, settings.episodes)
    return [
        EpisodeJob(label, name, settings.seed + number, control)
        for label in labels
        for task in settings.tasks
        for name in tasks[task]
        for control in ("none", *settings.every_control)
        for number in range(settings.episodes if control == "none" else few)
    ]


def _offers(
    settings: BenchmarkSettings, checkpoints: Sequence[Checkpoint], pool: Executor
) -> dict[str, list[Offer]]:
    """What the environments of each task give, after checking that every policy can use it."""
    offers = offers_of(settings.environment, settings.tasks, pool)
    for offer in (offer for some in offers.values() for offer in some):
        for checkpoint in checkpoints:
            check_fit(checkpoint, offer.name, offer.features, offer.action_size)
        if changes_input(settings.every_control, "blackout") and not _can_be_hidden(offer):
            raise BenchmarkSettingsError(
                f"the control 'blackout' needs images or a state of the environment, and "
                f"{offer.name} gives neither"
            )
    instructions = {
        text for some in offers.values() for offer in some for text in offer.instructions
    }
    if changes_input(settings.every_control, "instruction") and len(instructions) < 2:
        raise BenchmarkSettingsError(
            "the control 'instruction' needs another instruction than the right one, and there is "
            f"only {sorted(instructions)}; give a second task, or a task with several instructions"
        )
    return offers


def offers_of(
    environment: EnvironmentSettings, tasks: Sequence[str], pool: Executor
) -> dict[str, list[Offer]]:
    """What the environments of each task give, several where a task is a suite. Raises
    UnknownEnvironmentError where there are none."""
    futures = {task: pool.submit(_offers_of_task, environment, task) for task in tasks}
    return {task: future.result() for task, future in futures.items()}


def _can_be_hidden(offer: Offer) -> bool:
    """Whether something tells where things are, so that a blackout can hide it."""
    from lerobot.utils.constants import OBS_ENV_STATE

    return OBS_ENV_STATE in offer.features or any(len(s) == 3 for s in offer.features.values())


def _offers_of_task(environment: EnvironmentSettings, task: str) -> list[Offer]:
    """In a worker: look at the environments of a task."""
    from lerobot.envs import env_to_policy_features, preprocess_observation
    from lerobot.utils.constants import ACTION

    offers = []
    for name in environment_names(environment, task):
        opened = open_environment(environment, name)
        prepare, _ = opened.config.get_env_processors()
        batch = prepare(preprocess_observation(opened.reset(0)) | {"task": [opened.instruction]})
        features = {
            key: tuple(value.shape[1:]) for key, value in batch.items() if hasattr(value, "shape")
        }
        action = env_to_policy_features(opened.config)[ACTION]
        offers.append(Offer(name, features, int(action.shape[0]), opened.instructions))
    return offers


def _assignments(
    settings: BenchmarkSettings,
    checkpoints: Sequence[Checkpoint],
    jobs: Sequence[EpisodeJob],
    offers: Mapping[str, Sequence[Offer]],
    log: EpisodeLog,
) -> list[Assignment]:
    runners = {
        checkpoint.label: RunnerSettings(
            checkpoint.directory, settings.environment, checkpoint.decoding
        )
        for checkpoint in checkpoints
    }
    instructions = tuple(
        dict.fromkeys(text for some in offers.values() for o in some for text in o.instructions)
    )
    # What one policy was told another is told, even if there are more instructions by now.
    told = {
        (job.task, job.seed): (result.instruction,)
        for job, result in log.results.items()
        if job.wrong_instruction
    }
    return [
        Assignment(job, runners[job.policy], told.get((job.task, job.seed), instructions))
        for job in jobs
    ]


def _decoded(
    checkpoints: Sequence[Checkpoint], ways: Mapping[str, Sequence[Decoding]]
) -> list[Checkpoint]:
    """Every policy in all of its ways, or as it is where there are none."""
    decoded = []
    try:
        for checkpoint in checkpoints:
            own = ways.get(checkpoint.label, ())
            decoded += [checkpoint.decoded(way) for way in own] if own else [checkpoint]
    except DecodingError as error:
        raise BenchmarkSettingsError(str(error)) from error
    labels = [checkpoint.label for checkpoint in decoded]
    for label in labels:
        if labels.count(label) > 1:
            raise BenchmarkSettingsError(f"two policies would be called {label!r}; rename one")
    return decoded
