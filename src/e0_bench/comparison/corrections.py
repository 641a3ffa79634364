"""Policies that are corrected by the expert and trained on, round after round (DAgger).

In each round every training's policy begins episodes of its own, the expert ends them
(`e0_bench.correcting`), and the policy is trained on with the demonstrations and all of its
corrections so far. Policies that are not corrected are trained on for as long, with the
demonstrations alone. The output holds `corrections/ROUND/LABEL`, `corrected/ROUND/LABEL` and, while
they are needed, `joined/ROUND/LABEL`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from e0_bench.comparison.collecting import collect
from e0_bench.comparison.recipe import Recipe, Training
from e0_bench.correcting import policy_lead_in
from e0_bench.files import read_json
from e0_bench.training_run import local_training, train_together, trained_checkpoint
from e0_system.files import beside, place_directory
from e0_system.workers import Processes

SEEDS_OF_A_ROUND = 1_000_000


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
            lead_in = policy_lead_in(checkpoints[training.label])
            wanted = recipe.corrections_of(number)
            collect(recipe, _corrections(output, number, training), wanted, processes, lead_in)
            _join(output, number, training)
    runs = {
        directory: local_training(
            _data(recipe, output, number, training),
            _trained(checkpoints[training.label]),
            _loop(recipe, number, training),
        )
        for training, directory in directories.items()
    }
    trained = train_together(runs, processes)
    shutil.rmtree(output / "joined" / str(number), ignore_errors=True)  # copies of everything
    return {directory.name: checkpoint for directory, checkpoint in trained.items()}


def _loop(recipe: Recipe, number: int, training: Training) -> dict[str, Any]:
    """Settings of a round's training loop, with a seed of its own: nothing is seen in the order in
    which it was seen before."""
    loop = recipe.loop(training.seed)
    seed = int(loop.get("seed", 0)) + SEEDS_OF_A_ROUND * number
    return loop | {"steps": _steps(recipe), "seed": seed}


def _trained(checkpoint: Path) -> dict[str, Any]:
    """Settings of a policy that goes on from a checkpoint. Where mistakes led, the expert acts in
    ways that demonstrations do not show; the codes are fitted anew, so that they cover them."""
    own = {"pretrained_path": checkpoint, "refit_codebook": True}
    return read_json(checkpoint / "config.json") | own


def _join(output: Path, number: int, training: Training) -> None:
    """Make one dataset of the demonstrations and the corrections up to this round."""
    from lerobot_policy_e0.whole_dataset import join_datasets

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
    return output / "joined" / str(number) / training.label
