"""From a recipe to measured policies: same demonstrations, same training, same episodes.

Every phase is skipped where its result is there and resumed where it was cut short. The output
holds `dataset`, `held_out`, `pretrained`, `train/LABEL`, what comes of corrections,
`errors/LABEL.json` (on what is held out), `benchmark` and `comparison.json`; where a policy is
trained with several seeds, LABEL is POLICY-SEED, and `trainings.png` shows how far they differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from e0_bench.closed_loop.summary import markdown
from e0_bench.comparison.action_error import kept_action_error
from e0_bench.comparison.collecting import collect_demonstrations
from e0_bench.comparison.corrections import correct_all, final_checkpoint, trainings_of
from e0_bench.comparison.demonstrated import demonstrated_changes
from e0_bench.comparison.given import check_given
from e0_bench.comparison.kept_recipe import keep_recipe
from e0_bench.comparison.late_chunks import (
    late_chunks,
    late_chunks_figure,
    late_chunks_markdown,
)
from e0_bench.comparison.measuring import (
    is_measured,
    measure,
    policies_by_label,
    tuning_markdown,
)
from e0_bench.comparison.reading import read_recipe
from e0_bench.comparison.recipe import (
    Recipe,
    RecipeError,
    Training,
)
from e0_bench.comparison.trainings import over_trainings, trainings_markdown
from e0_bench.comparison.trainings_figure import trainings_figure
from e0_bench.files import write_json, write_text
from e0_bench.training_run import local_training, train_together
from e0_system.locks import own_directory
from e0_system.workers import Processes


@dataclass(frozen=True)
class ComparisonSettings:
    """A recipe and where its results go."""

    recipe: Annotated[Path, tyro.conf.Positional]
    """A TOML file, as those in recipes/."""
    output: Path | None = None
    """Directory of everything; outputs/NAME of the recipe if not given."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = Processes()
    policies: tuple[str, ...] = ()
    """Do what is missing for these of the recipe's policies alone; for all if none is given. The
    results also hold the others that are trained and measured whole already."""
    demonstrations_only: bool = False
    """Collect what the recipe trains on and what it holds out, and no more."""

    @property
    def directory(self) -> Path:
        return self.output or Path("outputs") / self.recipe.stem


def run_comparison(settings: ComparisonSettings) -> dict[str, Any]:
    """Do what is missing; return (and keep as `comparison.json`) the policies' training costs,
    errors on held-out demonstrations, the summary of the benchmark, and what it says over
    trainings where there are several of a policy.

    Raises RecipeError for a recipe that cannot be carried out, ComparisonMismatchError if the
    output is of another one, DirectoryInUseError if another process works on it, and what
    `check_given`, collecting, training and measuring raise; whatever was finished stays.
    """
    recipe, output = checked_recipe(settings), settings.directory
    with own_directory(output):
        _have_demonstrations(recipe, output, settings.processes)
        shown = _shown(recipe, output, settings.policies)
        return _run_comparison(settings, shown, output)


def demonstrations_alone(settings: ComparisonSettings) -> dict[str, int]:
    """The first part of `run_comparison`: have the demonstrations to train on and those held out.
    Returns the number of episodes as `collect_demonstrations`. Raises as `run_comparison`.
    """
    recipe, output = checked_recipe(settings), settings.directory
    with own_directory(output):
        return _have_demonstrations(recipe, output, settings.processes)


def _have_demonstrations(recipe: Recipe, output: Path, processes: Processes) -> dict[str, int]:
    check_given(recipe, output)  # before the recipe is kept: one that is wrong can be mended
    keep_recipe(recipe, output)
    return collect_demonstrations(recipe, output, processes)


def checked_recipe(settings: ComparisonSettings) -> Recipe:
    """The whole recipe. RecipeError if a policy is asked for that it does not have."""
    recipe = read_recipe(settings.recipe)
    for label in settings.policies:
        if label not in recipe.policies:
            raise RecipeError(f"unknown policy {label!r}; known: {', '.join(recipe.policies)}")
    return recipe


def _shown(recipe: Recipe, output: Path, chosen: tuple[str, ...]) -> Recipe:
    """The recipe with the policies that the results are to hold: all if none is chosen, else those
    and the finished ones."""
    kept = {
        label: settings
        for label, settings in recipe.policies.items()
        if not chosen or label in chosen or _is_finished(recipe, output, label)
    }
    told = [label for label in (recipe.told or {}).get("policies", ()) if label in kept]
    return replace(recipe, policies=kept, told={"policies": told} if told else None)


def _is_finished(recipe: Recipe, output: Path, policy: str) -> bool:
    """Whether all trainings of a policy are done, and measured on all episodes."""
    labels = [training.label for training in recipe.trainings if training.policy == policy]
    found = {label: final_checkpoint(recipe, output, label) for label in labels}
    checkpoints = {label: path for label, path in found.items() if path is not None}
    if checkpoints.keys() != found.keys():
        return False
    return is_measured(recipe, output, checkpoints, policy) and all(
        (output / "errors" / f"{label}.json").exists() for label in labels
    )


