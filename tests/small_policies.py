"""Small policies with weights that nothing may ignore, and observations for them."""

from __future__ import annotations

from typing import Any

import torch

from e0.network.language import NO_WORD, encode_instructions
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, ByteShape
from e0.objectives import ActionChunk
from e0.policy import Policy, PolicySettings

H, D = 4, 3
LAYOUTS = ["tiny", "paligemma_debug", "paligemma_pi0_debug"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_policy(preset: str, **own: Any) -> Policy:
    vectors = {} if PRESETS[preset].state == "prompt" else {"state": 5, "force": 2}
    settings = PolicySettings(
        ("base", "wrist"), vectors, D, H, preset, **({"vocabulary_size": 32} | own)
    )
    torch.manual_seed(0)
    policy = Policy(settings).eval()
    policy.tokenizer.fit(torch.randn(300, D, generator=seeded(0)))
    with torch.no_grad():
        for parameter in policy.network.parameters():  # nothing may stand at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return policy


def observe(policy: Policy, batch: int) -> Observation:
    settings = policy.settings
    images = {
        name: torch.rand(batch, 3, 64, 80, generator=seeded(i))
        for i, name in enumerate(settings.cameras)
    }
    vectors = {
        name: torch.randn(batch, size, generator=seeded(size))
        for name, size in settings.vectors.items()
    }
    language = policy.network.preset.language
    if isinstance(language, ByteShape):
        words = encode_instructions(["push", "push the cube away"][:batch], 64, language.patch)
    else:
        words = torch.tensor([[4, 9, 7], [3, NO_WORD, NO_WORD]])[:batch]
    there = torch.arange(batch) % 2 == 0
    return Observation(images, vectors, words, {"wrist": there})


def assert_same(fast: ActionChunk, plain: ActionChunk) -> None:
    near = 1e-5 if plain.actions.device.type == "cpu" else 1e-4
    torch.testing.assert_close(fast.actions, plain.actions, rtol=near, atol=near)
    assert fast.steps_taken == plain.steps_taken
    if plain.entropy is not None:
        assert fast.entropy is not None
        torch.testing.assert_close(fast.entropy, plain.entropy, rtol=1e-4, atol=1e-4)
