"""What an objective is: a loss and a sampler that know nothing of images or transformers.

An objective sees the network as a callable that is already bound to an encoded observation.

Shapes: B observations, R noise draws per observation, H steps, D action dimensions, V codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from e0.network.transformer import DecodingCache
from e0.prefix import Prefix, unable
from e0.training_times import sample_time

SHARE_AT_PURE_NOISE = 0.5
STARTS = ("noise", "zero")
DECODINGS = ("fixed", "adaptive")


class Denoise(Protocol):
    """The network, bound to an observation: `noisy` (B·R, H, D, input width) and `time`, (B·R,) or
    of every step (B·R, H), to (B·R, H, D, output width). For a causal objective (H, D) is (H·D, 1),
    and with a cache the inputs are only the tokens that follow those in the cache."""

    def __call__(
        self, noisy: Tensor, time: Tensor, cache: DecodingCache | None = None
    ) -> Tensor: ...


class ActionChunk(NamedTuple):
    """A sampled chunk.

    actions: (B, H, D) in action units. entropy: (B, H, D) nats of each token's posterior, low means
    confident; None for an objective without a posterior. steps_taken: network evaluations. trace:
    the logits of each evaluation, where asked for and where there are any. ambiguity: (B,) in
    [0, 0.5], see `e0.ambiguity`, where decoding looks at it.
    """

    actions: Tensor
    entropy: Tensor | None
    steps_taken: int
    trace: list[Tensor] | None
    ambiguity: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Sampling:
    """How chunks are drawn.

    steps: network evaluations, where the objective leaves their number open. generator: of the
    random numbers, torch's global one if None. noise: what sampling starts from, drawn if None.
    keep_trace: return the logits of every evaluation, too. prefix: steps that are given, checked;
    own_time: whether the network has learned to see them clean, see `e0.prefix.Held`. Raises
    ValueError for fewer than one step.
    """

    steps: int
    generator: torch.Generator | None = None
    noise: Tensor | None = None
    keep_trace: bool = False
    prefix: Prefix | None = None
    own_time: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


class Objective(Protocol):
    """`input_width` numbers go into the network and `output_width` come out, for every
    (step, dimension)."""

    @property
    def input_width(self) -> int: ...

    @property
    def output_width(self) -> int: ...

    @property
    def causal(self) -> bool:
        """Whether every (step, dimension) is a token of its own that sees only those before it;
        otherwise a step is one token and sees all steps."""
        ...

    def loss(
        self,
        denoise: Denoise,
        actions: Tensor,
        valid: Tensor,
        draws: int,
        noise: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Loss of each observation (B,), from actions (B, H, D) in action units and valid (B, H).

        `denoise` gets B·R rows, the R draws of an observation next to each other; R is `draws`, or
        1 where nothing is drawn. `noise` (B·R, H, D, input width) replaces the noise that is drawn;
        ValueError where none of this shape is. The steps `given` (B·R, H) of each draw are shown
        clean, and the loss is of the others.
        """
        ...

    def sample(self, denoise: Denoise, batch: int, horizon: int, sampling: Sampling) -> ActionChunk:
        """Draw one chunk for each of `batch` observations. Steps that are given come out as they
        are, with entropy 0.

        Raises ValueError for noise of another shape than (B, H, D, input width), or where sampling
        starts from none, and PrefixError where an objective cannot continue given steps.
        """
        ...


def refuse_noise(noise: Tensor | None, objective: str) -> None:
    """Raise ValueError if noise is given to an objective that takes none."""
    if noise is not None:
        raise ValueError(f"the {objective} objective takes no noise; leave `noise` out")


def refuse_prefix(prefix: Prefix | None, objective: str) -> None:
    """Raise PrefixError if steps are given to an objective that cannot continue them."""
    if prefix is not None:
        raise unable(objective)


def continued(chunk: ActionChunk, prefix: Prefix | None) -> ActionChunk:
    """The chunk with the steps that are given exactly as they are, and no doubt about them."""
    if prefix is None:
        return chunk
    given = prefix.mask[..., None]
    return chunk._replace(
        actions=torch.where(given, prefix.actions, chunk.actions),
        entropy=None if chunk.entropy is None else chunk.entropy.masked_fill(given, 0.0),
    )


def starting_noise(
    noise: Tensor | None,
    shape: tuple[int, ...],
    generator: torch.Generator | None,
    device: torch.device,
    start: str = "noise",
) -> Tensor:
    """The given noise, checked, or else what a sampler of this `start` begins with: standard normal
    numbers, or their mean. From zero there is no chance in what follows, and no choice either:
    where there are several ways to act, one step says what they have in common."""
    if noise is None and start == "zero":
        return torch.zeros(shape, device=device)
    if noise is None:
        return torch.randn(shape, device=device, generator=generator)
    if noise.shape != shape:
        raise ValueError(f"noise must have shape {shape}, got {tuple(noise.shape)}")
    return noise.to(device=device, dtype=torch.float32)


def training_time(
    batch: int, distribution: str, noise: Tensor | None, device: torch.device
) -> Tensor:
    """Times (batch,) to train at. If the noise is that of the chunk, half of them are exactly 1,
    where a single denoising step has to know the chunk from the noise; if it is fresh, there is
    nothing to learn there."""
    time = sample_time(batch, distribution, device=device)
    if noise is None:
        return time
    return time.masked_fill(torch.rand(batch, device=device) < SHARE_AT_PURE_NOISE, 1.0)
