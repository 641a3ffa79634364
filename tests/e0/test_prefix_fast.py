"""Chunks that continue given steps, made the fast way: those of the plain way."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from e0.objectives import ActionChunk
from e0.prefix import Prefix, PrefixError, times_of_steps
from e0.sampling.cuda_graph import GraphedSampler, unflatten
from e0.sampling.sampler import FastSampler
from small_policies import LAYOUTS, D, H, assert_same, make_policy, observe, seeded

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
OWN: dict[str, dict[str, Any]] = {
    "e0": {"read_out": "window_mean"},
    "one_hot": {"embedding": "one_hot", "head": "linear"},
    "ancestral": {"sampler": "ancestral", "schedule": "cosine"},
    "adaptive": {"decoding": "adaptive", "decoding_draws": 3, "time_grid": "dense_jump"},
    "flow": {"objective": "flow"},
    "hybrid": {"objective": "hybrid"},
    "masked": {"objective": "masked"},
    "dfm": {"objective": "dfm"},
}


def given_steps(*counts: int) -> Prefix:
    mask = torch.arange(H) < torch.tensor(counts)[:, None]
    return Prefix(torch.randn(len(counts), H, D, generator=seeded(sum(counts))), mask)


def assert_continues(fast: ActionChunk, plain: ActionChunk, prefix: Prefix | None) -> None:
    assert_same(fast, plain)
    if prefix is not None:
        mask = prefix.mask.to(fast.actions.device)
        assert fast.actions[mask].equal(prefix.actions.to(mask.device)[mask])


def assert_fast_is_plain(preset: str, **own: Any) -> None:
    policy = make_policy(preset, **own)
    observation, sampler = observe(policy, 2), FastSampler(policy, steps=2)
    graphed = GraphedSampler(sampler)
    cases = ((sampler, (3, 1)), (graphed, (3, 1)), (graphed, None), (graphed, (0, 2)))
    for seed, (fast, counts) in enumerate(cases):
        prefix = None if counts is None else given_steps(*counts)
        found = fast.sample(observation, generator=seeded(seed), prefix=prefix)
        plain = policy.sample(observation, steps=2, generator=seeded(seed), prefix=prefix)
        assert_continues(found, plain, prefix)


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("own", OWN.values(), ids=OWN)
def test_fast_chunks_are_the_plain_ones(preset: str, own: dict[str, Any]) -> None:
    assert_fast_is_plain(preset, rtc_training_max_delay=2, **own)


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("objective", ["e0", "hybrid"])
def test_also_with_a_token_for_every_dimension(preset: str, objective: str) -> None:
    own = {"objective": objective, "token_grain": "dimension"}
    assert_fast_is_plain(preset, rtc_training_max_delay=2, **own)


@pytest.mark.parametrize("own", [*OWN.values(), {"objective": "autoregressive"}])
def test_also_where_they_are_painted_in(own: dict[str, Any]) -> None:
    assert_fast_is_plain("tiny", **own)


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("grain", ["step", "dimension"])
def test_logits_are_the_plain_ones_to_float32(preset: str, grain: str) -> None:
    """Of several draws of each observation, and each with its own number of given steps."""
    policy = make_policy(preset, token_grain=grain, rtc_training_max_delay=3)
    sampler = FastSampler(policy, steps=3)
    assert sampler.denoiser is not None
    encoded = policy.network.encode_prefix(observe(policy, 2))
    denoise = sampler.denoiser.bind(encoded)
    given = given_steps(1, 0, 3, 2, 0, 1).mask
    for step in range(3):
        noisy = torch.randn(6, H, D, 1, generator=seeded(step))
        time = times_of_steps(sampler.denoiser.times[step].expand(6), given)
        with torch.no_grad():
            plain = policy.network.denoise(encoded, noisy, time)
            error = (denoise(noisy, time) - plain).abs().max()
        assert error <= 1e-5 * plain.abs().max()


def test_other_times_than_its_own_and_that_of_given_steps_are_refused() -> None:
    policy = make_policy("tiny")
    sampler = FastSampler(policy, steps=2)
    assert sampler.denoiser is not None
    denoise = sampler.denoiser.bind(policy.network.encode_prefix(observe(policy, 1)))
    noisy, time = torch.zeros(1, H, D, 1), torch.tensor([[0.0, 1.0, 1.0, 0.5]])
    with pytest.raises(ValueError, match=r"made for the time 1\.0000, not 0\.5"):
        denoise(noisy, time)
    with pytest.raises(ValueError, match=r"made for the time 1\.0000, not 0\.0"):
        denoise(noisy, torch.zeros(1))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("own", [{}, {"objective": "flow"}, {"decoding": "adaptive"}])
def test_one_graph_serves_all_delays(own: dict[str, str], device: str) -> None:
    policy = make_policy("tiny", rtc_training_max_delay=3, **own).to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    observation = observe(policy, 2)
    tensors = {name: tensor.to(device) for name, tensor in observation.tensors().items()}
    observation = unflatten(tensors, observation)
    graphed.warm_up(observation)
    parts = graphed.either or (graphed,)
    recorded = [list(part._recordings) for part in parts]
    assert [len(signatures) for signatures in recorded] == [1] * len(parts)
    noise = torch.randn(2, H, D, 1, generator=seeded(1)).to(device)
    for prefix in (given_steps(1, 1), given_steps(3, 0), None, given_steps(0, 0)):
        seeds = [torch.Generator(device).manual_seed(2) for _ in range(2)]
        fast = graphed.sample(observation, generator=seeds[0], noise=noise, prefix=prefix)
        plain = policy.sample(observation, steps=2, generator=seeds[1], noise=noise, prefix=prefix)
        assert_continues(fast, plain, prefix)
    assert [list(part._recordings) for part in parts] == recorded
    assert device != "cuda" or graphed.reason is None


def test_painting_in_has_a_graph_of_its_own() -> None:
    policy = make_policy("tiny")
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    for prefix in (None, given_steps(1, 0), None, given_steps(2, 3)):
        graphed.sample(observe(policy, 2), prefix=prefix)
    assert len(graphed._recordings) == 2


def test_a_prefix_that_is_none_is_refused_by_all() -> None:
    policy = make_policy("tiny")
    fast = FastSampler(policy, steps=1)
    for sample in (fast.sample, GraphedSampler(fast).sample):
        with pytest.raises(PrefixError, match="all 4 steps"):
            sample(observe(policy, 1), prefix=given_steps(H))


def test_blocks_are_compiled_for_all_delays_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = []

    def count(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        frames.append(graph)
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=count, fullgraph=True))
    policy = make_policy("tiny", rtc_training_max_delay=3)
    sampler = GraphedSampler(FastSampler(policy, steps=2, compiled=True))
    observation = observe(policy, 2)
    for seed, prefix in enumerate((None, given_steps(1, 2), given_steps(3, 0))):
        fast = sampler.sample(observation, generator=seeded(seed), prefix=prefix)
        plain = policy.sample(observation, steps=2, generator=seeded(seed), prefix=prefix)
        assert_continues(fast, plain, prefix)
    assert len(frames) == 2  # of the encoded observation, of the steps
