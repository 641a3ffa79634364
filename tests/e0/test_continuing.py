"""Two ways to act, equally good: a chunk goes on in the way that its given steps have taken."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.heads import TokenHead
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, find_preset
from e0.network.transformer import BlockShape
from e0.objectives import E0Objective, Sampling
from e0.policy import Policy, PolicySettings
from e0.prefix import Prefix
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from e0.tokens import ActionTokenizer

B, H, D, TRAINED = 32, 4, 1, 2
SHAPE = BlockShape(width=32, hidden=64, heads=2, key_value_heads=1, head_width=16)
NARROW = replace(find_preset("tiny"), prefix=SHAPE, suffix=SHAPE, depth=2, image_size=(32, 32))
SETTINGS = PolicySettings(
    cameras=(),
    vectors={"state": 1},
    action_dim=D,
    horizon=H,
    preset="narrow",
    use_instruction=False,
    vocabulary_size=16,
    noise_draws=2,
)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "e0": {"start": "zero"},
    "one_hot": {"embedding": "one_hot"},
    "flow": {"objective": "flow"},
    "hybrid": {"objective": "hybrid"},
    "masked": {"objective": "masked"},
    "dfm": {"objective": "dfm"},
    "autoregressive": {"objective": "autoregressive"},
}


def observe(count: int = B) -> Observation:
    return Observation({}, {"state": torch.zeros(count, 1)})


def either_way(count: int) -> Tensor:
    """Chunks near .8 or near -.8 in all steps."""
    way = torch.tensor([-0.8, 0.8])[torch.randint(2, (count,))]
    return way[:, None, None] + 0.05 * torch.randn(count, H, D)


@cache
def trained(name: str, longest: int) -> Policy:
    torch.manual_seed(0)
    own = {**OBJECTIVES[name], "rtc_training_max_delay": longest}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "narrow", NARROW)
        policy = Policy(replace(SETTINGS, **own))
    policy.tokenizer.fit(either_way(2000).flatten(0, 1), "uniform")
    optimizer = torch.optim.AdamW(policy.parameters(), 3e-3, weight_decay=0.0)
    valid, steps = torch.ones(B, H, dtype=torch.bool), 60
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        policy.loss(observe(), either_way(B), valid).mean().backward()
        optimizer.step()
    return policy.eval()


def kept_to(policy: Policy, given: int, steps: int, count: int = 100) -> float:
    """Share of chunks whose steps that were not given go on in the way of those that were, half of
    the chunks in either way."""
    actions = torch.full((count, given, D), 0.8)
    actions[: count // 2] *= -1
    torch.manual_seed(1)
    chunk = policy.sample(observe(count), steps=steps, prefix=Prefix.of_steps(actions, H))
    assert chunk.actions[:, :given].equal(actions)
    near = (chunk.actions[:, given:] - actions[:, :1]).abs() < 0.4
    return near.flatten(1).all(1).float().mean().item()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_policy_learns_to_go_on_in_the_way_that_it_is_shown(name: str) -> None:
    policy = trained(name, TRAINED)
    for given in (1, TRAINED):
        for steps in (1, 4):
            assert kept_to(policy, given, steps) > 0.85


def test_painting_in_needs_several_evaluations() -> None:
    """What a policy does that was not trained for given steps: at one evaluation nothing."""
    policy = trained("one_hot", 0)
    once, often = (kept_to(policy, TRAINED, steps) for steps in (1, 10))
    assert once < 0.6 and often > 0.8


def test_adaptive_decoding_looks_with_the_given_steps() -> None:
    policy = copy.deepcopy(trained("e0", TRAINED))
    policy.objective = replace(policy.objective, decoding="adaptive")  # pyright: ignore
    prefix = Prefix.of_steps(torch.full((3, 1, D), 0.8), H)
    for sample in (partial(policy.sample, steps=4), GraphedSampler(FastSampler(policy)).sample):
        torch.manual_seed(0)
        free, bound = sample(observe(3)), sample(observe(3), prefix=prefix)
        assert free.ambiguity is not None and free.ambiguity.min() >= 0.2 and free.steps_taken == 5
        assert bound.ambiguity is not None and bound.ambiguity.max() < 0.2
        assert bound.steps_taken == 1
        assert ((bound.actions - 0.8).abs() < 0.3).all()


def test_what_the_network_says_of_given_steps_decides_nothing() -> None:
    """Neither whether there are several ways to act nor when decoding may stop."""
    head = TokenHead(ActionTokenizer(D, 9).fit(torch.linspace(-1, 1, 9)[:, None]), "linear")
    prefix, calls = Prefix.of_steps(torch.ones(2, 1, D), H), []

    def denoise(noisy: Tensor, time: Tensor, cache: Any = None) -> Tensor:
        calls.append(time)
        logits = torch.zeros(len(noisy), H, D, 9)
        logits[:, 1:, :, 4] = 30.0
        logits[:, 0, :, [0, 8]] = 30.0  # two ways
        logits[:, 0, :, 8 * (len(calls) % 2)] += 1.0  # now the one, now the other
        return logits

    own: dict[str, Any]
    for own, taken in (({"decoding": "adaptive"}, 1), ({"early_stop": True}, 2)):
        sampling = Sampling(6, prefix=prefix, own_time=True)
        chunk = E0Objective(head, **own).sample(denoise, 2, H, sampling)
        assert chunk.steps_taken == taken
        expected = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(2, -1)
        torch.testing.assert_close(chunk.actions[:, :, 0], expected)
