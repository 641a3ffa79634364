"""What a directory of results holds: of `e0 bench`, of `e0 compare`, of several comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeLog, EpisodeResult
from e0_bench.closed_loop.summary import ALL_TASKS
from e0_bench.comparison.families_table import Family, families_table, trainings_of
from e0_bench.files import read_json
from e0_system.files import FileNameError, file_name


class ReportError(ValueError):
    """A directory that holds no results, or not all of them; the message says what is missing."""


@dataclass(frozen=True)
class Part:
    """One benchmark of a page. results: as `comparison.json`, with the key `benchmark` alone where
    nothing was trained. recipe: empty there. record: the `benchmark.json`."""

    name: str
    directory: Path
    results: Mapping[str, Any]
    record: Mapping[str, Any]
    episodes: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainings(self) -> dict[str, list[str]]:
        """The labels of each policy's trainings; one, of the same name, where there is one."""
        return trainings_of(self.results)

    @property
    def tasks(self) -> list[str]:
        rows = self.results["benchmark"]["rates"]
        return list(dict.fromkeys(row["task"] for row in rows if row["task"] != ALL_TASKS))

    def learning_curve(self, label: str) -> list[dict[str, float]]:
        """Of a training and of what it was trained on with, round after round of corrections."""
        from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

        rounds = (self.directory / "corrected").glob("[0-9]*")
        curve: list[dict[str, float]] = []
        for place in (self.directory / "train", *sorted(rounds, key=lambda path: int(path.name))):
            before = curve[-1]["step"] if curve else 0
            own = read_learning_curve(place / label / LEARNING_CURVE)
            curve += [row | {"step": before + row["step"]} for row in own]
        return curve

    def measured_as(self, label: str) -> str:
        """The name that a training's episodes have in the log: with that of the decoding that was
        found to be its best, where several were tried."""
        known = self.record["policies"]
        names = [label] if label in known else []
        owner = self.results.get("trainings", {}).get("policies", {}).get(label, label)
        for row in self.results["benchmark"].get("decodings", ()):
            if row["chosen"] and row["policy"] == owner:
                names = [f"{label}-{row['decoding']}"]
        if not names or names[0] not in known:
            raise ReportError(f"{self.directory} does not say what {label!r} was measured as")
        return names[0]

    def usual_episodes(self, label: str) -> list[EpisodeResult]:
        """A training's episodes without a control, by task and seed."""
        name = self.measured_as(label)
        log = EpisodeLog(self.episodes)
        own = [e for e in log.results.values() if e.policy == name and e.control == "none"]
        own = [e for e in own if e.task in self.tasks]  # the log may hold more than was asked for
        return sorted(own, key=lambda episode: (self.tasks.index(episode.task), episode.seed))


def read_results(directory: Path) -> tuple[dict[str, Any], list[Part]]:
    """The table of a directory (`families_table`), and the parts that it is made from.

    Raises ReportError if it holds no results.
    """
    families = directory / "families.json"
    if families.exists():
        data = read_json(families)
        names = dict.fromkeys(row["family"] for row in data["environments"])
        every = [directory / name for name in names]
        return data, [_part(one) for one in every if (one / "comparison.json").exists()]
    part = _part(directory)
    family = Family(tuple(part.tasks))
    reference = next(iter(part.trainings))
    return families_table({part.name: family}, {part.name: part.results}, reference), [part]


def _part(directory: Path) -> Part:
    comparison, summary = directory / "comparison.json", directory / "summary.json"
    name = _name(directory)
    if comparison.exists():
        benchmark = directory / "benchmark"
        recipe = read_json(directory / "recipe.json")
        return _read(name, directory, read_json(comparison), benchmark, recipe)
    if summary.exists():
        return _read(name, directory, {"benchmark": read_json(summary)}, directory, {})
    raise ReportError(
        f"{directory} holds no results: expected families.json or comparison.json of `e0 compare`, "
        "or summary.json of `e0 bench`. What is not finished has none yet"
    )


def _read(
    name: str,
    directory: Path,
    results: Mapping[str, Any],
    benchmark: Path,
    recipe: Mapping[str, Any],
) -> Part:
    record, episodes = benchmark / "benchmark.json", benchmark / "episodes.jsonl"
    for path in (record, episodes):
        if not path.exists():
            raise ReportError(f"{directory} has results, but {path} is not there any more")
    return Part(name, directory, results, read_json(record), episodes, recipe)


def _name(directory: Path) -> str:
    name = directory.resolve().name
    try:
        return file_name(name, "the results")
    except FileNameError:
        return "results"
