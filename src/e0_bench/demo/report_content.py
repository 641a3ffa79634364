"""Gathers what the demo's report shows: the posterior of one chunk, clips, errors, versions."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.decodings import Decoding
from e0_bench.closed_loop.episodes import EpisodeJob, EpisodeResult
from e0_bench.closed_loop.runner import Runner, clip_path
from e0_bench.demo.report import Clip, Report, success_figure, write_report
from e0_bench.demo.settings import DemoSettings
from e0_bench.files import read_json

SAMPLED = Decoding("sampled", (("decoding", "fixed"),))
PACKAGES = ("lerobot_policy_e0", "torch", "lerobot", "mani_skill", "sapien", "gymnasium", "numpy")


def write_demo_report(
    settings: DemoSettings, results: dict[str, Any], episodes: list[EpisodeResult], runner: Runner
) -> None:
    """Write `report.html` and `success.png` into the demo's output directory."""
    from e0_maniskill import find_task
    from lerobot_policy_e0.collection import ACTION_NAMES
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    seeing = [e for e in episodes if e.control == "none"]
    by_task = {task: [e for e in seeing if e.task == task] for task in settings.tasks}
    posterior, image = _posterior(runner, seeing[-1].job)
    report = Report(
        results=results,
        instructions={task: " / ".join(find_task(task).instructions) for task in settings.tasks},
        learning_curve=read_learning_curve(settings.output / "train" / LEARNING_CURVE),
        round_trip=_round_trip(settings.output / "dataset", runner, ACTION_NAMES),
        posterior=posterior,
        codebook=runner.policy.model.tokenizer.codebook.cpu().numpy(),
        dimension_names=ACTION_NAMES,
        posterior_image=image,
        entropy={task: [e.entropy for e in rows] for task, rows in by_task.items()},
        entropy_outcomes={task: [e.success for e in rows] for task, rows in by_task.items()},
        clips=_clips(seeing, runner.settings.clips),
        settings=read_json(settings.output / "settings.json"),
        versions=_versions(),
    )
    write_report(settings.output / "report.html", report)
    success_figure(results, settings.output / "success.png")


def _posterior(runner: Runner, job: EpisodeJob) -> tuple[Any, Any]:
    """Posterior (K, H, D, V) at every denoising step of an episode's first chunk, sampled from
    noise, or None if the objective has none of whole chunks; and the chunk's image."""
    import torch

    if runner.policy.config.decoding != "fixed":
        runner = Runner(replace(runner.settings, decoding=SAMPLED))
    environment = runner.environment(job.task)
    observation = environment.reset(job.seed)
    chunk = runner.policy.predict(
        runner.batch(environment, observation, environment.instruction),
        generator=torch.Generator(runner.policy.config.device or "cpu").manual_seed(job.seed),
        keep_trace=True,
    )
    image = None if runner.settings.clips is None else environment.render()
    if not chunk.trace or chunk.trace[0].shape[1:3] != chunk.actions.shape[1:3]:
        return None, image
    return torch.stack(chunk.trace)[:, 0].float().softmax(-1).cpu().numpy(), image


def _round_trip(dataset: Path, runner: Runner, names: list[str]) -> list[dict[str, Any]]:
    """What the action tokens lose on the demonstrations, by dimension."""
    from lerobot.datasets import LeRobotDatasetMetadata

    from lerobot_policy_e0.columns import read_actions

    tokenizer = runner.policy.model.tokenizer
    error = tokenizer.round_trip_error(
        read_actions(LeRobotDatasetMetadata("local/dataset", root=dataset))
    )
    return [
        {
            "dimension": name,
            "codes": int(tokenizer.code_count[index]),
            "rmse": float(error.rmse[index]),
            "rmse_over_std": float(error.rmse_over_std[index]),
            "maximum": float(error.maximum[index]),
        }
        for index, name in enumerate(names)
    ]


def _clips(episodes: list[EpisodeResult], directory: Path | None) -> list[Clip]:
    """Two successes and two failures, of different tasks where there are."""
    if directory is None:
        return []
    chosen: list[EpisodeResult] = []
    for wanted in (True, False):
        candidates = [e for e in episodes if e.success is wanted]
        first = candidates[:1]
        others = [e for e in candidates[1:] if e.task != candidates[0].task] + candidates[1:]
        chosen += first + others[:1]
    return [
        Clip(e.task, e.seed, e.success, e.control == "blackout", clip_path(directory, e.job))
        for e in chosen
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
