"""The exact posterior of the synthetic problem's tokens: what a perfect network would answer.

Given the mode and the shift u, the tokens of a chunk are independent, each with the mass that a
Gaussian puts between its code's boundaries. A "component" is a mode with one node of a grid over u:

    p(x | j)       = Π_hd Σ_v P_hd(v | j) p(x_hd | v)
    p(a_hd=v | x)  = Σ_j p(j | x) P_hd(v | j) p(x_hd | v) / Σ_v' P_hd(v' | j) p(x_hd | v')

Under a component few codes carry mass, so P is a sparse matrix and one step costs two products
with it, one there and one back. What a network loses against this denoiser it lost in learning;
what this denoiser loses is due to few denoising steps and to the vocabulary.

Shapes: J components, S chunks of one context, H steps, D dimensions, V codes, N of the H·D·V
(step, dimension, code) that can occur, m embedding width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from e0.diffusion import OneHotEmbedding, OrdinalEmbedding, Schedule
from e0.tokens import ActionTokenizer
from e0_bench.token_lab.synthetic_chunks import ChunkProblem

SHIFT_RANGE = 5.0  # of the grid over u
MAX_SPACING = 2.0  # of that grid, in deviations of the noise
REACH = 7.0  # deviations of the noise around a mean that codes are looked for in
NEGLIGIBLE = 1e-12  # mass of a code
MIN_DEVIATION = 1e-9  # instead of none, in action units


class BayesDenoiser:
    """`denoise(x_t, t)` for `e0.diffusion.sample`, exact for one context (C,) of the problem.

    `nodes` is the number of grid points for u in [-5, 5]. Raises ValueError for so few that
    neighbouring ones lie further apart than the noise blurs: what u is would then matter.
    """

    def __init__(
        self,
        problem: ChunkProblem,
        context: Tensor,
        tokenizer: ActionTokenizer,
        embedding: OrdinalEmbedding | OneHotEmbedding,
        schedule: Schedule,
        nodes: int = 201,
    ) -> None:
        tokenizer.require_fitted()
        enough = 1 + math.ceil(2 * SHIFT_RANGE * problem.spread / (MAX_SPACING * problem.noise))
        if nodes < enough:
            raise ValueError(f"the grid over u needs at least {enough} nodes, got {nodes}")
        self.embedding, self.schedule = embedding, schedule
        self.shape = (problem.horizon, problem.action_dim, tokenizer.vocabulary_size)
        shift = torch.linspace(-SHIFT_RANGE, SHIFT_RANGE, nodes, dtype=torch.float64)
        weights = problem.mode_weights(context[None])[0].double()
        self.log_prior = (weights.log()[:, None] + (-shift.square() / 2).log_softmax(0)).flatten()
        middle = problem.mode_chunks(context[None])[0].double()
        means = middle[:, None] + shift[:, None, None] * problem.direction.double()
        deviation = problem.deviation.double().clamp_min(MIN_DEVIATION)
        masses = _code_masses(means.flatten(0, 1), deviation, tokenizer)
        self.possible, column = masses.indices()[1].unique(return_inverse=True)
        size = (masses.shape[0], len(self.possible))
        self.masses = _sparse(masses.indices()[0], column, masses.values(), size)
        self.masses_transposed = self.masses.t().coalesce()

    def __call__(self, noisy: Tensor, t: Tensor) -> Tensor:
        """noisy (S, H, D, m) and t (S,) in (0, 1] to logits (S, H, D, V), -inf where impossible.

        Raises ValueError if double precision finds no component that could have caused a chunk."""
        likelihood = self._likelihood(noisy.double(), t.double())
        of_token = torch.sparse.mm(self.masses, likelihood)
        of_token = of_token.view(-1, len(self.log_prior), len(noisy))  # (H·D, J, S)
        joint = self.log_prior[:, None] + of_token.log().sum(0)
        evidence = joint.logsumexp(0)
        if not evidence.isfinite().all():
            raise ValueError(
                f"a noisy chunk at t = {t.min().item():.4g} is impossible under every mode in "
                "double precision: use fewer denoising steps"
            )
        component = (joint - evidence).exp()
        share = torch.where(component > 0, component / of_token, 0.0)
        pulled = torch.sparse.mm(self.masses_transposed, share.flatten(0, 1))
        logits = torch.full((len(noisy), math.prod(self.shape)), -torch.inf)
        logits[:, self.possible] = (pulled * likelihood).float().log().T
        return logits.view(-1, *self.shape)

    def _likelihood(self, noisy: Tensor, t: Tensor) -> Tensor:
        """p(x_hd | v) of the possible codes, divided by the largest of the same h and d: (N, S)."""
        horizon, dimensions, vocabulary = self.shape
        token, code = self.possible // vocabulary, self.possible % vocabulary
        alpha, variance = self.schedule.alpha(t), self.schedule.sigma(t).square()
        noisy = noisy.flatten(1).T
        if isinstance(self.embedding, OneHotEmbedding):  # every code has the same norm
            scores = alpha * self.embedding.scale / variance * noisy[self.possible]
        else:
            codes = torch.arange(vocabulary)[:, None].expand(-1, dimensions)
            values = self.embedding.embed(codes)[code, token % dimensions].double()  # (N, 1)
            scores = (alpha * values * noisy[token] - (alpha * values).square() / 2) / variance
        largest = scores.new_full((horizon * dimensions, scores.shape[1]), -torch.inf)
        largest.scatter_reduce_(0, token[:, None].expand_as(scores), scores, "amax")
        return (scores - largest[token]).exp()


def _code_masses(means: Tensor, deviation: Tensor, tokenizer: ActionTokenizer) -> Tensor:
    """P_hd(v | j) as a sparse matrix (H·D·J, H·D·V), from means (J, H, D) and deviation (D,)."""
    means = means.permute(1, 2, 0).contiguous()  # (H, D, J)
    horizon, dimensions, components = means.shape
    upper = _upper_boundaries(tokenizer).expand(horizon, -1, -1).contiguous()  # (H, D, V)
    lower = torch.cat([torch.full_like(upper[..., :1], -math.inf), upper[..., :-1]], dim=-1)
    reach = REACH * deviation[:, None]
    first = torch.searchsorted(upper, means - reach)
    last = torch.searchsorted(upper, means + reach)
    code = first[..., None] + torch.arange(int((last - first).max()) + 1)  # (H, D, J, window)
    outside = code > last[..., None]
    code = code.clamp(max=tokenizer.vocabulary_size - 1)

    def cumulative(bounds: Tensor) -> Tensor:
        bound = bounds.take_along_dim(code.flatten(2), dim=2).view(code.shape)
        return torch.special.ndtr((bound - means[..., None]) / deviation[:, None, None])

    mass = (cumulative(upper) - cumulative(lower)).masked_fill(outside, 0.0)
    tokens = horizon * dimensions
    row = torch.arange(tokens * components).view(*means.shape, 1).expand(code.shape)
    token = torch.arange(tokens).view(horizon, dimensions, 1, 1)
    column = token * tokenizer.vocabulary_size + code
    carries = mass > NEGLIGIBLE
    size = (tokens * components, tokens * tokenizer.vocabulary_size)
    return _sparse(row[carries], column[carries], mass[carries], size)


def _sparse(row: Tensor, column: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with torch.sparse.check_sparse_tensor_invariants():
        return torch.sparse_coo_tensor(torch.stack([row, column]), values, size).coalesce()


def _upper_boundaries(tokenizer: ActionTokenizer) -> Tensor:
    """Where `encode` changes from each code to the next: (D, V), +inf from the last code on."""
    codebook = tokenizer.codebook.double()
    upper = torch.full_like(codebook, math.inf)
    upper[:, :-1] = (codebook[:, :-1] + codebook[:, 1:]) / 2
    rank = torch.arange(tokenizer.vocabulary_size)
    return upper.masked_fill(rank >= tokenizer.code_count[:, None] - 1, math.inf)
