"""Flow matching and one-hot E0 in one network, half and half."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from e0.diffusion import SCHEDULES, OneHotEmbedding, corrupt, mean_over_valid, sample
from e0.heads import TokenHead
from e0.known import require_known
from e0.objectives.flow import hold_actions, interpolate, standardize, to_actions
from e0.objectives.interface import (
    ActionChunk,
    Denoise,
    Sampling,
    continued,
    refuse_noise,
    starting_noise,
)
from e0.posterior import read_out
from e0.prefix import Held, times_of_steps
from e0.training_times import TIME_DISTRIBUTIONS, sample_time


@dataclass(frozen=True, eq=False)
class HybridObjective:
    """The combination that E0's authors released: the network sees noisy actions and noisy one-hot
    tokens side by side, the loss is ½ velocity error + ½ cross-entropy, and the action the mean of
    what both branches say.

    Unlike the release, which renews unit noise at every step whatever the time, sampling follows
    the path of training: Euler steps for the actions, DDIM steps for the tokens, in one loop.

    Raises ValueError for an unknown time distribution.
    """

    head: TokenHead
    time_distribution: str = "beta"

    causal = False

    def __post_init__(self) -> None:
        require_known("time distribution", self.time_distribution, TIME_DISTRIBUTIONS)

    @property
    def input_width(self) -> int:
        return 1 + self.head.tokenizer.vocabulary_size

    @property
    def output_width(self) -> int:
        return 1 + self.head.width

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        refuse_noise(noise, "loss of the hybrid")
        tokenizer = self.head.tokenizer
        valid = valid.repeat_interleave(draws, dim=0)
        padded = ~valid[..., None]
        tokens = tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        clean = standardize(tokenizer, actions).repeat_interleave(draws, dim=0)
        clean = clean.masked_fill(padded, 0.0)  # padded steps carry no signal
        one_hot = self._embedding.embed(tokens).masked_fill(padded[..., None], 0.0)
        time = sample_time(len(clean), self.time_distribution, device=clean.device)
        noise = torch.randn_like(clean)
        if given is not None:
            time, valid = times_of_steps(time, given), valid & ~given
        noisy = interpolate(clean, noise, time)[..., None]
        outputs = denoise(
            torch.cat((noisy, corrupt(one_hot, time, SCHEDULES["linear"]).noisy), -1), time
        )
        error = outputs[..., 0].float() - (noise - clean)
        flow = mean_over_valid(error.square(), valid)
        code = self.head.loss(self.head.logits()(outputs[..., 1:]), tokens, valid)
        return (0.5 * flow + 0.5 * code).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        tokenizer, logits = self.head.tokenizer, self.head.logits()
        device = tokenizer.codebook.device
        chunk = (batch, horizon, tokenizer.action_dim)
        start = starting_noise(
            sampling.noise, (*chunk, self.input_width), sampling.generator, device
        )
        x = start[..., :1]
        held_actions, held_codes = hold_actions(tokenizer, x, sampling), None
        if sampling.prefix is not None:
            one_hot = self._embedding.embed(tokenizer.nearest(sampling.prefix.actions))
            mask = sampling.prefix.mask
            held_codes = Held(one_hot, start[..., 1:], mask, sampling.own_time)

        def both_branches(noisy: Tensor, time: Tensor) -> Tensor:
            """Logits for the token branch; the flow branch takes its own step on the way."""
            nonlocal x
            if held_actions is not None:
                now = time.amax()
                x, _ = held_actions.put(x, now.expand(batch), 1 - now, now)
            outputs = denoise(torch.cat((x, noisy), -1), time)
            x = x - outputs[..., :1].float() / sampling.steps
            return logits(outputs[..., 1:])

        drawn = sample(
            both_branches,
            self._embedding,
            chunk,
            schedule=SCHEDULES["linear"],
            steps=sampling.steps,
            initial_noise=start[..., 1:],
            held=held_codes,
            keep_trace=sampling.keep_trace,
            device=device,
        )
        codes = read_out(drawn.logits, tokenizer.codebook)
        actions = 0.5 * to_actions(tokenizer, x[..., 0]) + 0.5 * codes
        chunk = ActionChunk(actions, drawn.entropy, drawn.steps_taken, drawn.trace)
        return continued(chunk, sampling.prefix)

    @property
    def _embedding(self) -> OneHotEmbedding:
        return OneHotEmbedding(self.head.tokenizer.vocabulary_size)
