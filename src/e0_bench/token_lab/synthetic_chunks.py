"""A small imitation problem whose truth is known: several good ways to act, each a smooth chunk.

A context offers M ways ("modes") to move: around either side, higher or lower, closing the gripper
at a step of its own. Which of them a demonstrator takes is random, with probabilities that depend
on the context; within a way one Gaussian coordinate u shifts the whole chunk along a direction, and
every number gets a little independent noise. A policy must therefore commit to one mode throughout
a chunk: the average of two modes is none. All of it is given by formulas, so samples can be judged
without a simulator, and the exact posterior is known (`e0_bench.token_lab.bayes_denoiser`).

Dimensions: forward, sideways, up, any number of turns, and last a gripper with two levels.
Shapes: B contexts, C context size, M modes, S chunks per context, H steps, D dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

FEATURES = 6  # coordinates of the context that shape a chunk; shorter contexts are repeated
GRIPPER = 0.9
MAX_SHIFT = 3.0  # |u| that still counts as a valid chunk
TOLERANCE = 0.1  # of a coherent chunk, in action units: modes lie several times further apart
HELD_OUT = 7_777_777  # seed offset of contexts that no training run draws
EXACT = 8_888_888  # seed offset of the exact chunks that samples are compared with
EXACT_CHUNKS = 512  # of them in each context: enough that theirs is the smaller noise
EXPONENT = 0.5  # of distances; with 1, the usual, the spread within a way drowns in the noise


@dataclass(frozen=True)
class ChunkProblem:
    """The distribution of chunks given a context.

    contexts: how many contexts there are; None draws new ones for every batch, so that success
    needs generalization. spread: what one unit of u moves, noise: deviation of the independent
    noise, both in action units (the range is about ±1). seed: of contexts and mode weights.

    Raises ValueError for sizes too small and for a spread or noise that is not positive.
    """

    horizon: int = 8
    action_dim: int = 4
    modes: int = 4
    context_dim: int = 6
    contexts: int | None = 32
    seed: int = 0
    spread: float = 0.03
    noise: float = 0.002

    def __post_init__(self) -> None:
        smallest = {"horizon": 2, "action_dim": 2, "modes": 2, "context_dim": 1, "contexts": 1}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.spread <= 0 or self.noise <= 0:
            raise ValueError(
                f"spread and noise must be positive, got {self.spread} and {self.noise}"
            )

    @cached_property
    def direction(self) -> Tensor:
        """What one unit of u adds to a chunk: (H, D). Later steps move further forward."""
        direction = torch.zeros(self.horizon, self.action_dim)
        movements = self.action_dim - 1
        for dimension, profile in enumerate((self._progress, self._bump)[:movements]):
            direction[:, dimension] = self.spread * profile
        return direction

    @cached_property
    def deviation(self) -> Tensor:
        """Deviation of the independent noise: (D,). The gripper has none."""
        deviation = torch.full((self.action_dim,), self.noise)
        deviation[-1] = 0.0
        return deviation

    def sample_contexts(self, count: int, generator: torch.Generator) -> Tensor:
        """Contexts (count, C) for training, each coordinate in [-1, 1]."""
        if self.contexts is None:
            return _uniform(count, self.context_dim, generator)
        return self._pool[torch.randint(self.contexts, (count,), generator=generator)]

    def evaluation_contexts(self, count: int) -> Tensor:
        """Contexts (count, C) to be judged on: the first of the fixed ones, or unseen ones.

        Raises ValueError if there are fewer."""
        if self.contexts is None:
            generator = torch.Generator().manual_seed(self.seed + HELD_OUT)
            return _uniform(count, self.context_dim, generator)
        if count > self.contexts:
            raise ValueError(f"the problem has {self.contexts} contexts, {count} were asked for")
        return self._pool[:count]

    def mode_weights(self, contexts: Tensor) -> Tensor:
        """Probability of each mode (B, M) in contexts (B, C)."""
        return (contexts @ self._preference).softmax(-1)

    def mode_chunks(self, contexts: Tensor) -> Tensor:
        """The middle of every mode, without shift and noise: contexts (B, C) to (B, M, H, D)."""
        order = torch.arange(FEATURES) % self.context_dim
        reach, sway, start, width, phase, height = contexts[:, order].T[:, :, None, None]
        mode = torch.arange(self.modes)
        side = (2.0 * (mode % 2) - 1)[:, None]
        level = (mode // 2 / max(1, (self.modes - 1) // 2))[:, None]
        progress, bump = self._progress, self._bump
        motions = [
            -0.6 + (0.7 + 0.3 * reach) * progress + 0.1 * sway * side * bump,
            0.3 * start
            + side * (0.35 + 0.1 * width) * bump
            + 0.08 * torch.sin(2 * math.pi * progress + 2 * phase),
            level * (0.4 + 0.1 * height) * bump**2,
        ]
        for turn in range(self.action_dim - 1 - len(motions)):
            angle = (turn + 1) * phase + 2 * math.pi * mode[:, None] / self.modes
            motions.append(0.3 * torch.sin(math.pi * progress + angle))
        closing = self.horizon * (0.25 + 0.4 * mode[:, None] / (self.modes - 1) + 0.17 * reach)
        closed = torch.arange(self.horizon) >= closing.round()
        motions = [*motions[: self.action_dim - 1], torch.where(closed, -GRIPPER, GRIPPER)]
        shape = (len(contexts), self.modes, self.horizon)
        return torch.stack([motion.expand(shape) for motion in motions], dim=-1)

    def sample(self, contexts: Tensor, generator: torch.Generator) -> Tensor:
        """One demonstrated chunk for each of the contexts (B, C): (B, H, D)."""
        batch = torch.arange(len(contexts))
        mode = torch.multinomial(self.mode_weights(contexts), 1, generator=generator)[:, 0]
        middle = self.mode_chunks(contexts)[batch, mode]
        shift = torch.randn(len(contexts), 1, 1, generator=generator)
        noise = torch.randn(middle.shape, generator=generator)
        return middle + shift * self.direction + noise * self.deviation

    @cached_property
    def _progress(self) -> Tensor:
        return torch.arange(1, self.horizon + 1) / self.horizon

    @cached_property
    def _bump(self) -> Tensor:
        return torch.sin(math.pi * (torch.arange(self.horizon) + 0.5) / self.horizon)

    @cached_property
    def _preference(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return 0.8 * torch.randn(self.context_dim, self.modes, generator=generator)

    @cached_property
    def _pool(self) -> Tensor:
        assert self.contexts is not None
        generator = torch.Generator().manual_seed(self.seed + 1)
        return _uniform(self.contexts, self.context_dim, generator)


class ChunkQuality(NamedTuple):
    """How good sampled chunks are.

    coherence: share that lies on one mode throughout, within 0.1 of it after the best shift u in
    [-3, 3]. mae: median absolute distance from there, ×10⁻³ action units, over all dimensions but
    the gripper, of coherent chunks only; None without any. tv: total variation between the modes'
    frequencies and their true weights, mean over contexts; each chunk counts for its nearest mode.
    spread: deviation of u among the coherent chunks of one context and one mode, pooled over these;
    1 if their variety is that of the data, 0 for a policy without chance; None where no two chunks
    share a mode. energy_distance: to exact chunks of the same context, see `energy_distance`, mean
    over contexts, ×10⁻³; None with a single chunk in each.
    """

    coherence: float
    mae: float | None
    tv: float
    spread: float | None
    energy_distance: float | None


def measure(problem: ChunkProblem, contexts: Tensor, chunks: Tensor) -> ChunkQuality:
    """Judge chunks (B, S, H, D) sampled in contexts (B, C). Raises ValueError for other shapes."""
    expected = (len(contexts), problem.horizon, problem.action_dim)
    if chunks.ndim != 4 or (chunks.shape[0], *chunks.shape[2:]) != expected:
        raise ValueError(
            f"expected chunks ({expected[0]}, S, {expected[1]}, {expected[2]}), "
            f"got {tuple(chunks.shape)}"
        )
    direction = problem.direction
    residual = chunks[:, :, None] - problem.mode_chunks(contexts)[:, None]
    shift = (residual * direction).sum((-1, -2)) / direction.square().sum()
    shift = shift.clamp(-MAX_SHIFT, MAX_SHIFT)
    residual = residual - shift[..., None, None] * direction
    nearest = residual.square().mean((-1, -2)).argmin(-1)
    own = residual.take_along_dim(nearest[:, :, None, None, None], dim=2).squeeze(2)
    coherent = own.abs().amax((-1, -2)) < TOLERANCE
    distance = own[coherent][..., :-1].abs()
    own_shift = shift.take_along_dim(nearest[:, :, None], dim=2).squeeze(2)
    way = torch.arange(len(contexts))[:, None] * problem.modes + nearest
    frequency = F.one_hot(nearest, problem.modes).float().mean(1)
    return ChunkQuality(
        coherence=coherent.float().mean().item(),
        mae=1000 * distance.median().item() if len(distance) else None,
        tv=_total_variation(frequency, problem.mode_weights(contexts)).mean().item(),
        spread=_pooled_deviation(own_shift[coherent], way[coherent]),
        energy_distance=_distance_to_exact(problem, contexts, chunks),
    )


def _pooled_deviation(values: Tensor, group: Tensor) -> float | None:
    """Deviation of values (N,) from the means of their groups (N,), None without two in one."""
    _, group, count = group.unique(return_inverse=True, return_counts=True)
    freedom = len(values) - len(count)
    if freedom == 0:
        return None
    values = values.double()  # so that equal ones deviate by nothing
    mean = torch.zeros(len(count), dtype=values.dtype).index_add(0, group, values) / count
    return ((values - mean[group]).square().sum() / freedom).sqrt().item()


def _distance_to_exact(problem: ChunkProblem, contexts: Tensor, chunks: Tensor) -> float | None:
    if chunks.shape[1] < 2:
        return None
    generator = torch.Generator().manual_seed(problem.seed + EXACT)
    exact = problem.sample(contexts.repeat_interleave(EXACT_CHUNKS, 0), generator)
    exact = exact.unflatten(0, (len(contexts), EXACT_CHUNKS))
    return 1000 * energy_distance(chunks.flatten(2), exact.flatten(2)).mean().item()


def energy_distance(first: Tensor, second: Tensor) -> Tensor:
    """Energy distance (B,) between the distributions of samples (B, S, n) and (B, T, n):

        2 E|X - Y|^β - E|X - X'|^β - E|Y - Y'|^β,  β = 0.5

    with Euclidean norms and means over all pairs of different samples, so that it is unbiased (a
    U-statistic): 0 on average, at times negative, if the distributions are the same, and larger
    for any other (Székely & Rizzo, Energy statistics, J. Stat. Plan. Inference 143, 2013, for
    0 < β < 2). Raises ValueError for fewer than two samples on either side."""
    if min(first.shape[1], second.shape[1]) < 2:
        raise ValueError(
            f"the energy distance needs two samples on either side, got {first.shape[1]} and "
            f"{second.shape[1]}"
        )
    across = _distances(first, second).mean((1, 2))
    return 2 * across - _mean_of_pairs(first) - _mean_of_pairs(second)


def _distances(first: Tensor, second: Tensor) -> Tensor:
    # Not by products of matrices, which round small distances away.
    exactly = "donot_use_mm_for_euclid_dist"
    return torch.cdist(first, second, compute_mode=exactly).pow(EXPONENT)


def _mean_of_pairs(samples: Tensor) -> Tensor:
    """Over pairs of different samples (B, S, n): a sample's distance to itself is 0."""
    count = samples.shape[1]
    return _distances(samples, samples).sum((1, 2)) / (count * (count - 1))


def tv_floor(problem: ChunkProblem, contexts: Tensor, chunks: int, repeats: int = 200) -> float:
    """Expected `tv` of exact samples, `chunks` in each of the contexts (B, C).

    Frequencies of finitely many draws differ from the weights even if these are right."""
    weights = problem.mode_weights(contexts)
    generator = torch.Generator().manual_seed(problem.seed)
    drawn = torch.multinomial(weights, repeats * chunks, replacement=True, generator=generator)
    drawn = F.one_hot(drawn.view(len(contexts), repeats, chunks), problem.modes)
    return _total_variation(drawn.float().mean(2), weights[:, None]).mean().item()


def _total_variation(first: Tensor, second: Tensor) -> Tensor:
    return 0.5 * (first - second).abs().sum(-1)


def _uniform(count: int, size: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(count, size, generator=generator) - 1
