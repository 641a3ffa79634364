"""A recipe's file, read and checked as a whole before anything expensive is begun."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from e0_bench.closed_loop.decodings import DecodingError
from e0_bench.closed_loop.environments import EnvironmentSettings, UnknownEnvironmentError
from e0_bench.closed_loop.settings import BenchmarkSettings
from e0_bench.comparison.recipe import (
    SEEDS_FOR_EACH,
    Recipe,
    RecipeError,
    most_of_a_task,
    require_keys,
)
from e0_bench.comparison.simulators import (
    evaluation_options,
    evaluation_type,
    known_of_expert,
    known_options,
    known_simulators,
    simulator,
)
from e0_bench.training_run import check_training, local_training
from e0_experts.collection import numbers_per_task
from e0_system.files import FileNameError, file_name

OPTIONAL = ("pretraining", "corrections", "decodings", "tuning", "told")
REQUIRED = ("dataset", "environment", "training", "policies", "held_out", "benchmark")
OF_DATASET = ("tasks", "episodes", "seed")
OF_GIVEN = ("tasks", "root")
EPISODE_KEYS = ("episodes", "seed")
OF_THE_RUN = ("output_dir", "resume")  # where a training writes and goes on is not the recipe's
OF_THE_COMPARISON = (
    *("checkpoints", "labels", "decodings", "out", "env", "env_options", "processes"),
)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe, before anything expensive is begun.

    Raises RecipeError for a file that is not TOML, for missing or unknown sections and settings,
    for policy settings that E0Config refuses, and where seeds are used twice.
    """
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    try:
        require_keys("the recipe", data, REQUIRED + OPTIONAL, required=REQUIRED)
        recipe = Recipe(**data)
        _check_sections(recipe)
        for label in recipe.policies:
            file_name(label, "the policy's label")
            _check_policy(recipe, f"[policies.{label}]", recipe.policy(label))
            _check_decodings(recipe, label)
            if recipe.pretraining is not None:
                _check_policy(recipe, "[pretraining.policy]", recipe.pretrained_policy(label))
                _check_prefix(recipe, label)
        _check_seeds(recipe)
    except (RecipeError, FileNameError) as error:
        raise RecipeError(f"{path}: {error}") from None
    return recipe


def _check_sections(recipe: Recipe) -> None:
    _check_demonstrations(recipe)
    known = [f.name for f in fields(BenchmarkSettings) if f.name not in OF_THE_COMPARISON]
    require_keys("[benchmark]", recipe.benchmark, known, required=("episodes", "seed"))
    for name in ("steps", "batch_size"):
        _require_count("[training]", recipe.training, name)
    for name in OF_THE_RUN:
        if name in recipe.training:
            raise RecipeError(f"[training] must not set {name}: `e0 compare` does")
    _check_training_seeds(recipe.training)
    if recipe.pretraining is not None:
        require_keys("[pretraining]", recipe.pretraining, ("steps", "policy", "augmented"))
        _require_count("[pretraining]", recipe.pretraining, "steps")
        if not isinstance(recipe.pretrains_augmented, bool):
            raise RecipeError("[pretraining] augmented must be true or false")
    _check_corrections(recipe)
    _check_tuning(recipe)
    if recipe.told is not None:
        if (kind := simulator(recipe.environment)) != "maniskill":
            raise RecipeError(f"[told] is for maniskill: {kind} does not tell how cameras moved")
        require_keys("[told]", recipe.told, ("policies",), required=("policies",))
        for label in recipe.told["policies"]:
            if label not in recipe.policies:
                raise RecipeError(
                    f"[told] names the policy {label!r}; there are {', '.join(recipe.policies)}"
                )
            if not recipe.policy(label).get("viewpoint_augmentation", {}).get("embedding"):
                raise RecipeError(
                    f"[told] names the policy {label!r}, which cannot be told: set its "
                    "viewpoint_augmentation.embedding = true"
                )
    if not recipe.policies:
        raise RecipeError("[policies.LABEL] is missing: give at least one policy")


