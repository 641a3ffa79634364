"""From nothing to a measured policy: collect, train, evaluate, report.

Each phase is skipped when its result is there and resumed when it was cut short, so the same
command can be repeated at any time.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.environments import EnvironmentSettings
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeLog, EpisodeResult
from e0_bench.closed_loop.parallel import (
    EpisodeError,
    episode_pool,
    evaluate,
    told_lost,
)
from e0_bench.closed_loop.runner import Assignment, Runner, RunnerSettings
from e0_bench.demo.costs import PeakMemory, Phases, chunk_latency
from e0_bench.demo.report_content import write_demo_report
from e0_bench.demo.settings import EVALUATION_SEED, TRAINING_SEED, DemoSettings
from e0_bench.files import read_json, write_json
from e0_bench.statistics import format_rate
from e0_bench.training_run import local_training, train
from e0_system.locks import own_directory
from e0_system.workers import Processes

HORIZON = 8  # steps of 50 ms; the tasks take 15 to 25


class DemoMismatchError(ValueError):
    """The output directory holds a demo that was begun with other settings."""


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Run what is missing of the demo; return (and keep) `results.json`.

    Raises DemoMismatchError if the output directory was begun with other settings,
    DirectoryInUseError if another process works on it, RuntimeError if the training fails (with the
    end of its log).
    """
    with own_directory(settings.output):
        return _run_demo(settings)


def _run_demo(settings: DemoSettings) -> dict[str, Any]:
    from e0_maniskill import rendering_available

    renders, reason = rendering_available()
    if not renders:
        print(
            f"No renderer: {reason}\nGoing on state-only: the policy will see no images, learns "
            "without noise on its state, and is not tested with black images."
        )
    _remember_settings(settings, state_only=not renders)
    phases = Phases(settings.output / "phases.json")
    with PeakMemory(settings.output / "memory.json") as memory:
        with phases.time("collect"):
            _collect(settings, state_only=not renders)
        with phases.time("train"):
            training = _training(settings, state_only=not renders)
            checkpoint = train(training, settings.output / "train")
        with phases.time("evaluate"):
            episodes = _evaluate(settings, checkpoint, state_only=not renders)
        runner = Runner(_runner_settings(settings, checkpoint, not renders))
        results = _results(settings, episodes, phases, memory, runner, state_only=not renders)
    write_json(settings.output / "results.json", results)
    write_demo_report(settings, results, episodes, runner)
    for task, result in results["tasks"].items():
        print(f"{task}: {format_rate(result['successes'], result['episodes'])}")
    print(f"Report: {settings.output / 'report.html'}")
    return results


def _remember_settings(settings: DemoSettings, state_only: bool) -> None:
    path = settings.output / "settings.json"
    chosen = {"decoding": settings.decoding, "state_only": state_only}
    current = json.loads(json.dumps(asdict(settings) | chosen, default=str))
    for key in ("output", "workers"):  # these change no result
        current.pop(key)
    if path.exists():
        before = read_json(path)
        different = [key for key in current if before.get(key) != current[key]]
        if different:
            raise DemoMismatchError(
                f"{settings.output} holds a demo with another {', '.join(different)}; remove it or "
                "choose another --output"
            )
    write_json(path, current)


def _collect(settings: DemoSettings, state_only: bool) -> None:
    from e0_maniskill.demonstrations import ManiSkillSettings
    from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

    environment = settings.environment(state_only)
    request = CollectionRequest(
        settings.tasks,
        settings.demonstrations,
        TRAINING_SEED,
        ManiSkillSettings(
            **environment, action_noise=settings.action_noise, hold_steps=settings.hold_steps
        ),
    )
    collect_dataset(request, settings.output / "dataset", processes=Processes(settings.workers))


def _training(settings: DemoSettings, state_only: bool) -> dict[str, Any]:
    policy = {
        "preset": "tiny",
        "device": "cpu",
        "optimizer_lr": settings.learning_rate,
        # Exact object poses are the only sight a state-only policy has.
        "vector_noise": 0.0 if state_only else settings.vector_noise,
        "noise_draws": settings.noise_draws,
        "n_action_steps": settings.n_action_steps,
        "denoising_steps": settings.denoising_steps,
        "decoding": settings.decoding,
        "objective": settings.objective,
        "horizon": HORIZON,
    }
    loop = {"steps": settings.training_steps, "batch_size": settings.batch_size}
    return local_training(settings.output / "dataset", policy, loop)


def _runner_settings(settings: DemoSettings, checkpoint: Path, state_only: bool) -> RunnerSettings:
    options = settings.environment(state_only).items()
    return RunnerSettings(
        checkpoint,
        EnvironmentSettings("maniskill", tuple(f"{name}={value}" for name, value in options)),
        None,
        None if state_only else settings.output / "evaluation" / "clips",
    )


def _evaluate(settings: DemoSettings, checkpoint: Path, state_only: bool) -> list[EpisodeResult]:
    runner = _runner_settings(settings, checkpoint, state_only)
    jobs = [
        EpisodeJob("e0", task, EVALUATION_SEED + number, control)
        for control, count in (
            ("none", settings.evaluation_episodes),
            ("blackout", 0 if state_only else settings.blackout_episodes),
        )
        for task in settings.tasks
        for number in range(count)
    ]
    log = EpisodeLog(settings.output / "evaluation" / "episodes.jsonl")
    if any(job not in log.results for job in jobs):
        with episode_pool(runner.environment, Processes(settings.workers)) as pool:
            lost = evaluate([Assignment(job, runner) for job in jobs], log, pool)
        if lost:
            raise EpisodeError(told_lost(lost))
    return [log.results[job] for job in jobs]


def _results(
    settings: DemoSettings,
    episodes: list[EpisodeResult],
    phases: Phases,
    memory: PeakMemory,
    runner: Runner,
    state_only: bool,
) -> dict[str, Any]:
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    tasks = {}
    for task in settings.tasks:
        seeing = [e for e in episodes if e.task == task and e.control == "none"]
        blind = [e for e in episodes if e.task == task and e.control == "blackout"]
        tasks[task] = {
            "successes": sum(e.success for e in seeing),
            "episodes": len(seeing),
            "seeds": [e.seed for e in seeing],
            "blackout_successes": sum(e.success for e in blind),
            "blackout_episodes": len(blind),
        }
    counts = [e.evaluations for e in episodes if e.control == "none" and e.evaluations is not None]
    curve = read_learning_curve(settings.output / "train" / LEARNING_CURVE)
    loading = sum(row["dataloading_s"] for row in curve)
    updating = sum(row["update_s"] for row in curve)
    return {
        "tasks": tasks,
        "decoding": settings.decoding,
        "evaluations": fmean(counts),
        "seconds": phases.seconds | {"total": sum(phases.seconds.values())},
        "peak_rss_mb": round(memory.megabytes),
        "chunk_latency_ms": chunk_latency(runner, settings.tasks[0]),
        "data_loading_share": loading / (loading + updating),
        "state_only": state_only,
    }
