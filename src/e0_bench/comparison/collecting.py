"""The demonstrations of a comparison, collected or given, and corrections of its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from e0_bench.comparison.given import is_given, take_given
from e0_bench.comparison.recipe import Recipe
from e0_bench.comparison.simulators import collection_settings
from e0_experts.collection import numbers_per_task
from e0_experts.episodes import LeadIn
from e0_system.workers import Processes


def collect_demonstrations(recipe: Recipe, output: Path, processes: Processes) -> dict[str, int]:
    """Have what the recipe trains on and what it holds out in the output; the numbers of episodes
    to train on, by task, or by the directory that they were given in. Raises what `collect_dataset`
    and `take_given` raise."""
    if is_given(recipe):
        return take_given(recipe, output)
    collect(recipe, output / "dataset", recipe.dataset, processes)
    collect(recipe, output / "held_out", recipe.held_out, processes)
    tasks = collection_settings(recipe.environment, {}).task_names(recipe.dataset["tasks"])
    return numbers_per_task(recipe.dataset["episodes"], tasks)


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
