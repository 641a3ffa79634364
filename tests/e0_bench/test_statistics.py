import math
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu

from e0_bench.statistics import (
    Bin,
    PairingError,
    Pairs,
    Rate,
    difference,
    difference_interval,
    failure_auc,
    format_rate,
    holm,
    mcnemar_p,
    mean_interval,
    paired,
    reliability_bins,
    stratified_difference,
    verdict,
    wilson_interval,
)

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


# Paired comparisons.


def every_p(only_first: int, only_second: int) -> float:
    """McNemar's p by writing down every outcome of the discordant episodes."""
    n = only_first + only_second
    extreme = max(only_first, only_second)
    outcomes = [sum(coins) for coins in product((0, 1), repeat=n)]
    return sum(max(k, n - k) >= extreme for k in outcomes) / len(outcomes)


@pytest.mark.parametrize("b", range(6))
@pytest.mark.parametrize("c", range(6))
def test_mcnemar_is_the_share_of_as_extreme_outcomes(b, c):
    assert mcnemar_p(b, c) == pytest.approx(every_p(b, c), abs=1e-12)
    assert mcnemar_p(b, c) == pytest.approx(binomtest(b, b + c).pvalue if b + c else 1, abs=1e-12)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="-1"):
        mcnemar_p(-1, 3)


def outcomes(text: str, task: str = "push") -> dict[tuple[str, int], bool]:
    return {(task, seed): letter == "+" for seed, letter in enumerate(text)}


def test_pairs_are_counted_by_task():
    first = outcomes("++-+-") | outcomes("+-", "pick")
    second = outcomes("+--++") | outcomes("++", "pick")
    pairs = paired(first, dict(reversed(second.items())))
    assert pairs == {"push": Pairs(5, 1, 1), "pick": Pairs(2, 0, 1)}
    assert difference(pairs.values()) == pytest.approx((4 - 5) / 7)


@pytest.mark.parametrize("other", [outcomes("++"), outcomes("++++"), outcomes("+++", "pick")])
def test_different_episodes_are_not_paired(other):
    with pytest.raises(PairingError, match=r"one of the two only.*first being .*\('p"):
        paired(outcomes("+++"), other)


def test_difference_interval_ends_where_the_score_test_does():
    """Against Tango's statistic with the constrained maximum of the likelihood found by search."""
    n, first, second = 40, 9, 3
    shares = np.linspace(1e-6, 1, 400_001)

    def score(difference: float, correction: float) -> float:
        both = shares + difference  # the first policy's own successes
        inside = (both > 0) & (both + shares < 1)
        only_second, only_first = shares[inside], both[inside]
        rest = np.log(1 - only_first - only_second) * (n - first - second)
        best = np.argmax(first * np.log(only_first) + second * np.log(only_second) + rest)
        variance = n * (2 * only_second[best] + difference - difference**2)
        return (first - second - n * difference + correction) / np.sqrt(variance)

    low, high = difference_interval([Pairs(n, first, second)])
    assert score(low, -1) == pytest.approx(1.96, abs=2e-3)
    assert score(high, +1) == pytest.approx(-1.96, abs=2e-3)


def test_difference_interval_contradicts_no_exact_test():
    """5 against 0 has an exact p of .06; whatever differs surely does so by the exact test, too."""
    low, high = difference_interval([Pairs(50, 5, 0)])
    assert low < 0 < 0.1 < high
    assert difference_interval([Pairs(50, 6, 0)])[0] > 0
    for first, second in product(range(25), repeat=2):
        n = first + second + 10
        low, high = difference_interval([Pairs(n, first, second)])
        if low > 0 or high < 0:
            assert mcnemar_p(first, second) < 0.05
        assert -1 <= low <= (first - second) / n <= high <= 1
        mirrored = difference_interval([Pairs(n, second, first)])
        assert mirrored == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(
    "shares", [(0.05, 0.0), (0.05, 0.05), (0.3, 0.3), (0.7, 0.05), (0.5, 0.2), (0.95, 0.0)]
)
def test_difference_interval_holds_the_truth_often_enough(shares: tuple[float, float]):
    """Summed over everything that can happen in 30 episodes."""
    n, (first, second) = 30, shares
    coverage = 0.0
    for a in range(n + 1):
        for b in range(n - a + 1):
            low, high = difference_interval([Pairs(n, a, b)])
            if low <= first - second <= high:
                ways = comb(n, a) * comb(n - a, b)
                coverage += ways * first**a * second**b * (1 - first - second) ** (n - a - b)
    assert 0.95 <= coverage <= 1.0 + 1e-9


def test_difference_interval_of_several_tasks_and_at_the_ends():
    assert difference_interval([Pairs(30, 9, 3), Pairs(12, 1, 6)]) == (
        difference_interval([Pairs(42, 10, 9)])
    )
    low, high = difference_interval([Pairs(100, 0, 0)])
    assert low == -high and 0.04 < high < 0.06, "nothing differed, and that is known so well"
    low, high = difference_interval([Pairs(20, 20, 0)])
    assert 0.55 < low < 0.65 and high == 1
    wide = difference_interval([Pairs(42, 10, 9)], confidence=0.99)
    assert wide[0] < difference_interval([Pairs(42, 10, 9)])[0]


@pytest.mark.parametrize("pairs", [[], [Pairs(0, 0, 0)], [Pairs(3, 2, 2)], [Pairs(3, -1, 2)]])
def test_impossible_counts_have_no_interval(pairs: list[Pairs]):
    with pytest.raises(ValueError, match="at least one episode and counts"):
        difference_interval(pairs)
    with pytest.raises(ValueError, match="confidence must lie"):
        difference_interval([Pairs(3, 1, 1)], confidence=1.0)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_as_by_its_definition(p_values):
    """A hypothesis is rejected at a level iff its adjusted p is below it."""
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected, order = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        for rank, index in enumerate(order):
            if p_values[index] * (len(p_values) - rank) >= level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p < level} == rejected


