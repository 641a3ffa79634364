"""Whether a posterior leaves one way to act or several, and how to keep to one of several.

Where it doubts *when* to act, as between standing and going down, the mean of both does: slower, on
the same way. Where it doubts *where* to go, or knows nothing, the mean goes between. The two are
told apart by rest: of several ways some lie on the one side of it and some on the other. So actions
must be movements, whose zero is rest; of absolute targets this tells nothing.

Shapes: B chunks, N samples of each, H steps, D action dimensions, V values in ascending order.
"""

from __future__ import annotations

import torch
from torch import Tensor

FAR_FROM_REST = 0.75
"""Standard deviations of the data: less to a side is no way of its own. Where data go one way or
the opposite, each lies one deviation from rest or more."""


def ambiguity(
    logits: Tensor, values: Tensor, switches: Tensor, given: Tensor | None = None
) -> Tensor:
    """How undecided each chunk is between the two sides of rest, (B,) in [0, 0.5]: the mass far on
    the one side or on the other, the lesser of both, in the step and dimension where it is most.

    logits: (B, H, D, V). values: (D, V), of the codes, rest being 0, in standard deviations of the
    data. switches: (D,) bool, dimensions such as a gripper's, whose values always lie on both
    sides; they don't count unless there are no others. given: (B, H), steps that are known and
    don't count.
    """
    mass = logits.float().softmax(-1)
    above = (mass * (values > FAR_FROM_REST)).sum(-1)
    below = (mass * (values < -FAR_FROM_REST)).sum(-1)
    left_out = switches & ~switches.all()
    left_out = left_out if given is None else left_out | given[..., None]
    return torch.minimum(above, below).masked_fill(left_out, 0.0).flatten(1).amax(1)


def last_below_the_cut(values: Tensor) -> Tensor:
    """Index of the last of the ascending values (..., V) that lies below the cut in two which
    explains most of their variance, (...) (Otsu 1979, IEEE Trans. SMC 9:62)."""
    count = values.shape[-1]
    share = torch.arange(1, count, device=values.device) / count
    moment = values.cumsum(-1)[..., :-1] / count
    mean = values.mean(-1, keepdim=True)
    return ((mean * share - moment).square() / (share * (1 - share))).argmax(-1)


def keep_to_one(samples: Tensor) -> Tensor:
    """Which of the samples (B, N, H, D), in standard deviations, to act by: (B,).

    The first one chooses the way, so that each is taken as often as it is sampled. Of those that
    lie near it, told from the far ones by the best cut through their distances, the medoid acts: a
    sample that is in the middle of its way.
    """
    batch, count = samples.shape[:2]
    if count < 3:
        return torch.zeros(batch, dtype=torch.long, device=samples.device)
    distance = torch.cdist(samples.flatten(2), samples.flatten(2), p=1)
    to_others, order = distance[:, 0, 1:].sort(-1)
    last = last_below_the_cut(to_others)
    place = torch.arange(count - 1, device=samples.device)
    near = torch.ones(batch, count, dtype=torch.bool, device=samples.device)
    near[:, 1:] = torch.zeros_like(order, dtype=torch.bool).scatter_(
        1, order, place <= last[:, None]
    )
    within = distance.masked_fill(~near[:, None], 0.0).sum(-1)
    return within.masked_fill(~near, torch.inf).argmin(-1)


def nearest_to(samples: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Which of the samples (B, N, H, D) differs least from given (B, H, D) in the steps of the mask
    (B, H): (B,). The backward coherence of bidirectional decoding (arXiv 2408.17355)."""
    away = (samples - given[:, None]).abs().masked_fill(~mask[:, None, :, None], 0.0)
    return away.sum((2, 3)).argmin(1)
