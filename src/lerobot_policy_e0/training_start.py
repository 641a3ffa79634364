"""What every training goes through as it begins, of a new policy and of a checkpoint alike.

LeRobot checks little here, and hands statistics as they are to the processors of a checkpoint. So
what will really happen is looked at once, and mended or refused before the first step.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType
from lerobot.utils.constants import ACTION
from lerobot.utils.feature_utils import dataset_to_policy_features
from torch import Tensor

from e0.policy import Policy, network_sizes
from e0.tokens import ActionTokenizer
from lerobot_policy_e0.codebook_log import dimension_names, log_codebooks
from lerobot_policy_e0.columns import data_files, read_actions, trained_episodes
from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.defaults import PRETRAINED
from lerobot_policy_e0.prompts import Prompts
from lerobot_policy_e0.standard_augmentation import StandardAugmentationStep
from lerobot_policy_e0.statistics import Statistics, prepare_statistics
from lerobot_policy_e0.viewpoint import ViewpointAugmentationStep

logger = logging.getLogger(__name__)

AUGMENTATIONS = ("viewpoint_augmentation", "standard_augmentation")
MOST_OUTSIDE = 0.05
"""Share of a dimension's actions that the codes of a checkpoint may fail to cover."""
HIGHEST_LEARNING_RATE = 1e-4  # for weights that were trained before


def prepare_dataset(config: E0Config, dataset_meta: Any) -> None:
    """Take depth out of the policy's inputs, and make the statistics usable, both in place.

    Raises ValueError for a vector that the dataset lacks or whose statistics cannot be used.
    """
    config.input_features = {
        name: feature
        for name, feature in (config.input_features or {}).items()
        if name not in dataset_meta.depth_keys
    }
    missing = sorted(config.vector_features.keys() - dataset_meta.features.keys())
    if missing:
        offered = dataset_to_policy_features(dataset_meta.features)
        vectors = sorted(n for n, f in offered.items() if f.type is FeatureType.STATE)
        raise ValueError(
            f"this policy needs the vectors {missing}, the dataset has {vectors}. --rename_map "
            "renames no statistics, so a renamed vector would not be normalized: give the vector "
            "this name in the dataset, or train a new policy"
        )
    prepare_statistics(config, dataset_meta)


def fit_codebooks(tokenizer: ActionTokenizer, config: E0Config, dataset_meta: Any) -> None:
    """Fit the codebooks to the actions that are trained on; of a streamed dataset, whose actions
    are not on this disk, to their statistics. Raises what `ActionTokenizer.fit` raises."""
    if data_files(dataset_meta) or not dataset_meta.total_frames:
        tokenizer.fit(read_actions(dataset_meta), config.codebook)
    else:
        if trained_episodes(dataset_meta) is not None:
            logger.warning("the codebooks are fitted to the statistics of all episodes")
        fit_to_statistics(tokenizer, config, dataset_meta.stats)
    log_codebooks(tokenizer, dataset_meta)


def fit_to_statistics(tokenizer: ActionTokenizer, config: E0Config, stats: Statistics) -> None:
    """Fit the codebooks to the action's statistics. Raises ValueError if there are none."""
    if ACTION not in stats:
        raise ValueError(
            f"the dataset's statistics hold no {ACTION!r}, only {sorted(stats)}: recompute them, "
            "or pass dataset_meta so that the actions can be read"
        )
    tokenizer.fit_statistics(stats[ACTION], config.codebook)


def check_texts(prompts: Prompts, config: E0Config, dataset_meta: Any) -> None:
    """Raise ValueError naming the tasks that are too long for the policy."""
    if not config.use_instruction or dataset_meta.episodes is None:
        return
    episodes = trained_episodes(dataset_meta)
    told = dataset_meta.episodes["tasks"]
    used = told if episodes is None else [told[episode] for episode in episodes]
    nothing = {name: torch.zeros(1, size) for name, size in config.vector_features.items()}
    refused = {}
    for task in dict.fromkeys(task for tasks in used for task in tasks):
        try:
            prompts.encode([task], nothing)
        except ValueError as error:
            refused[task] = str(error)
    if refused:
        names = ", ".join(repr(task[:60]) for task in refused)
        raise ValueError(
            f"{len(refused)} of the dataset's tasks cannot be told to this policy ({names}): "
            f"{next(iter(refused.values()))}"
        )


