"""The recipe that a comparison's output directory keeps, so that it never mixes results of two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e0_bench.comparison.recipe import SECTIONS_OF_TRAININGS, Recipe
from e0_bench.files import read_json, write_json


class ComparisonMismatchError(ValueError):
    """The output directory holds results of another recipe; nothing in it was changed."""


def keep_recipe(recipe: Recipe, output: Path) -> None:
    """Write down what the directory's results are of: this recipe and earlier ones' policies.

    Raises ComparisonMismatchError where earlier results are of another recipe.
    """
    path = output / "recipe.json"
    known: dict[str, Any] = {"policies": {}}
    if path.exists():
        known = read_json(path)
        different = differences(known, recipe)
        if different:
            raise ComparisonMismatchError(
                f"{output} holds results of a recipe with another {', '.join(different)}; choose "
                "another --output"
            )
    record = vars(recipe) | {"policies": known["policies"] | recipe.policies}
    if recipe.corrections is not None:
        corrected = dict.fromkeys([*_corrected(known), *recipe.corrected_policies])
        record["corrections"] = recipe.corrections | {"policies": list(corrected)}
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def differences(before: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Names of what would spoil results that an older recipe gave. The benchmark checks itself, and
    policies and seeds of training may come and go."""
    now = json.loads(json.dumps(vars(recipe)))
    names = [
        name
        for name in (*SECTIONS_OF_TRAININGS, "held_out")
        if _without_lists(before.get(name)) != _without_lists(now[name])
    ]
    both = before["policies"].keys() & now["policies"].keys()
    return names + [
        f"policies.{label}"
        for label in sorted(both)
        if before["policies"][label] != now["policies"][label]
        or (label in _corrected(before)) != (label in _corrected(now))
    ]


def _without_lists(section: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: value for k, value in (section or {}).items() if k not in ("seeds", "policies")}


def _corrected(record: Mapping[str, Any]) -> list[str]:
    """The policies of a recipe, as it was kept, that are corrected."""
    corrections = record.get("corrections")
    return [] if corrections is None else list(corrections.get("policies", record["policies"]))
