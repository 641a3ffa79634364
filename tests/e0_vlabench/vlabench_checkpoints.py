"""A small policy with random weights for VLABench's robot, as LeRobot's training would write it."""

from pathlib import Path

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_policy_e0 import E0Config, E0Policy
from made_checkpoints import save

HOME = np.array([0.0, 0.23, 0.43, 3.1, 0.0, -1.6])
"""A pose of the end effector within reach of VLABench's Franka, near where episodes begin."""


def save_vlabench_policy(directory: Path) -> Path:
    """An E0 policy whose actions are poses within 0.1 m and rad of `HOME`, gripper open or shut."""
    torch.manual_seed(0)
    picture = PolicyFeature(FeatureType.VISUAL, (3, 64, 64))
    config = E0Config(
        input_features={
            "observation.images.image": picture,
            "observation.images.wrist_image": picture,
            "observation.state": PolicyFeature(FeatureType.STATE, (7,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        horizon=8,
        n_action_steps=4,
        device="cpu",
        push_to_hub=False,
    )
    policy = E0Policy(config)
    poses = torch.tensor(HOME, dtype=torch.float32) + torch.empty(500, 6).uniform_(-0.1, 0.1)
    actions = torch.cat([poses, torch.randint(0, 2, (500, 1))], dim=1)
    policy.model.tokenizer.fit(actions, config.codebook)
    for parameter in policy.parameters():  # a new network's last layer is zero
        parameter.data += 0.2 * torch.randn_like(parameter)
    return save(policy, directory)
