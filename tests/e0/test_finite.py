"""No action and no loss is computed from NaN or infinity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from e0 import Observation, Policy, PolicySettings
from e0.finite import NonFiniteError, all_finite, require_finite
from e0.network.presets import PRESETS, find_preset
from e0.prompts import pi05_prompt
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler

B, H, D = 2, 3, 2
METHODS: dict[str, dict[str, Any]] = {
    "e0": {},
    "e0 ancestral": {"sampler": "ancestral"},
    "e0 one step": {"denoising_steps": 1},
    "e0 one-hot": {"embedding": "one_hot", "head": "linear"},
    "e0 early stop": {"early_stop": True},
    "e0 window": {"read_out": "window_mean"},
    "flow": {"objective": "flow"},
    "hybrid": {"objective": "hybrid"},
    "masked": {"objective": "masked"},
    "dfm": {"objective": "dfm"},
    "autoregressive": {"objective": "autoregressive"},
    "regression": {"objective": "regression"},
    "mip": {"objective": "mip"},
}
BAD = [torch.nan, torch.inf, -torch.inf]


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "test", replace(find_preset("tiny"), depth=1, image_size=(32, 32)))


def make_policy(own: Mapping[str, Any]) -> Policy:
    torch.manual_seed(0)
    settings = PolicySettings(
        **{
            "cameras": ("front",),
            "vectors": {"state": 3},
            "action_dim": D,
            "horizon": H,
            "preset": "test",
            "use_instruction": False,
            "vocabulary_size": 16,
            "denoising_steps": 2,
            "noise_draws": 1,
        }
        | dict(own)
    )
    policy = Policy(settings).eval()
    policy.tokenizer.fit(torch.randn(100, D))
    return policy


def observe() -> Observation:
    return Observation({"front": torch.rand(B, 3, 48, 32)}, {"state": torch.randn(B, 3)})


def ways_to_act(policy: Policy) -> dict[str, Any]:
    fast = FastSampler(policy)
    return {"plain": policy.sample, "fast": fast.sample, "graph": GraphedSampler(fast).sample}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_no_action_is_computed_from_a_bad_input(method: str, value: float) -> None:
    policy = make_policy(METHODS[method])
    for way, act in ways_to_act(policy).items():
        chunk = act(observe())
        assert chunk.actions.isfinite().all(), way
        observation = observe()
        observation.vectors["state"][1, 2] = value
        with pytest.raises(NonFiniteError, match=r"vector state \(1 of 6 values, in rows \[1\]\)"):
            act(observation)
        observation = observe()
        observation.images["front"][0, 1, 3, 3] = value
        with pytest.raises(ValueError, match=r"image 'front' must lie in \[0, 1\]"):
            act(observation)


@pytest.mark.parametrize("value", BAD)
def test_pictures_are_watched_where_their_range_is_not(value: float) -> None:
    """Off the CPU only the first batch's range is looked at."""
    policy = make_policy({})
    policy.network._require_range = lambda images: None
    for act in ways_to_act(policy).values():
        observation = observe()
        observation.images["front"][0, 1, 3, 3] = value
        with pytest.raises(
            NonFiniteError, match=r"image front \(1 of 9216 values, in rows \[0\]\)"
        ):
            act(observation)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("method", METHODS)
def test_no_action_is_computed_from_bad_weights(method: str, value: float) -> None:
    policy = make_policy(METHODS[method])
    with torch.no_grad():
        policy.network.action_tokens.output.weight[0] = value
    for act in ways_to_act(policy).values():
        with pytest.raises(NonFiniteError, match=r"network\.action_tokens\.output\.weight"):
            act(observe())


@pytest.mark.parametrize("method", ["e0", "flow", "hybrid", "e0 one-hot"])
def test_bad_noise_is_named(method: str) -> None:
    policy = make_policy(METHODS[method])
    noise = torch.zeros(B, H, D, policy.objective.input_width)
    noise[0, 0, 0, 0] = torch.nan
    for act in ways_to_act(policy).values():
        with pytest.raises(NonFiniteError, match="NaN or infinity in noise"):
            act(observe(), noise=noise)


@pytest.mark.parametrize("name", ["codebook", "center"])
def test_a_bad_codebook_is_named(name: str) -> None:
    policy = make_policy({"objective": "flow"})
    getattr(policy.tokenizer, name)[0] = torch.nan
    with pytest.raises(NonFiniteError, match=rf"tokenizer\.{name}"):
        policy.sample(observe())


def test_numbers_that_grow_beyond_their_dtype_are_no_actions() -> None:
    """Every input and weight is finite here; the outputs are not, or only the actions are not."""
    policy = make_policy({"objective": "flow"})
    with torch.no_grad():
        policy.network.action_tokens.output.bias.fill_(3e38)
        policy.network.action_tokens.output.weight.fill_(3e38)
    with pytest.raises(NonFiniteError, match="grew beyond what their dtype holds"):
        policy.sample(observe())
    policy = make_policy({"objective": "regression"})
    with torch.no_grad():
        policy.network.action_tokens.output.weight.zero_()
        policy.network.action_tokens.output.bias.fill_(3e38)
        policy.tokenizer.scale.fill_(100.0)
    with pytest.raises(NonFiniteError, match="grew beyond"):
        policy.sample(observe())


@pytest.mark.parametrize("value", BAD[:2])
@pytest.mark.parametrize("method", METHODS)
def test_no_loss_is_computed_from_a_bad_input(method: str, value: float) -> None:
    policy = make_policy(METHODS[method])
    valid = torch.ones(B, H, dtype=torch.bool)
    observation = observe()
    observation.vectors["state"][0, 0] = value
    with pytest.raises(NonFiniteError, match="vector state"):
        policy.loss(observation, torch.zeros(B, H, D), valid)


def test_the_state_in_a_prompt_is_finite() -> None:
    """As bins it would be the lowest one, and never seen again."""
    with pytest.raises(NonFiniteError, match="state"):
        pi05_prompt("push", torch.tensor([0.0, torch.nan]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_finite_is_what_isfinite_says(dtype: torch.dtype) -> None:
    good = torch.tensor([[0.0, -1.0], [3.0, 1e30]], dtype=dtype)
    for value in (1.0, *BAD):
        tensors: list[Tensor] = [good.clone(), torch.tensor([1]), torch.zeros(2, 0), good.clone()]
        tensors[3][1, 0] = value
        assert bool(all_finite(tensors)) == (value == 1.0)
    require_finite({"a": good, "nothing": torch.zeros(0)})


@pytest.mark.gpu
def test_a_graph_refuses_too_and_recovers() -> None:
    policy = make_policy({}).to("cuda")
    sampler = GraphedSampler(FastSampler(policy))
    good = Observation(
        {"front": torch.rand(B, 3, 48, 32, device="cuda")},
        {"state": torch.randn(B, 3, device="cuda")},
    )
    bad = Observation(good.images, {"state": torch.full((B, 3), torch.nan, device="cuda")})
    for _ in range(2):
        assert sampler.sample(good).actions.isfinite().all()
        with pytest.raises(NonFiniteError, match="vector state"):
            sampler.sample(bad)
    assert sampler.reason is None
