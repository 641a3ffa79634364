"""Pre- and post-processing of an E0 policy: LeRobot's default steps, with safe statistics."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)

from lerobot_policy_e0.configuration_e0 import E0Config
from lerobot_policy_e0.statistics import Statistics, usable_statistics


@ProcessorStepRegistry.register(name="vectors_of_one_number")
class VectorsOfOneNumber(ObservationProcessorStep):
    """Gives vectors of one number their axis, (B,) to (B, 1): LeRobotDatasets hold them as plain
    numbers, and a batch of these looks like one vector."""

    def __init__(self, names: list[str]) -> None:
        self.names = list(names)

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        single = {
            name: torch.as_tensor(observation[name]).reshape(-1, 1)
            for name in self.names
            if name in observation and torch.as_tensor(observation[name]).ndim < 2
        }
        return observation | single

    def get_config(self) -> dict[str, Any]:
        return {"names": self.names}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        return features


def make_e0_pre_post_processors(
    config: E0Config, dataset_stats: Statistics | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """Rename, batch, move to the device, normalize vectors; actions pass as they are.

    Raises ValueError without statistics of every vector feature.
    """
    if dataset_stats is None and config.vector_features:
        raise ValueError(
            f"{sorted(config.vector_features)} cannot be normalized without dataset_stats: pass "
            "the dataset's meta.stats, or load a checkpoint's processors by its path"
        )
    dataset_stats = usable_statistics(config, dataset_stats or {})
    steps = make_default_policy_processor_steps(
        config, dataset_stats, normalizer_device=config.device
    )
    inputs = [steps.rename_observations]
    single = [name for name, size in config.vector_features.items() if size == 1]
    if single:
        inputs.append(VectorsOfOneNumber(single))
    inputs += [steps.add_batch_dim, steps.to_device, steps.normalize]
    return make_policy_processor_pipelines(
        input_steps=inputs, output_steps=[steps.unnormalize, steps.to_cpu]
    )
