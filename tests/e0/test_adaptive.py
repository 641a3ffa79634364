"""Adaptive decoding: one evaluation where there is one way to act, several samples where not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from e0.heads import TokenHead
from e0.network.transformer import DecodingCache
from e0.objectives import E0Objective, Sampling
from e0.objectives.diffusion import ALWAYS, NEVER
from e0.prefix import Prefix
from e0.sampling.cuda_graph import GraphedSampler
from e0.sampling.sampler import FastSampler
from e0.tokens import ActionTokenizer
from small_policies import LAYOUTS, assert_same, make_policy, observe, seeded
from small_policies import D as PD
from small_policies import H as PH

H, V = 4, 41


@pytest.fixture(scope="module")
def tokenizer() -> ActionTokenizer:
    tokenizer = ActionTokenizer(1, V)
    return tokenizer.fit(torch.linspace(-1, 1, 401)[:, None], "uniform")


class TwoWays:
    """The exact posterior where all steps are 0.8 with the probability `right` (B,), else -0.8."""

    def __init__(self, tokenizer: ActionTokenizer, right: Tensor) -> None:
        self.tokenizer, self.right = tokenizer, right
        self.rows: list[int] = []

    def __call__(self, noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
        self.rows.append(len(noisy))
        ways = torch.tensor([-0.8, 0.8])
        codes = self.tokenizer.encode(ways[:, None])[:, 0]
        values = self.tokenizer.standardize(self.tokenizer.decode(codes[:, None]))[:, 0]
        alpha, sigma = 1 - time, time
        offset = noisy[:, None, :, 0, 0] - alpha[:, None, None] * values[:, None]
        likelihood = -0.5 * (offset / sigma[:, None, None]).square().sum(-1)
        right = self.right.repeat_interleave(len(noisy) // len(self.right))
        prior = torch.stack([1 - right, right], dim=-1).clamp_min(1e-12).log()
        way = (prior + likelihood).log_softmax(-1)
        logits = torch.full((len(noisy), H, 1, V), -30.0)
        logits[..., codes] = way[:, None, None, :]
        return logits


def make(tokenizer: ActionTokenizer, **own: Any) -> E0Objective:
    return E0Objective(TokenHead(tokenizer, "linear"), decoding="adaptive", **own)


def test_one_way_takes_one_evaluation_and_no_chance(tokenizer: ActionTokenizer) -> None:
    denoise = TwoWays(tokenizer, torch.tensor([1.0, 0.0]))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    chunk = make(tokenizer).sample(denoise, 2, H, Sampling(4))
    assert torch.rand(2).equal(expected)
    assert denoise.rows == [2] and chunk.steps_taken == 1
    assert chunk.ambiguity is not None and chunk.ambiguity.max() < 1e-6
    assert chunk.actions[:, :, 0].mean(1).tolist() == pytest.approx([0.8, -0.8], abs=0.03)


def test_of_one_way_the_mean_acts_and_of_a_switch_the_likelier_value() -> None:
    """Standing or going one way is no choice, and half a grip is none."""
    actions = torch.stack([torch.linspace(-1, 1, 401), torch.ones(401)], dim=1)
    actions[::2, 1] = -1.0
    tokenizer = ActionTokenizer(2, V).fit(actions, "uniform")
    assert tokenizer.switches.tolist() == [False, True]

    def denoise(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
        logits = torch.full((len(noisy), H, 2, V), -30.0)
        stay, go = tokenizer.encode(torch.tensor([[0.0, 0.0], [0.9, 0.0]]))[:, 0].tolist()
        logits[..., 0, [stay, go]] = torch.tensor([0.7, 0.3]).log()
        logits[..., 1, :2] = torch.tensor([0.4, 0.6]).log()
        return logits

    chunk = make(tokenizer).sample(denoise, 1, H, Sampling(4))
    assert chunk.steps_taken == 1
    assert chunk.actions[..., 0].flatten().tolist() == pytest.approx([0.3 * 0.9] * H, abs=0.01)
    assert chunk.actions[..., 1].eq(1.0).all()


def test_two_ways_are_seen_in_data_that_mostly_go_one() -> None:
    sides = torch.where(torch.arange(400) % 10 < 8, 0.8, -0.8)
    tokenizer = ActionTokenizer(1, V).fit((sides + torch.linspace(-0.05, 0.05, 400))[:, None])
    chunk = make(tokenizer).sample(TwoWays(tokenizer, torch.tensor([0.5])), 1, H, Sampling(4))
    assert chunk.ambiguity is not None and chunk.ambiguity.item() == pytest.approx(0.5, abs=1e-3)
    assert chunk.actions.abs().min() > 0.7


def test_an_outlier_moves_the_mean_no_further_than_the_rest_goes() -> None:
    data = torch.linspace(-1, 1, 20_001)
    data[-1] = 1000.0
    tokenizer = ActionTokenizer(1, V).fit(data[:, None], "kmeans")
    likely, outlier = tokenizer.encode(torch.tensor([[0.0], [1000.0]]))[:, 0].tolist()

    def denoise(noisy: Tensor, time: Tensor, cache: DecodingCache | None = None) -> Tensor:
        logits = torch.full((len(noisy), H, 1, V), -30.0)
        logits[..., [likely, outlier]] = torch.tensor([0.99, 0.01]).log()
        return logits

    chunk = make(tokenizer).sample(denoise, 1, H, Sampling(4))
    assert chunk.actions.sub(tokenizer.codebook[0, likely]).abs().max() < 0.1


def test_of_several_ways_each_is_kept_to_and_taken_as_often_as_it_is_likely(
    tokenizer: ActionTokenizer,
) -> None:
    denoise = TwoWays(tokenizer, torch.full((400,), 0.7))
    chunk = make(tokenizer).sample(denoise, 400, H, Sampling(16, seeded(0)))
    assert denoise.rows == [400, *[3200] * 16] and chunk.steps_taken == 17
    assert chunk.ambiguity is not None
    assert chunk.ambiguity.tolist() == pytest.approx([0.3] * 400, abs=1e-4)
    side = chunk.actions[:, :, 0].sign()
    assert side.eq(side[:, :1]).all()
    assert side[:, 0].gt(0).float().mean().item() == pytest.approx(0.7, abs=0.06)


def test_only_the_ambiguous_of_a_batch_are_sampled(tokenizer: ActionTokenizer) -> None:
    sure = make(tokenizer).sample(TwoWays(tokenizer, torch.ones(1)), 1, H, Sampling(4))
    mixed = make(tokenizer).sample(
        TwoWays(tokenizer, torch.tensor([0.5, 1.0])), 2, H, Sampling(4, seeded(1), keep_trace=True)
    )
    assert mixed.actions[1].equal(sure.actions[0])
    assert mixed.entropy is not None and sure.entropy is not None
    assert mixed.entropy[1].equal(sure.entropy[0])
    assert mixed.ambiguity is not None
    assert mixed.ambiguity.tolist() == pytest.approx([0.5, 0.0], abs=1e-4)
    assert mixed.trace is not None and [len(logits) for logits in mixed.trace] == [2] * 5


def test_noise_that_is_given_chooses_the_way(tokenizer: ActionTokenizer) -> None:
    denoise = TwoWays(tokenizer, torch.full((2,), 0.5))
    noise = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, H, 1, 1)
    for seed in range(5):
        chunk = make(tokenizer).sample(denoise, 2, H, Sampling(4, seeded(seed), noise))
        assert chunk.actions[:, 0, 0].tolist() == pytest.approx([0.8, -0.8], abs=0.03)
    with pytest.raises(ValueError, match=r"noise must have shape \(2, 4, 1, 1\)"):
        make(tokenizer).sample(denoise, 2, H, Sampling(4, noise=noise[:, :2]))


def test_a_network_that_never_saw_given_steps_goes_their_way(tokenizer: ActionTokenizer) -> None:
    denoise = TwoWays(tokenizer, torch.full((40,), 0.5))
    actions = torch.where(torch.arange(40)[:, None, None] < 20, 0.7, -0.7).expand(40, H, 1)
    mask = (torch.arange(H) < 2).expand(40, H).clone()
    mask[10:30] = False  # half of each goes where it likes
    sampling = Sampling(16, seeded(0), prefix=Prefix(actions, mask))
    chunk = make(tokenizer).sample(denoise, 40, H, sampling)
    assert chunk.actions[mask].equal(actions[mask])
    given, free = mask[:, 0], ~mask[:, 0]
    own = chunk.actions[:, 2:, 0].sign()
    assert own[given].eq(actions[given, 2:, 0].sign()).all()
    assert 4 < own[free, 0].gt(0).sum() < 16


@pytest.mark.parametrize("preset", LAYOUTS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("ambiguous", [ALWAYS, 0.01, NEVER])
def test_fast_chunks_are_the_plain_ones(preset: str, batch: int, ambiguous: float) -> None:
    policy = make_policy(preset, decoding="adaptive", decoding_draws=3, time_grid="dense_jump")
    policy.objective = replace(policy.objective, ambiguous=ambiguous)  # pyright: ignore
    observation = observe(policy, batch)
    sampler = FastSampler(policy, steps=3)
    assert sampler.reason is None
    for sample in (sampler.sample, GraphedSampler(sampler).sample):
        for seed in (1, 2):
            fast = sample(observation, generator=seeded(seed))
            assert fast.steps_taken == {ALWAYS: 4, NEVER: 1}.get(ambiguous, fast.steps_taken)
            assert_same(fast, policy.sample(observation, steps=3, generator=seeded(seed)))


def test_buffers_draw_no_noise_where_there_is_one_way_and_keep_what_is_given() -> None:
    policy = make_policy("tiny", decoding="adaptive", decoding_draws=3)
    observation = observe(policy, 2)
    noise = torch.randn(2, PH, PD, 1, generator=seeded(3))
    for ambiguous, after in ((1.01, True), (0.01, False)):
        policy.objective = replace(policy.objective, ambiguous=ambiguous)  # pyright: ignore
        graphed = GraphedSampler(FastSampler(policy, steps=2))
        assert graphed.either is not None
        graphed.warm_up(observation)
        generator = seeded(5)
        graphed.sample(observation, generator=generator)
        assert torch.rand(3, generator=generator).equal(torch.rand(3, generator=seeded(5))) == after
        plain = policy.sample(observation, steps=2, generator=seeded(6), noise=noise)
        assert_same(graphed.sample(observation, generator=seeded(6), noise=noise), plain)
        with pytest.raises(ValueError, match="noise must have shape"):
            policy.sample(observation, steps=2, noise=noise[:, :1])


def test_impossible_settings_are_refused(tokenizer: ActionTokenizer) -> None:
    with pytest.raises(ValueError, match="unknown decoding 'both'; known: fixed, adaptive"):
        replace(make(tokenizer), decoding="both")
    with pytest.raises(ValueError, match="decoding_draws must be at least 1, got 0"):
        make(tokenizer, decoding_draws=0)
    with pytest.raises(ValueError, match="unknown time grid 'odd'; known: even, dense_jump"):
        make(tokenizer, time_grid="odd")
