"""The fast path of sampling against the plain one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.precision import require_dtype
from e0.sampling.sampler import FastSampler
from small_policies import LAYOUTS, D, H, assert_same, make_policy, observe, seeded


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("grain", ["step", "dimension"])
@pytest.mark.parametrize(
    "own",
    [
        {"objective": "e0", "read_out": "window_mean"},
        {"objective": "e0", "embedding": "one_hot", "head": "linear"},
        {"objective": "e0", "schedule": "cosine", "sampler": "ancestral"},
        {"objective": "flow"},
        {"objective": "hybrid"},
        {"objective": "masked"},
        {"objective": "dfm"},
        {"objective": "regression"},
        {"objective": "mip"},
    ],
    ids=lambda own: "-".join(own.values()),
)
def test_fast_chunks_are_the_plain_ones(
    preset: str, batch: int, grain: str, own: dict[str, str]
) -> None:
    policy = make_policy(preset, token_grain=grain, **own)
    observation = observe(policy, batch)
    sampler = FastSampler(policy, steps=3)
    assert sampler.reason is None
    for seed in (1, 2):  # a second chunk finds nothing of the first
        fast = sampler.sample(observation, generator=seeded(seed))
        assert_same(fast, policy.sample(observation, steps=3, generator=seeded(seed)))


def test_logits_are_the_plain_ones_to_float32() -> None:
    """Actions are codes and hide small errors; the network's own output does not."""
    for preset in LAYOUTS:
        policy = make_policy(preset)
        observation = observe(policy, 2)
        sampler = FastSampler(policy, steps=3)
        assert sampler.denoiser is not None
        prefix = policy.network.encode_prefix(observation)
        denoise = sampler.denoiser.bind(prefix)
        for step in range(3):
            noisy = torch.randn(2, H, D, 1, generator=seeded(step))
            time = sampler.denoiser.times[step].expand(2)
            with torch.no_grad():
                plain = policy.network.denoise(prefix, noisy, time)
                error = (denoise(noisy, time) - plain).abs().max()
            assert error <= 1e-5 * plain.abs().max()


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"objective": "autoregressive"}, "cache of its own"),
        ({"objective": "e0", "early_stop": True}, "how many steps"),
    ],
)
def test_what_cannot_be_made_ahead_takes_the_plain_path(own: dict[str, Any], reason: str) -> None:
    policy = make_policy("tiny", **own)
    observation = observe(policy, 2)
    sampler = FastSampler(policy, steps=2)
    assert sampler.reason is not None and reason in sampler.reason
    fast = sampler.sample(observation, generator=seeded(1))
    assert_same(fast, policy.sample(observation, steps=2, generator=seeded(1)))


def test_a_denoiser_refuses_other_times_than_its_own() -> None:
    policy = make_policy("tiny")
    sampler = FastSampler(policy, steps=2)
    assert sampler.denoiser is not None
    denoise = sampler.denoiser.bind(policy.network.encode_prefix(observe(policy, 1)))
    noisy = torch.zeros(1, H, D, 1)
    with pytest.raises(ValueError, match=r"evaluation 0 was made for the time 1\.0000, not 0\.3"):
        denoise(noisy, torch.tensor([0.3]))
    denoise(noisy, torch.tensor([1.0]))
    denoise(noisy, torch.tensor([0.5]))
    with pytest.raises(ValueError, match="made for 2 evaluations"):
        denoise(noisy, torch.tensor([0.0]))


@pytest.mark.parametrize("preset", LAYOUTS)
def test_bfloat16_comes_close_and_leaves_the_policy_alone(preset: str) -> None:
    policy = make_policy(preset, objective="flow")
    observation = observe(policy, 2)
    noise = torch.randn(2, H, D, 1, generator=seeded(3))
    sampler = FastSampler(policy, steps=3, dtype=torch.bfloat16)
    assert sampler.network.dtype is torch.bfloat16
    assert policy.network.dtype is torch.float32
    plain = policy.sample(observation, steps=3, noise=noise).actions
    half = sampler.sample(observation, noise=noise).actions
    assert half.dtype is torch.float32
    assert 0 < (half - plain).abs().max() < 0.05 * plain.abs().max()


def test_a_device_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    with pytest.raises(ValueError, match="Old GPU has no bfloat16"):
        require_dtype(torch.bfloat16, torch.device("cuda"))
    require_dtype(torch.float32, torch.device("cuda"))
    require_dtype(torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("objective", ["e0", "flow", "masked", "dfm", "hybrid"])
def test_making_a_sampler_draws_no_random_numbers(objective: str) -> None:
    policy = make_policy("tiny", objective=objective)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FastSampler(policy, steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_autocast_around_it_changes_nothing() -> None:
    """LeRobot evaluates under autocast while it trains."""
    policy = make_policy("paligemma_debug", objective="flow")
    observation = observe(policy, 2)
    sampler = FastSampler(policy, steps=2)
    plain = policy.sample(observation, steps=2, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        fast = sampler.sample(observation, generator=seeded(1))
    assert_same(fast, plain)


# Compiling


@pytest.mark.parametrize("preset", LAYOUTS)
def test_blocks_are_compiled_once_for_all_layers_steps_and_chunks(
    preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        frames.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count, fullgraph=True))
    policy = make_policy(preset)
    sampler = FastSampler(policy, steps=4, compiled=True)
    observation = observe(policy, 2)
    for seed in range(3):
        fast = sampler.sample(observation, generator=seeded(seed))
        assert_same(fast, policy.sample(observation, steps=4, generator=seeded(seed)))
    kinds = 2 if preset == "tiny" else 3  # of the prefix, of the steps, of SigLIP
    assert len(frames) == kinds
