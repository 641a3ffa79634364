"""The method against a distribution that is known exactly.

A chunk is one of a few listed token chunks with unequal weights, so the posterior given a noisy
chunk is Bayes' rule over the list, and its marginals are the best logits any network could give.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from e0.diffusion import (
    SCHEDULES,
    OneHotEmbedding,
    OrdinalEmbedding,
    Schedule,
    TokenEmbedding,
    corrupt,
    cross_entropy,
    sample,
)
from e0.tokens import ActionTokenizer
from e0.training_times import sample_time

# Six chunks of two steps and two dimensions in sevenths of the range. They share values at single
# places, so a sampler that ignores how tokens belong together makes chunks outside the list.
SEVENTHS = torch.tensor(
    [
        [[0, 0], [0, 0]],
        [[7, 7], [7, 7]],
        [[0, 7], [7, 0]],
        [[7, 0], [2, 5]],
        [[3, 3], [5, 2]],
        [[3, 4], [0, 7]],
    ]
)
WEIGHTS = torch.tensor([0.30, 0.25, 0.18, 0.12, 0.10, 0.05])


@dataclass
class Problem:
    """Listed chunks (M, H, D) of tokens, their weights (M,), and an embedding of the tokens."""

    chunks: Tensor
    weights: Tensor
    embedding: TokenEmbedding
    vocabulary_size: int

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        choice = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return self.chunks[choice]

    def bayes(self, schedule: Schedule):
        """The exact denoiser: p(chunk | x_t) in proportion to w N(x_t; α φ(chunk), σ² I)."""
        clean = self.embedding.embed(self.chunks).flatten(1)
        members = torch.nn.functional.one_hot(self.chunks, self.vocabulary_size).float()

        def denoise(noisy: Tensor, t: Tensor) -> Tensor:
            alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
            evidence = noisy.flatten(1) @ clean.T - alpha * clean.square().sum(-1) / 2
            posterior = (self.weights.log() + evidence * alpha / sigma**2).softmax(-1)
            return torch.einsum("bm,mhdv->bhdv", posterior, members).log()

        return denoise

    def count(self, tokens: Tensor) -> tuple[Tensor, int]:
        """How often each listed chunk occurs in tokens (B, H, D), and how many are unlisted."""
        matches = (tokens[:, None] == self.chunks).all(-1).all(-1)
        return matches.sum(0), int((~matches.any(-1)).sum())


def make_problem(embedding: str, vocabulary_size: int) -> Problem:
    tokenizer = ActionTokenizer(2, vocabulary_size)
    tokenizer.fit(torch.linspace(-1, 1, 5000)[:, None].expand(-1, 2), "uniform")
    chunks = (SEVENTHS * (vocabulary_size - 1) / 7).round().long()
    made = (
        OrdinalEmbedding(tokenizer) if embedding == "ordinal" else OneHotEmbedding(vocabulary_size)
    )
    return Problem(chunks, WEIGHTS, made, vocabulary_size)


def chi_square_p_value(counts: Tensor, weights: Tensor) -> float:
    """The chance of counts that deviate so much or more, if the weights are true."""
    expected = counts.sum() * weights.double()
    statistic = ((counts - expected).square() / expected).sum()
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(freedom, statistic / 2).item()


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("embedding", ["ordinal", "one_hot"])
def test_sampler_reproduces_distribution(embedding: str, schedule: str, sampler: str) -> None:
    check_sampler(make_problem(embedding, 8), schedule, sampler, count=4000, steps=100)


@pytest.mark.parametrize(
    ("embedding", "schedule", "sampler"),
    [
        ("ordinal", "linear", "ddim"),
        ("ordinal", "cosine", "ancestral"),
        ("one_hot", "linear", "ancestral"),
        ("one_hot", "cosine", "ddim"),
    ],
)
@pytest.mark.parametrize(("vocabulary_size", "count", "steps"), [(256, 1500, 60), (2048, 400, 30)])
def test_sampler_reproduces_distribution_with_fine_vocabulary(
    embedding: str, schedule: str, sampler: str, vocabulary_size: int, count: int, steps: int
) -> None:
    check_sampler(make_problem(embedding, vocabulary_size), schedule, sampler, count, steps)


def check_sampler(problem: Problem, schedule: str, sampler: str, count: int, steps: int) -> None:
    """A chi-square test at level 0.001 on a fixed seed; at most one unlisted chunk in a thousand.

    Both samplers are exact only as the number of steps grows; the error that remains at the
    numbers of steps used here is below what the numbers of samples can show.
    """
    drawn = sample(
        problem.bayes(SCHEDULES[schedule]),
        problem.embedding,
        (count, 2, 2),
        schedule=SCHEDULES[schedule],
        steps=steps,
        sampler=sampler,
        generator=torch.Generator().manual_seed(0),
    )
    counts, unlisted = problem.count(drawn.logits.argmax(-1))
    assert unlisted <= count // 1000
    assert chi_square_p_value(counts, problem.weights) > 1e-3


def test_check_notices_a_wrong_posterior() -> None:
    problem = make_problem("ordinal", 8)
    wrong = Problem(problem.chunks, WEIGHTS.flip(0), problem.embedding, 8)
    schedule = SCHEDULES["linear"]
    generator = torch.Generator().manual_seed(0)
    drawn = sample(
        wrong.bayes(schedule),
        problem.embedding,
        (1000, 2, 2),
        schedule=schedule,
        steps=50,
        generator=generator,
    )
    counts, _ = problem.count(drawn.logits.argmax(-1))
    assert chi_square_p_value(counts, problem.weights) < 1e-9


class SmallNetwork(nn.Module):
    """A perceptron of a noisy chunk (B, H, D, m) and t (B,) with logits (B, H, D, V)."""

    def __init__(self, width: int, vocabulary_size: int) -> None:
        super().__init__()
        self.frequencies = torch.arange(1.0, 9.0)
        self.layers = nn.Sequential(
            nn.Linear(4 * width + 16, 192),
            nn.SiLU(),
            nn.Linear(192, 192),
            nn.SiLU(),
            nn.Linear(192, 192),
            nn.SiLU(),
            nn.Linear(192, 4 * vocabulary_size),
        )
        self.vocabulary_size = vocabulary_size

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        phase = t[:, None] * self.frequencies
        features = torch.cat([noisy.flatten(1), phase.sin(), phase.cos()], -1)
        return self.layers(features).view(-1, 2, 2, self.vocabulary_size)


def train_network(problem: Problem, schedule: Schedule, steps: int) -> SmallNetwork:
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    network = SmallNetwork(problem.embedding.width, problem.vocabulary_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    valid = torch.ones(512, 2, dtype=torch.bool)
    for _ in range(steps):
        tokens = problem.draw(512, generator)
        t = sample_time(512, "beta", generator)
        corrupted = corrupt(problem.embedding.embed(tokens), t, schedule, generator=generator)
        loss = cross_entropy(network(corrupted.noisy, t), tokens, valid).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return network.eval()


@pytest.mark.parametrize(("embedding", "schedule"), [("ordinal", "linear"), ("one_hot", "cosine")])
def test_trained_network_comes_close_to_bayes(embedding: str, schedule: str) -> None:
    """Within 0.015 nats a token of the best possible cross-entropy, on the same noisy chunks.

    Better than that is possible only by chance (0.005), and worse by a lot without reading the
    noisy chunk: then the unconditional entropy of a token, 1.13 nats, is the best.
    """
    problem = make_problem(embedding, 16)
    network = train_network(problem, SCHEDULES[schedule], steps=1000)
    generator = torch.Generator().manual_seed(2)
    count = 20_000
    valid = torch.ones(count, 2, dtype=torch.bool)
    exact = problem.bayes(SCHEDULES[schedule])
    bayes_loss = {}
    with torch.inference_mode():
        for level in (0.1, 0.3, 0.5, 0.7, 0.9):
            tokens = problem.draw(count, generator)
            t = torch.full((count,), level)
            clean = problem.embedding.embed(tokens)
            noisy = corrupt(clean, t, SCHEDULES[schedule], generator=generator).noisy
            bayes_loss[level] = cross_entropy(exact(noisy, t), tokens, valid).mean().item()
            gap = cross_entropy(network(noisy, t), tokens, valid).mean().item() - bayes_loss[level]
            assert -0.005 < gap < 0.015, f"gap {gap:.4f} at t = {level}"
        drawn = sample(
            network,
            problem.embedding,
            (4000, 2, 2),
            schedule=SCHEDULES[schedule],
            steps=50,
            generator=generator,
        )
    assert bayes_loss[0.1] < 0.01
    assert bayes_loss[0.5] < 0.6
    assert bayes_loss[0.9] > 1.0
    counts, unlisted = problem.count(drawn.logits.argmax(-1))
    assert unlisted < 0.01 * 4000
    assert (counts / 4000 - WEIGHTS).abs().sum() / 2 < 0.06
