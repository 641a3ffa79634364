"""Chunks through the buffers of CUDA graphs. Without a GPU the same buffers are sampled from step
by step, and fake tensors tell whether anything of a chunk would wait for a device."""

from __future__ import annotations

import copy
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from e0.finite import Drawn
from e0.network.policy_network import Observation
from e0.network.presets import PRESETS
from e0.objectives import ActionChunk
from e0.objectives.diffusion import ALWAYS, NEVER
from e0.policy import Policy
from e0.prefix import Prefix
from e0.sampling import cuda_graph, sampler
from e0.sampling.cuda_graph import PROMPT_TOKENS, GraphedSampler, unflatten
from e0.sampling.sampler import FastSampler
from small_policies import LAYOUTS, D, H, assert_same, make_policy, observe, seeded

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
on_each_device = pytest.mark.parametrize("device", ["cpu", GPU])
with_prefix = pytest.mark.parametrize("longest", [0, 2], ids=["free", "with a prefix"])


def at(device: str, observation: Observation) -> Observation:
    tensors = {name: tensor.to(device) for name, tensor in observation.tensors().items()}
    return unflatten(tensors, observation)


def noise(policy: Policy, batch: int, seed: int = 1) -> Tensor:
    width = policy.objective.input_width
    drawn = torch.randn(batch, H, D, width, generator=seeded(seed))
    return drawn.to(policy.tokenizer.codebook.device)


def prompt(length: int, device: str) -> Tensor:
    words = torch.arange(1, length + 1)[None] % 1000
    return words.to(device)


def assert_graphs(graphed: GraphedSampler, device: str) -> None:
    assert device != "cuda" or graphed.reason is None


@on_each_device
@pytest.mark.parametrize("preset", LAYOUTS)
def test_buffers_follow_the_inputs(preset: str, device: str) -> None:
    policy = make_policy(preset).to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    first = at(device, observe(policy, 2))
    second = replace(first, images={name: 1 - image for name, image in first.images.items()})
    chunks = {}
    start = noise(policy, 2)
    for name, observation in (("first", first), ("second", second), ("first again", first)):
        chunks[name] = graphed.sample(observation, noise=start)
        assert_same(chunks[name], policy.sample(observation, steps=2, noise=start))
    assert len(graphed._recordings) == 1
    torch.testing.assert_close(chunks["first"].actions, chunks["first again"].actions)
    alone = at(device, observe(policy, 1))
    start = noise(policy, 1)
    assert_same(graphed.sample(alone, noise=start), policy.sample(alone, steps=2, noise=start))
    assert len(graphed._recordings) == 2
    assert_graphs(graphed, device)


@on_each_device
@pytest.mark.parametrize("own", [{}, {"objective": "flow"}, {"read_out": "median"}])
def test_chunks_from_zero(own: dict[str, str], device: str) -> None:
    policy = make_policy("tiny", start="zero", **own).to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    observation = at(device, observe(policy, 2))
    assert_same(graphed.sample(observation), policy.sample(observation, steps=2))
    assert_graphs(graphed, device)


@on_each_device
def test_missing_pictures_may_change(device: str) -> None:
    policy = make_policy("tiny").to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    observation, start = at(device, observe(policy, 2)), noise(policy, 2)
    for there in ([True, False], [False, True], [True, True]):
        seen = replace(observation, present={"wrist": torch.tensor(there, device=device)})
        assert_same(graphed.sample(seen, noise=start), policy.sample(seen, steps=2, noise=start))
    assert len(graphed._recordings) == 1
    assert_graphs(graphed, device)


@on_each_device
@pytest.mark.parametrize("preset", LAYOUTS)
def test_bfloat16(preset: str, device: str) -> None:
    policy = make_policy(preset, objective="flow").to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=3, dtype=torch.bfloat16))
    observation, start = at(device, observe(policy, 2)), noise(policy, 2)
    plain = policy.sample(observation, steps=3, noise=start).actions
    half = graphed.sample(observation, noise=start).actions
    assert 0 < (half - plain).abs().max() < 0.05 * plain.abs().max()
    assert_graphs(graphed, device)


@on_each_device
@pytest.mark.parametrize("first", [True, False], ids=["inside first", "outside first"])
def test_inference_mode_may_come_and_go(first: bool, device: str) -> None:
    policy = make_policy("tiny").to(device)
    observation, start = at(device, observe(policy, 2)), noise(policy, 2)
    plain = policy.sample(observation, steps=2, noise=start)
    with torch.inference_mode(first):
        graphed = GraphedSampler(FastSampler(policy, steps=2))
        assert_same(graphed.sample(observation, noise=start), plain)
    for inside in (not first, first):
        with torch.inference_mode(inside):
            assert_same(graphed.sample(observation, noise=start), plain)
    assert len(graphed._recordings) == 1
    assert_graphs(graphed, device)


# Prompts that change their length


