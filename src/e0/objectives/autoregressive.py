"""One token after another, through all dimensions of all steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from e0.heads import TokenHead
from e0.network.transformer import DecodingCache
from e0.objectives.diffusion import require_temperature
from e0.objectives.interface import ActionChunk, Denoise, Sampling, continued, refuse_noise
from e0.posterior import draw, posterior_entropy


@dataclass(frozen=True, eq=False)
class AutoregressiveObjective:
    """Next-token prediction over (step, dimension), as RT-2 (arXiv 2307.15818) and OpenVLA do.

    The number of evaluations is H·D, one per token, whatever number of steps is asked for; keys
    and values of earlier tokens are kept. Given steps are tokens that are not drawn; as training
    always predicts tokens from those before, there is nothing else to learn for it. Raises
    ValueError for a negative temperature.
    """

    head: TokenHead
    temperature: float = 1.0

    causal = True

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    @property
    def input_width(self) -> int:
        return self.head.tokenizer.vocabulary_size

    @property
    def output_width(self) -> int:
        return self.head.width

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        refuse_noise(noise, "autoregressive")
        tokens = self.head.tokenizer.encode(actions)
        before = self._embed(tokens.flatten(1)).roll(1, dims=1)
        before[:, 0] = 0.0  # nothing comes before the first token
        outputs = denoise(before, before.new_zeros(len(before)))
        logits = self.head.logits()(outputs.view(*tokens.shape, -1))
        return self.head.loss(logits, tokens, valid)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "autoregressive")
        tokenizer = self.head.tokenizer
        to_logits, cache = self.head.logits(), DecodingCache()
        before = torch.zeros(batch, 1, 1, self.input_width, device=tokenizer.codebook.device)
        time = before.new_zeros(batch)
        prefix = sampling.prefix
        known = None if prefix is None else tokenizer.nearest(prefix.actions).flatten(1)
        tokens, entropy, trace = [], [], []
        for place in range(horizon * tokenizer.action_dim):
            outputs = denoise(before, time, cache)
            every = to_logits(outputs.expand(-1, -1, tokenizer.action_dim, -1))
            logits = every[:, 0, place % tokenizer.action_dim]
            token = draw(logits, self.temperature, sampling.generator)
            if prefix is not None and known is not None:
                step = place // tokenizer.action_dim
                token = torch.where(prefix.mask[:, step], known[:, place], token)
            tokens.append(token)
            entropy.append(posterior_entropy(logits))
            if sampling.keep_trace:
                trace.append(logits)
            before = self._embed(tokens[-1][:, None])
        shape = (batch, horizon, tokenizer.action_dim)
        chunk = ActionChunk(
            tokenizer.decode(torch.stack(tokens, 1).view(shape)),
            torch.stack(entropy, 1).view(shape),
            len(tokens),
            trace if sampling.keep_trace else None,
        )
        return continued(chunk, prefix)

    def _embed(self, tokens: Tensor) -> Tensor:
        """One-hot inputs (B, n, 1, V) of tokens (B, n)."""
        return F.one_hot(tokens, self.input_width).float()[:, :, None]
