"""E0: Gaussian noise on embedded tokens, cross-entropy with the clean ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from e0.ambiguity import ambiguity, keep_to_one, nearest_to
from e0.diffusion import (
    GRIDS,
    SAMPLERS,
    SCHEDULES,
    OneHotEmbedding,
    OrdinalEmbedding,
    Sample,
    TokenEmbedding,
    corrupt,
    sample,
)
from e0.heads import TokenHead
from e0.known import require_known
from e0.objectives.interface import (
    DECODINGS,
    STARTS,
    ActionChunk,
    Denoise,
    Sampling,
    continued,
    starting_noise,
    training_time,
)
from e0.posterior import READ_OUTS, read_out
from e0.prefix import Held, Prefix, times_of_steps
from e0.training_times import TIME_DISTRIBUTIONS

EMBEDDINGS = ("ordinal", "one_hot")
ALWAYS, NEVER = 0.0, 2.0


@dataclass(frozen=True, eq=False)
class E0Objective:
    """Continuized discrete diffusion (E0, arXiv 2511.21542).

    `fixed` decoding takes the number of steps that it is told. `adaptive` decoding first looks at
    the posterior from zero noise. Where it leaves one way to act (`e0.ambiguity`), its mean is the
    chunk, after a single evaluation, and of a switch the likeliest code; where it leaves several,
    `decoding_draws` chunks are sampled from noise in one batch, and one of them acts. Noise that is
    given is that of the first of these, which chooses the way, or (B, draws, H, D, input width)
    that of all. Given steps choose it in its place where the network never saw any in training:
    they are not painted in, and the sample that comes nearest to them acts. `read_out` is that of
    samples.

    Raises ValueError for an unknown embedding, schedule, time distribution, start, grid, sampler,
    read-out or decoding, for a negative temperature and for no draws.
    """

    head: TokenHead
    embedding_name: str = "ordinal"
    schedule_name: str = "linear"
    time_distribution: str = "beta"
    start: str = "noise"
    time_grid: str = "even"
    sampler: str = "ddim"
    temperature: float = 1.0
    cooling: bool = False
    read_out: str = "argmax"
    early_stop: bool = False
    decoding: str = "fixed"
    decoding_draws: int = 8
    ambiguous: float = 0.2
    """The least ambiguity of a chunk for which several ways are sampled; at ALWAYS and NEVER no
    value decides, so nothing waits for a device."""

    causal = False

    def __post_init__(self) -> None:
        require_known("embedding", self.embedding_name, EMBEDDINGS)
        require_known("schedule", self.schedule_name, tuple(SCHEDULES))
        require_known("time distribution", self.time_distribution, TIME_DISTRIBUTIONS)
        require_known("sampler", self.sampler, SAMPLERS)
        require_known("start", self.start, STARTS)
        require_known("time grid", self.time_grid, GRIDS)
        require_known("read-out", self.read_out, READ_OUTS)
        require_known("decoding", self.decoding, DECODINGS)
        require_temperature(self.temperature)
        if self.decoding_draws < 1:
            raise ValueError(f"decoding_draws must be at least 1, got {self.decoding_draws}")

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
        given: Tensor | None = None,
    ) -> Tensor:
        tokens = self.head.tokenizer.encode(actions).repeat_interleave(draws, dim=0)
        valid = valid.repeat_interleave(draws, dim=0)
        # A padded step carries no signal: real steps look at it, and it often repeats one of them.
        clean = self.embedding.embed(tokens).masked_fill(~valid[..., None, None], 0.0)
        time = training_time(len(tokens), self.time_distribution, noise, clean.device)
        if given is not None:
            time, valid = times_of_steps(time, given), valid & ~given
        noisy = corrupt(clean, time, SCHEDULES[self.schedule_name], noise).noisy
        logits = self.head.logits()(denoise(noisy, time))
        return self.head.loss(logits, tokens, valid).view(-1, draws).mean(1)

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        shape = (batch, horizon, self.head.tokenizer.action_dim, self.input_width)
        device = self.head.tokenizer.codebook.device
        if self.decoding == "adaptive":
            return self._adapt(denoise, shape, sampling)
        start = starting_noise(sampling.noise, shape, sampling.generator, device, self.start)
        drawn = self._draw(denoise, start, sampling)
        chunk = ActionChunk(
            self._actions(drawn.logits), drawn.entropy, drawn.steps_taken, drawn.trace
        )
        return continued(chunk, sampling.prefix)

    def _adapt(
        self, denoise: Denoise, shape: tuple[int, int, int, int], sampling: Sampling
    ) -> ActionChunk:
        device, prefix = self.head.tokenizer.codebook.device, sampling.prefix
        given, all_draws = sampling.noise, (shape[0], self.decoding_draws, *shape[1:])
        if given is not None:
            given = starting_noise(given, all_draws if given.ndim == 5 else shape, None, device)
        zero = torch.zeros(shape, device=device)
        at_once = self._draw(denoise, zero, replace(sampling, steps=1))
        actions, entropy = self._middle(at_once.logits), at_once.entropy
        tokenizer, known = self.head.tokenizer, None if prefix is None else prefix.mask
        values = tokenizer.codebook / tokenizer.scale[:, None]
        measured = ambiguity(at_once.logits, values, tokenizer.switches, known)
        several = measured >= self.ambiguous
        if self.ambiguous == NEVER or (self.ambiguous != ALWAYS and not several.any()):
            return continued(ActionChunk(actions, entropy, 1, at_once.trace, measured), prefix)
        noise = noise_of_draws(given, all_draws, sampling.generator, device)
        every, unseen = None, prefix
        if prefix is not None and sampling.own_time:
            every, unseen = prefix.repeat(self.decoding_draws), None
        drawn = self._draw(denoise, noise.flatten(0, 1), replace(sampling, prefix=every))
        samples = self._actions(drawn.logits)
        if every is not None:
            samples = torch.where(every.mask[..., None], every.actions, samples)
        chosen = self._choose(samples.unflatten(0, (shape[0], -1)), unseen)
        place = torch.arange(shape[0], device=device) * self.decoding_draws + chosen
        trace = None
        if at_once.trace is not None and drawn.trace is not None:
            trace = at_once.trace + [logits[place] for logits in drawn.trace]
        several = several[:, None, None]
        chunk = ActionChunk(
            torch.where(several, samples[place], actions),
            torch.where(several, drawn.entropy[place], entropy),
            1 + drawn.steps_taken,
            trace,
            measured,
        )
        return continued(chunk, prefix)

    def _draw(self, denoise: Denoise, start: Tensor, sampling: Sampling) -> Sample:
        logits, prefix, held = self.head.logits(), sampling.prefix, None
        if prefix is not None:
            clean = self.embedding.embed(self.head.tokenizer.nearest(prefix.actions))
            held = Held(clean, start, prefix.mask, sampling.own_time)
        return sample(
            lambda noisy, time: logits(denoise(noisy, time)),
            self.embedding,
            (start.shape[0], start.shape[1], start.shape[2]),
            schedule=SCHEDULES[self.schedule_name],
            steps=sampling.steps,
            grid=self.time_grid,
            sampler=self.sampler,
            temperature=self.temperature,
            cooling=self.cooling,
            generator=sampling.generator,
            initial_noise=start,
            held=held,
            early_stop=self.early_stop,
            keep_trace=sampling.keep_trace,
            device=start.device,
        )

    def _actions(self, logits: Tensor) -> Tensor:
        return read_out(logits, self.head.tokenizer.codebook, self.read_out)

    def _middle(self, logits: Tensor) -> Tensor:
        """What acts where there is one way (B, H, D); outliers count as the end of what is none."""
        tokenizer = self.head.tokenizer
        low, high = tokenizer.bounds[..., None]
        mean = read_out(logits, tokenizer.codebook.clamp(low, high), "mean")
        likeliest = read_out(logits, tokenizer.codebook, "argmax")
        return torch.where(tokenizer.switches, likeliest, mean)

    def _choose(self, samples: Tensor, unseen: Prefix | None) -> Tensor:
        """Which of the samples (B, N, H, D) to act by, (B,); unseen: given steps that they do not
        know of."""
        standardize = self.head.tokenizer.standardize
        samples = standardize(samples)
        chosen = keep_to_one(samples)
        if unseen is None:
            return chosen
        nearest = nearest_to(samples, standardize(unseen.actions), unseen.mask)
        return torch.where(unseen.mask.any(1), nearest, chosen)


def noise_of_draws(
    given: Tensor | None,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Noise of all draws, of this shape (B, draws, H, D, input width): what is given of all of them
    or of the first ones (B, H, D, input width), and else new."""
    if given is not None and given.ndim == len(shape):
        return given
    noise = starting_noise(None, shape, generator, device)
    return noise if given is None else torch.cat((given[:, None], noise[:, 1:]), dim=1)


def require_temperature(temperature: float) -> None:
    """Raise ValueError for a negative temperature."""
    if not temperature >= 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
