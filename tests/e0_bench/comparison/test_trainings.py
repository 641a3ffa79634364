"""Several trainings of each policy, from episodes written down by hand."""

from typing import Any

import pytest

from e0_bench.closed_loop.episodes import EpisodeResult
from e0_bench.closed_loop.summary import summarize
from e0_bench.comparison.trainings import over_trainings, trainings_markdown

MOVED = "camera_shift=15,0,1,0"
POLICIES = {"plain-1": "plain", "moved-1": "moved", "plain-2": "plain", "moved-2": "moved"}


def episodes(label: str, control: str, outcomes: str) -> list[EpisodeResult]:
    return [
        EpisodeResult(label, "push", seed, control, sign == "+", 10, 1.0, [], 2, 20.0, "do it")
        for seed, sign in enumerate(outcomes)
    ]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    usual = {"plain-1": "++++", "moved-1": "+++-", "plain-2": "+++-", "moved-2": "++++"}
    moved = {"plain-1": "----", "moved-1": "+++-", "plain-2": "-+--", "moved-2": "-+++"}
    results = [e for label, signs in usual.items() for e in episodes(label, "none", signs)]
    results += [e for label, signs in moved.items() for e in episodes(label, MOVED, signs)]
    return over_trainings(summarize(results, list(POLICIES), ["push"], [MOVED]), POLICIES)


def test_every_training_counts_once(rows: list[dict[str, Any]]) -> None:
    assert [(row["control"], row["policy"], row["rates"]) for row in rows] == [
        ("none", "plain", [1.0, 0.75]),
        ("none", "moved", [0.75, 1.0]),
        (MOVED, "plain", [0.0, 0.25]),
        (MOVED, "moved", [0.75, 0.75]),
    ]
    assert {row["episodes"] for row in rows} == {4}


def test_losses_are_each_trainings_own(rows: list[dict[str, Any]]) -> None:
    _, _, plain, moved = rows
    assert "lost" not in rows[0] and "more" not in plain
    assert plain["lost"]["each"] == [1.0, 0.5]
    assert (moved["lost"]["each"], moved["lost"]["mean"]) == ([0.0, 0.25], 0.125)


def test_policies_are_compared_seed_by_seed(rows: list[dict[str, Any]]) -> None:
    assert rows[1]["more"]["each"] == [-0.25, 0.25]
    more = rows[3]["more"]
    assert (more["each"], more["mean"]) == ([0.75, 0.5], 0.625)
    # Student's t with one degree of freedom: 12.706 times the standard error, which is .125.
    assert more["high"] - more["mean"] == pytest.approx(12.706 * 0.125, rel=1e-4)


def test_the_table(rows: list[dict[str, Any]]) -> None:
    text = trainings_markdown(rows)
    assert "success, n = 4 each" in text
    cells = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line
    ]
    assert cells[2] == ["home", "plain", "100, 75", "–", "–"]
    assert cells[5] == ["azimuth +15°", "moved", "75, 75", "12 (-146 to 171)", "+62 (-96 to 221)"]


def test_equal_trainings_tell_nothing_of_their_spread() -> None:
    results = [e for label in POLICIES for e in episodes(label, "none", "+-")]
    rows = over_trainings(summarize(results, list(POLICIES), ["push"], []), POLICIES)
    assert (rows[1]["more"]["mean"], rows[1]["more"]["low"]) == (0.0, None)
    assert "+0 (no interval)" in trainings_markdown(rows)
