"""The first steps of a chunk, given: what a robot does while its next chunk is computed.

A chunk that takes d control periods to compute begins, when it comes, with d steps that have
already been executed from the one before. Real-time chunking (arXiv 2506.07339) therefore commits
to them and asks for chunks that continue them. A policy learns that in training (arXiv 2512.05964):
the first steps of some chunks are shown clean, with a time of their own, and the loss is of the
rest.

Shapes: B chunks, H steps, D action dimensions, m numbers of a noisy action or embedded token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SHARE_WITHOUT = 0.75
"""Share of the chunks in training of which nothing is given: a policy must be able to begin, and to
look at what it sees rather than go on as before."""


UNABLE = ("regression", "mip")
"""Objectives that make a chunk of the observation alone."""
PAINTED = ("e0", "flow", "hybrid")
"""Objectives whose given steps are painted in where they were not trained, see `Held`, but under
e0's adaptive decoding, which chooses by them. Those of tokens show them as they are, and may be
asked what they have not seen in training."""


class PrefixError(ValueError):
    """Given steps that a policy cannot continue."""


def unable(objective: str) -> PrefixError:
    """What is wrong with given steps and an objective that cannot continue them."""
    return PrefixError(
        f"the {objective} objective cannot continue given steps: it makes a chunk of the "
        "observation alone. Do without them and blend chunks where they are executed, or train a "
        "policy with the objective e0, flow, hybrid, masked, dfm or autoregressive"
    )


@dataclass(frozen=True, eq=False)
class Prefix:
    """The first steps of chunks, given; none of them, or as many of each chunk as there are.

    actions: (B, H, D) in action units; what it holds in other steps does not matter. mask: (B, H)
    bool, True for the given steps. `checked` looks at both.
    """

    actions: Tensor
    mask: Tensor

    @classmethod
    def of_steps(cls, actions: Tensor, horizon: int) -> Prefix:
        """All of the steps (B, d, D) as the first ones of chunks of `horizon` steps. Raises
        PrefixError for other shapes, and where no step would be left."""
        if actions.ndim != 3 or actions.shape[1] >= horizon:
            raise PrefixError(
                f"given steps must have shape (B, d, D) with d < {horizon}, the steps of a chunk; "
                f"got {tuple(actions.shape)}"
            )
        count, given, dim = actions.shape
        chunk = actions.new_zeros(count, horizon, dim)
        chunk[:, :given] = actions
        mask = torch.arange(horizon, device=actions.device) < given
        return cls(chunk, mask.expand(count, -1))

    def checked(self, shape: tuple[int, int, int], device: torch.device) -> Prefix:
        """This prefix for chunks of `shape` (B, H, D) on a device, in float32, zero where nothing
        is given.

        Raises PrefixError for other shapes, a mask that is not bool, whose given steps are not the
        first ones or that leaves no step of a chunk, and NaN or infinity in a given step. Looks at
        values, so it waits for the device that they are on.
        """
        actions, mask = self.actions, self.mask.to(self.actions.device)
        if actions.shape != shape or mask.shape != shape[:2] or mask.dtype != torch.bool:
            raise PrefixError(
                f"a prefix of {shape[0]} chunks needs actions of shape {tuple(shape)} and a bool "
                f"mask of shape {tuple(shape[:2])}, got {tuple(actions.shape)} and {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise PrefixError(
                "only the first steps of a chunk can be given: the mask has a given step after one "
                f"that is not, in rows {_rows(mask[:, 1:] & ~mask[:, :-1])}"
            )
        if mask[:, -1].any():
            raise PrefixError(
                f"all {shape[1]} steps of the chunks {_rows(mask[:, -1:])} are given, so that "
                "nothing is left to predict: give fewer"
            )
        wrong = ~actions.isfinite() & mask[..., None]
        if wrong.any():
            raise PrefixError(
                f"NaN or infinity in the given steps of the chunks {_rows(wrong.flatten(1))}: they "
                "must be the actions that are executed meanwhile"
            )
        known = actions.masked_fill(~mask[..., None], 0.0)
        return Prefix(known.to(device, torch.float32), mask.to(device))

    def repeat(self, draws: int) -> Prefix:
        """Each prefix `draws` times, next to each other."""
        return Prefix(*(x.repeat_interleave(draws, dim=0) for x in (self.actions, self.mask)))


def _rows(wrong: Tensor) -> str:
    rows = wrong.any(1).nonzero()[:, 0].tolist()
    return f"{rows[:5]}{' ...' if len(rows) > 5 else ''}"


def draw_given(valid: Tensor, longest: int) -> Tensor:
    """Which steps of training chunks are given, (B, H) bool, of valid (B, H): of most of the
    chunks none (`SHARE_WITHOUT`), of the others the first 1 to `longest`, each number as likely,
    but at least one valid step is left."""
    count, horizon = valid.shape
    given = torch.randint(1, longest + 1, (count,), device=valid.device)
    given = given.masked_fill(torch.rand(count, device=valid.device) < SHARE_WITHOUT, 0)
    given = torch.minimum(given, (valid.sum(1) - 1).clamp_min(0))
    return torch.arange(horizon, device=valid.device) < given[:, None]


def times_of_steps(time: Tensor, given: Tensor) -> Tensor:
    """The time of every step (B, H), of times (B,): 0, clean, where it is given."""
    return time[:, None].masked_fill(given, 0.0)


class Held(NamedTuple):
    """Given steps in a sampler that goes from noise to clean ones.

    clean: (B, H, D, m), of the given steps. noise: (B, H, D, m) that sampling begins with. mask:
    (B, H). own_time: whether the network has learned to see given steps clean, at their time 0.
    Otherwise they are painted in: put to where they would be on the path from their noise. Such a
    network finds in them as much signal as in any step, so at t = 1 there is none: with a single
    evaluation, painting does nothing but overwrite the result.
    """

    clean: Tensor
    noise: Tensor
    mask: Tensor
    own_time: bool

    def put(
        self, noisy: Tensor, time: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`noisy` (B, H, D, m) with the given steps in their place, and the time to tell, (B,) or
        (B, H). alpha, sigma: signal and noise at `time` (B,), which all chunks share."""
        given = self.mask[..., None, None]
        if self.own_time:
            return torch.where(given, self.clean, noisy), times_of_steps(time, self.mask)
        return torch.where(given, alpha * self.clean + sigma * self.noise, noisy), time
