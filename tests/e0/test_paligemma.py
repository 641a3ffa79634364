"""What the PaliGemma layouts add to the network: missing images, state tokens, kinds of tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.network.action_tokens import TokenLayout
from e0.network.language import NO_WORD
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS
from e0.policy import Policy, PolicySettings

H, D, B = 4, 3, 2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_policy(preset: str, cameras: tuple[str, ...] = ("base", "wrist"), **own: Any) -> Policy:
    vectors = {"state": 5} if PRESETS[preset].state != "prompt" else {}
    settings = PolicySettings(cameras, vectors, action_dim=D, horizon=H, preset=preset, **own)
    torch.manual_seed(0)
    policy = Policy(settings).eval()
    policy.tokenizer.fit(torch.randn(200, D, generator=seeded(0)))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=seeded(parameter.numel())))
    return policy


def observe(policy: Policy, **own: Any) -> Observation:
    images = {
        name: torch.rand(B, 3, 120, 160, generator=seeded(i))
        for i, name in enumerate(policy.settings.cameras)
    }
    vectors = {
        name: torch.randn(B, n, generator=seeded(n)) for name, n in policy.settings.vectors.items()
    }
    words = torch.tensor([[4, 9, 7], [3, NO_WORD, NO_WORD]])
    return replace(Observation(images, vectors, words), **own)


def outputs(policy: Policy, observation: Observation, noisy: Tensor | None = None) -> Tensor:
    """The network's output for a fixed noisy chunk at t = 0.5."""
    width = policy.objective.input_width
    if noisy is None:
        noisy = torch.randn(B, H, D, width, generator=seeded(9))
    with torch.no_grad():
        prefix = policy.network.encode_prefix(observation)
        return policy.network.denoise(prefix, noisy, torch.full((B,), 0.5))


