from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e0.bench.statistics import Rate, format_rate, wilson_interval

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [
        # Roots of |p - successes / episodes| = 1.959964 sqrt(p (1 - p) / episodes).
        (43, 50, 0.738138, 0.930492),
        (0, 20, 0.0, 0.161125),
        (20, 20, 0.838875, 1.0),
        (5, 10, 0.236593, 0.763407),
    ],
)
def test_known_intervals(successes, episodes, low, high):
    assert wilson_interval(successes, episodes) == pytest.approx((low, high), abs=2e-6)


@given(counts)
def test_interval_holds_the_rate_and_mirrors(count):
    successes, episodes = count
    low, high = wilson_interval(successes, episodes)
    assert 0 <= low <= successes / episodes <= high <= 1
    assert low < high
    mirrored = wilson_interval(episodes - successes, episodes)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@given(counts)
def test_bounds_solve_the_score_equation(count):
    successes, episodes = count
    for bound in wilson_interval(successes, episodes):
        left = (bound - successes / episodes) ** 2
        assert left == pytest.approx(1.959963985**2 * bound * (1 - bound) / episodes, abs=1e-9)


@given(counts)
def test_interval_narrows_with_episodes_and_widens_with_confidence(count):
    successes, episodes = count

    def width(scale: int, confidence: float) -> float:
        low, high = wilson_interval(scale * successes, scale * episodes, confidence)
        return high - low

    assert width(4, 0.95) < width(1, 0.95) < width(1, 0.99)


def test_coverage_is_near_the_confidence():
    episodes, rate = 50, 0.86
    covered = sum(
        comb(episodes, k) * rate**k * (1 - rate) ** (episodes - k)
        for k in range(episodes + 1)
        if wilson_interval(k, episodes)[0] <= rate <= wilson_interval(k, episodes)[1]
    )
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize(
    ("successes", "episodes"), [(1, 0), (0, 0), (-1, 5), (6, 5), (2.5, 5), (float("nan"), 5)]
)
def test_bad_counts_are_refused(successes, episodes):
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, episodes)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_bad_confidence_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence)


def test_rate_in_words():
    assert format_rate(43, 50) == "43/50 (86 %, 95 % interval 74–93 %)"
    assert format_rate(0, 20) == "0/20 (0 %, 95 % interval 0–16 %)"
    assert format_rate(20, 20) == "20/20 (100 %, 95 % interval 84–100 %)"


def test_rate_checks_itself():
    rate = Rate(43, 50)
    assert (rate.share, rate.interval) == (0.86, wilson_interval(43, 50))
    assert str(rate) == format_rate(43, 50)
    with pytest.raises(ValueError, match="6 of 5"):
        Rate(6, 5)
