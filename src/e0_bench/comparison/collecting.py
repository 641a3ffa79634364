"""The demonstrations of a comparison, and corrections of its policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from e0_bench.comparison.recipe import Recipe
from e0_bench.comparison.simulators import collection_settings
from e0_experts.episodes import LeadIn
from e0_system.workers import Processes


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