@pytest.mark.parametrize("preset", ["paligemma_debug", "paligemma_pi0_debug"])
def test_a_missing_image_is_one_that_the_policy_never_had(preset: str) -> None:
    both, one = make_policy(preset), make_policy(preset, cameras=("base",))
    one.load_state_dict(both.state_dict())  # no weight belongs to a camera
    observation = observe(both)
    there = torch.tensor([True, False])
    mixed = outputs(both, replace(observation, present={"wrist": there}))
    alone = replace(observation, images={"base": observation.images["base"]})
    torch.testing.assert_close(mixed[1], outputs(one, alone)[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mixed[0], outputs(both, observation)[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(mixed[1], outputs(both, observation)[1], atol=1e-4)


def test_an_unknown_missing_camera_is_refused() -> None:
    policy = make_policy("paligemma_debug")
    observation = observe(policy, present={"left": torch.ones(B, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"names the cameras \['left'\].*base.*wrist"):
        policy.network.encode_prefix(observation)


def test_one_camera_too_many_is_refused() -> None:
    policy = make_policy("paligemma_debug", cameras=("base",))
    observation = observe(make_policy("paligemma_debug"))
    with pytest.raises(ValueError, match=r"expects the cameras \['base'\], the batch has .*wrist"):
        policy.network.encode_prefix(observation)


@pytest.mark.parametrize(
    "change", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: x * torch.nan]
)
@pytest.mark.parametrize("preset", ["tiny", "paligemma_debug"])
def test_pictures_of_another_range_are_refused(preset: str, change: Any) -> None:
    policy = make_policy(preset, use_instruction=preset != "tiny")
    good = observe(policy)
    policy.network.encode_prefix(good)
    bad = {name: change(image) for name, image in good.images.items()}
    with pytest.raises(ValueError, match=r"'base' must lie in \[0, 1\], got values from"):
        policy.network.encode_prefix(replace(good, images=bad))


def test_state_tokens_are_computed_with_the_prefix_and_seen() -> None:
    policy = make_policy("paligemma_pi0_debug")
    observation = observe(policy)
    prefix = policy.network.encode_prefix(observation)
    images = 2 * (224 // 56) ** 2
    assert prefix.mask.shape == (B, images + 3 + 1)
    assert all(layer.keys.shape[2] == images + 3 + 1 for layer in prefix.layers)
    other = {"state": observation.vectors["state"] + 1}
    changed = outputs(policy, replace(observation, vectors=other))
    assert (changed - outputs(policy, observation)).abs().max() > 1e-3


def test_a_state_in_the_prompt_is_no_vector() -> None:
    with pytest.raises(ValueError, match="reads the state from the prompt"):
        Policy(PolicySettings(("base",), {"state": 3}, action_dim=D, preset="paligemma_debug"))


@pytest.mark.parametrize("preset", ["tiny", "paligemma_debug"])
@pytest.mark.parametrize(
    "objective", ["e0", "flow", "masked", "regression", "hybrid", "mip", "dfm"]
)
def test_one_token_for_every_dimension(preset: str, objective: str) -> None:
    own = {"use_instruction": preset != "tiny", "token_grain": "dimension"}
    policy = make_policy(preset, objective=objective, vocabulary_size=8, **own)
    observation = observe(policy)
    count = H * D + (H if objective == "hybrid" else 0)
    assert policy.network.layout.count == count
    actions = torch.randn(B, H, D, generator=seeded(3))
    loss = policy.loss(observation, actions, torch.ones(B, H, dtype=torch.bool))
    assert loss.shape == (B,)
    assert loss.isfinite().all()
    chunk = policy.sample(observation, steps=2, generator=seeded(4))
    assert chunk.actions.shape == (B, H, D)
    assert outputs(policy, observation).shape == (B, H, D, policy.objective.output_width)


def test_flow_tokens_do_not_see_code_tokens() -> None:
    policy = make_policy(
        "paligemma_debug", objective="hybrid", token_grain="dimension", vocabulary_size=8
    )
    observation = observe(policy)
    noisy = torch.randn(B, H, D, 9, generator=seeded(1))
    other_codes = noisy.clone()
    other_codes[..., 1:] += 1
    other_flow = noisy.clone()
    other_flow[..., 0] += 1
    first = outputs(policy, observation, noisy)
    with_codes = outputs(policy, observation, other_codes)
    with_flow = outputs(policy, observation, other_flow)
    torch.testing.assert_close(with_codes[..., 0], first[..., 0])
    assert (with_flow[..., 1:] - first[..., 1:]).abs().max() > 1e-4
    assert (with_flow[..., 0] - first[..., 0]).abs().max() > 1e-4


def test_dimension_tokens_see_each_other() -> None:
    policy = make_policy("paligemma_debug", token_grain="dimension")
    observation = observe(policy)
    noisy = torch.randn(B, H, D, 1, generator=seeded(1))
    other = noisy.clone()
    other[:, -1, -1] += 1
    change = (outputs(policy, observation, other) - outputs(policy, observation, noisy)).abs()
    assert (change.amax(-1) > 1e-6).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"grain": "chunk"}, "unknown token grain"), ({"causal": True}, "one token for every")],
)
def test_impossible_layouts_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenLayout(horizon=H, action_dim=D, input_width=1, output_width=1, **change)


@pytest.mark.parametrize(("preset", "state"), [("paligemma", {}), ("paligemma_pi0", {"state": 7})])
def test_the_full_size_has_the_size_it_promises(preset: str, state: dict[str, int]) -> None:
    with torch.device("meta"):
        policy = Policy(PolicySettings(("base", "wrist"), state, 7, horizon=50, preset=preset))
    parts = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in policy.network.named_children()
    }
    assert 0.40e9 < parts["tower"] < 0.42e9  # SigLIP So400m
    assert 2.3e9 < parts["language"] + parts["prefix_blocks"] < 2.5e9  # Gemma 2B
    assert 0.30e9 < parts["suffix_blocks"] < 0.45e9  # the expert, with or without adaptive norms
    assert 3.1e9 < sum(parts.values()) < 3.4e9
