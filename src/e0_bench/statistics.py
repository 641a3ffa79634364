"""How sure a measured success rate is, a difference of two, and a prediction of failure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from numbers import Integral
from statistics import NormalDist, fmean, stdev

import numpy as np
from scipy.optimize import root_scalar
from scipy.stats import t

SIGNIFICANCE = 0.05
FEWEST_EPISODES = 20  # with fewer, no verdict


def wilson_interval(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a success probability, as shares within [0, 1].

    Unlike the textbook interval it stays within [0, 1] and keeps its coverage at few episodes and
    at rates near 0 and 1. Source: E. B. Wilson, "Probable inference, the law of succession, and
    statistical inference", JASA 22 (1927).

    Raises ValueError for counts that are not whole numbers with 0 <= successes <= episodes and
    episodes >= 1, and for a confidence outside (0, 1).
    """
    if not isinstance(successes, Integral) or not isinstance(episodes, Integral):
        raise ValueError(
            f"successes and episodes must be whole numbers, got {successes!r} of {episodes!r}"
        )
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(
            "expected 0 <= successes <= episodes and at least one episode, "
            f"got {successes} of {episodes}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, spread = successes / episodes, z * z / episodes
    centre = rate + spread / 2
    margin = z * sqrt((rate * (1 - rate) + spread / 4) / episodes)
    # At the ends the bound is 0 or 1 exactly; rounding would leave it a hair beside.
    low = 0.0 if successes == 0 else (centre - margin) / (1 + spread)
    high = 1.0 if successes == episodes else (centre + margin) / (1 + spread)
    return low, high


def format_rate(successes: int, episodes: int) -> str:
    """A success rate in words, as in "43/50 (86 %, 95 % interval 74–93 %)".

    Raises ValueError as `wilson_interval` does.
    """
    low, high = wilson_interval(successes, episodes)
    share = 100 * successes / episodes
    return (
        f"{successes}/{episodes} ({share:.0f} %, 95 % interval {100 * low:.0f}–{100 * high:.0f} %)"
    )


@dataclass(frozen=True)
class Rate:
    """A measured success rate; prints in words. Raises ValueError as `wilson_interval` does."""

    successes: int
    episodes: int

    def __post_init__(self) -> None:
        wilson_interval(self.successes, self.episodes)

    @property
    def share(self) -> float:
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.successes, self.episodes)

    def __str__(self) -> str:
        return format_rate(self.successes, self.episodes)


class PairingError(ValueError):
    """Two policies were not measured on the same episodes."""


@dataclass(frozen=True)
class Pairs:
    """Paired successes of two policies on the same episodes of one task."""

    n: int
    only_first: int
    only_second: int


Outcomes = Mapping[tuple[str, int], bool]


def paired(first: Outcomes, second: Outcomes) -> dict[str, Pairs]:
    """Pair the successes of two policies, given as (task, seed) -> success; by task.

    Raises PairingError unless both hold exactly the same (task, seed).
    """
    if first.keys() != second.keys():
        lonely = sorted(first.keys() ^ second.keys())
        raise PairingError(
            f"{len(lonely)} episodes were run by one of the two only, the first being "
            f"(task, seed) {lonely[0]}; run both on the same tasks and seeds"
        )
    pairs = {}
    for task in dict.fromkeys(task for task, _ in first):
        both = [(first[key], second[key]) for key in first if key[0] == task]
        pairs[task] = Pairs(len(both), both.count((True, False)), both.count((False, True)))
    return pairs


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test, from the numbers of episodes that only one solved.

    Under equal success each such episode is a fair coin, so this is the binomial test of
    `only_first` in `only_first + only_second` at 1/2. Source: Q. McNemar, Psychometrika 12 (1947);
    exact form: A. Agresti, "Categorical Data Analysis" (2013), section 11.1.

    Raises ValueError for negative counts.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def difference(pairs: Iterable[Pairs]) -> float:
    """Success rate of the first policy minus that of the second, over all episodes."""
    pairs = list(pairs)
    return sum(p.only_first - p.only_second for p in pairs) / sum(p.n for p in pairs)


