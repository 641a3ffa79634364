"""Every preset makes a policy of the size that it promises."""

import pytest
import torch

from e0.network.language import encode_instructions
from e0.network.policy_network import Observation
from e0.policy import Policy, PolicySettings


@pytest.mark.parametrize(("name", "least", "most"), [("tiny", 1e6, 2e6), ("small", 30e6, 60e6)])
def test_presets_have_the_size_they_promise(name: str, least: float, most: float) -> None:
    cameras, vectors = ("base", "hand"), {"state": 16}
    policy = Policy(PolicySettings(cameras, vectors, action_dim=7, preset=name))
    policy.tokenizer.fit(torch.rand(100, 7))
    assert least < sum(parameter.numel() for parameter in policy.network.parameters()) < most
    images = {camera: torch.rand(1, 3, 128, 128) for camera in cameras}
    instruction = encode_instructions(["go"], 16, policy.network.preset.language.patch)
    observation = Observation(images, {"state": torch.rand(1, 16)}, instruction)
    loss = policy.loss(observation, torch.rand(1, 8, 7), torch.ones(1, 8, dtype=torch.bool))
    assert loss.isfinite().all()
    assert policy.sample(observation, steps=1).actions.shape == (1, 8, 7)