def _check_demonstrations(recipe: Recipe) -> None:
    """What is collected, or given, and the environment."""
    require_keys("[held_out]", recipe.held_out, EPISODE_KEYS, required=EPISODE_KEYS)
    _check_episodes("[held_out]", recipe.held_out)
    given = "root" in recipe.dataset
    if given:
        require_keys("[dataset]", recipe.dataset, OF_GIVEN, required=OF_GIVEN)
        if not isinstance(recipe.dataset["root"], str):
            raise RecipeError(f"[dataset] root must be a directory, got {recipe.dataset['root']!r}")
        _require_count("[held_out]", recipe.held_out, "episodes")
    else:
        kind = simulator(recipe.environment)
        if kind not in known_simulators():
            raise RecipeError(
                f"[environment] has type {kind!r}; demonstrations can be collected in "
                f"{', '.join(known_simulators())}, or given as root in [dataset]"
            )
        require_keys("[environment]", recipe.environment, known_options(recipe.environment))
        of_dataset = (*OF_DATASET, *known_of_expert(recipe.environment))
        require_keys("[dataset]", recipe.dataset, of_dataset, required=OF_DATASET)
        _check_episodes("[dataset]", recipe.dataset)
    tasks = recipe.dataset["tasks"]
    if not isinstance(tasks, list) or not tasks or not all(isinstance(t, str) for t in tasks):
        raise RecipeError(f"[dataset] needs tasks, a list of names, got {tasks!r}")
    if given:
        _check_environment(recipe)


def _check_environment(recipe: Recipe) -> None:
    """That LeRobot has such an environment, with these options."""
    kind, options = evaluation_type(recipe.environment), evaluation_options(recipe.environment)
    try:
        for task in recipe.dataset["tasks"]:
            EnvironmentSettings(kind, options).config(task)
    except UnknownEnvironmentError as error:
        raise RecipeError(f"[environment]: {error}") from error


def _check_corrections(recipe: Recipe) -> None:
    if recipe.corrections is None:
        return
    where, required = "[corrections]", (*EPISODE_KEYS, "steps")
    require_keys(where, recipe.corrections, (*required, "rounds", "policies"), required)
    _check_episodes(where, recipe.corrections)
    for name in sorted({"steps", "rounds"} & recipe.corrections.keys()):
        _require_count(where, recipe.corrections, name)
    if simulator(recipe.environment) != "maniskill" or "root" in recipe.dataset:
        raise RecipeError(
            f"{where} is for demonstrations collected in maniskill: no other expert can take over"
        )
    try:
        numbers_per_task(recipe.corrections["episodes"], recipe.dataset["tasks"])
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    chosen = recipe.corrections.get("policies", list(recipe.policies))
    if not isinstance(chosen, list) or not chosen:
        raise RecipeError(f"{where} policies must be a list of labels, got {chosen!r}")
    for label in chosen:
        if label not in recipe.policies:
            raise RecipeError(
                f"{where} names the policy {label!r}; there are {', '.join(recipe.policies)}"
            )


def _check_episodes(where: str, section: Mapping[str, Any]) -> None:
    """What is collected: one whole number for all tasks or one for each, and the first seed."""
    episodes, seed = section["episodes"], section["seed"]
    counts = episodes if isinstance(episodes, list) else [episodes]
    if not counts or not all(type(count) is int and count >= 1 for count in counts):
        raise RecipeError(
            f"{where} episodes must be a whole number of at least 1, or a list with one for each "
            f"task; got {episodes!r}"
        )
    if type(seed) is not int or seed < 0:
        raise RecipeError(f"{where} seed must be a whole number of at least 0, got {seed!r}")


