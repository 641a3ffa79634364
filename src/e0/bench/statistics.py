"""How sure a measured success rate is."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from numbers import Integral
from statistics import NormalDist


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
