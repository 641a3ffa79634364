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
from e0_bench.closed_loop.decodings import Decoding, read_decoding, write_decoding
from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.settings import BenchmarkSettings
from e0_bench.closed_loop.summary import summarize
from e0_bench.closed_loop.ways import demonstrated_shares
from e0_bench.comparison.recipe import Recipe
from e0_bench.files import read_json
from e0_bench.tables import table

TUNING_NOTE = (
    "Ways to decode, tried on episodes of their own; the best of each policy over all its "
    "trainings and tasks is measured below, of equal ones the first."
)


def measure(
    recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], workers: int
) -> dict[str, Any]:
    """Run what is missing of a recipe's benchmark; its summary, and how the policies are decoded
    (`decodings`, a row for each way that was tried), where the recipe gives several ways.

    checkpoints: of every training, by label. Raises what running a benchmark raises."""
    usual = benchmark_settings(recipe, output, checkpoints, workers)
    if recipe.tuning is not None:
        tried = {policy: _tried(recipe, usual, policy) for policy in recipe.policies}
        episodes = [
            episode
            for policy, rows in tried.items()
            for episode in _at_its_best(recipe, usual, policy, rows)
        ]
        summary = _summarize(episodes, usual)
        write_results(usual.out, summary)
        return summary | {"decodings": [row for rows in tried.values() for row in rows]}
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
    usual = _of_policy(recipe, benchmark_settings(recipe, output, checkpoints, 1), policy)
    if recipe.tuning is not None:
        if not _has_all(_tuning(recipe, usual, policy)):
            return False
        way = _best(recipe, policy, _tried(recipe, usual, policy))
        return _has_all(_decoded(_of_policy(recipe, usual, policy), [way]))
    told = (recipe.told or {}).get("policies", ())
    return _has_all(usual) and (policy not in told or _has_all(_told(recipe, usual)))


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
    recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], workers: int
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
        env_options=tuple(f"{key}={value}" for key, value in recipe.environment.items()),
        workers=workers,
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


def _tried(recipe: Recipe, usual: BenchmarkSettings, policy: str) -> list[dict[str, Any]]:
    """A row for each way to decode a policy, from the episodes of the tuning."""
    settings = _tuning(recipe, usual, policy)
    episodes = read_episodes(settings)
    rows = []
    for way in recipe.ways_to_decode(policy):
        labels = {way.label(label) for label in settings.labels}
        own = [episode for episode in episodes if episode.policy in labels]
        rows.append(
            {
                "policy": policy,
                "decoding": way.name,
                "settings": dict(way.settings),
                "successes": sum(episode.success for episode in own),
                "episodes": len(own),
                "latency_ms": fmean(episode.latency_ms for episode in own),
                "chosen": False,
            }
        )
    max(rows, key=lambda row: row["successes"])["chosen"] = True
    return rows


def _best(recipe: Recipe, policy: str, rows: Sequence[Mapping[str, Any]]) -> Decoding:
    (name,) = (row["decoding"] for row in rows if row["chosen"])
    return next(way for way in recipe.ways_to_decode(policy) if way.name == name)


def _at_its_best(
    recipe: Recipe, usual: BenchmarkSettings, policy: str, rows: Sequence[Mapping[str, Any]]
) -> list[EpisodeResult]:
    """The episodes of a policy decoded in its best way, under the names of its trainings."""
    way, own = _best(recipe, policy, rows), _of_policy(recipe, usual, policy)
    names = {way.label(label): label for label in own.labels}
    episodes = read_episodes(_decoded(own, [way]))
    return [replace(episode, policy=names[episode.policy]) for episode in episodes]


def _tuning(recipe: Recipe, usual: BenchmarkSettings, policy: str) -> BenchmarkSettings:
    """The benchmark of a policy in all ways, on the episodes to tune on."""
    assert recipe.tuning is not None
    own = replace(
        _of_policy(recipe, usual, policy),
        out=usual.out.with_name("tuning"),
        episodes=recipe.tuning["episodes"],
        seed=recipe.tuning["seed"],
        controls=(),
    )
    return _decoded(own, recipe.ways_to_decode(policy))


def _decoded(settings: BenchmarkSettings, ways: Sequence[Decoding]) -> BenchmarkSettings:
    return replace(settings, decodings=tuple(map(write_decoding, ways)))


def _of_policy(recipe: Recipe, usual: BenchmarkSettings, policy: str) -> BenchmarkSettings:
    """The benchmark of one policy's trainings alone."""
    return _of_policies(recipe, usual, [policy])


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
    return summarize(episodes, labels, tasks, settings.controls, shares)


def _has_all(settings: BenchmarkSettings) -> bool:
    """Whether all episodes of a benchmark are there."""
    record = settings.out / "benchmark.json"
    if not record.exists():
        return False
    ways = [read_decoding(text) for text in settings.decodings]
    labels = [way.label(label) for label in settings.labels for way in ways] or settings.labels
    jobs = asked_episodes(settings, labels, read_json(record)["tasks"])
    results = EpisodeLog(settings.out / "episodes.jsonl").results
    return jobs is not None and all(job in results for job in jobs)