def test_verdicts():
    assert verdict("a", "b", 5, 1.0, 0.0) == "too few episodes for a claim (n = 5)"
    assert verdict("a", "b", 20, 0.4, 0.049) == "a ahead"
    assert verdict("a", "b", 20, -0.4, 0.049) == "b ahead"
    assert verdict("a", "b", 200, 0.4, 0.05) == "not distinguishable"


# Does a score tell failures?

episodes = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from("ab")), min_size=1, max_size=30
)


@given(episodes)
def test_area_is_the_share_of_pairs_within_a_task(rows):
    scores, failures, tasks = zip(*rows, strict=True)
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, failed, task in rows
        for low, also_failed, other in rows
        if failed and not also_failed and task == other
    ]
    found = failure_auc(scores, failures, tasks, resamples=20)
    if not pairs:
        assert found is None
        return
    assert found is not None
    assert found.auc == pytest.approx(np.mean(pairs))
    if len(set(tasks)) == 1:
        high, low = (
            [s for s, f in zip(scores, failures, strict=True) if f is x] for x in (True, False)
        )
        u = mannwhitneyu(high, low).statistic
        assert found.auc == pytest.approx(u / (len(high) * len(low)))
        assert (found.failures, found.successes) == (sum(failures), len(rows) - sum(failures))


def test_a_hard_task_is_no_foresight():
    """Scores that only tell the tasks apart are worth nothing, however often the hard one fails."""
    scores = [0.0] * 10 + [1.0] * 10
    failures = [False] * 9 + [True] + [True] * 9 + [False]
    found = failure_auc(scores, failures, ["easy"] * 10 + ["hard"] * 10)
    assert found is not None
    assert (found.auc, found.interval) == (0.5, None)


def test_interval_of_the_area_covers_the_truth():
    """Normal scores one deviation apart have an area of Phi(1 / sqrt 2) = .760."""
    rng, covered, widths = np.random.default_rng(0), 0, []
    failures = [True] * 25 + [False] * 40
    for _ in range(100):
        scores = rng.normal(size=65) + np.array(failures)
        found = failure_auc(scores, failures, ["a"] * 65, resamples=400)
        assert found is not None
        assert found.interval is not None
        covered += found.interval[0] <= 0.760 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert 88 <= covered <= 99
    assert 0.15 < np.mean(widths) < 0.30


def test_perfect_score_has_no_interval():
    found = failure_auc([1, 2, 3, 4], [False, False, True, True], ["a"] * 4)
    assert found is not None
    assert (found.auc, found.interval) == (1.0, None)


@pytest.mark.parametrize(("scores", "message"), [([1.0], "length"), ([1.0, math.nan], "finite")])
def test_bad_scores_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        failure_auc(scores, [True, False], ["a", "a"])


def test_bins_follow_the_rank_within_the_task():
    scores = [1, 2, 3, 4, 10, 20, 30, 40]
    failures = [False, False, False, True, False, True, True, True]
    found = reliability_bins(scores, failures, ["a"] * 4 + ["b"] * 4, 2)
    assert found == [Bin(0, 0.5, Rate(1, 4)), Bin(0.5, 1, Rate(3, 4))]
    tied = reliability_bins([7.0] * 9, [True] * 9, ["a"] * 9, 5)
    assert tied == [Bin(0.4, 0.6, Rate(9, 9))]
    with pytest.raises(ValueError, match="at least 1"):
        reliability_bins([1], [True], ["a"], 0)


@given(episodes, st.integers(1, 6))
def test_every_episode_is_in_one_bin(rows, bins):
    scores, failures, tasks = zip(*rows, strict=True)
    found = reliability_bins(scores, failures, tasks, bins)
    assert sum(b.failures.episodes for b in found) == len(rows)
    assert sum(b.failures.successes for b in found) == sum(failures)


def test_mean_interval_is_students() -> None:
    # Three observations: 4.3027 standard errors to either side.
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4)
    assert mean_interval([1.0]) is None and mean_interval([1.0, 1.0]) is None


def test_strata_count_the_same_whatever_their_episodes() -> None:
    mean, low, high = stratified_difference([Pairs(10, 5, 0), Pairs(1000, 0, 0)])
    assert mean == pytest.approx(0.25)
    assert 0 < low < mean < high < 0.45
    _, low, high = stratified_difference([Pairs(20, 0, 0)])
    assert low == pytest.approx(-high) and high > 0.03, "twenty alike are not certain"
    assert stratified_difference([Pairs(20, 20, 0)])[2] == 1
    with pytest.raises(ValueError, match="at least one episode"):
        stratified_difference([Pairs(0, 0, 0)])


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.3, 0.05), (0.02, 0.0), (0.5, 0.0)])
@pytest.mark.parametrize("sizes", [[30, 100], [10] * 10, [20] * 40])
def test_the_stratified_interval_covers_as_often_as_it_says(
    shares: tuple[float, float], sizes: list[int]
) -> None:
    rng = np.random.default_rng(0)
    gained, lost = shares
    covered = 0
    for _ in range(2000):
        counts = rng.multinomial(sizes, [[gained, lost, 1 - gained - lost]] * len(sizes))
        strata = [Pairs(int(n.sum()), int(n[0]), int(n[1])) for n in counts]
        _, low, high = stratified_difference(strata)
        covered += low <= gained - lost <= high
    assert covered / 2000 > 0.93