def difference_interval(pairs: Iterable[Pairs], *, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of `difference`, within [-1, 1], with a continuity correction.

    The differences that a score test with McNemar's correction does not reject. So it leaves out 0
    only where that test is sure, and where the exact one (`mcnemar_p`) is, too; and it has a width
    even where all episodes went alike. The tasks' episodes are taken together, as by `mcnemar_p`:
    where tasks differ, it is a little too wide rather than too narrow. Sources: T. Tango,
    "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998); A. L. Edwards, Psychometrika 13 (1948),
    for the correction.

    Raises ValueError for no episodes, counts that contradict each other, and a confidence outside
    (0, 1).
    """
    pairs = list(pairs)
    n = sum(p.n for p in pairs)
    first, second = sum(p.only_first for p in pairs), sum(p.only_second for p in pairs)
    if n < 1 or min(first, second) < 0 or first + second > n:
        raise ValueError(
            "expected at least one episode and counts with 0 <= only_first + only_second <= n, "
            f"got {first} + {second} of {n}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return -_highest_difference(second, first, n, z), _highest_difference(first, second, n, z)


def _highest_difference(first: int, second: int, n: int, z: float) -> float:
    """The largest difference that the corrected score test does not reject."""

    def excess(difference: float) -> float:
        # The likeliest share of `second` alone under this difference: its equation is a square one.
        b = -first - second + (2 * n - first + second) * difference
        c = -second * difference * (1 - difference)
        share = (sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + difference * (1 - difference))
        return first - second - n * difference + 1 + z * sqrt(max(0.0, variance))

    if excess(1.0) >= 0:
        return 1.0
    return float(root_scalar(excess, bracket=((first - second) / n, 1.0), method="brentq").root)


def stratified_difference(
    strata: Sequence[Pairs], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean over strata of the first policy's success minus the second's, each stratum counting the
    same whatever its number of episodes, and the bounds of its interval.

    For its variance each stratum gets half an episode more of each kind, so that one in which all
    episodes went alike is not taken for certain; the middle stays the mean, or the little that this
    shrinks each stratum by would add up over many. After A. Agresti and Y. Min, "Simple improved
    confidence intervals for comparing matched proportions", Statistics in Medicine 24 (2005).

    Raises ValueError for no strata or an empty one, and for a confidence outside (0, 1).
    """
    if not strata or min(pairs.n for pairs in strata) < 1:
        raise ValueError("every stratum needs at least one episode, and there must be one")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    variances = []
    for pairs in strata:
        n, gained, lost = pairs.n + 2, pairs.only_first + 0.5, pairs.only_second + 0.5
        variances.append(((gained + lost) - (gained - lost) ** 2 / n) / n**2)
    mean = fmean((pairs.only_first - pairs.only_second) / pairs.n for pairs in strata)
    margin = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(sum(variances)) / len(strata)
    return mean, max(-1.0, mean - margin), min(1.0, mean + margin)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing all of them, by Holm's step-down method, in the given order.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6 (1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(first: str, second: str, n: int, difference: float, adjusted_p: float) -> str:
    """What a paired comparison of n episodes allows to say."""
    if n < FEWEST_EPISODES:
        return too_few(n)
    if adjusted_p >= SIGNIFICANCE:
        return "not distinguishable"
    return f"{first if difference > 0 else second} ahead"


def too_few(n: int) -> str:
    """The verdict on n episodes, where these are not enough."""
    return f"too few episodes for a claim (n = {n})"


@dataclass(frozen=True)
class Discrimination:
    """How well a score tells failures from successes. `auc` is the probability that a failure has a
    higher score than a success of the same stratum; .5 is chance. interval: None where every
    resample is the same, as at an auc of 1. successes, failures: those in strata with both."""

    auc: float
    interval: tuple[float, float] | None
    successes: int
    failures: int


def failure_auc(
    scores: Sequence[float],
    failures: Sequence[bool],
    strata: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Discrimination | None:
    """Area under the ROC curve of a score that predicts failure; ties count one half.

    Only pairs of the same stratum (task) are compared, so that a hard task with high scores does
    not pass for foresight. The interval is a percentile bootstrap that draws failures and successes
    of each stratum anew. None if no stratum holds both. Sources: J. A. Hanley and B. J. McNeil,
    Radiology 143 (1982), for the area as a share of pairs; X. Robin et al., "pROC", BMC
    Bioinformatics 12 (2011), for the stratified bootstrap.
    """
    score, failed, stratum = np.asarray(scores, float), np.asarray(failures, bool), list(strata)
    if not len(score) == len(failed) == len(stratum):
        raise ValueError("scores, failures and strata must be of the same length")
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    rng = np.random.default_rng(seed)
    wins, samples, pairs, successes, failed_too = 0.0, np.zeros(resamples), 0, 0, 0
    for name in dict.fromkeys(stratum):
        inside = np.array([other == name for other in stratum])
        high, low = score[inside & failed], score[inside & ~failed]
        if len(high) and len(low):
            better = (high[:, None] > low) + 0.5 * (high[:, None] == low)
            wins, pairs = wins + better.sum(), pairs + better.size
            successes, failed_too = successes + len(low), failed_too + len(high)
            # A resample is a table of how often each failure and each success was drawn.
            drawn_high = rng.multinomial(len(high), np.full(len(high), 1 / len(high)), resamples)
            drawn_low = rng.multinomial(len(low), np.full(len(low), 1 / len(low)), resamples)
            samples += np.einsum("rh,hl,rl->r", drawn_high, better, drawn_low, optimize=True)
    if not pairs:
        return None
    interval = _percentiles(samples / pairs, confidence)
    return Discrimination(float(wins / pairs), interval, successes, failed_too)


@dataclass(frozen=True)
class Bin:
    """Episodes whose score lies between two quantiles (shares) of its stratum's scores."""

    low: float
    high: float
    failures: Rate


def reliability_bins(
    scores: Sequence[float], failures: Sequence[bool], strata: Sequence[str], bins: int
) -> list[Bin]:
    """Failure rate of episodes in equally wide ranges of the score's rank within its stratum.

    Equal scores share their mean rank and so their bin; a bin without episodes is left out. Source
    of the diagram: A. H. Murphy and R. L. Winkler, Applied Statistics 26 (1977). Raises ValueError
    for fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    score, failed, stratum = np.asarray(scores, float), np.asarray(failures, bool), list(strata)
    place = np.zeros(len(score), int)
    for name in dict.fromkeys(stratum):
        inside = np.array([other == name for other in stratum])
        own = score[inside]
        below = (own[:, None] > own).mean(1) + 0.5 * (own[:, None] == own).mean(1)
        place[inside] = np.minimum(bins - 1, (bins * below).astype(int))
    return [
        Bin(i / bins, (i + 1) / bins, Rate(int(failed[place == i].sum()), int((place == i).sum())))
        for i in range(bins)
        if (place == i).any()
    ]


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of Student's t for the mean of what a few independent observations are drawn from.

    None for a single one, and where all are the same: nothing is then known of the spread. Source:
    Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    if len(values) < 2 or len(set(values)) == 1:
        return None
    mean = fmean(values)
    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    margin = quantile * stdev(values) / sqrt(len(values))
    return mean - margin, mean + margin


def _percentiles(samples: np.ndarray, confidence: float) -> tuple[float, float] | None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if np.ptp(samples) == 0:
        return None
    low, high = np.quantile(samples, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