def _check_tuning(recipe: Recipe) -> None:
    if (recipe.tuning is not None) != bool(recipe.decodings):
        raise RecipeError("[tuning] and [decodings.LABEL] need each other: give both or neither")
    if recipe.tuning is None:
        return
    if recipe.told is not None:
        raise RecipeError("[told] and [tuning] cannot be combined; leave one of them out")
    require_keys("[tuning]", recipe.tuning, EPISODE_KEYS, required=EPISODE_KEYS)
    for label, ways in recipe.decodings.items():
        if label not in recipe.policies:
            raise RecipeError(
                f"[decodings.{label}] is of no policy; there are {', '.join(recipe.policies)}"
            )
        if not isinstance(ways, dict) or not all(isinstance(way, dict) for way in ways.values()):
            raise RecipeError(f"[decodings.{label}] must hold tables of settings, got {ways!r}")


def _check_training_seeds(training: Mapping[str, Any]) -> None:
    if "seeds" not in training:
        return
    seeds = training["seeds"]
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise RecipeError(
            f"[training] seeds must be a list of at least two different whole numbers, got {seeds}"
        )
    if "seed" in training:
        raise RecipeError("[training] has both seed and seeds; leave one of them out")


def _check_policy(recipe: Recipe, where: str, settings: dict[str, Any]) -> None:
    from lerobot_policy_e0 import E0Config

    known = [field.name for field in fields(E0Config)]
    require_keys(f"{where} with [training.policy]", settings, known)
    try:
        E0Config(**settings)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where}: {error}") from error
    try:
        check_training(local_training(Path("dataset"), settings, recipe.loop()))
    except ValueError as error:
        raise RecipeError(f"[training]: {error}") from error


def _check_decodings(recipe: Recipe, label: str) -> None:
    from lerobot_policy_e0 import E0Config

    try:
        for way in recipe.ways_to_decode(label):
            way.of(E0Config(**recipe.policy(label)))
    except DecodingError as error:
        raise RecipeError(f"[decodings.{label}]: {error}") from error


def _check_prefix(recipe: Recipe, label: str) -> None:
    """A policy must encode observations as its pretrained one does (`Policy.copy_prefix`)."""
    from lerobot_policy_e0 import E0Config

    policy = E0Config(**recipe.policy(label))
    pretrained = E0Config(**recipe.pretrained_policy(label))
    for name in ("preset", "use_instruction"):
        own, given = getattr(policy, name), getattr(pretrained, name)
        if own != given:
            raise RecipeError(
                f"[policies.{label}] has {name} {own} and [pretraining.policy] {given}: it "
                "could not start from that policy"
            )


def _check_seeds(recipe: Recipe) -> None:
    """Nothing may be measured on what was trained on: the first seeds must lie far apart, since an
    expert that fails makes collecting go on to further seeds."""
    spans = [(recipe.benchmark["seed"], recipe.benchmark["episodes"], "benchmark")]
    if "root" not in recipe.dataset:
        for name in ("dataset", "held_out"):
            section = getattr(recipe, name)
            spans.append((section["seed"], most_of_a_task(section["episodes"]), name))
    if recipe.tuning is not None:
        spans.append((recipe.tuning["seed"], recipe.tuning["episodes"], "tuning"))
    if recipe.corrections is not None:
        most = recipe.rounds * most_of_a_task(recipe.corrections["episodes"])
        spans.append((recipe.corrections["seed"], most, "corrections"))
    for (first, count, name), (second, _, other) in pairwise(sorted(spans)):
        if second < first + SEEDS_FOR_EACH * count:
            raise RecipeError(
                f"the seeds of [{name}] from {first} on and those of [{other}] from {second} on "
                f"may meet; leave at least {SEEDS_FOR_EACH * count} between them"
            )


def _require_count(where: str, given: Mapping[str, Any], name: str) -> None:
    if type(given.get(name)) is not int or given[name] < 1:
        raise RecipeError(f"{where} needs {name}, a whole number of at least 1")