def _run_comparison(settings: ComparisonSettings, recipe: Recipe, output: Path) -> dict[str, Any]:
    checkpoints = _train_all(recipe, output, settings.processes)
    checkpoints = correct_all(recipe, output, checkpoints, settings.processes)
    policies = {
        label: _cost(recipe, output, checkpoint, label)
        | kept_action_error(
            checkpoint,
            output / "held_out",
            output / "errors" / f"{label}.json",
            f"Held-out error of {label}",
        )
        for label, checkpoint in checkpoints.items()
    }
    summary = measure(recipe, output, checkpoints, settings.processes)
    results = {"policies": policies, "benchmark": summary}
    if "delays" in summary:
        results["demonstrated_changes"] = demonstrated_changes(output / "dataset")
    if "seeds" in recipe.training:
        own = policies_by_label(recipe)
        rows = over_trainings(summary, own)
        results["trainings"] = {"policies": own, "rows": rows}
        trainings_figure(rows, output / "trainings.png")
        if "delays" in summary:
            results["late_chunks"] = late_chunks(summary, own)
            late_chunks_figure(results["late_chunks"], output / "late-chunks.png")
    write_json(output / "comparison.json", results)
    write_text(output / "comparison.md", comparison_markdown(results))
    return results


def comparison_markdown(results: Mapping[str, Any]) -> str:
    """The table of the benchmark and one of the policies' costs and errors."""
    rows = [
        f"| {label} | {row['parameters']:,} | {row['training_seconds'] / 60:.1f} | "
        f"{row['error']:.4f} | {row['codes']:.4f} |"
        for label, row in results["policies"].items()
    ]
    frames = next(iter(results["policies"].values()))["frames"]
    head = [
        f"Mean absolute error of a chunk on {frames} frames of held-out demonstrations, in action "
        "units, and what the codebook alone loses.",
        "",
        "| policy | parameters | training, minutes | error | of the codes |",
        "|---|---|---|---|---|",
    ]
    parts = [markdown(results["benchmark"]).rstrip(), "", *head, *rows, ""]
    if "decodings" in results["benchmark"]:
        parts = [tuning_markdown(results["benchmark"]["decodings"]), "", *parts]
    if "demonstrated_changes" in results:
        changes = (f"{name} {size:.2f}" for name, size in results["demonstrated_changes"].items())
        parts += [f"Changes from step to step in demonstrations: {', '.join(changes)}.", ""]
    if "late_chunks" in results:
        parts = [late_chunks_markdown(results["late_chunks"]), "", *parts]
    if "trainings" in results:
        parts = [trainings_markdown(results["trainings"]["rows"]), "", *parts]
    return "\n".join(parts)


def _train_all(recipe: Recipe, output: Path, processes: Processes) -> dict[str, Path]:
    """The checkpoint of every training, by label. The trainings share nothing but the data, and
    the pretrained encoding where several start from one."""
    prefixes = _pretrain_all(recipe, output, processes)
    runs = {
        output / "train" / training.label: local_training(
            output / "dataset",
            recipe.policy(training.policy) | prefixes.get(training, {}),
            recipe.loop(training.seed),
        )
        for training in recipe.trainings
    }
    checkpoints = train_together(runs, processes)
    return {directory.name: checkpoint for directory, checkpoint in checkpoints.items()}


def _pretrain_all(
    recipe: Recipe, output: Path, processes: Processes
) -> dict[Training, dict[str, Any]]:
    """Settings with which each training starts from its pretrained encoding, if the recipe has
    any."""
    if recipe.pretraining is None:
        return {}
    directories = {t: output / recipe.pretrained_directory(t) for t in recipe.trainings}
    runs = {
        directory: local_training(
            output / "dataset",
            recipe.pretrained_policy(training.policy),
            recipe.loop(training.seed) | {"steps": recipe.pretraining["steps"]},
        )
        for training, directory in directories.items()
    }
    checkpoints = train_together(runs, processes)
    return {t: {"prefix_from": checkpoints[directory]} for t, directory in directories.items()}


def _cost(recipe: Recipe, output: Path, checkpoint: Path, label: str) -> dict[str, float]:
    """Parameters, and seconds of all updates (loading and saving left out)."""
    from safetensors.torch import load_file

    directories = [directory for directory, _ in trainings_of(recipe, output, label)]
    seconds = sum(_seconds_of_updates(directory) for directory in directories)
    weights = load_file(checkpoint / "model.safetensors")  # codebooks too, which are not learned
    learned = [tensor for name, tensor in weights.items() if name.startswith("model.network.")]
    return {
        "parameters": sum(tensor.numel() for tensor in learned),
        "training_seconds": round(seconds, 3),
    }


def _seconds_of_updates(directory: Path) -> float:
    from lerobot_policy_e0.training import LEARNING_CURVE, read_learning_curve

    rows = read_learning_curve(directory / LEARNING_CURVE)
    steps = [0.0, *(row["step"] for row in rows)]
    return sum(
        row["update_s"] * (now - before)
        for row, before, now in zip(rows, steps, steps[1:], strict=False)
    )
