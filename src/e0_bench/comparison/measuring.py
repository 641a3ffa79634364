"""What a recipe measures in closed loop: its benchmark, how policies are decoded there, and those
that are told how their cameras were moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from e0_bench.closed_loop.benchmark import (
    asked_episodes,
    read_episodes,
    run_benchmark,
    write_results,
)
from e0_bench.closed_loop.decodings import Decoding
from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.settings import BenchmarkSettings
from e0_bench.closed_loop.summary import summarize
from e0_bench.closed_loop.ways import demonstrated_shares
from e0_bench.comparison.recipe import Recipe
from e0_bench.comparison.simulators import evaluation_options, evaluation_type
from e0_bench.files import read_json
from e0_bench.tables import table
from e0_system.workers import Processes

TUNING_NOTE = (
    "Ways to decode, tried on episodes of their own; the best of each policy over all its "
    "trainings and tasks is measured below, of equal ones the first."
)


def measure(
    recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], processes: Processes
) -> dict[str, Any]:
    """Run what is missing of a recipe's benchmark; its summary, and how the policies are decoded
    (`decodings`, a row for each way that was tried), where the recipe gives several ways.

    checkpoints: of every training, by label. Raises what running a benchmark raises."""
    usual = benchmark_settings(recipe, output, checkpoints, processes)
    if recipe.tuning is not None:
        rows = ways_tried(recipe, usual)
        summary = _summarize(_at_their_best(recipe, usual, rows), usual)
        write_results(usual.out, summary)
        return summary | {"decodings": rows}
    summary = run_benchmark(usual)
    if recipe.told is None:
        return summary
    told = [
        replace(episode, policy=told_name(episode.policy))
        for episode in read_episodes(_told(recipe, usual))
    ]
    return summary | _summarize([*read_episodes(usual), *told], usual)


def is_measured(recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], policy: str) -> bool:
    """Whether all episodes of a policy are there."""
    usual = benchmark_settings(recipe, output, checkpoints, Processes())
    own = _of_policies(recipe, usual, [policy])
    if recipe.tuning is not None:
        tuning, ways = _tuning(recipe, own)
        if not _has_all(tuning, ways):
            return False
        return _has_all(own, _best_ways(recipe, own, ways_tried(recipe, own)))
    told = (recipe.told or {}).get("policies", ())
    return _has_all(own) and (policy not in told or _has_all(_told(recipe, own)))


def policies_by_label(recipe: Recipe) -> dict[str, str]:
    """The policy that each label in the results is a training of; those that were told how their
    cameras were moved are policies of their own."""
    own = {training.label: training.policy for training in recipe.trainings}
    told = (recipe.told or {}).get("policies", ())
    return own | {
        told_name(label): told_name(policy) for label, policy in own.items() if policy in told
    }


def told_name(policy: str) -> str:
    """What a policy is called where it was told how its cameras were moved."""
    return f"{policy}, told"


def benchmark_settings(
    recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], processes: Processes
) -> BenchmarkSettings:
    """The benchmark of these checkpoints, decoded by their own settings."""
    own: dict[str, Any] = {"tasks": tuple(recipe.dataset["tasks"])}
    own |= {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in recipe.benchmark.items()
    }
    return BenchmarkSettings(
        checkpoints=tuple(checkpoints.values()),
        labels=tuple(checkpoints),
        out=output / "benchmark",
        env=evaluation_type(recipe.environment),
        env_options=evaluation_options(recipe.environment),
        processes=processes,
        **own,
    )


def tuning_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The ways to decode that were tried, as a table of GitHub Markdown."""
    cells = [
        [
            row["policy"],
            row["decoding"] + (", **chosen**" if row["chosen"] else ""),
            ", ".join(f"{name} {value}" for name, value in row["settings"].items()) or "its own",
            f"{row['successes']} of {row['episodes']}",
            f"{row['latency_ms']:.1f}",
        ]
        for row in rows
    ]
    head = ["policy", "decoding", "settings", "success", "ms per chunk"]
    return "\n\n".join(["## Ways to decode", table(head, cells), TUNING_NOTE])


# How each policy is decoded.

Ways = Mapping[str, Sequence[Decoding]]
"""Of each training, by label."""


