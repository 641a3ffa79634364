"""The exact posterior: equal to the enumeration of all chunks, and a perfect sampler."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from e0.diffusion import SCHEDULES, OneHotEmbedding, OrdinalEmbedding, sample
from e0.posterior import read_out
from e0.tokens import ActionTokenizer
from e0_bench.token_lab.bayes_denoiser import BayesDenoiser
from e0_bench.token_lab.synthetic_chunks import ChunkProblem, measure, tv_floor

# So wide a spread that the shift decides tokens, and so close together that modes overlap.
TINY = ChunkProblem(horizon=2, action_dim=2, modes=2, spread=0.3, noise=0.06)
NORMAL_CDF = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))


def fitted_tokenizer(problem: ChunkProblem, vocabulary_size: int) -> ActionTokenizer:
    generator = torch.Generator().manual_seed(0)
    contexts = problem.sample_contexts(4096, generator)
    tokenizer = ActionTokenizer(problem.action_dim, vocabulary_size)
    return tokenizer.fit(problem.sample(contexts, generator).flatten(0, 1), "uniform")


def make_embedding(name: str, tokenizer: ActionTokenizer) -> OrdinalEmbedding | OneHotEmbedding:
    if name == "ordinal":
        return OrdinalEmbedding(tokenizer)
    return OneHotEmbedding(tokenizer.vocabulary_size)


def enumerated_posterior(context, tokenizer, embedding, noisy, alpha, sigma) -> np.ndarray:
    """p(a_hd = v | x) of one noisy chunk by brute force over all token chunks and a fine u grid."""
    horizon, dimensions, vocabulary = 2, 2, tokenizer.vocabulary_size
    middle = TINY.mode_chunks(context[None])[0].double().numpy()
    weights = TINY.mode_weights(context[None])[0].double().numpy()
    shifts = np.linspace(-7, 7, 1401)
    density = np.exp(-(shifts**2) / 2)
    density /= density.sum()
    counts = tokenizer.code_count.tolist()
    mass = np.zeros((2, len(shifts), horizon, dimensions, vocabulary))
    for d, count in enumerate(counts):
        codes = tokenizer.codebook[d, :count].double().numpy()
        edges = np.concatenate([[-np.inf], (codes[1:] + codes[:-1]) / 2, [np.inf]])
        for m, h in itertools.product(range(2), range(horizon)):
            mean = middle[m, h, d] + shifts * TINY.direction[h, d].item()
            width = max(TINY.deviation[d].item(), 1e-12)
            mass[m, :, h, d, :count] = np.diff(NORMAL_CDF((edges - mean[:, None]) / width))
    posterior = np.zeros((horizon, dimensions, vocabulary))
    places = list(itertools.product(range(horizon), range(dimensions)))
    for chunk in itertools.product(*(range(counts[d]) for _, d in places)):
        given_shift = np.prod(
            [mass[:, :, h, d, v] for (h, d), v in zip(places, chunk, strict=True)], axis=0
        )
        prior = weights @ (given_shift @ density)
        clean = embedding.embed(torch.tensor(chunk).view(horizon, dimensions)).double()
        squared = (noisy.double() - alpha * clean).square().sum().item()
        joint = prior * math.exp(-squared / (2 * sigma**2))
        for (h, d), v in zip(places, chunk, strict=True):
            posterior[h, d, v] += joint
    return posterior / posterior.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["ordinal", "one_hot"])
@pytest.mark.parametrize("time", [0.9, 0.4])
def test_posterior_is_that_of_enumerating_all_chunks(name: str, time: float) -> None:
    tokenizer = fitted_tokenizer(TINY, 6)
    embedding = make_embedding(name, tokenizer)
    context = TINY.evaluation_contexts(1)[0]
    generator = torch.Generator().manual_seed(3)
    chunks = TINY.sample(context.expand(3, -1), generator)
    clean = embedding.embed(tokenizer.encode(chunks))
    noise = torch.randn(clean.shape, generator=generator)
    noisy = (1 - time) * clean + time * noise
    denoise = BayesDenoiser(TINY, context, tokenizer, embedding, SCHEDULES["linear"])
    found = denoise(noisy, torch.full((3,), time)).softmax(-1).numpy()
    for row in range(3):
        expected = enumerated_posterior(context, tokenizer, embedding, noisy[row], 1 - time, time)
        np.testing.assert_allclose(found[row], expected, atol=2e-5)
        # The other tokens must matter, or a posterior of each token by itself would pass.
        assert np.abs(expected[0, 0] - expected[1, 0]).max() > 0.05


@pytest.mark.parametrize(("name", "time"), [("ordinal", 0.1), ("one_hot", 0.5)])
def test_the_grid_over_the_shift_is_fine_enough(name: str, time: float) -> None:
    problem = ChunkProblem()
    tokenizer = fitted_tokenizer(problem, 256)
    embedding = make_embedding(name, tokenizer)
    context = problem.evaluation_contexts(1)[0]
    generator = torch.Generator().manual_seed(1)
    clean = embedding.embed(tokenizer.encode(problem.sample(context.expand(8, -1), generator)))
    noise = torch.randn(clean.shape, generator=generator)
    found = {}
    for nodes in (101, 201, 801):
        denoise = BayesDenoiser(problem, context, tokenizer, embedding, SCHEDULES["linear"], nodes)
        logits = denoise((1 - time) * clean + time * noise, torch.full((8,), time))
        found[nodes] = logits.softmax(-1)
    coarse, default = ((found[n] - found[801]).abs().sum(-1).max().item() for n in (101, 201))
    assert default < 1e-4 < coarse
    with pytest.raises(ValueError, match="needs at least 76 nodes, got 51"):
        BayesDenoiser(problem, context, tokenizer, embedding, SCHEDULES["linear"], 51)


@pytest.mark.parametrize(("name", "vocabulary_size"), [("ordinal", 2048), ("one_hot", 256)])
def test_exact_denoising_draws_coherent_chunks_of_all_modes(
    name: str, vocabulary_size: int
) -> None:
    problem = ChunkProblem()
    tokenizer = fitted_tokenizer(problem, vocabulary_size)
    embedding = make_embedding(name, tokenizer)
    contexts = problem.evaluation_contexts(2)
    chunks = {1: [], 10: []}
    for context in contexts:
        denoise = BayesDenoiser(problem, context, tokenizer, embedding, SCHEDULES["linear"])
        for steps, drawn in chunks.items():
            logits = sample(
                denoise,
                embedding,
                (24, problem.horizon, problem.action_dim),
                schedule=SCHEDULES["linear"],
                steps=steps,
                generator=torch.Generator().manual_seed(len(drawn)),
            ).logits
            drawn.append(read_out(logits, tokenizer.codebook))
    quality = {steps: measure(problem, contexts, torch.stack(c)) for steps, c in chunks.items()}
    assert quality[10].coherence > 0.97 > 0.7 > quality[1].coherence
    assert quality[10].tv < 1.5 * tv_floor(problem, contexts, 24)
