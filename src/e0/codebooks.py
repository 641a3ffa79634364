"""Where the codes of one action dimension lie: the kinds of placement, and the choice among them.

Shapes: N values of one dimension, V codes at most. Values are float64 on the CPU, in action units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

AUTO = "auto"
GRIDS = ("uniform", "mu_law")  # spread over the whole range of the data, whatever its shape
CODEBOOK_KINDS = (AUTO, "uniform", "uniform_quantile", "mu_law", "quantile", "kmeans")
STATISTICS_KINDS = (AUTO, "uniform", "uniform_quantile", "mu_law")
LEVELS = "levels"  # what a report calls codes that are the data's own distinct values
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}  # LeRobot's names
UNBOUNDED = torch.finfo(torch.float32).max  # no outliers: a number, as weights must be
MAX_LEVELS = 8  # A dimension with at most so many distinct values gets them as its codes.
MU = 255.0  # The companding constant of ITU-T G.711.
LLOYD_ITERATIONS = 100
KMEANS_GAIN = 0.5  # k-means leaves wide gaps where actions are rare: it has to halve the error.
BLOCKS, HELD_OUT = 50, 5  # Of 50 stretches of the recording, in order, every fifth is held out.
WIDE_GAP = 0.01  # as a share of the range
OUTER = 0.005  # Beyond this quantile by more than the distance to its opposite lie outliers.
DRAWN = 4096  # values that stand for data of which only statistics are known


class Placed(NamedTuple):
    """Codes of one dimension, ascending (at most V,), and their kind and error; see
    `CodebookReport`."""

    codes: Tensor
    kind: str
    rms: float


@dataclass(frozen=True)
class CodebookReport:
    """How finely one dimension's codes represent its actions, in action units.

    kind: how the codes were placed; `levels` if they are the values themselves. codes: how many.
    rms: root mean square error of rounding actions to them, held-out ones where the kind was chosen
    by it, and values drawn from the statistics where nothing else was known. largest_gap: between
    neighbouring codes. low, high: the first and the last code.
    """

    kind: str
    codes: int
    rms: float
    largest_gap: float
    low: float
    high: float

    @property
    def gap_share(self) -> float:
        """The largest gap as a share of the range; 0 for levels, between which nothing lies."""
        if self.kind == LEVELS or self.codes == 1:
            return 0.0
        return self.largest_gap / (self.high - self.low)

    @property
    def is_coarse(self) -> bool:
        """Whether the largest gap exceeds 1 % of the range."""
        return self.gap_share > WIDE_GAP

    def __str__(self) -> str:
        return (
            f"{self.codes} codes ({self.kind}) from {self.low:.4g} to {self.high:.4g}, rms error "
            f"{self.rms:.2g}, largest gap {self.largest_gap:.2g}"
        )


def report(codes: Tensor, kind: str, rms: float) -> CodebookReport:
    """The report on distinct, ascending codes (n,)."""
    gap = codes.diff().max().item() if len(codes) > 1 else 0.0
    return CodebookReport(kind, len(codes), rms, gap, codes[0].item(), codes[-1].item())


def place_codes(values: Tensor, kind: str, size: int, dimension: int) -> Placed:
    """At most `size` codes for values (N,) in the order of their recording.

    auto tries uniform, mu_law and kmeans: it places codes for four fifths of the recording, with
    both ends of the whole range, and rounds the rest to them. Raises ValueError for a dimension
    whose quantile range is empty although it varies.
    """
    values = values.contiguous()
    ordered = values.sort().values
    levels = torch.unique_consecutive(ordered)
    if len(levels) <= (size if kind == "kmeans" else min(size, MAX_LEVELS)):
        return Placed(levels, LEVELS, 0.0)
    if kind != AUTO:
        codes = _codes(ordered, kind, size, dimension)
        return Placed(codes, kind, _rms(codes, values))
    held = held_out(len(values))
    fitted = torch.cat([values[~held], ordered[:1], ordered[-1:]]).sort().values
    rest = values[held]
    # Many levels are no accident if the rest has no others.
    if len(levels) <= size and bool(torch.isin(rest, fitted).all()):
        return Placed(levels, LEVELS, 0.0)
    kinds = (*GRIDS, "kmeans")
    rms = {name: _rms(_codes(fitted, name, size, dimension), rest) for name in kinds}
    chosen = _best(rms)
    return Placed(_codes(ordered, chosen, size, dimension), chosen, rms[chosen])


def place_codes_by_statistics(
    statistics: Mapping[str, float], kind: str, size: int, dimension: int
) -> Placed:
    """`size` codes for data of which min, max, mean, std and some quantiles are known.

    auto chooses between uniform and mu_law. Raises ValueError for an empty range.
    """
    low, high = statistics["min"], statistics["max"]
    if low == high:
        return Placed(torch.tensor([low], dtype=torch.float64), LEVELS, 0.0)
    values = draw_like(statistics)
    if kind == "uniform_quantile":
        low, high = statistics["q01"], statistics["q99"]
    kinds = GRIDS if kind == AUTO else (kind,)
    codes = {name: _codes_between(low, high, name, size, dimension) for name in kinds}
    rms = {name: _rms(codes[name], values) for name in kinds}
    chosen = _best(rms)
    return Placed(codes[chosen], chosen, rms[chosen])


def draw_like(statistics: Mapping[str, float]) -> Tensor:
    """Sorted values (4096,) that have these statistics: evenly spread between the quantiles that
    are known, or normal within the range if none is."""
    low, high = statistics["min"], statistics["max"]
    level = (torch.arange(DRAWN, dtype=torch.float64) + 0.5) / DRAWN
    known = {share: statistics[name] for name, share in QUANTILES.items() if name in statistics}
    if known:
        places = [0.0, *known, 1.0]
        return torch.from_numpy(np.interp(level, places, [low, *known.values(), high]))
    normal = torch.special.ndtri(level) * statistics["std"] + statistics["mean"]
    return normal.clamp(low, high)


class Spread(NamedTuple):
    """Mean and deviation of values without their outliers, and the bounds beyond which these lie;
    UNBOUNDED where there are none."""

    mean: float
    std: float
    low: float
    high: float


def measure_spread(values: Tensor) -> Spread:
    """The spread of values (N,). Outliers lie further beyond the quantile .5 % or 99.5 % than these
    are apart (7.7 deviations from the mean of normal values), and count as if they lay there."""
    ordered = values.sort().values
    share = torch.tensor([OUTER, 1 - OUTER], dtype=torch.float64)
    return _spread(ordered, *_quantiles(ordered, share).tolist())


def spread_by_statistics(statistics: Mapping[str, float]) -> Spread:
    """The same for data of which only statistics are known: by their quantiles 1 % and 99 %, or
    as if there were no outliers where these are not given."""
    mean, std = statistics["mean"], statistics["std"]
    if "q01" in statistics and "q99" in statistics:
        spread = _spread(draw_like(statistics), statistics["q01"], statistics["q99"])
        if spread.high < UNBOUNDED:
            return spread
    return Spread(mean, std, -UNBOUNDED, UNBOUNDED)


def _spread(values: Tensor, low: float, high: float) -> Spread:
    low, high = low - (high - low), high + (high - low)
    outside = (values < low) | (values > high)
    if low < high and outside.any():
        values = values.clamp(low, high)
    else:
        low, high = -UNBOUNDED, UNBOUNDED
    return Spread(values.mean().item(), values.std(correction=0).item(), low, high)


def held_out(count: int) -> Tensor:
    """Which of `count` recorded steps are held out, (count,) bool: whole stretches of the
    recording, since neighbouring steps are alike."""
    return torch.arange(count) * BLOCKS // max(count, 1) % HELD_OUT == HELD_OUT - 1


def _best(rms: Mapping[str, float]) -> str:
    """The kind with the least error; k-means only where it is far better than every other."""
    fair = {name: error / (KMEANS_GAIN if name == "kmeans" else 1) for name, error in rms.items()}
    return min(fair, key=fair.__getitem__)


def _rms(codes: Tensor, values: Tensor) -> float:
    """Root mean square error of values (N,) rounded to the nearest of ascending codes."""
    place = torch.searchsorted((codes[1:] + codes[:-1]) / 2, values)
    return (codes[place] - values).square().mean().sqrt().item()


def _codes(ordered: Tensor, kind: str, size: int, dimension: int) -> Tensor:
    """Codes of a kind for sorted values (N,)."""
    if kind == "quantile":
        return _quantiles(ordered, (torch.arange(size, dtype=torch.float64) + 0.5) / size)
    if kind == "kmeans":
        levels = torch.unique_consecutive(ordered)
        return levels if len(levels) <= size else _lloyd(ordered, size)
    if kind == "uniform_quantile":
        low, high = _quantiles(ordered, torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    else:
        low, high = ordered[0].item(), ordered[-1].item()
    return _codes_between(low, high, kind, size, dimension)


def _codes_between(low: float, high: float, kind: str, size: int, dimension: int) -> Tensor:
    """Codes of a range: centres of equal bins, or the µ-law grid with both ends."""
    if not low < high:
        raise ValueError(
            f"dimension {dimension} varies, but its {kind} range [{low}, {high}] is empty: most of "
            f"its values are equal; choose mu_law, or kmeans on the raw actions"
        )
    if kind != "mu_law":
        centres = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        return low + (high - low) * centres
    origin = 0.0 if low <= 0.0 <= high else (low + high) / 2
    reach = max(high - origin, origin - low)
    grid = torch.linspace(
        _compress((low - origin) / reach),
        _compress((high - origin) / reach),
        size,
        dtype=torch.float64,
    )
    return origin + reach * torch.sign(grid) * torch.expm1(grid.abs() * math.log1p(MU)) / MU


def _compress(value: float) -> float:
    """µ-law companding of a value in [-1, 1]."""
    return math.copysign(math.log1p(MU * abs(value)) / math.log1p(MU), value)


def _quantiles(ordered: Tensor, levels: Tensor) -> Tensor:
    """Linearly interpolated quantiles of sorted values, of any number (torch.quantile: 2^24)."""
    position = levels * (len(ordered) - 1)
    below = position.floor().long()
    above = position.ceil().long()
    return torch.lerp(ordered[below], ordered[above], position - below)


def _lloyd(ordered: Tensor, size: int) -> Tensor:
    """k-means of sorted values with more than `size` distinct ones.

    The initial codes follow the density that is optimal for many codes, the cube root of the
    data's (Panter and Dite, 1951): a gap between samples estimates 1 / density, so the integral
    of density^(1/3) grows by gap^(2/3). A code without samples stays where it is, in a gap of the
    tail. Cells are intervals of the sorted values: prefix sums make an iteration cost V log N.
    """
    progress = torch.cat([ordered.new_zeros(1), ordered.diff().pow(2 / 3).cumsum(0)])
    targets = progress[-1] * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    codes = torch.from_numpy(np.interp(targets, progress, ordered))
    offset = ordered.mean()
    sums = torch.cat([ordered.new_zeros(1), (ordered - offset).cumsum(0)])
    for _ in range(LLOYD_ITERATIONS):
        inner = torch.searchsorted(ordered, (codes[1:] + codes[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_tensor([len(ordered)])])
        count = edges.diff()
        mean = sums[edges].diff() / count.clamp_min(1) + offset
        updated = torch.where(count > 0, mean, codes)
        if torch.equal(updated, codes):
            break
        codes = updated
    return codes
