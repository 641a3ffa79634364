"""Pre- and post-processing of an E0 policy: LeRobot's default steps, with safe statistics."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs import NormalizationMode
from lerobot.processor import (
    PolicyAction,
    PolicyProcessorPipeline,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)

from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.standard_augmentation import StandardAugmentationStep
from lerobot_policy_e0.viewpoint import ViewpointAugmentationStep

Statistics = dict[str, dict[str, Any]]


def make_e0_pre_post_processors(
    config: E0Config, dataset_stats: Statistics | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """Rename, batch, move to the device, augment images in training, normalize vectors; actions
    pass as they are.

    Raises ValueError if a vector feature has no statistics.
    """
    if dataset_stats is not None:
        dataset_stats = _usable_statistics(config, dataset_stats)
    steps = make_default_policy_processor_steps(
        config, dataset_stats, normalizer_device=config.device
    )
    inputs = [steps.rename_observations, steps.add_batch_dim, steps.to_device]
    if config.viewpoint_augmentation.active:
        inputs.append(ViewpointAugmentationStep(config.viewpoint_augmentation))
    if config.standard_augmentation.probability > 0:
        inputs.append(StandardAugmentationStep(config.standard_augmentation))
    return make_policy_processor_pipelines(
        input_steps=[*inputs, steps.normalize], output_steps=[steps.unnormalize, steps.to_cpu]
    )


def _usable_statistics(config: E0Config, statistics: Statistics) -> Statistics:
    """Statistics with deviation 1, or quantiles 2 apart, where a dimension is constant: dividing
    by (almost) zero would turn the smallest difference at test time into a huge input."""
    usable = dict(statistics)
    quantiles = config.normalization_mapping["STATE"] is NormalizationMode.QUANTILES
    low_name, high_name = ("q01", "q99") if quantiles else ("mean", "std")
    for name in config.vector_features:
        given = statistics.get(name, {})
        missing = [key for key in (low_name, high_name) if key not in given]
        if missing:
            raise ValueError(
                f"the dataset's statistics lack {' and '.join(missing)} of {name!r}: recompute the "
                "dataset's statistics, or leave the feature out of the policy's input_features"
            )
        low = torch.as_tensor(given[low_name], dtype=torch.float32)
        high = torch.as_tensor(given[high_name], dtype=torch.float32)
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise ValueError(f"the statistics of {name!r} hold NaN or infinity: clean the dataset")
        spread = high - low if quantiles else high
        constant = spread <= 1e-6 * low.abs().clamp_min(1.0)
        unit = low + 2.0 if quantiles else torch.ones_like(high)
        usable[name] = {**given, high_name: torch.where(constant, unit, high)}
    return usable
