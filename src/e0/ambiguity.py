"""Whether a posterior leaves one way to act or several, and how to keep to one of several.

The measure is Otsu's (1979, IEEE Trans. SMC 9:62): cut a distribution in two where that explains
most of its variance. A Gaussian's best cut explains .64 of it and a uniform one's .75, two narrow
peaks' nearly all, however far apart they lie; so peaks are told from mere width.

Shapes: B chunks, N samples of each, H steps, D action dimensions, V values in ascending order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EXPLAINED = 0.85
"""Share of the variance that a cut must explain for two peaks."""
SMALLEST_SHARE = 0.1
"""Mass that the lesser peak must have: an outlier is no way to act."""
SMALLEST_GAP = 0.5
"""Standard deviations of the data between the two means: nearer ones are the same way."""


class Cut(NamedTuple):
    """Where a distribution falls into two, all (...).

    explained: share of the variance between the two parts. gap: distance of their means. lesser:
    mass of the lighter one. last: index of the lower part's last value.
    """

    explained: Tensor
    gap: Tensor
    lesser: Tensor
    last: Tensor


def best_cut(values: Tensor, masses: Tensor) -> Cut:
    """Cut distributions with masses (..., V), which sum to 1, at values (..., V) in two."""
    moment = (masses * values).cumsum(-1)
    mean, below = moment[..., -1:], masses.cumsum(-1)[..., :-1]
    product = below * (1 - below)
    offset = (mean * below - moment[..., :-1]).abs()
    between = torch.where(product > 1e-6, offset.square() / product.clamp_min(1e-6), 0.0)
    most, last = between.max(-1)
    total = (masses * (values - mean).square()).sum(-1)

    def at_cut(every: Tensor) -> Tensor:
        return every.gather(-1, last[..., None])[..., 0]

    share = at_cut(below)
    return Cut(
        explained=torch.where(total > 1e-9, most / total.clamp_min(1e-9), 0.0),
        gap=at_cut(offset) / at_cut(product).clamp_min(1e-6),
        lesser=torch.minimum(share, 1 - share),
        last=last,
    )


def ambiguity(logits: Tensor, values: Tensor) -> Tensor:
    """How ambiguous each chunk is, (B,) in [0, 1]: of its most ambiguous dimension the share of
    steps whose posterior has two peaks. A few steps are a question of when, most of them of how.

    logits: (B, H, D, V). values: (D, V), of the codes, in standard deviations of the data.
    """
    cut = best_cut(values, logits.float().softmax(-1))
    two = (cut.explained >= EXPLAINED) & (cut.lesser >= SMALLEST_SHARE) & (cut.gap >= SMALLEST_GAP)
    return two.float().mean(1).amax(-1)


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
    cut = best_cut(to_others, torch.full_like(to_others, 1 / (count - 1)))
    place = torch.arange(count - 1, device=samples.device)
    near = torch.ones(batch, count, dtype=torch.bool, device=samples.device)
    near[:, 1:] = torch.zeros_like(order, dtype=torch.bool).scatter_(
        1, order, place <= cut.last[:, None]
    )
    within = distance.masked_fill(~near[:, None], 0.0).sum(-1)
    return within.masked_fill(~near, torch.inf).argmin(-1)