def ways_tried(recipe: Recipe, usual: BenchmarkSettings) -> list[dict[str, Any]]:
    """A row for each way to decode each policy of a benchmark, from the episodes of the tuning;
    what is missing of them is run."""
    tuning, ways = _tuning(recipe, usual)
    episodes, rows = read_episodes(tuning, ways), []
    for policy, labels in _labels(recipe, usual).items():
        own = [_tried(episodes, policy, labels, way) for way in recipe.ways_to_decode(policy)]
        max(own, key=lambda row: row["successes"])["chosen"] = True
        rows += own
    return rows


def _tried(
    episodes: Sequence[EpisodeResult], policy: str, labels: Sequence[str], way: Decoding
) -> dict[str, Any]:
    decoded = {way.label(label) for label in labels}
    own = [episode for episode in episodes if episode.policy in decoded]
    return {
        "policy": policy,
        "decoding": way.name,
        "settings": dict(way.settings),
        "successes": sum(episode.success for episode in own),
        "episodes": len(own),
        "latency_ms": fmean(episode.latency_ms for episode in own),
        "chosen": False,
    }


def _tuning(recipe: Recipe, usual: BenchmarkSettings) -> tuple[BenchmarkSettings, Ways]:
    """The benchmark on the episodes to tune on, and all ways to decode each training."""
    assert recipe.tuning is not None
    settings = replace(
        usual,
        out=usual.out.with_name("tuning"),
        episodes=recipe.tuning["episodes"],
        seed=recipe.tuning["seed"],
        controls=(),
        delays=(),
    )
    return settings, {
        label: recipe.ways_to_decode(policy)
        for policy, labels in _labels(recipe, usual).items()
        for label in labels
    }


def _best_ways(recipe: Recipe, usual: BenchmarkSettings, rows: Sequence[Mapping[str, Any]]) -> Ways:
    chosen = {row["policy"]: row["decoding"] for row in rows if row["chosen"]}
    return {
        label: [way for way in recipe.ways_to_decode(policy) if way.name == chosen[policy]]
        for policy, labels in _labels(recipe, usual).items()
        for label in labels
    }


def _at_their_best(
    recipe: Recipe, usual: BenchmarkSettings, rows: Sequence[Mapping[str, Any]]
) -> list[EpisodeResult]:
    """The episodes of all policies, each decoded in its best way, under the names of trainings."""
    best = _best_ways(recipe, usual, rows)
    names = {way.label(label): label for label, (way,) in best.items()}
    return [
        replace(episode, policy=names[episode.policy]) for episode in read_episodes(usual, best)
    ]


def _labels(recipe: Recipe, settings: BenchmarkSettings) -> dict[str, list[str]]:
    """The labels of each policy's trainings that a benchmark has."""
    labels: dict[str, list[str]] = {}
    for training in recipe.trainings:
        if training.label in settings.labels:
            labels.setdefault(training.policy, []).append(training.label)
    return labels


def _of_policies(
    recipe: Recipe, usual: BenchmarkSettings, policies: Sequence[str]
) -> BenchmarkSettings:
    labels = {training.label for training in recipe.trainings if training.policy in policies}
    pairs = zip(usual.labels, usual.checkpoints, strict=True)
    own = {label: checkpoint for label, checkpoint in pairs if label in labels}
    return replace(usual, labels=tuple(own), checkpoints=tuple(own.values()))


def _told(recipe: Recipe, usual: BenchmarkSettings) -> BenchmarkSettings:
    """The same of the policies that are told how their cameras were moved."""
    return replace(
        _of_policies(recipe, usual, (recipe.told or {})["policies"]),
        out=usual.out.with_name("told"),
        env_options=(*usual.env_options, "tell_camera_shift=true"),
    )


def _summarize(episodes: Sequence[EpisodeResult], settings: BenchmarkSettings) -> dict[str, Any]:
    labels, tasks = (
        list(dict.fromkeys(getattr(episode, name) for episode in episodes))
        for name in ("policy", "task")
    )
    shares = demonstrated_shares(settings.env, tasks)
    return summarize(episodes, labels, tasks, settings.every_control, shares)


def _has_all(settings: BenchmarkSettings, ways: Ways | None = None) -> bool:
    """Whether all episodes of a benchmark are there."""
    record = settings.out / "benchmark.json"
    if not record.exists():
        return False
    labels = [way.label(label) for label, own in (ways or {}).items() for way in own]
    jobs = asked_episodes(settings, labels or settings.labels, read_json(record)["tasks"])
    results = EpisodeLog(settings.out / "episodes.jsonl").results
    return jobs is not None and all(job in results for job in jobs)
