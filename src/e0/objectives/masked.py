"""Discrete diffusion by masking: hidden tokens are predicted and revealed, the surest first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from e0.heads import TokenHead
from e0.objectives.diffusion import require_temperature
from e0.objectives.interface import ActionChunk, Denoise, Sampling, refuse_noise
from e0.posterior import draw, gumbel, posterior_entropy


@dataclass(frozen=True, eq=False)
class MaskedObjective:
    """MaskGIT (arXiv 2202.04200) on action tokens, as in Discrete Diffusion VLA (arXiv 2508.20072).

    Training hides a share cos(πu/2) of the tokens, u uniform, and predicts them. Sampling starts
    with all hidden and after the k-th of K evaluations leaves a share cos(πk/2K) hidden: those
    whose drawn token is least probable, with Gumbel noise on the log-probability that fades out.
    `remask` lets tokens that were revealed compete again, under the present prediction (secondary
    re-masking); otherwise a revealed token stays.

    The network sees tokens as one-hot vectors with one more place for "hidden", and the share that
    is hidden as the time. Raises ValueError for a negative temperature or noise.
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
    ) -> Tensor:
        refuse_noise(noise, "masked")
        tokens = self.head.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)[..., None].expand_as(tokens)
        share = torch.cos(torch.rand(len(tokens), device=tokens.device) * (math.pi / 2))
        order = torch.rand(tokens.shape, device=tokens.device).masked_fill(~valid, 1.0)
        hidden = order < share[:, None, None]
        # At least one token to predict, or the draw would teach nothing.
        hidden |= order == order.flatten(1).amin(1)[:, None, None]
        # Padded steps stay hidden: they carry no signal.
        logits = self._logits(denoise, tokens, hidden | ~valid, share)
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
        count = hidden[0].numel()
        for step in range(steps):
            share = torch.full((batch,), math.cos(math.pi / 2 * step / steps), device=device)
            logits = self._logits(denoise, tokens, hidden, share)
            if sampling.keep_trace:
                trace.append(logits)
            drawn = draw(logits, self.temperature, sampling.generator)
            tokens = torch.where(hidden, drawn, tokens)
            entropy = torch.where(hidden, posterior_entropy(logits), entropy)
            remaining = math.floor(count * math.cos(math.pi / 2 * (step + 1) / steps))
            remaining = min(remaining, count - step - 1)  # every evaluation reveals something
            if step == steps - 1 or remaining <= 0:
                break
            fading = self.confidence_noise * (1 - (step + 1) / steps)
            confidence = self._confidence(logits, tokens, hidden, fading, sampling.generator)
            hidden = _least(confidence, remaining)
        actions = self.head.tokenizer.decode(tokens)
        return ActionChunk(actions, entropy, step + 1, trace if sampling.keep_trace else None)

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


def _least(confidence: Tensor, count: int) -> Tensor:
    """True for the `count` smallest of each chunk's confidences (B, H, D)."""
    flat = confidence.flatten(1)
    chosen = flat.topk(count, dim=-1, largest=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, chosen, True).view_as(confidence)
