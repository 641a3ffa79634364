"""Continuous diffusion: flow matching of the actions themselves, as in pi-0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from e0.diffusion import mean_over_valid
from e0.known import require_known
from e0.objectives.interface import (
    STARTS,
    ActionChunk,
    Denoise,
    Sampling,
    starting_noise,
    training_time,
)
from e0.tokens import ActionTokenizer
from e0.training_times import TIME_DISTRIBUTIONS


@dataclass(frozen=True, eq=False)
class FlowObjective:
    """Flow matching (Lipman et al., arXiv 2210.02747) with pi-0's choices (arXiv 2410.24164): the
    straight path x_t = (1 - t) a + t ε, the velocity ε - a as the target, t ~ Beta(1.5, 1), and
    Euler steps from noise (t = 1) to the actions (t = 0).

    The tokenizer only standardizes the actions and tells their range: what comes out beyond the
    range of the demonstrations is set to its end, as codes cannot leave it either.

    Raises ValueError for an unknown time distribution or start.
    """

    tokenizer: ActionTokenizer
    time_distribution: str = "beta"
    start: str = "noise"

    causal = False
    input_width = 1
    output_width = 1

    def __post_init__(self) -> None:
        require_known("time distribution", self.time_distribution, TIME_DISTRIBUTIONS)
        require_known("start", self.start, STARTS)

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
    ) -> Tensor:
        valid = valid.repeat_interleave(draws, dim=0)
        clean = standardize(self.tokenizer, actions).repeat_interleave(draws, dim=0)
        clean = clean.masked_fill(~valid[..., None], 0.0)  # padded steps carry no signal
        time = training_time(len(clean), self.time_distribution, noise, clean.device)
        noise = starting_noise(noise, (*clean.shape, 1), None, clean.device)[..., 0]
        velocity = denoise(interpolate(clean, noise, time)[..., None], time)[..., 0]
        error = velocity.float() - (noise - clean)
        return mean_over_valid(error.square(), valid).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        steps, device = sampling.steps, self.tokenizer.codebook.device
        shape = (batch, horizon, self.tokenizer.action_dim, 1)
        x = starting_noise(sampling.noise, shape, sampling.generator, device, self.start)
        times = 1 - torch.arange(steps, device=device, dtype=torch.float32) / steps
        for time in times:
            x = x - denoise(x, time.expand(batch)).float() / steps
        return ActionChunk(to_actions(self.tokenizer, x[..., 0]), None, steps, None)


def interpolate(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """(1 - t) clean + t noise, of (B, H, D) at the times (B,)."""
    t = time[:, None, None]
    return (1 - t) * clean + t * noise


def standardize(tokenizer: ActionTokenizer, actions: Tensor) -> Tensor:
    """Actions (..., D) with mean 0 and deviation 1 over the data the tokenizer was fitted to;
    outliers count as the end of what is none.

    Raises ValueError for NaN or infinity, TokenizerNotFittedError if it was not fitted.
    """
    return tokenizer.standardize(tokenizer.check(actions))


def to_actions(tokenizer: ActionTokenizer, standardized: Tensor) -> Tensor:
    """The inverse of `standardize`, kept within the range of the codebooks; NaN where it is not
    finite, since the end of the range would look like an action that is meant."""
    tokenizer.require_fitted()
    actions = standardized * tokenizer.scale + tokenizer.center
    actions = actions.masked_fill(actions.isinf(), torch.nan)
    return actions.clamp(tokenizer.codebook[:, 0], tokenizer.codebook[:, -1])
