"""The demonstrations of a comparison, collected or given, and corrections of its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from e0_bench.comparison.recipe import Recipe
from e0_bench.comparison.simulators import collection_settings
from e0_experts.collection import numbers_per_task
from e0_experts.episodes import LeadIn
from e0_system.workers import Processes


def collect_demonstrations(recipe: Recipe, output: Path, processes: Processes) -> dict[str, int]:
    """Have what the recipe trains on and what it holds out in the output; the numbers of episodes
    to train on, by task, or by the directory that they were given in. Raises what `collect_dataset`
    raises, and of a given dataset DemonstrationsError."""
    if "root" in recipe.dataset:
        return _take(Path(recipe.dataset["root"]), recipe.held_out, output)
    collect(recipe, output / "dataset", recipe.dataset, processes)
    collect(recipe, output / "held_out", recipe.held_out, processes)
    tasks = collection_settings(recipe.environment, {}).task_names(recipe.dataset["tasks"])
    return numbers_per_task(recipe.dataset["episodes"], tasks)


def _take(source: Path, held_out: Mapping[str, Any], output: Path) -> dict[str, int]:
    from lerobot_policy_e0.splitting import draw_held_out, episode_count, take_episodes

    count = episode_count(source)
    learned, kept = draw_held_out(count, held_out["episodes"], held_out["seed"])
    take_episodes(source, learned, output / "dataset")
    take_episodes(source, kept, output / "held_out")
    return {str(source): len(learned)}


def collect(
    recipe: Recipe,
    path: Path,
    wanted: Mapping[str, Any],
    processes: Processes,
    lead_in: LeadIn | None = None,
) -> None:
    """Collect into a dataset what is missing of it. wanted: `episodes` and `seed`; what else it
    says of the expert, as the recipe's [dataset] does. lead_in: what comes before the expert takes
    over. Raises what `collect_dataset` raises."""
    from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

    episodes = wanted["episodes"]
    settings: Any = collection_settings(recipe.environment, wanted)
    if lead_in is not None:
        settings = replace(settings, lead_in=lead_in)
    request = CollectionRequest(
        tuple(settings.task_names(recipe.dataset["tasks"])),
        tuple(episodes) if isinstance(episodes, list) else episodes,
        wanted["seed"],
        settings,
    )
    collect_dataset(request, path, processes=processes)
