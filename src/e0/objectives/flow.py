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
    continued,
    starting_noise,
    training_time,
)
from e0.prefix import Held, times_of_steps
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
        given: Tensor | None = None,
    ) -> Tensor:
        valid = valid.repeat_interleave(draws, dim=0)
        clean = standardize(self.tokenizer, actions).repeat_interleave(draws, dim=0)
        clean = clean.masked_fill(~valid[..., None], 0.0)  # padded steps carry no signal
        time = training_time(len(clean), self.time_distribution, noise, clean.device)
        noise = starting_noise(noise, (*clean.shape, 1), None, clean.device)[..., 0]
        if given is not None:
            time, valid = times_of_steps(time, given), valid & ~given
        velocity = denoise(interpolate(clean, noise, time)[..., None], time)[..., 0]
        error = velocity.float() - (noise - clean)
        return mean_over_valid(error.square(), valid).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        steps, device = sampling.steps, self.tokenizer.codebook.device
        shape = (batch, horizon, self.tokenizer.action_dim, 1)
        x = starting_noise(sampling.noise, shape, sampling.generator, device, self.start)
        held = hold_actions(self.tokenizer, x, sampling)
        times = 1 - torch.arange(steps, device=device, dtype=torch.float32) / steps
        for now in times:
            time = now.expand(batch)
            if held is not None:
                x, time = held.put(x, time, 1 - now, now)
            x = x - denoise(x, time).float() / steps
        chunk = ActionChunk(to_actions(self.tokenizer, x[..., 0]), None, steps, None)
        return continued(chunk, sampling.prefix)


def hold_actions(tokenizer: ActionTokenizer, start: Tensor, sampling: Sampling) -> Held | None:
    """Given steps as standardized actions, where sampling starts from `start` (B, H, D, 1)."""
    prefix = sampling.prefix
    if prefix is None:
        return None
    clean = tokenizer.standardize(prefix.actions)[..., None]
    return Held(clean, start, prefix.mask, sampling.own_time)


def interpolate(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """(1 - t) clean + t noise, of (B, H, D) at the times (B,), or of every step (B, H)."""
    t = time.reshape(len(time), -1, 1)
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
