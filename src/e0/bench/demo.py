"""From nothing to a measured policy: collect, train, evaluate, report.

Each phase is skipped when its result is there and resumed when it was cut short, so the same
command can be repeated at any time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from e0.bench.closed_loop import Assignment, Runner, RunnerSettings, episode_pool, evaluate
from e0.bench.demo_report import write_demo_report
from e0.bench.environments import EnvironmentSettings
from e0.bench.episodes import EpisodeJob, EpisodeLog, EpisodeResult
from e0.bench.files import write_json
from e0.bench.statistics import format_rate
from e0.bench.training_run import local_training, train
from e0.policy import ObjectiveName

EVALUATION_SEED = 700_000
TRAINING_SEED = 100_000


@dataclass(frozen=True)
class DemoSettings:
    """The recipe. Episodes are per task; the seeds of demonstrations and evaluation are disjoint.

    demonstrations: expert episodes, one number for every task or one for each. action_noise:
    disturbance while collecting, in action units. hold_steps: steps recorded after success.
    vector_noise: noise on proprioception in training (see `lerobot_policy_e0.E0Config`).
    blackout_episodes: evaluation episodes repeated with black images. objective: what the policy
    learns (`e0.objectives`).
    """

    output: Path = Path("outputs/demo")
    tasks: tuple[str, ...] = ("PushCube-v1", "PickCube-v1")
    demonstrations: tuple[int, ...] = (250, 500)
    action_noise: float = 0.1
    hold_steps: int = 4
    training_steps: int = 2200
    batch_size: int = 64
    noise_draws: int = 2
    objective: Annotated[ObjectiveName, tyro.conf.arg(name="policy.objective")] = "e0"
    learning_rate: float = 2e-3
    vector_noise: float = 0.08
    n_action_steps: int = 2
    evaluation_episodes: int = 50
    blackout_episodes: int = 20
    denoising_steps: int = 4
    workers: int = 2

    def environment(self, state_only: bool) -> dict[str, Any]:
        """Arguments of the environments, in collecting and in evaluation alike."""
        return {"proprioception": "compact", "state_only": state_only}


class DemoMismatchError(ValueError):
    """The output directory holds a demo that was begun with other settings."""


def run_demo(settings: DemoSettings) -> dict[str, Any]:
    """Run what is missing of the demo; return (and keep) `results.json`.

    Raises DemoMismatchError if the output directory was begun with other settings, RuntimeError if
    the training fails (with the end of its log).
    """
    from e0_maniskill import rendering_available

    renders, reason = rendering_available()
    if not renders:
        print(f"No renderer: {reason}\nGoing on state-only: the policy will see no images.")
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


class Phases:
    """Seconds spent in each phase, added up over interrupted runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time a phase. What a killed run spent is lost, what an interrupted one spent is kept."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
            write_json(self.path, self.seconds)


class PeakMemory:
    """Largest resident memory of this process and its children together, in MB, sampled;
    pages that they share count once. The largest of all interrupted and continued runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.megabytes: float = json.loads(path.read_text()) if path.exists() else 0.0

    def __enter__(self) -> PeakMemory:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        write_json(self.path, self.megabytes)

    def _watch(self) -> None:
        import psutil

        this = psutil.Process()
        while not self._stop.wait(1.0):
            total = 0
            for process in (this, *this.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
            self.megabytes = max(self.megabytes, total / 2**20)


def _remember_settings(settings: DemoSettings, state_only: bool) -> None:
    path = settings.output / "settings.json"
    current = json.loads(json.dumps(asdict(settings) | {"state_only": state_only}, default=str))
    for key in ("output", "workers"):  # these change no result
        current.pop(key)
    if path.exists():
        before = json.loads(path.read_text())
        different = [key for key in current if before.get(key) != current[key]]
        if different:
            raise DemoMismatchError(
                f"{settings.output} holds a demo with another {', '.join(different)}; remove it or "
                "choose another --output"
            )
    write_json(path, current)


def _collect(settings: DemoSettings, state_only: bool) -> None:
    from e0_maniskill.collection import CollectionSettings
    from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

    environment = settings.environment(state_only)
    request = CollectionRequest(
        settings.tasks,
        settings.demonstrations,
        TRAINING_SEED,
        CollectionSettings(
            **environment, action_noise=settings.action_noise, hold_steps=settings.hold_steps
        ),
    )
    collect_dataset(request, settings.output / "dataset", workers=settings.workers)


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
        "objective": settings.objective,
    }
    loop = {"steps": settings.training_steps, "batch_size": settings.batch_size}
    return local_training(settings.output / "dataset", policy, loop)


def _runner_settings(settings: DemoSettings, checkpoint: Path, state_only: bool) -> RunnerSettings:
    options = settings.environment(state_only).items()
    return RunnerSettings(
        checkpoint,
        EnvironmentSettings("maniskill", tuple(f"{name}={value}" for name, value in options)),
        settings.denoising_steps,
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
    with EpisodeLog(settings.output / "evaluation" / "episodes.jsonl") as log:
        if any(job not in log.results for job in jobs):
            with episode_pool(runner.environment, settings.workers) as pool:
                evaluate([Assignment(job, runner) for job in jobs], log, pool)
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
    curve = read_learning_curve(settings.output / "train" / LEARNING_CURVE)
    loading = sum(row["dataloading_s"] for row in curve)
    updating = sum(row["update_s"] for row in curve)
    return {
        "tasks": tasks,
        "denoising_steps": settings.denoising_steps,
        "seconds": phases.seconds | {"total": sum(phases.seconds.values())},
        "peak_rss_mb": round(memory.megabytes),
        "chunk_latency_ms": chunk_latency(runner, settings.tasks[0]),
        "data_loading_share": loading / (loading + updating),
        "state_only": state_only,
    }


def chunk_latency(runner: Runner, task: str, repetitions: int = 200) -> dict[str, float]:
    """Milliseconds from an observation as the environment gives it to a chunk of actions."""
    import numpy as np

    environment = runner.environment(task)
    observation = environment.reset(seed=0)
    times = []
    for _ in range(repetitions + 20):
        start = time.perf_counter()
        batch = runner.batch(environment, observation, environment.instruction)
        chunk = runner.policy.predict(batch, steps=runner.settings.denoising_steps)
        runner.postprocess(chunk.actions[0])
        times.append(1e3 * (time.perf_counter() - start))
    kept = times[20:]  # the first calls allocate and choose kernels
    return {
        "median": round(float(np.median(kept)), 2),
        "p95": round(float(np.percentile(kept, 95)), 2),
        "n": len(kept),
    }