def say_what_is_trained(config: E0Config, model: Policy, fps: float) -> None:
    """One line in the log on what came of the settings and what was left out of them."""
    horizon, run = model.settings.horizon, config.n_action_steps
    pictures = "no pictures"
    if model.settings.cameras:
        height, width = network_sizes(model.settings).image_size
        pictures = f"{len(model.settings.cameras)} cameras at {height} × {width} px"
    if config.vision is not None:
        rate = f"learning rate {config.vision_lr or config.optimizer_lr:g}"
        rate = "frozen" if config.freeze_vision else rate
        pictures += f", seen by {config.vision} ({config.vision_weights} weights, {rate})"
    logger.info(
        "E0 %s: chunks of %d steps (%.2f s at %g a second), of which %s run (%.2f s); %s; %.1f M "
        "parameters; learning rate %g; %s",
        config.preset,
        horizon,
        horizon / fps,
        fps,
        run,
        (run or 0) / fps,
        pictures,
        sum(parameter.numel() for parameter in model.network.parameters()) / 1e6,
        config.optimizer_lr,
        config.dtype,
    )
    if config.init_from is not None and (config.optimizer_lr or 0) > HIGHEST_LEARNING_RATE:
        logger.warning(
            "a learning rate of %g destroys the weights of init_from within a few hundred steps; "
            "pi-0 is trained on with %g",
            config.optimizer_lr,
            PRETRAINED.learning_rate,
        )


def continue_on(config: E0Config, tokenizer: ActionTokenizer, dataset_meta: Any) -> None:
    """Check that a checkpoint can learn from this dataset, and say what will be different from
    what one may expect; with `refit_codebook`, give it new codes.

    Raises ValueError if its codes leave out too many of the dataset's actions.
    """
    _say_what_is_ignored(config, dataset_meta)
    if config.reflow_from is not None:
        logger.warning(
            "learning the chunks of %s, not the demonstrated actions (reflow_from)",
            config.reflow_from,
        )
    if config.refit_codebook:
        fit_codebooks(tokenizer, config, dataset_meta)
    elif data_files(dataset_meta):
        _require_covered(tokenizer, read_actions(dataset_meta), dataset_meta)


def _say_what_is_ignored(config: E0Config, dataset_meta: Any) -> None:
    used = {*(config.input_features or {}), *dataset_meta.depth_keys}
    offered = dataset_to_policy_features(dataset_meta.features)
    inputs = {name for name, feature in offered.items() if feature.type is not FeatureType.ACTION}
    if used <= inputs | {*dataset_meta.depth_keys} and inputs - used:
        logger.warning(
            "this checkpoint was made without %s and will not look at them; a new policy would",
            ", ".join(sorted(inputs - used)),
        )


def _require_covered(tokenizer: ActionTokenizer, actions: Tensor, dataset_meta: Any) -> None:
    outside = tokenizer.count_out_of_range(actions).tolist()
    found = [
        f"{100 * count / len(actions):.1f} % of {name} ([{low:.4g}, {high:.4g}], codes "
        f"[{first:.4g}, {last:.4g}])"
        for name, count, low, high, first, last in zip(
            dimension_names(dataset_meta, tokenizer.action_dim),
            outside,
            actions.amin(0).tolist(),
            actions.amax(0).tolist(),
            tokenizer.codebook[:, 0].tolist(),
            tokenizer.codebook[:, -1].tolist(),
            strict=True,
        )
        if count
    ]
    if max(outside) > MOST_OUTSIDE * len(actions):
        raise ValueError(
            "the checkpoint's action codes do not cover this dataset, whose actions would train as "
            f"the nearest code: {'; '.join(found)}. Another robot or unit? Then start with new "
            "codes: --policy.refit_codebook=true"
        )
    if found:
        logger.warning("actions beyond the codes train as the nearest one: %s", "; ".join(found))


def augmentations(config: E0Config) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
    """How batches are changed in training: as the configuration of this training says, whatever a
    checkpoint that it starts from was trained with."""
    steps = []
    if config.viewpoint_augmentation.active:
        steps.append(ViewpointAugmentationStep(config.viewpoint_augmentation).augment)
    if config.standard_augmentation.probability > 0:
        steps.append(StandardAugmentationStep(config.standard_augmentation).augment)
    return steps


def augments_in_processor(config: E0Config, checkpoint: str | Path) -> bool:
    """Whether the checkpoint's own preprocessor augments, as older ones did.

    Raises ValueError if it does so in another way than the configuration says.
    """
    file = Path(checkpoint) / "policy_preprocessor.json"
    if not file.is_file():  # on the hub, where none of the older ones are
        return False
    steps = {s.get("registry_name"): s for s in json.loads(file.read_text())["steps"]}
    for name in AUGMENTATIONS:
        if name in steps:
            kept = steps[name]["config"]["settings"]
            wanted = json.loads(json.dumps(asdict(getattr(config, name))))
            if kept != wanted:
                raise ValueError(
                    f"the preprocessor of {checkpoint} augments by itself, with {name} {kept}: "
                    f"remove that step from {file.name}, or leave its settings as they are"
                )
    return any(name in steps for name in AUGMENTATIONS)
