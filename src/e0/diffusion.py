"""Continuized discrete diffusion of token chunks: embed, corrupt, denoise, read out.

A token a of dimension d is embedded as φ_d(a) in R^m and corrupted to x_t = α_t φ_d(a) + σ_t ε,
from t = 0 (clean) to t = 1 (noise). A network, here only a callable, maps x_t to logits over the
V codes. Their softmax p estimates the posterior of the token, so Σ_v p_v φ_d(v) is the posterior
mean of the clean embedding: Tweedie's formula, and the prediction that the sampler steps along.

Shapes: B chunks, H steps, D action dimensions, V codes, m embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from e0.known import require_known
from e0.posterior import draw, posterior_entropy
from e0.prefix import Held
from e0.tokens import ActionTokenizer

SAMPLERS = ("ddim", "ancestral")
GRIDS = ("even", "dense_jump")
JUMP_FROM = 0.25

Denoise = Callable[[Tensor, Tensor], Tensor]


class Schedule(NamedTuple):
    """Signal and noise amplitudes as functions of the time t in [0, 1], tensors of any shape."""

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]


SCHEDULES = {
    "linear": Schedule(alpha=lambda t: 1 - t, sigma=lambda t: t),
    "cosine": Schedule(
        alpha=lambda t: torch.cos(t * (math.pi / 2)), sigma=lambda t: torch.sin(t * (math.pi / 2))
    ),
}


class TokenEmbedding(Protocol):
    """A map from tokens to R^m, and from distributions over tokens to its expectation."""

    @property
    def width(self) -> int:
        """The width m."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings (..., D, m) of tokens (..., D)."""
        ...

    def mean(self, probabilities: Tensor) -> Tensor:
        """Expected embeddings (..., D, m) under probabilities (..., D, V)."""
        ...


@dataclass(frozen=True, eq=False)
class OrdinalEmbedding:
    """Width 1: the code's value, standardized by the mean and deviation of the data, and kept
    within ± `limit`.

    Nearby codes look alike, so denoising goes from coarse to fine, at the cost of D numbers a
    step whatever V. It reads the tokenizer's buffers at every call, and so follows their moves
    between devices, a later fit, or a loaded checkpoint. Values need float32: half precision
    does not resolve fine codebooks. Raises TokenizerNotFittedError if the tokenizer is unfitted.
    """

    tokenizer: ActionTokenizer
    limit: float = math.inf

    @property
    def width(self) -> int:
        return 1

    def embed(self, tokens: Tensor) -> Tensor:
        table = self.table()
        dimension = torch.arange(len(table), device=tokens.device)
        return table[dimension, tokens][..., None]

    def mean(self, probabilities: Tensor) -> Tensor:
        table = self.table().to(probabilities.dtype)
        return torch.einsum("...dv,dv->...d", probabilities, table)[..., None]

    def table(self) -> Tensor:
        """The embeddings of all codes: (D, V)."""
        tokenizer = self.tokenizer
        return tokenizer.standardize(tokenizer.codebook.T).T.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class OneHotEmbedding:
    """Width V: `scale` at the token's place, zero elsewhere (the embedding of the E0 paper)."""

    vocabulary_size: int
    scale: float = 1.0

    @property
    def width(self) -> int:
        return self.vocabulary_size

    def embed(self, tokens: Tensor) -> Tensor:
        shape = (*tokens.shape, self.vocabulary_size)
        zeros = torch.zeros(shape, device=tokens.device)
        return zeros.scatter_(-1, tokens[..., None], self.scale)

    def mean(self, probabilities: Tensor) -> Tensor:
        return probabilities if self.scale == 1.0 else self.scale * probabilities


class Corrupted(NamedTuple):
    """A corrupted chunk: noisy = alpha * clean + sigma * noise.

    noisy, noise: (B, H, D, m). t: (B,) or (B, H). alpha, sigma: (B, 1 or H, 1, 1).
    """

    noisy: Tensor
    noise: Tensor
    t: Tensor
    alpha: Tensor
    sigma: Tensor


