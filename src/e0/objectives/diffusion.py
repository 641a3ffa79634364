"""What a policy learns and how it samples. Objectives share the network and differ only here.

An objective sees the network as a callable `denoise(x, time)` that is already bound to an encoded
observation, so it knows nothing of images or transformers.

Shapes: B observations, R noise draws per observation, H steps, D action dimensions, V codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from e0.diffusion import (
    SAMPLERS,
    SCHEDULES,
    OneHotEmbedding,
    OrdinalEmbedding,
    TokenEmbedding,
    corrupt,
    cross_entropy,
    read_out,
    sample,
    sample_time,
)
from e0.heads import cosine_basis, cosine_logits, head_width, padding_bias
from e0.tokens import ActionTokenizer

Denoise = Callable[[Tensor, Tensor], Tensor]


class ActionChunk(NamedTuple):
    """A sampled chunk.

    actions: (B, H, D) in action units. entropy: (B, H, D) nats of the last posterior; low means
    confident. steps_taken: network evaluations. trace: the logits of each, where asked for.
    """

    actions: Tensor
    entropy: Tensor
    steps_taken: int
    trace: list[Tensor] | None


class Objective(Protocol):
    """`input_width` numbers go into the network and `output_width` come out, for every
    (step, dimension)."""

    @property
    def input_width(self) -> int: ...

    @property
    def output_width(self) -> int: ...

    def loss(self, denoise: Denoise, actions: Tensor, valid: Tensor, draws: int) -> Tensor:
        """Loss of each observation (B,), from actions (B, H, D) in action units and valid (B, H).

        `denoise` gets B·R rows, the R draws of an observation next to each other."""
        ...

    def sample(
        self,
        denoise: Denoise,
        batch: int,
        horizon: int,
        *,
        steps: int,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        keep_trace: bool = False,
    ) -> ActionChunk:
        """Draw one chunk for each of `batch` observations."""
        ...


@dataclass(frozen=True, eq=False)
class E0Objective:
    """Continuized discrete diffusion (E0, arXiv 2511.21542): cross-entropy with the clean tokens.

    To it is added `mean_weight` times the squared error of the posterior mean Σ p φ. The exact
    posterior is the minimum of both (the mean is Tweedie's denoiser), so the second term changes
    no optimum, but it tells a wrong guess in which direction the truth lies.

    Raises ValueError for an unknown head, embedding, schedule, time distribution, sampler or
    read-out, and for a negative weight.
    """

    tokenizer: ActionTokenizer
    head: str = "cosine"
    mean_weight: float = 1.0
    embedding_name: str = "ordinal"
    schedule_name: str = "linear"
    time_distribution: str = "beta"
    sampler: str = "ddim"
    read_out: str = "argmax"
    early_stop: bool = False

    def __post_init__(self) -> None:
        _require("embedding", self.embedding_name, ("ordinal", "one_hot"))
        _require("schedule", self.schedule_name, tuple(SCHEDULES))
        _require("time distribution", self.time_distribution, ("beta", "uniform"))
        _require("sampler", self.sampler, SAMPLERS)
        _require("read-out", self.read_out, ("argmax", "window_mean"))
        head_width(self.head, self.tokenizer.vocabulary_size)
        if not self.mean_weight >= 0:
            raise ValueError(f"mean_weight must not be negative, got {self.mean_weight}")

    @property
    def embedding(self) -> TokenEmbedding:
        if self.embedding_name == "ordinal":
            return OrdinalEmbedding(self.tokenizer)
        return OneHotEmbedding(self.tokenizer.vocabulary_size)

    @property
    def input_width(self) -> int:
        return self.embedding.width

    @property
    def output_width(self) -> int:
        return head_width(self.head, self.tokenizer.vocabulary_size)

    def loss(self, denoise: Denoise, actions: Tensor, valid: Tensor, draws: int) -> Tensor:
        tokens = self.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)
        # A padded step carries no signal: real steps look at it, and it often repeats one of them.
        clean = self.embedding.embed(tokens).masked_fill(~valid[..., None, None], 0.0)
        time = sample_time(len(tokens), self.time_distribution, device=clean.device)
        noisy = corrupt(clean, time, SCHEDULES[self.schedule_name]).noisy
        logits = self._with_head(denoise)(noisy, time)
        losses = cross_entropy(logits, tokens, valid)
        if self.mean_weight > 0:
            losses = losses + self.mean_weight * self._mean_error(logits, clean, valid)
        return losses.view(-1, draws).mean(1)

    def _mean_error(self, logits: Tensor, clean: Tensor, valid: Tensor) -> Tensor:
        """Squared error of the posterior mean, averaged over valid steps and dimensions: (B,)."""
        error = self.embedding.mean(logits.softmax(-1)) - clean
        squared = error.square().sum(-1).mean(-1).masked_fill(~valid, 0.0)
        return squared.sum(-1) / valid.sum(-1).clamp_min(1)

    def sample(
        self,
        denoise: Denoise,
        batch: int,
        horizon: int,
        *,
        steps: int,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        keep_trace: bool = False,
    ) -> ActionChunk:
        codebook = self.tokenizer.codebook
        drawn = sample(
            self._with_head(denoise),
            self.embedding,
            (batch, horizon, self.tokenizer.action_dim),
            schedule=SCHEDULES[self.schedule_name],
            steps=steps,
            sampler=self.sampler,
            generator=generator,
            initial_noise=noise,
            early_stop=self.early_stop,
            keep_trace=keep_trace,
            device=codebook.device,
        )
        actions = read_out(drawn.logits, codebook, self.read_out)
        return ActionChunk(actions, drawn.entropy, drawn.steps_taken, drawn.trace)

    def _with_head(self, denoise: Denoise) -> Denoise:
        """The network with its head: logits over the codes that each dimension really has."""
        count, size = self.tokenizer.code_count, self.tokenizer.vocabulary_size
        bias = padding_bias(count, size)
        if self.head == "linear":
            return lambda noisy, time: denoise(noisy, time).float() + bias
        basis = cosine_basis(count, size)
        return lambda noisy, time: cosine_logits(denoise(noisy, time), basis) + bias


def _require(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
