"""Small policies of LeRobot's interface, and batches for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from torch import Tensor

from e0.network.presets import find_preset
from lerobot_policy_e0 import E0Config, E0Policy

CAMERA, STATE, H, D = "observation.images.front", "observation.state", 4, 2
WEIGHT = "suffix_blocks.0.mlp.down.weight"
SMALL = replace(find_preset("tiny"), depth=2, image_size=(32, 32))
"""To be put among the presets as 'test'."""


def make_policy(**own: Any) -> E0Policy:
    torch.manual_seed(0)
    config = E0Config(
        **{
            "device": "cpu",
            "push_to_hub": False,
            "preset": "test",
            "horizon": H,
            "n_action_steps": 2,
            "denoising_steps": 2,
            "vocabulary_size": 16,
            "input_features": {
                CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
                STATE: PolicyFeature(FeatureType.STATE, (3,)),
            },
            "output_features": {"action": PolicyFeature(FeatureType.ACTION, (D,))},
        }
        | own
    )
    policy = E0Policy(config)
    policy.model.tokenizer.fit(torch.randn(200, D))
    with torch.no_grad():
        for parameter in policy.parameters():  # nothing may stand at zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return policy.eval()


def observe(count: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(count)
    return {
        CAMERA: torch.rand(count, 3, 32, 32, generator=generator),
        STATE: torch.randn(count, 3, generator=generator),
        "task": ["push"] * count,
    }


def to_device(batch: dict[str, Any], device: str) -> dict[str, Any]:
    return {n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()}


def noise(count: int = 2, device: str = "cpu") -> Tensor:
    start = torch.randn(count, H, D, 1, generator=torch.Generator().manual_seed(5))
    return start.to(device)


def plain(policy: E0Policy) -> Tensor:
    """What the weights as they are now say, without anything that was made ahead."""
    device = str(policy.device)
    batch = to_device(observe(), device)
    return policy.acting().sample(policy.observation(batch), noise=noise(device=device)).actions