@on_each_device
def test_prompts_of_few_lengths_are_recorded(device: str) -> None:
    """A state that is told in digits changes the length of its prompt from chunk to chunk."""
    policy = make_policy("paligemma_debug").to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    observation, start = at(device, observe(policy, 1)), noise(policy, 1)
    for length in [*range(33, 65), *range(64, 32, -1)]:
        seen = replace(observation, instruction=prompt(length, device))
        assert_same(graphed.sample(seen, noise=start), policy.sample(seen, steps=1, noise=start))
    assert len(graphed._recordings) == 2
    assert_graphs(graphed, device)


@on_each_device
def test_warming_up_records_what_prompts_nearby_need(device: str) -> None:
    policy = make_policy("paligemma_debug").to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    observation = at(device, observe(policy, 1))
    state = torch.get_rng_state()
    graphed.warm_up(replace(observation, instruction=prompt(40, device)))
    recorded = list(graphed._recordings)
    assert len(recorded) == 3
    for length in range(40 - PROMPT_TOKENS, 40 + PROMPT_TOKENS):
        graphed.sample(
            replace(observation, instruction=prompt(length, device)), noise=noise(policy, 1)
        )
    assert set(graphed._recordings) == set(recorded)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_prompts_do_not_change_and_are_warmed_up_alone() -> None:
    policy = make_policy("tiny")
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    graphed.warm_up(observe(policy, 1))
    assert len(graphed._recordings) == 1


def test_what_was_used_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "MAXIMUM_GRAPHS", 2)
    policy = make_policy("tiny", objective="flow")
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    recorded = []
    record = graphed._record
    monkeypatch.setattr(
        graphed, "_record", lambda *inputs: recorded.append(len(inputs[1])) or record(*inputs)
    )
    for batch in (1, 2, 1, 3, 1, 2):
        observation = observe(policy, 2)
        if batch == 3:
            observation = at("cpu", observation)
            tensors = {n: torch.cat((t, t[:1])) for n, t in observation.tensors().items()}
            observation = unflatten(tensors, observation)
        elif batch == 1:
            observation = observe(policy, 1)
        graphed.sample(observation, noise=noise(policy, batch))
        assert len(graphed._recordings) <= 2
    assert recorded == [1, 2, 3, 2]


# What has no graph


@on_each_device
def test_objectives_that_draw_on_the_way_have_no_graph(device: str) -> None:
    policy = make_policy("tiny", objective="masked").to(device)
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    assert graphed.reason is not None and "draws random numbers" in graphed.reason
    observation = at(device, observe(policy, 2))
    assert_same(
        graphed.sample(observation, generator=torch.Generator(device).manual_seed(1)),
        policy.sample(observation, steps=2, generator=torch.Generator(device).manual_seed(1)),
    )


def test_reasons_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sampler.say_once.cache_clear()
    policy = make_policy("tiny", early_stop=True)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            FastSampler(policy)
    told = [record.message for record in caplog.records if "the plain way" in record.message]
    assert len(told) == 1 and "early_stop" in told[0]


@pytest.mark.gpu
def test_a_capture_that_fails_leaves_nothing_behind() -> None:
    """In a process of its own: if it fails, other tests would fail with it."""
    run = f"import runpy; runpy.run_path({__file__!r})['fail_a_capture']()"
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", run], env=os.environ | {"PYTHONPATH": paths}, check=True)


def fail_a_capture() -> None:
    policy = make_policy("tiny").to("cuda")
    fast = FastSampler(policy, steps=2)
    graphed = GraphedSampler(fast)
    draw = fast.draw

    def waits(*arguments: Any, **options: Any) -> Any:
        drawn = draw(*arguments, **options)
        assert drawn.chunk.actions.sum().item() < 1e9
        return drawn

    fast.draw = waits  # pyright: ignore[reportAttributeAccessIssue]
    stream = torch.cuda.current_stream()
    observation, start = at("cuda", observe(policy, 2)), noise(policy, 2)
    chunk = graphed.sample(observation, noise=start)
    assert graphed.reason is not None and "capture failed" in graphed.reason
    assert torch.cuda.current_stream() == stream
    assert_same(chunk, policy.sample(observation, steps=2, noise=start))
    assert torch.randn(3, device="cuda").isfinite().all()
    assert graphed.sample(observation).actions.isfinite().all()
    other = GraphedSampler(FastSampler(policy, steps=2))
    assert_same(
        other.sample(observation, noise=start), policy.sample(observation, steps=2, noise=start)
    )
    assert other.reason is None, "later captures work"


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_of_two_devices() -> None:
    policy = make_policy("tiny").to("cuda:1")
    graphed = GraphedSampler(FastSampler(policy, steps=2))
    observation, start = at("cuda:1", observe(policy, 2)), noise(policy, 2)
    assert_same(
        graphed.sample(observation, noise=start), policy.sample(observation, steps=2, noise=start)
    )
    assert graphed.reason is None


# Kernels


