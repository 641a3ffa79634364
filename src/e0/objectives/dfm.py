"""Discrete flow matching: tokens jump to codes that lie nearer and nearer to the clean one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from e0.diffusion import OrdinalEmbedding
from e0.heads import TokenHead, padding_bias
from e0.known import require_known
from e0.objectives.diffusion import require_temperature
from e0.objectives.interface import (
    ActionChunk,
    Denoise,
    Sampling,
    continued,
    refuse_noise,
    training_time,
)
from e0.posterior import READ_OUTS, draw, posterior_entropy, read_out
from e0.prefix import times_of_steps
from e0.training_times import TIME_DISTRIBUTIONS


class MetricPath(NamedTuple):
    """How a token is corrupted, given the clean one: p_t(x | x₁) = softmax_x(-β_t d(x, x₁)).

    d is the squared distance of the codes' standardized values, so codes near the clean one are
    likelier, and β_t = ½ ((1 - t) / t)². That is c (s / (1 - s))^a of the paper at s = 1 - t with
    c = ½ and a = 2, for which the path is a Gaussian on the codes whose deviation is t / (1 - t):
    the noise of e0's linear schedule beside its signal, so that the two differ in how they sample
    and not in what a time means. At t = 1 all codes are equally likely; at .75 the deviation is
    three times the data's, at .01 a hundredth of it: about half a gap between 256 codes.

    values: (D, V), of the codes; outliers count as the end of what is none, and among codes of one
    value the path does not tell. bias: (D, V), -inf where a dimension has no code.
    """

    values: Tensor
    bias: Tensor

    def log_probabilities(self, clean: Tensor, time: Tensor) -> Tensor:
        """log p_t(x | x₁) of every code x, (B, H, D, V), for clean tokens (B, H, D) at times (B,)
        above 0."""
        place = torch.arange(len(self.values), device=clean.device)
        distance = (self.values - self.values[place, clean][..., None]).square()
        beta = 0.5 * ((1 - time) / time).square()
        return (self.bias - beta[:, None, None, None] * distance).log_softmax(-1)

    def transition(self, tokens: Tensor, clean: Tensor, time: Tensor, later: Tensor) -> Tensor:
        """Where tokens (B, H, D) at `time` are at the time `later`, (B,) each, on the way to the
        clean ones: probabilities (B, H, D, V).

        A token jumps from z to x with the probability max(0, q(x) - p(x) q(z) / p(z)), where p and
        q are the path at the two times, and else stays. That takes p to q exactly, since what flows
        from z to x less what flows back is p(z) q(x) - p(x) q(z). Jumps only lead to nearer codes,
        and as steps become small, their rates become the paper's kinetic-optimal velocity
        p(x) β' max(0, d(z, x₁) - d(x, x₁)). Euler steps of that one, as the papers take them, would
        waste the first of a few: β' is 0 at t = 1.
        """
        p, q = self.log_probabilities(clean, time), self.log_probabilities(clean, later)
        here = tokens[..., None]
        kept = (q - p).gather(-1, here)  # log q(z) / p(z)
        there = (q.exp() - (p + kept).exp()).clamp_min(0).scatter(-1, here, 0.0)
        return there.scatter(-1, here, (1 - there.sum(-1, keepdim=True)).clamp_min(0))


@dataclass(frozen=True, eq=False)
class DFMObjective:
    """Discrete flow matching on a metric path (Shaul et al., arXiv 2412.03487), as DFM-VLA (arXiv
    2603.26320) has it for actions; here the metric is that of the actions themselves.

    Training corrupts tokens along `MetricPath` and predicts the clean ones from their ordinal
    embedding. Sampling starts from codes drawn uniformly and takes K evaluations at t = 1, ...,
    1 / K; between two, every token draws a clean one from its posterior, divided by `temperature`,
    and jumps towards it. The posterior of the last evaluation is read out as e0's is, since DFM-VLA
    ends without chance, too, and since two methods that are compared should be read out alike.

    Raises ValueError for an unknown time distribution or read-out, and a negative temperature.
    """

    head: TokenHead
    time_distribution: str = "beta"
    temperature: float = 1.0
    read_out: str = "argmax"

    causal = False
    input_width = 1

    def __post_init__(self) -> None:
        require_known("time distribution", self.time_distribution, TIME_DISTRIBUTIONS)
        require_known("read-out", self.read_out, READ_OUTS)
        require_temperature(self.temperature)

    @property
    def output_width(self) -> int:
        return self.head.width

    @property
    def embedding(self) -> OrdinalEmbedding:
        return OrdinalEmbedding(self.head.tokenizer)

    def path(self) -> MetricPath:
        """The path between the codes as the tokenizer has them now."""
        tokenizer = self.head.tokenizer
        bias = padding_bias(tokenizer.code_count, tokenizer.vocabulary_size)
        return MetricPath(self.embedding.table(), bias)

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        refuse_noise(noise, "dfm")
        tokens = self.head.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)
        time = training_time(len(tokens), self.time_distribution, None, tokens.device)
        noisy = _draw_index(self.path().log_probabilities(tokens, time).exp(), None)
        counted = valid
        if given is not None:
            noisy = torch.where(given[..., None], tokens, noisy)
            time, counted = times_of_steps(time, given), valid & ~given
        # Padded steps carry no signal.
        seen = self.embedding.embed(noisy).masked_fill(~valid[..., None, None], 0.0)
        logits = self.head.logits()(denoise(seen, time))
        return self.head.loss(logits, tokens, counted).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        refuse_noise(sampling.noise, "dfm")
        to_logits, path, embedding = self.head.logits(), self.path(), self.embedding
        codebook, steps = self.head.tokenizer.codebook, sampling.steps
        uniform = path.bias.exp().expand(batch, horizon, *path.bias.shape)
        tokens = _draw_index(uniform, sampling.generator)
        times = 1 - torch.arange(steps, device=codebook.device, dtype=torch.float32) / steps
        trace: list[Tensor] = []
        prefix = sampling.prefix
        known = None if prefix is None else self.head.tokenizer.nearest(prefix.actions)
        for step in range(steps):
            time = told = times[step].expand(batch)
            if prefix is not None and known is not None:
                tokens = torch.where(prefix.mask[..., None], known, tokens)
                told = times_of_steps(time, prefix.mask) if sampling.own_time else time
            logits = to_logits(denoise(embedding.embed(tokens), told))
            if sampling.keep_trace:
                trace.append(logits)
            if step < steps - 1:
                clean = draw(logits, self.temperature, sampling.generator)
                later = times[step + 1].expand(batch)
                jump = path.transition(tokens, clean, time, later)
                tokens = _draw_index(jump, sampling.generator)
        chunk = ActionChunk(
            read_out(logits, codebook, self.read_out),
            posterior_entropy(logits),
            steps,
            trace if sampling.keep_trace else None,
        )
        return continued(chunk, prefix)


def _draw_index(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices (...) drawn in proportion to weights (..., V), none of weight 0. One random number
    each, where `draw` takes one for every code: that costs as much as a small network."""
    cumulative = weights.cumsum(-1)
    uniform = 1 - torch.rand(weights.shape[:-1], generator=generator, device=weights.device)
    return (cumulative < (uniform * cumulative[..., -1])[..., None]).sum(-1)
