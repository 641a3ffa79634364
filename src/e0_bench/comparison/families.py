"""Several recipes, each of a family of environments, as one comparison with one table.

The file says which environments the table has, which recipe measures those of a family, or which
directory of `e0 bench` or of a client such as `e0-vlabench` holds their episodes, and what others
have published; a family without either is shown as missing. Below the output directory every family
with a recipe has its own, as `e0 compare` of its recipe alone would write it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.episodes import EpisodeLog
from e0_bench.closed_loop.summary import summary_of
from e0_bench.comparison.comparison import ComparisonSettings, checked_recipe, run_comparison
from e0_bench.comparison.families_table import Family, families_markdown, families_table, is_of
from e0_bench.comparison.reading import read_recipe
from e0_bench.comparison.recipe import RecipeError, require_keys
from e0_bench.files import read_json, write_json, write_text
from e0_system.files import FileNameError, file_name
from e0_system.locks import own_directory


@dataclass(frozen=True)
class Families:
    """What the table compares. reference: the policy whose lead is told."""

    reference: str
    families: dict[str, Family]


def is_of_families(path: Path) -> bool:
    """Whether a file names several recipes, instead of being one."""
    try:
        return "families" in tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return False  # reading it as a recipe says what is wrong


def read_families(path: Path) -> Families:
    """Read and check the file, and all of its recipes, before anything expensive is begun.

    Raises RecipeError for unknown or missing keys, for numbers published of environments that are
    not in the table, for a reference that a recipe lacks or environments that it does not measure,
    and for recipes that are wrong themselves.
    """
    data = tomllib.loads(path.read_text())
    try:
        require_keys("it", data, ("reference", "families"), required=("reference", "families"))
        given = _table("[families]", data["families"])
        families = {name: _family(name, own) for name, own in given.items()}
    except (RecipeError, FileNameError) as error:
        raise RecipeError(f"{path}: {error}") from None
    found = Families(data["reference"], families)
    recipes = {name: read_recipe(file) for name, file in recipe_files(path, found).items()}
    for name, recipe in recipes.items():
        if found.reference not in recipe.policies:
            raise RecipeError(
                f"{path}: the recipe of {name} lacks the reference {found.reference!r}; it has "
                f"{', '.join(recipe.policies)}"
            )
        tasks = recipe.dataset["tasks"]
        for environment in families[name].environments:
            if not any(is_of(task, environment) or is_of(environment, task) for task in tasks):
                raise RecipeError(
                    f"{path}: the recipe of {name} does not measure {environment!r}; its tasks are "
                    f"{', '.join(tasks)}"
                )
    return found


def _family(name: str, given: Mapping[str, Any]) -> Family:
    file_name(name, "the family's name")
    where = f"[families.{name}]"
    _table(where, given)
    known = ("environments", "recipe", "results", "published")
    require_keys(where, given, known, required=("environments",))
    if "recipe" in given and "results" in given:
        raise RecipeError(f"{where} has both a recipe and results; leave one of them out")
    environments, published = given["environments"], given.get("published", {})
    named = isinstance(environments, list) and all(isinstance(one, str) for one in environments)
    if not named or len(set(environments)) < len(environments):
        raise RecipeError(f"{where} needs environments, a list of different names")
    for whose, numbers in _table(f"{where} published", published).items():
        place = f"[families.{name}.published.{whose}]"
        require_keys(place, _table(place, numbers), environments)
    return Family(tuple(environments), given.get("recipe"), given.get("results"), published)


def _table(where: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise RecipeError(f"{where} must be a table, got {given!r}")
    return given


def family_settings(
    settings: ComparisonSettings, families: Families
) -> dict[str, ComparisonSettings]:
    """The settings of each family's own comparison."""
    return {
        name: replace(settings, recipe=recipe, output=settings.directory / name)
        for name, recipe in recipe_files(settings.recipe, families).items()
    }


def recipe_files(path: Path, families: Families) -> dict[str, Path]:
    """The recipes' files by family; their names are relative to the file that names them."""
    return {
        name: path.parent / family.recipe
        for name, family in families.families.items()
        if family.recipe is not None
    }


def run_families(settings: ComparisonSettings) -> dict[str, Any]:
    """Do what is missing of every family; return (and keep as `families.json`, and `families.md`)
    the table. It is written anew after each family, so that it can be looked at meanwhile.

    Raises RecipeError as `read_families`, PairingError where policies of a directory of results
    met other episodes, and what `run_comparison` raises; whatever was finished stays.
    """
    families, output = read_families(settings.recipe), settings.directory
    own = family_settings(settings, families)
    for one in own.values():
        checked_recipe(one)  # all of them before the first begins
    results = _given_results(settings.recipe, families)
    with own_directory(output):
        for name in own:
            kept = output / name / "comparison.json"
            if kept.exists():
                results[name] = read_json(kept)
        for name, one in own.items():
            results[name] = run_comparison(one)
            _write(families, results, output)
    return _write(families, results, output)


def _given_results(path: Path, families: Families) -> dict[str, Any]:
    """Of the families that were measured otherwise, as far as they have episodes yet."""
    logs = {
        name: EpisodeLog(path.parent / family.results / "episodes.jsonl")
        for name, family in families.families.items()
        if family.results is not None
    }
    return {
        name: {"benchmark": summary_of(list(log.results.values()))}
        for name, log in logs.items()
        if log.results
    }


def _write(families: Families, results: Mapping[str, Any], output: Path) -> dict[str, Any]:
    data = families_table(families.families, results, families.reference)
    write_json(output / "families.json", data)
    write_text(output / "families.md", families_markdown(data))
    return data