@on_each_device
@pytest.mark.parametrize("preset", LAYOUTS)
def test_attention_keeps_no_scores(preset: str, device: str) -> None:
    """No layer, forward or backward, may fall back to the kernel that keeps all of them."""
    lean = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    policy = make_policy(preset, noise_draws=2).to(device)
    observation, start = at(device, observe(policy, 2)), noise(policy, 2)
    actions = torch.randn(2, H, D, device=device)
    valid = torch.ones(2, H, dtype=torch.bool, device=device)
    with sdpa_kernel(lean):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            policy.loss(observation, actions, valid).sum().backward()
        fast = FastSampler(policy, steps=2, dtype=torch.bfloat16)
        assert fast.sample(observation, noise=start).actions.isfinite().all()


class Watch(TorchDispatchMode):
    """Counts kernels, and refuses what a capture would: numbers that come from the host."""

    free = re.compile(
        "view|expand|slice|select|transpose|permute|squeeze|::t$|alias|detach|split|unbind|"
        "as_strided|empty|device"
    )

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            assert args[0].device == result.device, f"{func} moves a tensor between devices"
        self.kernels += not self.free.search(func.overloadpacket._qualified_op_name)
        return result


def draw_on_fake_gpu(
    small: Policy, steps: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Drawn, int]:
    """A chunk of tensors on a GPU that is not there: they have shapes and no numbers, so that
    reading one, as waiting for the device does, is an error. With it how many kernels it takes."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(
        sampler, "time_grid", lambda *_: torch.linspace(1, 1 / steps, steps + 1, device="cuda")
    )
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        moved = {}
        for tensor in (*small.parameters(), *small.buffers()):
            there = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
            moved[id(tensor)] = nn.Parameter(there) if isinstance(tensor, nn.Parameter) else there
        policy = copy.deepcopy(small, moved)
        policy.tokenizer._known_fitted = True
        fast = FastSampler(policy, steps=steps, dtype=torch.bfloat16)
        fast.network._range_is_known = True  # looked at with the first picture
        sizes = small.settings.vectors
        observation = Observation(
            {name: torch.rand(1, 3, 64, 80, device="cuda") for name in ("base", "wrist")},
            {name: torch.randn(1, size, device="cuda") for name, size in sizes.items()},
            torch.randint(0, 200, (1, 32), device="cuda"),
            {"wrist": torch.ones(1, dtype=torch.bool, device="cuda")},
        )
        start = torch.randn(1, H, D, policy.objective.input_width, device="cuda")
        prefix = None
        if policy.given_clean:
            prefix = Prefix.of_steps(torch.randn(1, 1, D, device="cuda"), H)
        with Watch() as watch:
            drawn = fast.draw(observation, noise=start, prefix=prefix)
    return drawn, watch.kernels


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("objective", ["e0", "flow", "hybrid"])
@with_prefix
def test_nothing_of_a_chunk_waits_for_the_device(
    preset: str, objective: str, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_policy(preset, objective=objective, rtc_training_max_delay=longest)
    drawn, _ = draw_on_fake_gpu(small, 2, monkeypatch)
    assert drawn.chunk.actions.shape == (1, H, D)
    assert drawn.finite.device.type == "cuda"


@pytest.mark.parametrize(("ambiguous", "evaluations"), [(NEVER, 1), (ALWAYS, 3)])
@with_prefix
def test_neither_part_of_adaptive_decoding_waits_for_the_device(
    ambiguous: float, evaluations: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {"decoding": "adaptive", "decoding_draws": 3}
    small = make_policy("tiny", rtc_training_max_delay=longest, **own)
    small.objective = replace(small.objective, ambiguous=ambiguous)  # pyright: ignore
    drawn, _ = draw_on_fake_gpu(small, 2, monkeypatch)
    assert drawn.chunk.steps_taken == evaluations
    assert drawn.chunk.actions.shape == (1, H, D)


@pytest.mark.parametrize(("preset", "most"), [("paligemma_debug", 32), ("paligemma_pi0_debug", 30)])
@with_prefix
def test_a_step_takes_few_kernels(
    preset: str, most: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each block, attention counted in its parts, eleven, as fake tensors compute it. In a graph
    a small kernel costs about two microseconds, whatever it computes."""
    counts = {}
    for depth in (2, 3):
        monkeypatch.setitem(PRESETS, "test", replace(PRESETS[preset], depth=depth))
        small = make_policy("test", rtc_training_max_delay=longest)
        one, two = (draw_on_fake_gpu(small, steps, monkeypatch)[1] for steps in (1, 2))
        counts[depth] = two - one
    assert counts[3] - counts[2] <= most


def test_observations_are_taken_apart_and_put_together() -> None:
    observation = observe(make_policy("tiny"), 2)
    again = unflatten(observation.tensors(), observation)
    assert again == observation
    bare = Observation(observation.images, {})
    assert unflatten(bare.tensors(), bare) == bare


def test_a_chunk_given_is_not_overwritten_by_the_next() -> None:
    policy = make_policy("tiny", objective="flow")
    graphed = GraphedSampler(FastSampler(policy, steps=1))
    observation = observe(policy, 1)
    first: ActionChunk = graphed.sample(observation, noise=noise(policy, 1, seed=1))
    kept = first.actions.clone()
    graphed.sample(observation, noise=noise(policy, 1, seed=2))
    assert torch.equal(first.actions, kept)
