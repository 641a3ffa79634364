"""E0: Gaussian noise on embedded tokens, cross-entropy with the clean ones."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from e0.diffusion import (
    READ_OUTS,
    SAMPLERS,
    SCHEDULES,
    OneHotEmbedding,
    OrdinalEmbedding,
    TokenEmbedding,
    corrupt,
    read_out,
    require_known,
    sample,
)
from e0.heads import TokenHead
from e0.objectives.interface import (
    STARTS,
    ActionChunk,
    Denoise,
    Sampling,
    starting_noise,
    training_time,
)
from e0.training_times import TIME_DISTRIBUTIONS

EMBEDDINGS = ("ordinal", "one_hot")


@dataclass(frozen=True, eq=False)
class E0Objective:
    """Continuized discrete diffusion (E0, arXiv 2511.21542).

    Raises ValueError for an unknown embedding, schedule, time distribution, start, sampler or
    read-out, and for a negative temperature.
    """

    head: TokenHead
    embedding_name: str = "ordinal"
    schedule_name: str = "linear"
    time_distribution: str = "beta"
    start: str = "noise"
    sampler: str = "ddim"
    temperature: float = 1.0
    read_out: str = "argmax"
    early_stop: bool = False

    causal = False

    def __post_init__(self) -> None:
        require_known("embedding", self.embedding_name, EMBEDDINGS)
        require_known("schedule", self.schedule_name, tuple(SCHEDULES))
        require_known("time distribution", self.time_distribution, TIME_DISTRIBUTIONS)
        require_known("sampler", self.sampler, SAMPLERS)
        require_known("start", self.start, STARTS)
        require_known("read-out", self.read_out, READ_OUTS)
        require_temperature(self.temperature)

    @property
    def embedding(self) -> TokenEmbedding:
        if self.embedding_name == "ordinal":
            return OrdinalEmbedding(self.head.tokenizer)
        return OneHotEmbedding(self.head.tokenizer.vocabulary_size)

    @property
    def input_width(self) -> int:
        return self.embedding.width

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
    ) -> Tensor:
        tokens = self.head.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)
        # A padded step carries no signal: real steps look at it, and it often repeats one of them.
        clean = self.embedding.embed(tokens).masked_fill(~valid[..., None, None], 0.0)
        time = training_time(len(tokens), self.time_distribution, noise, clean.device)
        noisy = corrupt(clean, time, SCHEDULES[self.schedule_name], noise).noisy
        logits = self.head.logits()(denoise(noisy, time))
        return self.head.loss(logits, tokens, valid).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        codebook = self.head.tokenizer.codebook
        logits, embedding = self.head.logits(), self.embedding
        shape = (batch, horizon, self.head.tokenizer.action_dim)
        start = starting_noise(
            sampling.noise,
            (*shape, embedding.width),
            sampling.generator,
            codebook.device,
            self.start,
        )
        drawn = sample(
            lambda noisy, time: logits(denoise(noisy, time)),
            embedding,
            shape,
            schedule=SCHEDULES[self.schedule_name],
            steps=sampling.steps,
            sampler=self.sampler,
            temperature=self.temperature,
            generator=sampling.generator,
            initial_noise=start,
            early_stop=self.early_stop,
            keep_trace=sampling.keep_trace,
            device=codebook.device,
        )
        actions = read_out(drawn.logits, codebook, self.read_out)
        return ActionChunk(actions, drawn.entropy, drawn.steps_taken, drawn.trace)


def require_temperature(temperature: float) -> None:
    """Raise ValueError for a negative temperature."""
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
