"""Checkpoints with random weights, as LeRobot's training loop would write them."""

from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy

from lerobot_policy_e0 import E0Config, E0Policy

IMAGE = "observation.images.base_camera"


def save_policy(
    directory: Path, state_size: int, image_size: int | None = None, seed: int = 0, **options: Any
) -> Path:
    """An E0 policy for ManiSkill with compact proprioception."""
    torch.manual_seed(seed)
    inputs = _inputs(state_size, image_size)
    config = E0Config(input_features=inputs, n_action_steps=4, **_COMMON, **options)
    policy = E0Policy(config)
    policy.model.tokenizer.fit(torch.empty(500, 7).uniform_(-1, 1), config.codebook)
    # A new network's last layer is zero, and its actions would not depend on what it sees.
    for parameter in policy.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return save(policy, directory)


def save_act(directory: Path, state_size: int) -> Path:
    """LeRobot's own ACT, small; its actions leave [-1, 1]."""
    torch.manual_seed(0)
    config = ACTConfig(
        input_features=_inputs(state_size, None),
        chunk_size=4,
        n_action_steps=3,
        dim_model=32,
        n_heads=2,
        dim_feedforward=32,
        n_encoder_layers=1,
        n_vae_encoder_layers=1,
        latent_dim=4,
        **_COMMON,
    )
    policy = ACTPolicy(config)
    policy.model.action_head.weight.data *= 20
    return save(policy, directory)


_COMMON: dict[str, Any] = {
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (7,))},
    "device": "cpu",
    "push_to_hub": False,
}


def _inputs(state_size: int, image_size: int | None) -> dict[str, PolicyFeature]:
    inputs = {
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        "observation.environment_state": PolicyFeature(FeatureType.ENV, (state_size,)),
    }
    if image_size is not None:
        inputs[IMAGE] = PolicyFeature(FeatureType.VISUAL, (3, image_size, image_size))
    return inputs


def save(policy: Any, directory: Path) -> Path:
    """Write a policy and processors that change nothing."""
    policy.save_pretrained(directory)
    config = policy.config
    features = config.input_features | config.output_features
    statistics = {
        name: {"mean": torch.zeros(feature.shape), "std": torch.ones(feature.shape)}
        for name, feature in features.items()
    }
    for processor in make_pre_post_processors(config, dataset_stats=statistics):
        processor.save_pretrained(directory)
    return directory
