"""The fast path of sampling against the plain one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.network.language import NO_WORD, encode_instructions
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS, ByteShape
from e0.objectives import ActionChunk
from e0.policy import Policy, PolicySettings
from e0.sampling.cuda_graph import GraphedSampler, unflatten
from e0.sampling.sampler import FastSampler, require_dtype

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
    torch.testing.assert_close(fast.actions, plain.actions, rtol=1e-5, atol=1e-5)
    assert fast.steps_taken == plain.steps_taken
    if plain.entropy is not None:
        assert fast.entropy is not None
        torch.testing.assert_close(fast.entropy, plain.entropy, rtol=1e-4, atol=1e-4)


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
        {"objective": "regression"},
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


@pytest.mark.parametrize("objective", ["e0", "flow", "masked", "hybrid"])
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


def test_compiled_steps_have_no_breaks_and_are_compiled_once() -> None:
    policy = make_policy("paligemma_debug")
    sampler = FastSampler(policy, steps=4)
    assert sampler.denoiser is not None
    frames = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        frames.append(graph)
        return graph.forward

    run = sampler.denoiser._run
    sampler.denoiser.run = torch.compile(run, fullgraph=True, dynamic=False, backend=count)
    observation = observe(policy, 2)
    for seed in range(3):
        fast = sampler.sample(observation, generator=seeded(seed))
        assert_same(fast, policy.sample(observation, steps=4, generator=seeded(seed)))
    assert len(frames) == 1, "one graph serves all steps of all chunks"


# Graphs; without a GPU the same buffers are sampled from step by step


@pytest.mark.parametrize("preset", LAYOUTS)
def test_buffers_of_a_graph_follow_the_inputs(preset: str) -> None:
    policy = make_policy(preset)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    assert graphed.reason is not None and "need a CUDA device" in graphed.reason
    first = observe(policy, 2)
    second = replace(first, images={name: 1 - image for name, image in first.images.items()})
    chunks = {}
    for name, observation in (("first", first), ("second", second), ("first again", first)):
        chunks[name] = graphed.sample(observation, generator=seeded(1))
        assert_same(chunks[name], policy.sample(observation, steps=2, generator=seeded(1)))
    assert len(graphed._recordings) == 1
    torch.testing.assert_close(chunks["first"].actions, chunks["first again"].actions)
    alone = observe(policy, 1)
    assert_same(
        graphed.sample(alone, generator=seeded(1)),
        policy.sample(alone, steps=2, generator=seeded(1)),
    )
    assert len(graphed._recordings) == 2


def test_old_graphs_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e0.sampling.cuda_graph.MAXIMUM_GRAPHS", 1)
    policy = make_policy("tiny")
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    for batch in (1, 2, 1):
        graphed.sample(observe(policy, batch))
        assert len(graphed._recordings) == 1


def test_objectives_that_draw_on_the_way_have_no_graph() -> None:
    policy = make_policy("tiny", objective="masked")
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    assert graphed.reason is not None and "draws random numbers" in graphed.reason
    observation = observe(policy, 2)
    assert_same(
        graphed.sample(observation, generator=seeded(1)),
        policy.sample(observation, steps=2, generator=seeded(1)),
    )


def test_observations_are_taken_apart_and_put_together() -> None:
    observation = observe(make_policy("tiny"), 2)
    again = unflatten(observation.tensors(), observation)
    assert again == observation
    bare = Observation(observation.images, {})
    assert unflatten(bare.tensors(), bare) == bare


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", LAYOUTS)
def test_a_captured_graph_gives_the_plain_chunks(preset: str) -> None:
    policy = make_policy(preset).to("cuda")
    graphed = GraphedSampler(FastSampler(policy, steps=3))
    observation = observe(policy, 2)
    tensors = {name: tensor.to("cuda") for name, tensor in observation.tensors().items()}
    observation = unflatten(tensors, observation)
    for seed in (1, 2):
        generator = torch.Generator("cuda").manual_seed(seed)
        noise = torch.randn(2, H, D, 1, device="cuda", generator=generator)
        fast = graphed.sample(observation, noise=noise)
        assert_same(fast, policy.sample(observation, steps=3, noise=noise))
    assert graphed.reason is None
