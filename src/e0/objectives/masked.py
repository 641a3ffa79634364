"""Discrete diffusion by masking: hidden tokens are predicted and revealed, the surest first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from e0.heads import TokenHead
from e0.objectives.diffusion import require_temperature
from e0.objectives.interface import ActionChunk, Denoise, Sampling, continued, refuse_noise
from e0.posterior import draw, gumbel, posterior_entropy
from e0.prefix import times_of_steps


@dataclass(frozen=True, eq=False)
class MaskedObjective:
    """MaskGIT (arXiv 2202.04200) on action tokens, as in Discrete Diffusion VLA (arXiv 2508.20072).

    Training hides a share cos(πu/2) of the tokens, u uniform, and predicts them. Sampling starts
    with all hidden and after the k-th of K evaluations leaves a share cos(πk/2K) hidden: those
    whose drawn token is least probable, with Gumbel noise on the log-probability that fades out.
    `remask` lets tokens that were revealed compete again, under the present prediction (secondary
    re-masking); otherwise a revealed token stays.

    The network sees tokens as one-hot vectors with one more place for "hidden", and the share that
    is hidden as the time. Given steps are never hidden, and no part of that share. Raises
    ValueError for a negative temperature or noise.
    """

    head: TokenHead
    temperature: float = 1.0
    confidence_noise: float = 1.0
    remask: bool = False

    causal = False

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        if not self.confidence_noise >= 0:
            raise ValueError(f"confidence_noise must not be negative, got {self.confidence_noise}")

    @property
    def input_width(self) -> int:
        return self._hidden_code + 1

    @property
    def output_width(self) -> int:
        return self.head.width

    @property
    def _hidden_code(self) -> int:
        return self.head.tokenizer.vocabulary_size

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        refuse_noise(noise, "masked")
        tokens = self.head.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)[..., None].expand_as(tokens)
        share = torch.cos(torch.rand(len(tokens), device=tokens.device) * (math.pi / 2))
        order = torch.rand(tokens.shape, device=tokens.device).masked_fill(~valid, 1.0)
        time = share
        if given is not None:
            order = order.masked_fill(given[..., None], 1.0)
            time = times_of_steps(share, given)
        hidden = order < share[:, None, None]
        # At least one token to predict, or the draw would teach nothing.
        hidden |= order == order.flatten(1).amin(1)[:, None, None]
        # Padded steps stay hidden: they carry no signal.
        logits = self._logits(denoise, tokens, hidden | ~valid, time)
        return self.head.loss(logits, tokens, hidden & valid).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "masked")
        steps = sampling.steps
        device = self.head.tokenizer.codebook.device
        shape = (batch, horizon, self.head.tokenizer.action_dim)
        tokens = torch.zeros(shape, dtype=torch.long, device=device)
        entropy = torch.zeros(shape, device=device)
        hidden = torch.ones(shape, dtype=torch.bool, device=device)
        trace: list[Tensor] = []
        prefix, count = sampling.prefix, hidden[0].numel()
        if prefix is not None:
            given = prefix.mask[..., None]
            tokens = torch.where(given, self.head.tokenizer.nearest(prefix.actions), tokens)
            hidden = hidden & ~given
        for step in range(steps):
            time = torch.full((batch,), math.cos(math.pi / 2 * step / steps), device=device)
            if prefix is not None and sampling.own_time:
                time = times_of_steps(time, prefix.mask)
            logits = self._logits(denoise, tokens, hidden, time)
            if sampling.keep_trace:
                trace.append(logits)
            drawn = draw(logits, self.temperature, sampling.generator)
            tokens = torch.where(hidden, drawn, tokens)
            entropy = torch.where(hidden, posterior_entropy(logits), entropy)
            remaining: int | Tensor = _still_hidden(count, step, steps)
            if step == steps - 1 or remaining == 0:
                break
            if prefix is not None:
                counts = [shape[2] * left for left in range(horizon + 1)]
                every = torch.tensor([_still_hidden(n, step, steps) for n in counts], device=device)
                remaining = every[(~prefix.mask).sum(1)]
            fading = self.confidence_noise * (1 - (step + 1) / steps)
            confidence = self._confidence(logits, tokens, hidden, fading, sampling.generator)
            if prefix is not None:
                confidence = confidence.masked_fill(prefix.mask[..., None], torch.inf)
            hidden = _least(confidence, remaining)
        actions = self.head.tokenizer.decode(tokens)
        chunk = ActionChunk(actions, entropy, step + 1, trace if sampling.keep_trace else None)
        return continued(chunk, prefix)

    def _confidence(
        self,
        logits: Tensor,
        tokens: Tensor,
        hidden: Tensor,
        noise: float,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Log-probability of each token (B, H, D) with Gumbel noise; infinite where it stays."""
        confidence = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        confidence = confidence + noise * gumbel(confidence, generator)
        return confidence if self.remask else confidence.masked_fill(~hidden, torch.inf)

    def _logits(self, denoise: Denoise, tokens: Tensor, hidden: Tensor, share: Tensor) -> Tensor:
        seen = tokens.masked_fill(hidden, self._hidden_code)
        return self.head.logits()(denoise(F.one_hot(seen, self.input_width).float(), share))


def _still_hidden(count: int, step: int, steps: int) -> int:
    """How many of `count` tokens an evaluation leaves hidden; every one reveals something."""
    remaining = math.floor(count * math.cos(math.pi / 2 * (step + 1) / steps))
    return max(0, min(remaining, count - step - 1))


def _least(confidence: Tensor, count: int | Tensor) -> Tensor:
    """True for the `count` smallest of each chunk's confidences (B, H, D); as many of all chunks,
    or of each its own number (B,)."""
    rank = confidence.flatten(1).argsort(-1).argsort(-1)
    count = count if isinstance(count, int) else count[:, None]
    return (rank < count).view_as(confidence)
