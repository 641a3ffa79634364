"""Policies that are corrected by the expert and trained on, round after round (DAgger).

In each round every training's policy begins episodes of its own, the expert ends them
(`e0_bench.correcting`), and the policy is trained on with the demonstrations and all of its
corrections so far. Policies that are not corrected are trained on for as long, with the
demonstrations alone. The output holds `corrections/ROUND/LABEL` and `corrected/ROUND/LABEL`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from e0_bench.comparison.recipe import Recipe, Training
from e0_bench.comparison.simulators import collection_settings
from e0_bench.correcting import policy_lead_in
from e0_bench.files import read_json
from e0_bench.training_run import local_training, train_together, trained_checkpoint
from e0_system.files import beside, place_directory
from e0_system.workers import Processes


def trainings_of(recipe: Recipe, output: Path, label: str) -> list[tuple[Path, int]]:
    """The directories of a training and of what follows it in each round, with their steps."""
    first = (output / "train" / label, int(recipe.training["steps"]))
    rounds = range(1, recipe.rounds + 1)
    return [first, *((_directory(output, number, label), _steps(recipe)) for number in rounds)]


def final_checkpoint(recipe: Recipe, output: Path, label: str) -> Path | None:
    """What is measured of a training, if it is done."""
    return trained_checkpoint(*trainings_of(recipe, output, label)[-1])


def correct_all(
    recipe: Recipe, output: Path, checkpoints: Mapping[str, Path], processes: Processes
) -> dict[str, Path]:
    """Do what is missing of all rounds; the last checkpoint of every training, by label."""
    for number in range(1, recipe.rounds + 1):
        checkpoints = _round(recipe, output, number, checkpoints, processes)
    return dict(checkpoints)


def _round(
    recipe: Recipe,
    output: Path,
    number: int,
    checkpoints: Mapping[str, Path],
    processes: Processes,
) -> dict[str, Path]:
    """Correct every policy that is to be, and train all of them on."""
    directories = {t: _directory(output, number, t.label) for t in recipe.trainings}
    missing = [t for t, own in directories.items() if not trained_checkpoint(own, _steps(recipe))]
    for training in missing:
        if training.policy in recipe.corrected_policies:
            _collect(recipe, output, number, training, checkpoints[training.label], processes)
            _join(output, number, training)
    runs = {
        directory: local_training(
            _data(recipe, output, number, training),
            _trained(checkpoints[training.label]),
            recipe.loop(training.seed) | {"steps": _steps(recipe)},
        )
        for training, directory in directories.items()
    }
    trained = train_together(runs, processes)
    for training in missing:  # a copy of everything, no longer needed
        shutil.rmtree(_joined(output, number, training), ignore_errors=True)
    return {directory.name: checkpoint for directory, checkpoint in trained.items()}


def _trained(checkpoint: Path) -> dict[str, Any]:
    """Settings of a policy that goes on from a checkpoint. Where mistakes led, the expert acts in
    ways that demonstrations do not show; the codes are fitted anew, so that they cover them."""
    own = {"pretrained_path": checkpoint, "refit_codebook": True}
    return read_json(checkpoint / "config.json") | own


def _collect(
    recipe: Recipe,
    output: Path,
    number: int,
    training: Training,
    checkpoint: Path,
    processes: Processes,
) -> None:
    from lerobot_policy_e0.collection import CollectionRequest, collect_dataset

    wanted: dict[str, Any] = recipe.corrections or {}
    settings: Any = collection_settings(recipe.environment, recipe.dataset)
    episodes = wanted["episodes"]
    request = CollectionRequest(
        tuple(settings.task_names(recipe.dataset["tasks"])),
        tuple(episodes) if isinstance(episodes, list) else episodes,
        recipe.seed_of_corrections(number),
        replace(settings, lead_in=policy_lead_in(checkpoint)),
    )
    collect_dataset(request, _corrections(output, number, training), processes=processes)


def _join(output: Path, number: int, training: Training) -> None:
    """Make one dataset of the demonstrations and the corrections up to this round."""
    from lerobot_policy_e0.collection import join_datasets

    joined = _joined(output, number, training)
    if not joined.exists():
        rounds = range(1, number + 1)
        parts = [output / "dataset", *(_corrections(output, r, training) for r in rounds)]
        draft = beside(joined, ".partial")
        join_datasets(parts, draft, joined.name, beside(joined, ".cache"))
        place_directory(draft, joined)


def _data(recipe: Recipe, output: Path, number: int, training: Training) -> Path:
    """What a policy is trained on with in a round."""
    corrected = training.policy in recipe.corrected_policies
    return _joined(output, number, training) if corrected else output / "dataset"


def _steps(recipe: Recipe) -> int:
    return int((recipe.corrections or {})["steps"])


def _directory(output: Path, number: int, label: str) -> Path:
    return output / "corrected" / str(number) / label


def _corrections(output: Path, number: int, training: Training) -> Path:
    return output / "corrections" / str(number) / training.label


def _joined(output: Path, number: int, training: Training) -> Path:
    return output / "corrected" / str(number) / f"{training.label}-dataset"
