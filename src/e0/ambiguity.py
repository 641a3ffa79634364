"""Whether a posterior leaves one way to act or several, and how to keep to one of several.

A distribution is cut in two where that explains most of its variance (Otsu 1979, IEEE Trans. SMC
9:62). Two parts are two peaks if little lies between them: within a quarter of the distance of
their means around the midpoint half as much mass as around the lighter one, or less. That does not
depend on how wide a distribution is: of a Gaussian a third more lies there, of a uniform one as
much, of two Gaussians whose means are four deviations apart half as much.

Shapes: B chunks, N samples of each, H steps, D action dimensions, V values in ascending order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HIGHEST_SADDLE = 0.5
"""Mass between two peaks, relative to that around the lesser."""
SMALLEST_SHARE = 0.1
"""Mass that the lesser part must have: an outlier is no way to act."""
SMALLEST_GAP = 0.5
"""Standard deviations of the data between the two means: nearer ones are the same way."""


class Cut(NamedTuple):
    """Where a distribution falls into two, all (...).

    saddle: mass around the midpoint of the parts' means relative to that around the means, the
    lesser of the two. gap: distance of the means. lesser: mass of the lighter part. last: index of
    the lower part's last value.
    """

    saddle: Tensor
    gap: Tensor
    lesser: Tensor
    last: Tensor


def best_cut(values: Tensor, masses: Tensor) -> Cut:
    """Cut distributions with masses (..., V), which sum to 1, at values (..., V) in two."""
    below, moment = masses.cumsum(-1)[..., :-1], (masses * values).cumsum(-1)
    mean, moment = moment[..., -1:], moment[..., :-1]
    product = below * (1 - below)
    between = (mean * below - moment).square() / product.clamp_min(1e-6)
    last = torch.where(product > 1e-6, between, 0.0).argmax(-1, keepdim=True)
    share = below.gather(-1, last)
    lower = moment.gather(-1, last) / share.clamp_min(1e-6)
    upper = (mean - moment.gather(-1, last)) / (1 - share).clamp_min(1e-6)
    reach = (upper - lower) / 4

    def around(middle: Tensor) -> Tensor:
        return (masses * ((values - middle).abs() <= reach)).sum(-1)

    peaks = torch.minimum(around(lower), around(upper))
    return Cut(
        saddle=around((lower + upper) / 2) / peaks.clamp_min(1e-9),
        gap=(upper - lower)[..., 0],
        lesser=torch.minimum(share, 1 - share)[..., 0],
        last=last[..., 0],
    )


def ambiguity(logits: Tensor, values: Tensor, given: Tensor | None = None) -> Tensor:
    """How ambiguous each chunk is, (B,) in [0, 1]: of its most ambiguous dimension the share of
    steps whose posterior has two peaks.

    logits: (B, H, D, V). values: (D, V), of the codes, in standard deviations of the data. given:
    (B, H), steps that are known and so do not count.
    """
    cut = best_cut(values, logits.float().softmax(-1))
    apart = (cut.lesser >= SMALLEST_SHARE) & (cut.gap >= SMALLEST_GAP)
    two = apart & (cut.saddle <= HIGHEST_SADDLE)
    if given is None:
        return two.float().mean(1).amax(-1)
    counted = two.masked_fill(given[..., None], False).float().sum(1)
    return (counted / (~given).sum(1, keepdim=True)).amax(-1)


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


def nearest_to(samples: Tensor, given: Tensor, mask: Tensor) -> Tensor:
    """Which of the samples (B, N, H, D) differs least from given (B, H, D) in the steps of the mask
    (B, H): (B,). The backward coherence of bidirectional decoding (arXiv 2408.17355)."""
    away = (samples - given[:, None]).abs().masked_fill(~mask[:, None, :, None], 0.0)
    return away.sum((2, 3)).argmin(1)