def corrupt(
    clean: Tensor,
    t: Tensor,
    schedule: Schedule,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Corrupted:
    """Corrupt clean embeddings (B, H, D, m) to the times t (B,), or of every step (B, H).

    `noise` defaults to standard normal numbers from `generator`. Raises ValueError for shapes
    that do not match and, on the CPU only, for a time outside [0, 1]: on another device the check
    would have to wait for it.
    """
    if t.shape not in (clean.shape[:1], clean.shape[:2]):
        raise ValueError(
            f"t must have shape ({clean.shape[0]},) or {tuple(clean.shape[:2])}, got "
            f"{tuple(t.shape)}"
        )
    if t.device.type == "cpu" and not ((t >= 0) & (t <= 1)).all():
        raise ValueError(f"t must lie in [0, 1], got {t.tolist()}")
    if noise is None:
        noise = torch.randn(
            clean.shape, device=clean.device, dtype=clean.dtype, generator=generator
        )
    elif noise.shape != clean.shape:
        raise ValueError(
            f"noise must have the shape of clean, {tuple(clean.shape)}, got {tuple(noise.shape)}"
        )
    broadcast = t.reshape(clean.shape[0], -1, *[1] * (clean.ndim - 2))
    alpha = schedule.alpha(broadcast).to(clean.dtype)
    sigma = schedule.sigma(broadcast).to(clean.dtype)
    return Corrupted(alpha * clean + sigma * noise, noise, t, alpha, sigma)


def cross_entropy(logits: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy of each chunk in nats: (B,).

    logits (B, H, D, V), tokens (B, H, D), valid (B, H) or (B, H, D) bool. The mean is over the
    valid tokens; a chunk without any gives zero. Computed in float32. Raises ValueError for shapes
    that do not match.
    """
    if logits.shape[:-1] != tokens.shape or valid.shape not in (tokens.shape, tokens.shape[:2]):
        raise ValueError(
            "expected logits (B, H, D, V), tokens (B, H, D), valid (B, H) or (B, H, D); got "
            f"{tuple(logits.shape)}, {tuple(tokens.shape)}, {tuple(valid.shape)}"
        )
    flat = F.cross_entropy(logits.float().flatten(0, -2), tokens.flatten(), reduction="none")
    return mean_over_valid(flat.view(tokens.shape), valid)


def mean_over_valid(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values (B, H, D) over the valid, (B, H) or (B, H, D) bool: (B,); zero without any."""
    if valid.ndim < values.ndim:
        valid = valid[..., None].expand_as(values)
    total = values.masked_fill(~valid, 0.0).flatten(1).sum(-1)
    return total / valid.flatten(1).sum(-1).clamp_min(1)


class Sample(NamedTuple):
    """What `sample` returns.

    logits: (B, H, D, V), of the last evaluation. entropy: (B, H, D) in nats, of the posterior.
    steps_taken: evaluations of the network. trace: the logits of every evaluation, if asked for.
    """

    logits: Tensor
    entropy: Tensor
    steps_taken: int
    trace: list[Tensor] | None


def sample(
    denoise: Denoise,
    embedding: TokenEmbedding,
    shape: tuple[int, int, int],
    *,
    schedule: Schedule,
    steps: int = 4,
    grid: str = "even",
    sampler: str = "ddim",
    temperature: float = 1.0,
    cooling: bool = False,
    generator: torch.Generator | None = None,
    initial_noise: Tensor | None = None,
    held: Held | None = None,
    early_stop: bool = False,
    keep_trace: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sample:
    """Draw chunks of shape (B, H, D): from noise, `steps` evaluations at the `step_times`.

    `denoise(x_t, t)` maps (B, H, D, m) and (B,) to logits (B, H, D, V); those of the last
    evaluation are the result, see `read_out`. Between evaluations, with t' < t the next time:

        x_t' = α' x̂ + σ' (ρ (x_t - α x̂) / σ + sqrt(1 - ρ²) ε)

    `ddim` (Song et al., arXiv:2010.02502) takes the posterior mean as x̂ and ρ = 1, deterministic
    given the initial noise. `ancestral` (Ho et al., arXiv:2006.11239) draws the tokens of x̂ from
    the posterior, fresh noise ε, and ρ = (α / σ) / (α' / σ'): the exact conditional of x_t' given
    x_t and the tokens. Keeping that share of the old noise matters: tokens are drawn each by
    itself, and only x_t remembers how they belong together. With fresh noise alone (ρ = 0) the
    samples would drift from the data's distribution the more steps are taken.

    `temperature` divides the logits before x̂ is formed; 0 takes the most likely codes. With
    `cooling` it falls evenly, to 0 where the last evaluation is read out.
    `initial_noise` (B, H, D, m) replaces the noise at t = 1. What is `held` of a chunk is put into
    its place before each evaluation; logits there mean nothing. `early_stop` ends when no most
    likely token of the batch has changed since the evaluation before, and is the only thing that
    waits for the device. Raises ValueError for fewer than one step, an unknown grid or sampler, or
    noise or logits of another shape.
    """
    require_known("sampler", sampler, SAMPLERS)
    noise_shape = (*shape, embedding.width)
    if initial_noise is None:
        noisy = torch.randn(noise_shape, device=device, dtype=dtype, generator=generator)
    elif initial_noise.shape == noise_shape:
        noisy = initial_noise.to(device=device, dtype=dtype)
    else:
        raise ValueError(
            f"initial_noise must have shape {noise_shape}, got {tuple(initial_noise.shape)}"
        )
    ancestral = sampler == "ancestral"
    times = step_times(steps, grid, noisy.device)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    keep, pull, fresh = _step_coefficients(alpha, sigma, ancestral)
    trace: list[Tensor] = []
    previous = None
    step = 0
    while True:
        time = times[step].expand(shape[0])
        if held is not None:
            noisy, time = held.put(noisy, time, alpha[step], sigma[step])
        logits = denoise(noisy, time)
        if logits.shape[:-1] != torch.Size(shape):
            raise ValueError(f"denoise must return {(*shape, 'V')}, got {tuple(logits.shape)}")
        if keep_trace:
            trace.append(logits)
        if step == steps - 1:
            break
        if early_stop:
            best = logits.argmax(-1)
            if held is not None:
                best = best.masked_fill(held.mask[..., None], 0)
            if previous is not None and torch.equal(best, previous):
                break
            previous = best
        warmth = temperature * (1 - step / (steps - 1)) if cooling else temperature
        if ancestral:
            clean = embedding.embed(draw(logits, warmth, generator)).to(dtype)
            noise = torch.randn(noise_shape, device=noisy.device, dtype=dtype, generator=generator)
            noisy = keep[step] * noisy + pull[step] * clean + fresh[step] * noise
        else:
            clean = _predict(logits, embedding, warmth).to(dtype)
            noisy = keep[step] * noisy + pull[step] * clean
        step += 1
    return Sample(logits, posterior_entropy(logits), step + 1, trace if keep_trace else None)


def step_times(steps: int, grid: str = "even", device: torch.device | str | None = None) -> Tensor:
    """Times (K,) of a sampler's evaluations, from t = 1 down.

    `even` are 1, 1 - 1/K, ..., 1/K. `dense_jump` lie between 1 and .25, from where the last one
    jumps to the clean tokens: later steps pull towards single demonstrations (Dense-Jump, arXiv
    2509.13574). Raises ValueError for fewer than one step or an unknown grid.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    require_known("time grid", grid, GRIDS)
    if grid == "even":
        return 1 - torch.arange(steps, device=device, dtype=torch.float32) / steps
    return torch.linspace(1, JUMP_FROM, steps, device=device, dtype=torch.float32)


def _step_coefficients(
    alpha: Tensor, sigma: Tensor, ancestral: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of x_t, x̂ and ε in each of the steps between the K times, at which signal and noise
    are these (K,): three tensors (K - 1,)."""
    alpha, next_alpha = alpha[:-1], alpha[1:]
    sigma, next_sigma = sigma[:-1], sigma[1:]
    rho = alpha * next_sigma / (sigma * next_alpha) if ancestral else torch.ones_like(alpha)
    keep = rho * next_sigma / sigma
    fresh = next_sigma * (1 - rho.square()).clamp_min(0).sqrt()
    return keep, next_alpha - keep * alpha, fresh


def _predict(logits: Tensor, embedding: TokenEmbedding, temperature: float) -> Tensor:
    """x̂ (B, H, D, m): the posterior mean, or the most likely codes' embeddings at temperature 0."""
    if temperature == 0:
        return embedding.embed(logits.argmax(-1))
    return embedding.mean((logits.float() / temperature).softmax(-1))
